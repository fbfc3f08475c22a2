"""Trains DANN from real photos to hand drawings: the homework of H.-Y. Lee's course (NTU, 2020).

Photos become edges (Canny), which look like drawings already; then two-step adversarial updates
adapt what is left. Predictions for all drawings go to DaNN_submission.csv in the run's folder. The
data are behind a login: --data_root names the unpacked folder, --embedded makes a stand-in. Exit
codes: 0 done, 2 a mistake in the call or the data, 3 the network collapsed, 75 stopped by SIGTERM
and 130 by Ctrl-C, both saved: go on with --resume.
"""

from __future__ import annotations

import csv
import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from config.config import DrawingsConfig
from utils.atomic import whole_file
from utils.drawings import canny, grey, make_standin, read_drawings, read_photos
from utils.errors import run_script
from utils.runs import Run
from utils.training import make_trainer, train_from_command_line

if TYPE_CHECKING:
    from model.trainer import Trainer


@dataclasses.dataclass(frozen=True)
class Pictures:
    """Both domains as the network sees them, uint8 `[N, 32, 32, 1]`; and the photos in colour."""

    photos: np.ndarray
    source: np.ndarray
    source_labels: np.ndarray
    target: np.ndarray
    target_labels: np.ndarray


def main() -> int:
    return train_from_command_line(
        DrawingsConfig, __doc__, read_data, [build_trainer], write_submission
    )


def read_data(config: DrawingsConfig) -> tuple[DrawingsConfig, Pictures]:
    """Returns the settings as they are, and the pictures."""
    config.check_paths()
    if config.embedded and not config.root.is_dir():
        make_standin(config.root)
    photos, labels = read_photos(config.root)
    drawings, drawing_labels = read_drawings(config.root)
    plain = grey(photos)
    source = canny(plain) if config.canny else plain
    return config, Pictures(photos, source, labels, drawings, drawing_labels)


def build_trainer(run: Run, config: DrawingsConfig, data: Pictures) -> Trainer:
    """Puts the experiment together: batches, network, schedules, optimizers, what is measured."""
    import keras

    from model.augmentation import RandomAugmentation
    from model.dann import DANN
    from model.networks import dense_head, drawings_domain_classifier, drawings_feature_extractor
    from model.trainer import EvaluationData
    from utils.batches import DomainBatches, evaluation_batches
    from utils.schedules import AnnealedLearningRate, Constant, GRLLambda

    order = np.random.default_rng(config.seed).permutation(len(data.source))
    kept, rest = np.split(order, [len(order) // 10])
    # Without adaptation the drawings stay unseen: batch normalisation would learn from them.
    other = data.target if config.method == "dann" else data.source[rest]
    batches = DomainBatches(
        [data.source[rest], other], [data.source_labels[rest], None], config.batch_size, config.seed
    )
    measured = np.arange(len(data.target))[:: max(1, len(data.target) // 2000)]
    target = evaluation_batches(data.target[measured], data.target_labels[measured], domain=1)
    evaluation = EvaluationData(
        target=target,
        labelled=evaluation_batches(data.source[kept], data.source_labels[kept], domain=0),
        unlabelled=target,
    )
    total_steps = config.epoch * batches.steps_per_epoch
    ceiling = config.grl_lambda if config.method == "dann" else 0.0
    grl_lambda = Constant(total_steps, ceiling)
    if config.ramp:
        grl_lambda = GRLLambda(total_steps, config.gamma, ceiling)
    learning_rate = AnnealedLearningRate(
        total_steps, config.init_learning_rate, config.lr_alpha, config.lr_beta
    )
    model = DANN(
        drawings_feature_extractor((32, 32, 1)),
        dense_head("label_predictor", (512,), (512, 512), outputs=10),
        drawings_domain_classifier(),
        grl_lambda=grl_lambda,
        extractor_calls="joint",  # apart, batch normalisation would treat the domains differently
        alternating=True,
        clip_norm=config.clip_norm,
        augmentation=RandomAugmentation(
            config.seed, rotation=config.rotation, stretch=0.0, shear=0.0, shift=0.0,
            flip=config.flip and not config.embedded, edges="black",
        ),
        average_decay=config.average_decay,
        name=config.method,
    )  # fmt: skip
    model.compile(keras.optimizers.Adam(learning_rate), keras.optimizers.Adam(learning_rate))
    schedules = {"learning_rate": learning_rate, "grl_lambda": grl_lambda}
    return make_trainer(
        run, config, model, batches, evaluation, schedules, final_name="trained_dann_real2drawing"
    )


def write_submission(run: Run, config: DrawingsConfig, data: Pictures, trainer: Trainer) -> None:
    """Writes the class of every drawing, and pictures of both domains."""
    from utils.batches import evaluation_batches
    from utils.figures import save_drawings

    with trainer.model.averaged():
        outputs = trainer.outputs(evaluation_batches(data.target, data.target_labels, domain=1))
    classes = outputs.probabilities.argmax(axis=1)
    place = run.logs / "DaNN_submission.csv"
    with whole_file(place) as path, path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(("id", "label"))
        table.writerows(enumerate(classes))
    save_drawings(run.logs / "pictures.png", data.photos, data.source_labels, data.target)
    print(f"classes of {len(classes)} drawings: {place}")


if __name__ == "__main__":
    run_script(main)
