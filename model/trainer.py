"""The training loop: epochs, logging, checkpoints, resume. It knows no method."""

from __future__ import annotations

import math
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tqdm import tqdm

from utils.atomic import whole_file
from utils.batches import DomainBatches
from utils.embeddings import (
    FIRST,
    LAST,
    Pair,
    first_points,
    load_pair,
    save_embedding,
    save_pair,
    write_projector,
)
from utils.errors import UserError
from utils.figures import save_curves
from utils.selection import CRITERIA, Outputs, shortened
from utils.summaries import RunLog

CHUNK = 20  # steps run in one call: signals and the progress bar wait no longer than that
CHANCE_MARGIN = 0.01
LN_MARGIN = 0.01


class CollapseError(Exception):
    """The network has stopped to tell anything apart."""


class Interrupted(Exception):
    """A signal asked the run to stop; everything is saved. `signal_number` is which."""

    def __init__(self, signal_number: int):
        super().__init__(signal.Signals(signal_number).name)
        self.signal_number = signal_number


@dataclass(frozen=True)
class EvaluationData:
    """What is measured after each epoch: datasets of `(images, labels, domains)` batches."""

    target: tf.data.Dataset
    """Test images of the target with labels: reported, never steered by."""
    labelled: tf.data.Dataset
    """Held-out images of the domain that has labels in training."""
    unlabelled: tf.data.Dataset
    """Training images of the target, without labels."""


@contextmanager
def disk_faults_named(place: Path) -> Iterator[None]:
    """Turns TensorFlow's file errors (disk full, folder gone) into a `UserError`."""
    try:
        yield
    except (tf.errors.OpError, OSError) as error:
        reason = str(error).strip().split("\n")[0]
        raise UserError(
            f"{place}: cannot be written ({reason}); what was saved before is intact: mend it and "
            "go on with --resume"
        ) from error


class Trainer:
    """Trains any model with `train_step` and `test_step` on `(images, labels, domains)` batches.

    Args:
        model: compiled; its `get_metrics_result` has `loss`, `image_cls_loss`, `image_cls_acc`
            and whatever else is to be recorded; `embed` gives features and class probabilities,
            `averaged` and `average` the weights' average.
        batches: batch t as a function of t.
        epochs: how many.
        log: the run's record.
        checkpoints_dir: where checkpoints, `best.keras` and the final model go.
        evaluation: what is measured after each epoch.
        select_by: the criterion of `utils.selection.CRITERIA` that chooses `best.keras`.
        schedules: value at any steps of `learning_rate` and `grl_lambda`, for the record.
        checkpoint_steps: steps between two checkpoints.
        jit_compile: whether XLA compiles the step.
        allow_collapse: whether to go on after a collapse.
        chief: whether this process is the one that writes. Of several workers only one is; the
            others do the same steps and measurements and leave nothing behind.
        final_name: of the model that the run ends with.

    Made under the `tf.distribute.Strategy` that it trains with.
    """

    def __init__(
        self,
        model: keras.Model,
        batches: DomainBatches,
        epochs: int,
        log: RunLog,
        checkpoints_dir: Path,
        evaluation: EvaluationData,
        schedules: Mapping[str, Callable[[np.ndarray], np.ndarray]],
        select_by: str = "information_maximisation",
        checkpoint_steps: int = 100,
        jit_compile: bool = False,
        allow_collapse: bool = False,
        chief: bool = True,
        final_name: str = "trained_dann_mnist2mnist_m",
    ):
        self.model = model
        self.batches = batches
        self.epochs = epochs
        self.log = log
        self.checkpoints_dir = checkpoints_dir
        self.evaluation = evaluation
        self.schedules = schedules
        self.select_by = select_by
        self.checkpoint_steps = checkpoint_steps
        self.allow_collapse = allow_collapse
        self.chief = chief
        self.final_model = checkpoints_dir / f"{final_name}.keras"
        self.strategy = tf.distribute.get_strategy()
        self.epoch_steps = batches.steps_per_epoch
        self.total_steps = epochs * self.epoch_steps
        if not model.optimizer.built:
            model.optimizer.build(model.trainable_variables)
        self.step = tf.Variable(0, dtype=tf.int64)
        self.best = tf.Variable(-math.inf, dtype=tf.float64)
        state = [*model.variables, *model.metrics_variables, *model.optimizer.variables]
        if model.domain_optimizer:
            state += model.domain_optimizer.variables
        self.checkpoint = tf.train.Checkpoint(
            step=self.step,
            best=self.best,
            state=[variable.value for variable in state],
            average=model.average.variables if model.average else [],
        )
        # Saving reads sums over all workers, so all must save; only the chief's files are kept.
        self.scratch = None if chief else tempfile.TemporaryDirectory()
        place = self.scratch.name if self.scratch else str(checkpoints_dir)
        try:
            tf.train.get_checkpoint_state(place)
        except ValueError:  # a damaged list of checkpoints; `restore` goes by their names
            (Path(place) / "checkpoint").unlink()
        self.manager = tf.train.CheckpointManager(
            self.checkpoint, place, max_to_keep=2, checkpoint_name="step"
        )
        self.train_step = tf.function(model.train_step, jit_compile=jit_compile)
        self.run_steps = tf.function(self._run_steps)
        self.run_test = tf.function(self._run_test)
        self.embed = tf.function(model.embed)
        self.signal_number = 0

    def _run_steps(self, iterator: Any, steps: tf.Tensor) -> dict[str, tf.Tensor]:
        for _ in tf.range(steps):
            self.strategy.run(self.train_step, (next(iterator),))
        return self.model.get_metrics_result()

    def _run_test(self, dataset: tf.data.Dataset) -> dict[str, tf.Tensor]:
        # Every replica measures the whole set: the metrics are means, so they come out the same.
        for batch in dataset:
            self.strategy.run(self.model.test_step, (batch,))
        return self.model.get_metrics_result()

    def restore(self) -> int:
        """Loads the newest checkpoint that is whole and returns the step it stands at.

        Raises:
            UserError: there are checkpoints, but all are damaged.
        """
        files = self.checkpoints_dir.glob("step-*.index")
        newest_first = sorted(files, key=lambda file: -int(file.stem.removeprefix("step-")))
        for file in newest_first:
            try:
                self.checkpoint.restore(str(file.with_suffix(""))).assert_consumed()
            except (tf.errors.OpError, AssertionError, ValueError, IndexError) as error:
                reason = str(error).strip().split("\n")[0]
                print(f"{file}: damaged, falling back to the one before ({reason})", flush=True)
            else:
                return int(self.step.numpy())
        if newest_first:
            raise UserError(f"{self.checkpoints_dir}: all checkpoints are damaged; start a new run")
        return 0

    def train(self) -> None:
        """Runs from the present step to the last one, then saves the final model and figures.

        Raises:
            CollapseError: the network collapsed and `allow_collapse` is off.
            Interrupted: SIGINT or SIGTERM came; the checkpoint to resume from is saved.
        """
        start = int(self.step.numpy())
        if self.chief:
            self.log.open(start // self.epoch_steps, self.epoch_steps)
        dataset = self.strategy.distribute_datasets_from_function(
            lambda context: self.batches.dataset(start, self.total_steps, context)
        )
        iterator = iter(dataset)
        with self.signals_noted():
            for epoch in range(start // self.epoch_steps, self.epochs):
                self.train_epoch(epoch, iterator)
        if self.chief:
            self.finish()

    def finish(self) -> None:
        """Writes the figures and the final model."""
        self.log.close()
        steps = np.arange(self.total_steps)
        values = {name: schedule(steps) for name, schedule in self.schedules.items()}
        save_curves(self.log.folder, self.log.rows, values)
        with self.model.averaged():
            pair = self.embedding()
            save_pair(self.log.folder / LAST, pair)
            write_projector(self.log.folder, pair)
            panels = [("after epoch 1", load_pair(self.log.folder / FIRST)), ("at the end", pair)]
            save_embedding(self.log.folder / "embedding.png", panels)
            self.save_model(self.final_model)

    def train_epoch(self, epoch: int, iterator: Iterator[Any]) -> None:
        """Trains to the end of epoch number `epoch` (from 0), measures, records and saves."""
        first, end = epoch * self.epoch_steps, (epoch + 1) * self.epoch_steps
        began = time.monotonic()
        step = int(self.step.numpy())
        bar = tqdm(
            total=self.epoch_steps, initial=step - first, desc=f"epoch {epoch + 1}/{self.epochs}",
            unit="step", leave=False, disable=None, dynamic_ncols=True,
        )  # fmt: skip
        with bar:
            while step < end:
                boundary = step - step % self.checkpoint_steps + self.checkpoint_steps
                count = min(CHUNK, end - step, boundary - step)
                results = self.run_steps(iterator, tf.constant(count))
                step += count
                self.step.assign(step)
                train = {name: float(value) for name, value in results.items()}
                self.stop_if_not_finite(train, epoch)
                bar.set_postfix({name: f"{value:.3f}" for name, value in train.items()})
                bar.update(count)
                asked = self.asked_to_stop()
                if step < end and (step == boundary or asked):
                    self.save()
                    self.stop_if_asked(asked)
        trained = time.monotonic() - began
        self.model.reset_metrics()
        with self.model.averaged():
            labelled = self.evaluate(epoch, train)
        seconds = time.monotonic() - began
        if self.chief:
            print(f"({seconds:.1f} s, training {trained:.1f} s)", flush=True)
        self.save()
        self.stop_if_collapsed(labelled, epoch)
        if end < self.total_steps:
            self.stop_if_asked(self.asked_to_stop())

    def evaluate(self, epoch: int, train: Mapping[str, float]) -> dict[str, float]:
        """Measures the model after an epoch and records it, the model too if it is the best yet.

        Returns:
            the metrics over the held-out labelled images.
        """
        validation = self.measure(self.evaluation.target)
        labelled = self.measure(self.evaluation.labelled)
        source = self.outputs(self.evaluation.labelled)
        unlabelled = self.outputs(self.evaluation.unlabelled)
        selection = {name: score(source, unlabelled) for name, score in CRITERIA.items()}
        improved = selection[self.select_by] > float(self.best.numpy())
        if improved:
            self.best.assign(selection[self.select_by])
        if self.chief:
            selection["labelled_image_cls_acc"] = labelled["image_cls_acc"]
            metrics = {"train": train, "validation": validation}
            with disk_faults_named(self.log.folder):
                self.record(epoch, metrics, selection)
                if epoch == 0:  # λ is hardly above 0 yet: features before adaptation
                    save_pair(self.log.folder / FIRST, self.embedding())
                if improved:
                    self.save_model(self.checkpoints_dir / "best.keras")
        return labelled

    def record(
        self,
        epoch: int,
        metrics: Mapping[str, Mapping[str, float]],
        selection: Mapping[str, float],
    ) -> None:
        """Writes down what was measured after an epoch."""
        steps = range(epoch * self.epoch_steps, (epoch + 1) * self.epoch_steps)
        line = self.log.epoch(epoch + 1, steps, self.schedules, metrics, selection)
        images = next(iter(self.evaluation.target))[0].numpy()
        outputs = self.outputs(self.evaluation.target)
        self.log.pictures(epoch + 1, images, outputs, self.model.class_names)
        self.log.flush()
        print(line, end="  ", flush=True)

    def measure(self, dataset: tf.data.Dataset) -> dict[str, float]:
        """Returns the metrics over a dataset; leaves the metrics reset."""
        results = self.run_test(dataset)
        values = {name: float(value) for name, value in results.items()}
        self.model.reset_metrics()
        return values

    def outputs(self, dataset: tf.data.Dataset) -> Outputs:
        """Returns what the model makes of a dataset's images."""
        features, probabilities, labels = [], [], []
        for images, some_labels, domains in dataset:
            batch = self.embed(images, domains)
            rows = tf.reshape(tf.cast(batch[0], tf.float32), [len(images), -1])
            features.append(shortened(rows.numpy()))
            probabilities.append(batch[1].numpy())
            labels.append(some_labels.numpy())
        return Outputs(*map(np.concatenate, (features, probabilities, labels)))

    def embedding(self) -> Pair:
        """Returns some source and target outputs for a picture of the feature space."""
        return (
            first_points(self.outputs(self.evaluation.labelled)),
            first_points(self.outputs(self.evaluation.target)),
        )

    def save_model(self, file: Path) -> None:
        """Writes the model to a .keras file."""
        with whole_file(file) as path:
            self.model.save(path)

    def save(self) -> None:
        """Writes a checkpoint of the present step; the latest two are kept."""
        with disk_faults_named(self.checkpoints_dir):
            self.manager.save(checkpoint_number=int(self.step.numpy()))
            if self.chief:
                self.sweep()

    def sweep(self) -> None:
        """Removes what a kill in the middle of a save left behind, unknown to the manager."""
        known = {Path(path).name for path in self.manager.checkpoints}
        leftovers = [file for file in self.checkpoints_dir.glob("step-*")
                     if file.name.split(".")[0] not in known]  # fmt: skip
        for file in (*leftovers, *self.checkpoints_dir.glob("checkpoint.tmp*")):
            file.unlink()

    @contextmanager
    def signals_noted(self) -> Iterator[None]:
        """Inside, SIGINT and SIGTERM only leave a note: the loop saves and stops at its next look.

        A second signal of the same kind acts at once.
        """

        def note(number: int, _: Any) -> None:
            self.signal_number = number
            signal.signal(number, signal.SIG_DFL)

        before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def asked_to_stop(self) -> int:
        """Returns the number of the signal that came to any worker, or 0: the same for all."""
        if self.strategy.cluster_resolver is None:
            return self.signal_number
        mine = self.strategy.run(lambda: tf.constant(self.signal_number))
        anyone = self.strategy.reduce(tf.distribute.ReduceOp.SUM, mine, axis=None)
        return self.signal_number or (signal.SIGTERM if int(anyone) else 0)

    def stop_if_asked(self, signal_number: int) -> None:
        if signal_number:
            raise Interrupted(signal_number)

    def stop_if_not_finite(self, train: Mapping[str, float], epoch: int) -> None:
        if not math.isfinite(train["loss"]) and not self.allow_collapse:
            raise CollapseError(f"epoch {epoch + 1}: the loss is {train['loss']}")

    def stop_if_collapsed(self, labelled: Mapping[str, float], epoch: int) -> None:
        """Raises `CollapseError` if held-out images of the labelled domain look all the same.

        Then the label predictor gives every image the same class, and the domain classifier
        gives every domain the same probability: accuracy at chance, domain loss at ln(domains).
        """
        labels = np.concatenate([labels for _, labels, _ in self.evaluation.labelled]).ravel()
        chance = int(np.max(np.bincount(labels))) / len(labels)
        domains = self.batches.num_domains
        undecided = math.log(domains)
        if (
            not self.allow_collapse
            and "domain_cls_loss" in labelled
            and labelled["image_cls_acc"] <= chance + CHANCE_MARGIN
            and abs(labelled["domain_cls_loss"] - undecided) < LN_MARGIN
        ):
            raise CollapseError(
                f"epoch {epoch + 1}: accuracy on held-out labelled images is "
                f"{labelled['image_cls_acc']:.4f} (chance: {chance:.4f}) and the domain loss is "
                f"{labelled['domain_cls_loss']:.4f} (undecided: ln {domains} = "
                f"{undecided:.4f})"
            )
