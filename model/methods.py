"""From a script's networks and data to the Trainers of a run: one for each stage of its method."""

from __future__ import annotations

import dataclasses
import importlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import keras
import numpy as np

from config.base import AnyConfig, TrainingConfig
from config.methods import METHODS
from model.adaptation import Adaptation
from model.augmentation import RandomAugmentation
from model.networks import Networks, SeenByDomains
from model.pretrained import check_classes, load_model, start_from
from model.schedules import ProgressSchedule
from utils.data.batches import DomainBatches, block_sizes, evaluation_batches
from utils.data.domains import Domain
from utils.errors import UserError
from utils.record.summaries import RunLog
from utils.run.cluster import is_chief
from utils.run.command_line import command_of
from utils.run.runs import Run
from utils.run.trainer import EvaluationData, Trainer


@dataclass(frozen=True)
class Experiment:
    """What a script gives to whichever method is chosen."""

    domains: Sequence[Domain[Any]]
    """The sources first."""
    networks: Callable[[SeenByDomains], Networks]
    """Makes the networks."""
    optimizer: Callable[[ProgressSchedule], keras.Optimizer]
    """Makes the optimizer from the schedule of its learning rate."""
    augmentation: Callable[[int], RandomAugmentation | None]
    """Makes the augmentation of batches of so many domains."""
    evaluation: EvaluationData
    """What is measured after each epoch."""
    name: str
    """Of the data, for the final model's file: trained_<method>_<name>.keras."""
    class_names: Sequence[str] | None = None
    sources: int = 1
    """How many of the domains are sources."""
    extractor_calls: Literal["joint", "per_domain"] = "joint"
    alternating: bool = False


def stages(
    run: Run, settings: AnyConfig, experiment: Callable[[AnyConfig], Experiment]
) -> list[Callable[[], Trainer]]:
    """Returns what makes the Trainer of each stage of a run; each after the one before has ended.

    Args:
        run: where it is recorded.
        settings: of the run.
        experiment: of a stage with these settings.

    Raises:
        UserError: several machines, of which only the first would have the first stage's model.
    """
    method = METHODS[settings.method]
    if method.first is None or settings.pre_model_path:
        return [partial(make_trainer, run, settings, experiment, settings.pre_model_path)]
    below = run.below(method.folder)
    start = below.checkpoints / method.start
    if settings.strategy == "multi_worker" and not start.exists():
        raise UserError(
            f"pre_model_path: with several workers train {method.first} first, on one, and name "
            "its .keras here"
        )
    first = settings.of_first_stage(method.first)
    return [
        partial(make_trainer, below, first, experiment, None, name=method.first),
        partial(make_trainer, run, settings, experiment, str(start)),
    ]


def make_trainer(
    run: Run,
    settings: AnyConfig,
    experiment: Callable[[AnyConfig], Experiment],
    start: str | None,
    name: str | None = None,
) -> Trainer:
    """Puts one stage together: batches, model, optimizers, what is measured.

    Args:
        run: where it is recorded.
        settings: of the stage.
        experiment: of a stage with these settings.
        start: a model whose weights this one begins with.
        name: of the final model's file; None: that of a run's last stage.
    """
    method = METHODS[settings.method]
    kind = model_class(method.model)
    given = experiment(settings)
    measured = given.evaluation
    if method.labels == "target":
        measured = dataclasses.replace(measured, labelled=measured.target)
    batches = make_batches(settings, given, kind)
    total_steps = settings.epoch * batches.steps_per_epoch
    if not method.adversary:
        settings = dataclasses.replace(settings, grl_lambda=0.0)
    schedules = kind.schedules(settings, total_steps)
    values = {
        **dataclasses.asdict(settings),
        **given.networks(kind.domain_input_shape)._asdict(),
        **schedules,
        "augmentation": given.augmentation(batches.num_domains),
        "class_names": given.class_names,
        "num_domains": settings.num_domains,
        "extractor_calls": given.extractor_calls,
        "alternating": given.alternating,
    }
    wanted = (*kind.parts, *kind.knobs)
    model = kind(**{argument: values[argument] for argument in wanted}, name=settings.method)
    if start:
        start_from(model, Path(start))
    model.compile(**kind.optimizers_for(settings, total_steps, given.optimizer))
    return Trainer(
        model,
        batches,
        settings.epoch,
        RunLog(run.logs, dataclasses.asdict(settings), command_of(None, *sys.argv[1:])),
        run.checkpoints,
        measured,
        schedules,
        select_by=settings.select_by,
        checkpoint_steps=settings.checkpoint_steps,
        jit_compile=settings.jit_compile,
        allow_collapse=settings.allow_collapse,
        chief=is_chief(settings),
        final_name=name or f"trained_{method.family}_{given.name}",
        begins_trained=start is not None,
    )


def model_class(path: str) -> type[Adaptation]:
    """Returns the class that a line of the methods' table names."""
    module, name = path.split(".")
    kind: type[Adaptation] = getattr(importlib.import_module(f"model.{module}"), name)
    return kind


def make_batches(
    settings: TrainingConfig, experiment: Experiment, kind: type[Adaptation]
) -> DomainBatches:
    """Returns the training batches: of all domains, with the labels of one side."""
    domains = experiment.domains[: experiment.sources if kind.source_alone else None]
    used = METHODS[settings.method].labels
    labels: list[np.ndarray | None] = []
    for number, domain in enumerate(domains):
        is_source = number < experiment.sources
        if used == "both" and not is_source:
            labels.append(taught(settings.teacher, domain, experiment.class_names))
        else:
            labels.append(domain.train_label if is_source is (used != "target") else None)
    images = [domain.train for domain in domains]
    if not any(label is not None and (label >= 0).any() for label in labels):
        raise UserError(
            f"method: {settings.method} learns from labels of the "
            f"{'target' if used == 'target' else 'source'}, which has none; choose another method"
        )
    size, ratio = settings.batch_size, settings.target_ratio
    if kind.source_alone:  # as many as beside the targets
        blocks = block_sizes(size, settings.num_domains, ratio)
        size, ratio = sum(blocks[: experiment.sources]), 1
    share = block_sizes(size, len(images), ratio)[0]
    if share > len(images[0]):
        raise UserError(
            f"batch_size: {settings.batch_size} needs {share} source images, but there are only "
            f"{len(images[0])}; choose at most {settings.batch_size * len(images[0]) // share}"
        )
    return DomainBatches(images, labels, size, settings.seed, ratio)


def taught(
    teacher: str | None, domain: Domain[Any], class_names: Sequence[str] | None
) -> np.ndarray:
    """Returns the classes int32 `[N]` or `[N, n]` that a model tells of a domain's training images.

    Raises:
        UserError: there is no model, or it is of other images or other classes.
    """
    if teacher is None:
        raise UserError("teacher: a student needs one; name a trained model: --teacher FILE")
    model = load_model(Path(teacher))
    check_classes(Path(teacher), model, class_names)
    takes, shape = model.feature_extractor.input_shape[1:], domain.train.shape[-3:]
    if takes != shape:
        raise UserError(f"teacher: {teacher} takes images of {takes}, but the target's are {shape}")
    batches = evaluation_batches(domain.train, np.full(len(domain.train), -1), domain=1)
    predictions = [model.predict_on_batch(images) for images, _, _ in batches]
    return np.concatenate(predictions).argmax(axis=-1).astype(np.int32)
