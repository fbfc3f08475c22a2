"""Trains DANN on your own pictures: a labelled folder, and one or more folders to adapt to.

The source folder holds one folder of pictures for each class; a target folder holds pictures, with
class folders or without. Any common format and size, read from disk batch by batch. Exit codes: 0
done, 2 a mistake in the call or the data, 3 the network collapsed, 75 stopped by SIGTERM and 130
by Ctrl-C, both saved: go on with --resume.
"""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import TYPE_CHECKING

from config.config import CustomConfig
from utils.errors import UserError, run_script
from utils.folders import PictureFolder, mean_of, open_source, open_target
from utils.runs import Run
from utils.training import make_trainer, train_from_command_line

if TYPE_CHECKING:
    import tensorflow as tf

    from model.trainer import Trainer


@dataclasses.dataclass(frozen=True)
class Domains:
    """The pictures of the source and of each target, in this order."""

    train: list[PictureFolder]
    validation: list[PictureFolder]
    classes: list[str]


def main() -> int:
    return train_from_command_line(CustomConfig, __doc__, read_data, [build_trainer])


def read_data(config: CustomConfig) -> tuple[CustomConfig, Domains]:
    """Finds and checks all pictures; returns the settings with the pixel mean, and the domains."""
    config.check_paths()
    shape = (*config.image_size, config.channels)
    source, classes = open_source(Path(config.source), shape)
    targets = [open_target(Path(folder), classes, shape) for folder in config.target]
    parts = [each.split(config.validation_share, config.seed) for each in (source, *targets)]
    train, validation = (list(part) for part in zip(*parts, strict=True))
    mean = config.pixel_mean or mean_of(train)
    print(f"classes:  {', '.join(f'{number} {name}' for number, name in enumerate(classes))}")
    if all((each.labels < 0).all() for each in validation[1:]):
        print("the targets have no class folders: their accuracy cannot be measured and shows as 0")
    return dataclasses.replace(config, pixel_mean=mean), Domains(train, validation, classes)


def build_trainer(run: Run, config: CustomConfig, data: Domains) -> Trainer:
    """Puts the experiment together: batches, network, schedules, optimizer, what is measured."""
    import keras

    from model.augmentation import chosen_augmentation
    from model.dann import DANN, with_flat_features
    from model.networks import backbone, dense_head
    from model.trainer import EvaluationData
    from utils.batches import DomainBatches, evaluation_batches
    from utils.schedules import AnnealedLearningRate, GRLLambda

    unlabelled = [None] * len(config.target)
    batches = DomainBatches(
        data.train, [data.train[0].labels, *unlabelled], config.batch_size, config.seed
    )
    # At most so many pictures are measured, so that neither time nor memory grows with the folders.
    measured = [data.validation[0].evenly(2000)]
    measured += [each.evenly(10_000 // len(config.target)) for each in data.validation[1:]]
    looked_at = [each.evenly(5000 // len(config.target)) for each in data.train[1:]]
    evaluation = EvaluationData(
        target=together(measured[1:]),
        labelled=evaluation_batches(measured[0], measured[0].labels, domain=0),
        unlabelled=together(looked_at),
    )
    total_steps = config.epoch * batches.steps_per_epoch
    grl_lambda = GRLLambda(total_steps, config.gamma, config.grl_lambda)
    learning_rate = AnnealedLearningRate(
        total_steps, config.init_learning_rate, config.lr_alpha, config.lr_beta
    )
    shape = (*config.image_size, config.channels)
    try:
        extractor = with_flat_features(
            backbone(config.backbone, shape, config.pixel_mean or ()),
            config.feature_layer, config.pooling,
        )  # fmt: skip
    except ValueError as error:
        raise UserError(str(error)) from error
    features = extractor.output_shape[1:]
    num_labels = len(data.classes)
    model = DANN(
        extractor,
        dense_head(
            "label_predictor", features, config.label_hidden, num_labels, dropout=config.dropout
        ),
        dense_head("domain_classifier", features, config.domain_hidden, config.num_domains),
        num_domains=config.num_domains,
        grl_lambda=grl_lambda,
        extractor_calls="joint",
        alternating=config.alternating,
        clip_norm=config.clip_norm,
        augmentation=chosen_augmentation(config.augmentation, config.seed, config.num_domains),
        average_decay=config.average_decay,
        class_names=data.classes,
    )
    model.compile(optimizer=keras.optimizers.SGD(learning_rate, config.momentum_rate))
    schedules = {"learning_rate": learning_rate, "grl_lambda": grl_lambda}
    return make_trainer(
        run, config, model, batches, evaluation, schedules, final_name="trained_dann_custom"
    )


def together(targets: list[PictureFolder]) -> tf.data.Dataset:
    """Returns the evaluation batches of all targets, one after the other."""
    from utils.batches import evaluation_batches

    first, *others = [
        evaluation_batches(pictures, pictures.labels, domain)
        for domain, pictures in enumerate(targets, 1)
    ]
    return functools.reduce(lambda all_, other: all_.concatenate(other), others, first)


if __name__ == "__main__":
    run_script(main)
