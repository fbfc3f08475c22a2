"""Trains DANN or ADDA on MNIST → MNIST-M and records it for TensorBoard.

First: python create_mnistm.py. Every setting of config/config.py is a flag here. Exit codes: 0
done, 2 a mistake in the call or the data, 3 the network collapsed, 75 stopped by SIGTERM and 130
by Ctrl-C, both saved: go on with --resume.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from config.config import Config
from utils.errors import UserError, run_script
from utils.pickles import pixel_mean, read_pickle
from utils.runs import Run
from utils.training import make_trainer, train_from_command_line

if TYPE_CHECKING:
    import keras

    from model.trainer import EvaluationData, Trainer

Arrays = dict[str, np.ndarray]


def main() -> int:
    return train_from_command_line(
        Config, __doc__, read_data, [build_source_trainer, build_trainer]
    )


def read_data(config: Config) -> tuple[Config, tuple[Arrays, Arrays]]:
    """Returns the settings with the pixel mean, and the source and target data sets.

    Each data set is `train`, `train_label`, `val`, `val_label`.
    """
    config.check_paths()
    source = read_pickle(config.source_dataset_path, config.image_input_shape)
    target = read_pickle(config.target_dataset_path, config.image_input_shape)
    if config.held_out:
        target = hold_out(target, config.held_out)
    mean = config.pixel_mean or pixel_mean(source["train"], target["train"])
    return dataclasses.replace(config, pixel_mean=mean), (source, target)


def build_trainer(run: Run, config: Config, data: tuple[Arrays, Arrays]) -> Trainer:
    """Puts the experiment together: batches, network, schedules, optimizer, what is measured."""
    if config.method == "adda":
        return build_adda_trainer(run, config, data)
    import keras

    from model.augmentation import chosen_augmentation
    from model.dann import DANN
    from model.mean_teacher import MeanTeacher
    from utils.batches import DomainBatches
    from utils.pretrained import load_pretrained
    from utils.schedules import AnnealedLearningRate, GRLLambda

    source, target = data
    # The controls are DANN at λ = 0: the domain classifier is then a probe that teaches nothing.
    on_target = config.method == "target_only"
    batches = DomainBatches(
        images=[source["train"], target["train"]],
        labels=[None, target["train_label"]] if on_target else [source["train_label"], None],
        batch_size=config.batch_size,
        seed=config.seed,
    )
    evaluation = measured(source, target, on_target)
    source.pop("train"), target.pop("train")  # the batches have copies
    total_steps = config.epoch * batches.steps_per_epoch
    ceiling = 0.0 if config.method in ("source_only", "target_only") else config.grl_lambda
    grl_lambda = GRLLambda(total_steps, config.gamma, ceiling)
    learning_rate = AnnealedLearningRate(
        total_steps, config.init_learning_rate, config.lr_alpha, config.lr_beta
    )
    method: Callable[..., DANN] = DANN
    if config.method == "mean_teacher":
        method = functools.partial(MeanTeacher, confidence=config.confidence)
    model = method(
        *networks(config),
        grl_lambda=grl_lambda,
        extractor_calls="per_domain",
        clip_norm=config.clip_norm,
        augmentation=chosen_augmentation(config.augmentation, config.seed),
        average_decay=config.average_decay,
        name=config.method,
    )
    if config.pre_model_path:
        load_pretrained(model, Path(config.pre_model_path))
    model.compile(optimizer=keras.optimizers.SGD(learning_rate, config.momentum_rate))
    schedules = {"learning_rate": learning_rate, "grl_lambda": grl_lambda}
    return make_trainer(run, config, model, batches, evaluation, schedules)


def build_source_trainer(run: Run, config: Config, data: tuple[Arrays, Arrays]) -> Trainer | None:
    """Puts ADDA's first stage together; None where it is not needed."""
    if config.method != "adda":
        return None
    import keras

    from utils.adda_stages import Networks, needs_first_stage, source_stage

    if not needs_first_stage(run, config):
        return None
    return source_stage(
        run, config, Networks(*networks(config)), data[0], measured(*data),
        lambda rate: keras.optimizers.SGD(rate, config.momentum_rate), config.augmentation,
    )  # fmt: skip


def build_adda_trainer(run: Run, config: Config, data: tuple[Arrays, Arrays]) -> Trainer:
    """Puts ADDA's second stage together."""
    from utils.adda_stages import Networks, adaptation_stage

    return adaptation_stage(
        run, config, Networks(*networks(config)), *data, measured(*data),
        "trained_adda_mnist2mnist_m", config.augmentation,
    )  # fmt: skip


def networks(config: Config) -> tuple[keras.Model, keras.Model, keras.Model]:
    """Returns the paper's extractor and heads: DANN's parts, or ADDA's."""
    from model.networks import dense_head, mnist_feature_extractor

    extractor = mnist_feature_extractor(config.image_input_shape, config.pixel_mean or ())
    features = extractor.output_shape[1:]
    # Figure 4 (a) of ICML 2015; and ADDA's discriminator, two layers in CVPR 2017, section 5.
    hidden = (500, 500) if config.method == "adda" else (100,)
    return (
        extractor,
        dense_head("label_predictor", features, (100, 100), outputs=10, dropout=config.dropout),
        dense_head("domain_classifier", features, hidden, outputs=2),
    )


def measured(source: Arrays, target: Arrays, on_target: bool = False) -> EvaluationData:
    """Returns what is measured after each epoch.

    Args:
        source, target: the data sets.
        on_target: whether it is the target that has labels in training.
    """
    from model.trainer import EvaluationData
    from utils.batches import evaluation_batches

    labelled = target if on_target else source
    unlabelled = evenly(target["train"], 5000)
    return EvaluationData(
        target=evaluation_batches(target["val"], target["val_label"], domain=1),
        labelled=evaluation_batches(
            labelled["val"][:2000], labelled["val_label"][:2000], domain=int(on_target)
        ),
        unlabelled=evaluation_batches(unlabelled, np.full(len(unlabelled), -1), domain=1),
    )


def hold_out(target: Arrays, count: int) -> Arrays:
    """Puts the last `count` training images in the place of the test set, which stays unseen."""
    if count >= len(target["train"]):
        raise UserError(f"held_out: {count} leaves no training images of {len(target['train'])}")
    return {
        "train": target["train"][:-count],
        "train_label": target["train_label"][:-count],
        "val": target["train"][-count:],
        "val_label": target["train_label"][-count:],
    }


def evenly(images: np.ndarray, count: int) -> np.ndarray:
    """Returns at most `count` images, spread evenly over all."""
    return images[:: max(1, len(images) // count)][:count].copy()


if __name__ == "__main__":
    run_script(main)
