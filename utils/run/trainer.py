"""The training loop: epochs, measuring, recording, saving. It knows no method."""

from __future__ import annotations

import dataclasses
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tqdm import tqdm

from config.base import TrainingConfig
from utils.atomic import whole_file
from utils.data.batches import DomainBatches, reading_faults_named
from utils.errors import UserError
from utils.record.embeddings import (
    FIRST,
    LAST,
    Pair,
    load_pair,
    save_embedding,
    save_pair,
    some_points,
    write_projector,
)
from utils.record.figures import save_curves
from utils.record.selection import CRITERIA, Outputs, outputs_of
from utils.record.summaries import HEADER, SAMPLE, RunLog, table_line
from utils.run.checkpoints import Checkpoints, disk_faults_named
from utils.run.cluster import is_chief
from utils.run.collapse import check_alive, check_finite, check_numbers
from utils.run.command_line import command_of
from utils.run.runs import Run
from utils.run.signals import Signals

CHUNK = 20  # steps run in one call: signals and the progress bar wait no longer than that


@dataclass(frozen=True)
class EvaluationData:
    """What is measured after each epoch: datasets of `(images, labels, domains)` batches."""

    target: tf.data.Dataset
    """Test images of the target with labels. They are only reported."""
    labelled: tf.data.Dataset
    """Held-out images of the domain that has labels in training."""
    unlabelled: tf.data.Dataset
    """Training images of the target; no criterion looks at their labels."""


class Trainer:
    """Trains a model and records it.

    Args:
        model: a compiled `model.adaptation.Adaptation`.
        batches: batch t as a pure function of t.
        settings: of the run.
        run: where it is recorded, and where checkpoints, `best.keras` and the final model go.
        evaluation: what is measured after each epoch.
        final_name: of the model that the run ends with.
        begins_trained: whether the model begins at one that was trained. It is then measured as
            epoch 0, and kept as `best.keras` until there is a better one.

    Made under the `tf.distribute.Strategy` that it trains with.
    """

    def __init__(
        self,
        model: keras.Model,
        batches: DomainBatches,
        settings: TrainingConfig,
        run: Run,
        evaluation: EvaluationData,
        final_name: str,
        begins_trained: bool = False,
    ):
        self.model = model
        self.batches = batches
        self.settings = settings
        command = command_of(None, *sys.argv[1:])
        self.log = RunLog(run.logs, dataclasses.asdict(settings), command)
        self.checkpoints_dir = run.checkpoints
        self.evaluation = evaluation
        self.begins_trained = begins_trained
        self.final_model = run.checkpoints / f"{final_name}.keras"
        # Only one of several workers writes. The others do the same steps and leave nothing behind.
        self.chief = is_chief(settings)
        self.strategy = tf.distribute.get_strategy()
        self.epoch_steps = batches.steps_per_epoch
        self.total_steps = settings.epoch * self.epoch_steps
        self.schedules = model.schedules(settings, self.total_steps)
        self.checkpoints = Checkpoints(model, run.checkpoints, self.chief)
        self.signals = Signals(self.strategy)
        self.information: list[float] = []  # that predictions have of an image, by epoch
        self.images_measured = 0
        self.train_step = tf.function(model.train_step, jit_compile=model.jit_compile)
        self.run_steps = tf.function(self._run_steps)
        self.examine = tf.function(self._examine)

    @property
    def step(self) -> int:
        """The number of steps that are done."""
        return int(self.checkpoints.step.numpy())

    def _run_steps(self, iterator: Any, steps: tf.Tensor) -> dict[str, tf.Tensor]:
        for _ in tf.range(steps):
            self.strategy.run(self.train_step, (next(iterator),))
        return self.model.get_metrics_result()

    def _examine(self, batch: Any) -> tuple[tf.Tensor, tf.Tensor]:
        # Every replica measures the whole batch. Metrics are means, so they are the same.
        results = self.strategy.run(self.model.examine, (batch,))
        return tuple(self.strategy.experimental_local_results(part)[0] for part in results)

    def train(self, at_end: Callable[[], None] | None = None) -> None:
        """Runs from the present step to the last one, then saves the final model and figures.

        Args:
            at_end: what else is to be done once, before the final model says that all is done.

        Raises:
            CollapseError: the network collapsed and `allow_collapse` is off, or a loss is no
                number.
            Interrupted: SIGINT or SIGTERM came; the checkpoint to resume from is saved.
        """
        start = self.step
        fresh = not self.checkpoints.restored
        if self.chief:
            self.log.open(-1 if fresh else start // self.epoch_steps, self.epoch_steps)
            if self.strategy.cluster_resolver is None:  # all workers must come to the same end
                self.information = [float(row["information_maximisation"]) for row in self.log.rows]
        dataset = self.strategy.distribute_datasets_from_function(
            lambda context: self.batches.dataset(start, self.total_steps, context)
        )
        iterator = iter(dataset)
        if fresh:
            if self.begins_trained:
                self.evaluate(0, {})
            self.checkpoints.save()
        if self.chief:
            print(HEADER)
        bar = tqdm(
            total=self.total_steps, initial=start, unit="step", leave=False, disable=None,
            dynamic_ncols=True,
        )  # fmt: skip
        with bar, self.signals.noted(), reading_faults_named():
            for epoch in range(start // self.epoch_steps, self.settings.epoch):
                self.train_epoch(epoch, iterator, bar)
        if self.chief:
            if at_end:
                at_end()
            self.finish()

    def finish(self) -> None:
        """Writes the figures and the final model, which takes the place of the checkpoints."""
        self.log.close()
        steps = np.arange(self.total_steps)
        values = {name: schedule(steps) for name, schedule in self.schedules.items()}
        save_curves(self.log.folder, self.log.rows, values)
        with self.model.averaged():
            pair = self.embedding()
            save_pair(self.log.folder / LAST, pair)
            write_projector(self.log.folder, pair)
            first = "at the start" if self.begins_trained else "after epoch 1"
            panels = [("at the end", pair)]
            if (self.log.folder / FIRST).exists():
                try:
                    panels.insert(0, (first, load_pair(self.log.folder / FIRST)))
                except UserError as error:
                    print(f"embedding.png has no features {first}: {error}")
            save_embedding(self.log.folder / "embedding.png", panels)
            self.save_model(self.final_model)
        self.checkpoints.remove()

    def train_epoch(self, epoch: int, iterator: Iterator[Any], bar: tqdm[Any]) -> None:
        """Trains to the end of epoch number `epoch` (from 0), measures, records and saves."""
        end = (epoch + 1) * self.epoch_steps
        began = time.monotonic()
        step, every = self.step, self.settings.checkpoint_steps
        bar.set_description(f"epoch {epoch + 1}/{self.settings.epoch}")
        while step < end:
            boundary = step - step % every + every
            count = min(CHUNK, end - step, boundary - step)
            results = self.run_steps(iterator, tf.constant(count))
            step += count
            self.checkpoints.step.assign(step)
            train = {name: float(value) for name, value in results.items()}
            check_finite(train, epoch + 1)
            bar.set_postfix(loss=f"{train['loss']:.3f}")
            bar.update(count)
            signal = self.signals.seen()
            if step < end and (step == boundary or signal):
                self.checkpoints.save()
                self.signals.obey(signal)
        trained = time.monotonic() - began
        with self.model.averaged():
            self.evaluate(epoch + 1, train)
        seconds = time.monotonic() - began
        if self.chief:
            bar.write(table_line(self.log.rows[-1], self.settings.epoch, seconds, trained))
            sys.stdout.flush()
        if not self.settings.allow_collapse:  # before it is saved, so a resume collapses again
            classes = self.model.label_predictor.output_shape[-1]
            check_alive(self.information, self.images_measured, classes, epoch + 1, end)
        self.checkpoints.save()
        self.signals.obey(self.signals.seen())

    def evaluate(self, epoch: int, train: Mapping[str, float]) -> None:
        """Measures the model after an epoch and records it, the model too if it is the best yet.

        Args:
            epoch: its number, from 1; 0 = before the first.
            train: the metrics of its training batches.
        """
        on_target, target = self.measure(self.evaluation.target)
        on_labelled, labelled = self.measure(self.evaluation.labelled)
        _, unlabelled = self.measure(self.evaluation.unlabelled)
        outputs = (labelled, target, unlabelled)
        check_numbers("predictions", (part.probabilities for part in outputs), epoch)
        check_numbers("weights", self.model.get_weights(), epoch)
        selection = {name: score(labelled, unlabelled) for name, score in CRITERIA.items()}
        self.information.append(selection["information_maximisation"])
        self.images_measured = len(unlabelled.labels)
        best = self.checkpoints.best
        score, before = selection[self.settings.select_by], float(best.numpy())
        improved = score > before or before == -math.inf  # the score of too few images is nan
        if improved:
            best.assign(score if math.isfinite(score) else -math.inf)
        if self.chief:
            selection["labelled_image_cls_acc"] = on_labelled["image_cls_acc"]
            unknown = dict.fromkeys(on_target, math.nan)
            metrics = {"train": {**unknown, **train}, "validation": on_target}
            with disk_faults_named(self.log.folder), reading_faults_named():
                self.record(epoch, metrics, selection, target)
                if not (self.log.folder / FIRST).exists():  # the first that is measured
                    pair = some_points(labelled), some_points(target)
                    save_pair(self.log.folder / FIRST, pair)
                if improved:
                    self.save_model(self.checkpoints_dir / "best.keras")

    def record(
        self,
        epoch: int,
        metrics: Mapping[str, Mapping[str, float]],
        selection: Mapping[str, float],
        target: Outputs,
    ) -> None:
        """Writes down what was measured after an epoch."""
        steps = range(max(0, epoch - 1) * self.epoch_steps, epoch * self.epoch_steps)
        self.log.epoch(epoch, steps, self.schedules, metrics, selection)
        images = next(iter(self.evaluation.target.unbatch().batch(SAMPLE)))[0].numpy()
        self.log.pictures(epoch, images, target, self.model.classes())
        self.log.flush()

    @reading_faults_named()
    def outputs(self, dataset: tf.data.Dataset) -> Outputs:
        """Returns what the model makes of a dataset's images; one worker alone may ask."""
        return outputs_of(self.examine, dataset)

    def measure(self, dataset: tf.data.Dataset) -> tuple[dict[str, float], Outputs]:
        """Returns the metrics over a dataset, and what the model makes of its images."""
        self.model.reset_metrics()
        outputs = self.outputs(dataset)
        results = self.model.get_metrics_result()
        values = {name: float(value) for name, value in results.items()}
        self.model.reset_metrics()
        return values, outputs

    def embedding(self) -> Pair:
        """Returns some source and target outputs for a picture of the feature space."""
        datasets = (self.evaluation.labelled, self.evaluation.target)
        source, target = (some_points(self.outputs(dataset)) for dataset in datasets)
        return source, target

    def save_model(self, file: Path) -> None:
        """Writes the model to a .keras file."""
        with disk_faults_named(file.parent), whole_file(file) as path, \
                self.model.without_optimizers():  # fmt: skip
            self.model.save(path)
