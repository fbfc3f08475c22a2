"""Trains on your own pictures: one or more labelled folders, and one or more to adapt to.

A source folder holds one folder of pictures for each class; a target folder holds pictures, with
class folders or without. Any common format and size, read from disk batch by batch. The settings
below are those of config/custom.py, where their defaults can be edited.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING

from config.custom import CustomConfig
from utils.data.domains import Domain, Domains
from utils.data.folders import PictureFolder, mean_of, open_sources, open_target
from utils.errors import UserError, run_script
from utils.run.launch import launch
from utils.run.runs import Run

if TYPE_CHECKING:
    import tensorflow as tf

    from model.experiment import Experiment
    from utils.run.trainer import EvaluationData, Trainer


def main() -> int:
    return launch(CustomConfig, __doc__, read_data, make_experiment, write_predictions)


def read_data(config: CustomConfig) -> Domains:
    """Finds and checks all pictures; returns them with their pixel mean."""
    config.check_paths()
    shape = (*config.image_size, config.channels)
    sources, classes = open_sources([Path(folder) for folder in config.source], shape)
    targets = [open_target(Path(folder), classes, shape) for folder in config.target]
    domains = []
    for folder in (*sources, *targets):
        train, val = folder.split(config.validation_share, config.seed)
        domains.append(Domain(train, train.labels, val, val.labels))
    taught = {label for domain in domains[: len(sources)] for label in domain.train.labels}
    untaught = [name for number, name in enumerate(classes) if number not in taught]
    if untaught and config.method != "target_only":
        raise UserError(
            f"source: no picture of the class {untaught[0]} is left to train with; add "
            "some, or lower validation_share"
        )
    mean = config.pixel_mean or ()
    if not (mean or config.has_own_scaling):
        mean = mean_of([domain.train for domain in domains])
    print(f"classes:  {', '.join(f'{number} {name}' for number, name in enumerate(classes))}")
    if all((domain.val_label < 0).all() for domain in domains[len(sources) :]):
        print("the targets have no class folders: their accuracy cannot be measured")
    return Domains(domains, classes, len(sources), mean)


def make_experiment(config: CustomConfig, data: Domains) -> Experiment:
    """Returns what the chosen method is given: networks, optimizer, what is measured."""
    import keras

    from model.augmentation import chosen_augmentation
    from model.experiment import Experiment
    from model.networks import backbone, deepened, dense_head, with_flat_features

    def networks() -> tuple[keras.Model, keras.Model]:
        shape = (*config.image_size, config.channels)
        whole = backbone(config.backbone, shape, data.pixel_mean, config.weights, config.frozen)
        try:
            extractor = with_flat_features(whole, config.feature_layer, config.pooling)
        except ValueError as error:
            raise UserError(str(error)) from error
        if config.bottleneck:
            bottleneck = keras.layers.Dense(config.bottleneck, "relu", name="bottleneck")
            extractor = keras.Model(extractor.inputs[0], bottleneck(extractor.outputs[0]))
        predictor = dense_head(
            "label_predictor", extractor.output_shape[1:], config.label_hidden,
            len(data.class_names), config.dropout,
        )  # fmt: skip
        return deepened(extractor, predictor, config.features)

    def domain_classifier(seen: tuple[int, ...]) -> keras.Model:
        return dense_head("domain_classifier", seen, config.domain_hidden, len(data.domains))

    return Experiment(
        data.without_targets() if config.method == "source_only" else data,
        networks,
        domain_classifier,
        lambda rate: keras.optimizers.SGD(rate, config.momentum_rate),
        functools.partial(chosen_augmentation, config),
        evaluation_data(data),
        name="custom",
        alternating=config.alternating,
    )


def evaluation_data(data: Domains) -> EvaluationData:
    """Returns what is measured after each epoch.

    At most so many pictures, so that neither time nor memory grows with the folders.
    """
    from utils.run.trainer import EvaluationData

    numbered = list(enumerate(data.domains))
    sources, targets = numbered[: data.num_sources], numbered[data.num_sources :]
    return EvaluationData(
        target=together([(number, domain.val) for number, domain in targets], 10_000),
        labelled=together([(number, domain.val) for number, domain in sources], 2000),
        unlabelled=together([(number, domain.train) for number, domain in targets], 5000),
    )


def write_predictions(run: Run, config: CustomConfig, data: Domains, trainer: Trainer) -> None:
    """Tells each target's accuracy and writes its most and least certain predictions."""
    from utils.data.batches import evaluation_batches
    from utils.record.figures import save_certainty

    targets = zip(config.target, data.domains[data.num_sources :], strict=True)
    for number, (folder, domain) in enumerate(targets, 1):
        with trainer.model.averaged():
            batches = evaluation_batches(
                domain.val, domain.val_label, data.num_sources - 1 + number
            )
            outputs = trainer.outputs(batches)
        name = Path(folder).resolve().name[:50]  # of a legal length, whatever its alphabet
        place = run.logs / f"{number}_{name}.png"
        save_certainty(
            place, domain.val.read, domain.val_label, outputs.probabilities, data.class_names
        )
        known = domain.val_label >= 0
        right = outputs.probabilities.argmax(axis=1)[known] == domain.val_label[known]
        told = f"accuracy {right.mean():.4f}" if known.any() else "no labels"
        print(f"{folder}: {told} on {len(domain.val)} pictures; most certain predictions: {place}")


def together(domains: list[tuple[int, PictureFolder]], count: int) -> tf.data.Dataset:
    """Returns evaluation batches of at most `count` pictures, one domain after the other."""
    from utils.data.batches import evaluation_batches

    some = [(number, pictures.evenly(count // len(domains))) for number, pictures in domains]
    batches = [evaluation_batches(pictures, pictures.labels, number) for number, pictures in some]
    return functools.reduce(lambda all_, other: all_.concatenate(other), batches)


if __name__ == "__main__":
    run_script(main)
