"""The two stages of an ADDA run: a source model from labels, then a target encoder without."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np

from config.config import ADDAConfig, Augmentation
from model.adda import ADDA, SourceModel
from model.augmentation import chosen_augmentation
from model.trainer import EvaluationData, Trainer
from utils.batches import DomainBatches
from utils.errors import UserError
from utils.pretrained import load_source
from utils.runs import Run
from utils.schedules import AnnealedLearningRate, Delayed
from utils.training import make_trainer

BETA_1 = 0.5  # of Adam against an adversary; CVPR 2017, section 5
Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Networks:
    """The three networks of ADDA."""

    encoder: keras.Model
    classifier: keras.Model
    discriminator: keras.Model


def first_model(run: Run) -> Path:
    """Returns where the first stage leaves its model."""
    return run.checkpoints / "source" / "source_model.keras"


def needs_first_stage(run: Run, config: ADDAConfig) -> bool:
    """Tells whether the source model is still to be trained.

    Raises:
        UserError: it is, and on several machines, of which only the first would have its file.
    """
    if config.pre_model_path or first_model(run).exists():
        return False
    if config.strategy == "multi_worker":
        raise UserError(
            "pre_model_path: with several workers train the source model first, on one, and name "
            "its .keras here"
        )
    return True


def source_stage(
    run: Run,
    config: ADDAConfig,
    networks: Networks,
    source: Arrays,
    evaluation: EvaluationData,
    make_optimizer: Callable[[AnnealedLearningRate], keras.Optimizer],
    augmentation: Augmentation = "none",
    class_names: Sequence[str] | None = None,
) -> Trainer:
    """Returns the Trainer of the first stage, whose folders are `source` below the run's."""
    # As many source images in a batch as in the second stage.
    batches = DomainBatches(
        [source["train"]], [source["train_label"]], config.batch_size // 2, config.seed
    )
    total_steps = config.source_epoch * batches.steps_per_epoch
    learning_rate = AnnealedLearningRate(
        total_steps, config.init_learning_rate, config.lr_alpha, config.lr_beta
    )
    model = SourceModel(
        networks.encoder,
        networks.classifier,
        clip_norm=config.clip_norm,
        augmentation=chosen_augmentation(augmentation, config.seed, num_domains=1),
        average_decay=config.average_decay,
        class_names=class_names,
    )
    model.compile(optimizer=make_optimizer(learning_rate))
    folders = Run(run.logs / "source", first_model(run).parent, run.config)
    schedules = {"learning_rate": learning_rate}
    return make_trainer(
        folders, config, model, batches, evaluation, schedules, first_model(run).stem,
        config.source_epoch,
    )  # fmt: skip


def adaptation_stage(
    run: Run,
    config: ADDAConfig,
    networks: Networks,
    source: Arrays,
    target: Arrays,
    evaluation: EvaluationData,
    final_name: str,
    augmentation: Augmentation = "none",
    class_names: Sequence[str] | None = None,
) -> Trainer:
    """Returns the Trainer of the second stage, which begins at the model of the first."""
    batches = DomainBatches(
        [source["train"], target["train"]],
        [source["train_label"], None],
        config.batch_size,
        config.seed,
    )
    total_steps = config.epoch * batches.steps_per_epoch
    # An optimizer counts its own steps, of which a training step has several.
    learning_rate, discriminator_rate, encoder_rate = (
        AnnealedLearningRate(steps * total_steps, rate, config.lr_alpha, config.lr_beta)
        for steps, rate in (
            (1, config.adda_learning_rate),
            (config.k_d, config.discriminator_learning_rate),
            (config.k_g, config.adda_learning_rate),
        )
    )
    grl_lambda = Delayed(total_steps, config.grl_lambda, config.discriminator_steps)
    load_source(
        networks.encoder, networks.classifier, Path(config.pre_model_path or first_model(run))
    )
    model = ADDA(
        networks.encoder,
        networks.classifier,
        networks.discriminator,
        config.adversarial_loss,
        config.k_d,
        config.k_g,
        grl_lambda,
        clip_norm=config.clip_norm,
        augmentation=chosen_augmentation(augmentation, config.seed),
        average_decay=config.average_decay,
        class_names=class_names,
    )
    model.compile(
        keras.optimizers.Adam(encoder_rate, beta_1=BETA_1),
        keras.optimizers.Adam(discriminator_rate, beta_1=BETA_1),
    )
    schedules = {"learning_rate": learning_rate, "grl_lambda": grl_lambda}
    return make_trainer(run, config, model, batches, evaluation, schedules, final_name)
