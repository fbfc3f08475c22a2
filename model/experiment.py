"""From a script's networks and data to the Trainer of a stage."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import keras
import numpy as np

from config.base import TrainingConfig
from config.methods import METHODS
from model.adaptation import Adaptation
from model.adversarial import Adversarial
from model.augmentation import RandomAugmentation
from model.networks import Shape
from model.pretrained import check_classes, load_model, model_class, start_from
from model.schedules import ProgressSchedule
from utils.data import UNLABELLED
from utils.data.batches import DomainBatches, block_sizes, evaluation_batches, reading_faults_named
from utils.data.domains import Domains
from utils.errors import UserError
from utils.run.runs import Run
from utils.run.trainer import EvaluationData, Trainer


@dataclass(frozen=True)
class Experiment:
    """What a script gives to whichever method is chosen."""

    data: Domains[Any]
    """What this stage is shown."""
    networks: Callable[[], tuple[keras.Model, keras.Model]]
    """Makes the feature extractor and the label predictor."""
    domain_classifier: Callable[[Shape], keras.Model]
    """Makes the domain classifier from the shape of what it sees of an image."""
    optimizer: Callable[[ProgressSchedule], keras.Optimizer]
    """Makes the optimizer from the schedule of its learning rate."""
    augmentation: Callable[[int], RandomAugmentation | None]
    """Makes the augmentation of batches with this number of domains."""
    evaluation: EvaluationData
    """What is measured after each epoch."""
    name: str
    """Of the data, for the final model's file: trained_<method>_<name>.keras."""
    extractor_calls: Literal["joint", "per_domain"] = "joint"
    alternating: bool = False

    def trainer(
        self, run: Run, settings: TrainingConfig, start: str | None, name: str | None = None
    ) -> Trainer:
        """Puts a stage together: batches, model, optimizers, what is measured.

        Args:
            run: where it is recorded.
            settings: of the stage.
            start: a model whose weights this one begins with.
            name: of the final model's file; None: that of a run's last stage.
        """
        method = METHODS[settings.method]
        kind = model_class(method.model)
        evaluation = self.evaluation
        if method.labels == "target":
            evaluation = dataclasses.replace(evaluation, labelled=evaluation.target)
        extractor, predictor = self.networks()
        classifier = None
        if issubclass(kind, Adversarial):
            seen = kind.domain_input_shape(extractor.output_shape[1:], predictor.output_shape[1:])
            classifier = self.domain_classifier(seen)
        batches = make_batches(settings, self, kind, extractor.input_shape, predictor.output_shape)
        total_steps = settings.epoch * batches.steps_per_epoch
        if not method.uses_lambda:  # a control: the domain loss reaches the probe alone
            settings = dataclasses.replace(settings, grl_lambda=0.0)
        # The model's arguments by name: settings, schedules in their place, what the script gives.
        values = {
            **dataclasses.asdict(settings),
            **kind.schedules(settings, total_steps),
            "feature_extractor": extractor,
            "label_predictor": predictor,
            "domain_classifier": classifier,
            "augmentation": self.augmentation(batches.num_domains),
            "class_names": self.data.class_names,
            "num_domains": len(self.data.domains),
            "extractor_calls": self.extractor_calls,
            "alternating": self.alternating,
        }
        # What a script has no setting for keeps the method's default.
        wanted = [argument for argument in (*kind.parts, *kind.knobs) if argument in values]
        model = kind(**{argument: values[argument] for argument in wanted}, name=settings.method)
        if start:
            start_from(model, Path(start))
        optimizers = kind.optimizers_for(settings, total_steps, self.optimizer)
        model.compile(**optimizers, jit_compile=settings.jit_compile)
        return Trainer(
            model,
            batches,
            settings,
            run,
            evaluation,
            name or f"trained_{settings.method}_{self.name}",
            begins_trained=start is not None,
        )


def make_batches(
    settings: TrainingConfig,
    experiment: Experiment,
    kind: type[Adaptation],
    images_shape: Shape,
    logits_shape: Shape,
) -> DomainBatches:
    """Returns the training batches: of all domains, with the labels that the method learns from.

    Args:
        settings: of the stage.
        experiment: what the script gives.
        kind: the method's class.
        images_shape, logits_shape: what the networks take and give, which a teacher must, too.
    """
    data = experiment.data
    domains = data.domains[: data.num_sources if kind.source_alone else None]
    used = METHODS[settings.method].labels
    on_source = used != "target"
    labels = [domain.train_label if (number < data.num_sources) is on_source else None
              for number, domain in enumerate(domains)]  # fmt: skip
    if used == "both":
        teacher = open_teacher(
            Path(str(settings.teacher)), images_shape, logits_shape, data.class_names
        )
        targets = domains[data.num_sources :]
        labels[data.num_sources :] = [labels_by(teacher, domain.train) for domain in targets]
    images = [domain.train for domain in domains]
    if not any(label is not None and (label >= 0).any() for label in labels):
        raise UserError(
            f"method: {settings.method} learns from labels of the "
            f"{'source' if on_source else 'target'}, which has none; choose another method"
        )
    size, ratio = settings.batch_size, settings.target_ratio
    if kind.source_alone:  # as many source images as in a batch that has targets, too
        blocks = block_sizes(size, len(data.domains), ratio)
        size, ratio = sum(blocks[: data.num_sources]), 1
    share = block_sizes(size, len(images), ratio)[0]
    if share > len(images[0]):
        raise UserError(
            f"batch_size: {settings.batch_size} needs {share} source images, but there are only "
            f"{len(images[0])}; choose at most {settings.batch_size * len(images[0]) // share}"
        )
    return DomainBatches(images, labels, size, settings.seed, ratio)


def open_teacher(
    path: Path, images_shape: Shape, logits_shape: Shape, class_names: Sequence[str]
) -> Adaptation:
    """Returns a model that takes images, and gives logits, of these shapes.

    Raises:
        UserError: there is no model, or it is of other images or other classes.
    """
    teacher = load_model(path)
    check_classes(path, teacher, class_names)
    for what, theirs, ours in (
        ("takes images of", teacher.feature_extractor.input_shape, images_shape),
        ("tells classes of", teacher.label_predictor.output_shape, logits_shape),
    ):
        if theirs[1:] != ours[1:]:
            raise UserError(f"teacher: {path} {what} {theirs[1:]}; this run needs {ours[1:]}")
    return teacher


@reading_faults_named()
def labels_by(teacher: Adaptation, images: Any) -> np.ndarray:
    """Returns the classes int32 `[N]` or `[N, n]` that a model tells of a domain's images."""
    batches = evaluation_batches(images, np.full(len(images), UNLABELLED), domain=1)
    # Not by `predict`: under a strategy it repeats what each replica says.
    predictions = [teacher(some).numpy().argmax(axis=-1) for some, _, _ in batches]
    return np.concatenate(predictions).astype(np.int32)
