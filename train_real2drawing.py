"""Trains from real photos to hand drawings: the homework of H.-Y. Lee's course (NTU, 2020).

Photos become edges (Canny), which look like drawings already; then two-step adversarial updates
adapt what is left. Predictions for all drawings go to DaNN_submission.csv in the run's folder. The
data are behind a login: --data_root names the unpacked folder, --embedded makes a stand-in. The
settings below are those of config/drawings.py, where their defaults can be edited.
"""

from __future__ import annotations

import csv
import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from config.drawings import DrawingsConfig
from utils.atomic import whole_file
from utils.data.domains import Domain, Domains
from utils.data.drawings import canny, grey, make_standin, read_drawings, read_photos
from utils.errors import run_script
from utils.run.launch import launch
from utils.run.runs import Run

if TYPE_CHECKING:
    from model.experiment import Experiment
    from utils.run.trainer import EvaluationData, Trainer


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pictures(Domains):
    """Both domains as the network sees them, uint8 `[N, 32, 32, 1]`; and the photos in colour."""

    photos: np.ndarray
    photo_labels: np.ndarray


def main() -> int:
    return launch(DrawingsConfig, __doc__, read_data, make_experiment, write_submission)


def read_data(config: DrawingsConfig) -> Pictures:
    """Returns the photos' edges and the drawings, with the photos."""
    from utils.record.selection import evenly

    config.check_paths()
    if config.embedded and not config.root.is_dir():
        make_standin(config.root)
    photos, labels = read_photos(config.root)
    drawings, drawing_labels = read_drawings(config.root)
    images = canny(grey(photos)) if config.canny else grey(photos)
    order = np.random.default_rng(config.seed).permutation(len(images))
    kept, rest = np.split(order, [len(order) // 10])
    source = Domain(images[rest], labels[rest], images[kept], labels[kept])
    # The homework's drawings are there to train with and to be classified.
    some = (evenly(each, 2000) for each in (drawings, drawing_labels))
    target = Domain(drawings, drawing_labels, *some)
    return Pictures(domains=[source, target], photos=photos, photo_labels=labels)


def make_experiment(config: DrawingsConfig, data: Pictures) -> Experiment:
    """Returns what the chosen method is given: networks, optimizers, what is measured."""
    import keras

    from model.augmentation import RandomAugmentation
    from model.experiment import Experiment
    from model.networks import dense_head, drawings_domain_classifier, drawings_feature_extractor

    def networks() -> tuple[keras.Model, keras.Model]:
        extractor = drawings_feature_extractor((32, 32, 1))
        features = extractor.output_shape[1:]
        return extractor, dense_head("label_predictor", features, (512, 512), outputs=10)

    def augmentation(num_domains: int) -> RandomAugmentation:
        return RandomAugmentation(
            config.seed, num_domains, config.target_ratio, rotation=config.rotation, stretch=0.0,
            shear=0.0, shift=0.0, flip=config.flip and not config.embedded, edges="black",
        )  # fmt: skip

    return Experiment(
        data.without_targets() if config.method == "source_only" else data,
        networks,
        drawings_domain_classifier,
        keras.optimizers.Adam,
        augmentation,
        evaluation_data(*data.domains),
        name="real2drawing",
        alternating=True,  # as in the homework; both halves pass the extractor together
    )


def evaluation_data(source: Domain, target: Domain) -> EvaluationData:
    """Returns what is measured after each epoch."""
    from utils.data.batches import evaluation_batches
    from utils.run.trainer import EvaluationData

    drawings = evaluation_batches(target.val, target.val_label, domain=1)
    return EvaluationData(
        target=drawings,
        labelled=evaluation_batches(source.val, source.val_label, domain=0),
        unlabelled=drawings,
    )


def write_submission(run: Run, config: DrawingsConfig, data: Pictures, trainer: Trainer) -> None:
    """Writes the class of every drawing, and pictures of both domains."""
    from utils.data.batches import evaluation_batches
    from utils.record.figures import save_samples

    drawings, unknown = data.domains[1].train, data.domains[1].train_label
    with trainer.model.averaged():
        batches = evaluation_batches(drawings, unknown, domain=1)
        outputs = trainer.outputs(batches)
    classes = outputs.probabilities.argmax(axis=1)
    place = run.logs / "DaNN_submission.csv"
    with whole_file(place) as path, path.open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(("id", "label"))
        table.writerows(enumerate(classes))
    one_each = data.photos[[np.flatnonzero(data.photo_labels == number)[0] for number in range(10)]]
    plain = grey(one_each)
    levels = [canny(plain[:1], *level) for level in ((50, 100), (150, 200), (250, 300))]
    save_samples(
        run.logs / "pictures.png", one_each, canny(plain), drawings[:10], np.concatenate(levels)
    )
    print(f"classes of {len(classes)} drawings: {place}")


if __name__ == "__main__":
    run_script(main)
