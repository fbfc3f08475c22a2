"""A run's record: TensorBoard events, log.csv and log.txt, which a resumed run continues."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorboard.plugins.scalar.metadata import create_summary_metadata

from utils.atomic import whole_file, write_text
from utils.errors import UserError
from utils.record.dashboard import record_dashboard
from utils.record.figures import confusion_picture, prediction_picture
from utils.record.log_csv import DATA_FILE, LOG_FILE, Row, read_rows, write_rows
from utils.record.selection import Outputs, confusion

HPARAMS_TAGS = {"_hparams_/session_start_info"}
SAMPLE = 40  # images of the picture of predictions
PREFIXES = {"train": "train", "validation": "val"}
Schedules = Mapping[str, Callable[[np.ndarray], np.ndarray]]


class RunLog:
    """Writes what TensorBoard and people read; drops what came after the last checkpoint.

    Four TensorBoard runs: `hyperparameter` (x = training step), `train` and `validation`
    (x = epoch), as the original repository has them, and the run's own folder for the rest.

    Args:
        folder: the run's folder below logs/.
        settings: of the run.
        command: that started it.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], command: str):
        self.folder = folder
        self.settings = settings
        self.command = command
        self.csv = folder / LOG_FILE
        self.text = folder / "log.txt"
        self.rows: list[Row] = []
        self.writers: dict[str, tf.summary.SummaryWriter] = {}

    def open(self, epoch: int, epoch_steps: int) -> None:
        """Opens the record for a run that has finished `epoch` epochs of `epoch_steps` steps.

        What was recorded beyond that point, by a run that was killed before it could save, is
        dropped, because it comes again.
        """
        last = {
            "hyperparameter": epoch * epoch_steps,
            "train": epoch,
            "validation": epoch,
            ".": epoch,
        }
        kept = {name: rewind_events(self.folder / name, end) for name, end in last.items()}
        for name in last:
            self.writers[name] = tf.summary.create_file_writer(str(self.folder / name))
        # One call for all steps of an epoch, because each takes 300 microseconds in Python.
        self.write_steps = tf.function(write_steps)
        if not kept["."] & HPARAMS_TAGS:
            self.record_settings()
        self.rows = [row for row in read_rows(self.csv) if int(row["epoch"]) <= epoch]
        self.write_tables()

    def record_settings(self) -> None:
        """Records command, settings and data for TensorBoard's other tabs."""
        data = self.folder / DATA_FILE
        texts = {"command": f"`{self.command}`"}
        if data.exists():
            texts["data"] = f"```\n{data.read_text('utf-8')}```"
        with self.writers["."].as_default():
            record_dashboard(str(self.folder), self.settings, texts)

    def epoch(
        self,
        epoch: int,
        steps: range,
        schedules: Schedules,
        metrics: Mapping[str, Mapping[str, float]],
        selection: Mapping[str, float],
    ) -> None:
        """Records one epoch.

        Args:
            epoch: its number, from 1; 0 = before the first.
            steps: its training steps, the first of the run is 0. TensorBoard counts from 1.
            schedules: each schedule, such as `learning_rate`, by its name.
            metrics: `train` and `validation`, both with the same names; NaN = not known.
            selection: criteria for choosing a model, and what else belongs to the epoch.
        """
        with self.writers["hyperparameter"].as_default():
            for name, schedule in schedules.items() if steps else ():
                values = schedule(np.array(steps))
                self.write_steps(f"hyperparameter/{name}", values, tf.constant(steps.start + 1))
        for run, measured in metrics.items():
            with self.writers[run].as_default():
                for name, value in measured.items():
                    if not math.isnan(value):
                        tf.summary.scalar(tag(name), value, epoch)
        with self.writers["."].as_default():
            for name, value in selection.items():
                tf.summary.scalar(f"selection/{name}", value, epoch)
        row = {"epoch": f"{epoch:03d}"}
        for name in metrics["train"]:
            for run, prefix in PREFIXES.items():
                row[f"{prefix}_{name}"] = number(metrics[run][name])
        row |= {name: f"{value:.9g}" for name, value in selection.items()}
        if not self.csv.exists():  # it was written by `open`; TensorFlow makes the folder anew
            raise UserError(f"{self.csv}: is gone; put it back, or start a new run")
        self.rows.append(row)
        self.write_tables()

    def pictures(
        self, epoch: int, images: np.ndarray, outputs: Outputs, class_names: Sequence[str]
    ) -> None:
        """Records a sample of target images with predictions, and the confusion matrix.

        Args:
            epoch: its number, from 1; 0 = before the first.
            images: the first `SAMPLE` target test images, uint8 `[n, H, W, C]`.
            outputs: what the model made of all of them.
            class_names: the name of each class, in order.
        """
        labels, probabilities = outputs.labels, outputs.probabilities
        with self.writers["."].as_default():
            count = len(images)
            picture = prediction_picture(images, labels[:count], probabilities[:count], class_names)
            tf.summary.image("target/predictions", picture[None], epoch)
            picture = confusion_picture(confusion(outputs))
            tf.summary.image("target/confusion", picture[None], epoch)

    def write_tables(self) -> None:
        """Writes log.csv and log.txt anew, whole: a kill leaves the old ones or the new ones."""
        write_text(self.text, "".join(f"{text_line(row)}\n" for row in self.rows))
        write_rows(self.csv, self.rows)

    def flush(self) -> None:
        for writer in self.writers.values():
            writer.flush()

    def close(self) -> None:
        for writer in self.writers.values():
            writer.close()


def write_steps(tag: str, values: tf.Tensor, first: tf.Tensor) -> None:
    """Writes a scalar for each of the steps that begin at `first`."""
    # What tf.summary.scalar does, which would put the loop's name before the tag.
    kind = create_summary_metadata(display_name=None, description=None)
    for index in tf.range(tf.size(values)):
        step = tf.cast(first + index, tf.int64)
        tf.summary.write(tag, values[index], step=step, metadata=kind)


def tag(name: str) -> str:
    """Returns the TensorBoard tag of a metric: the original's `loss/…` and `acc/…`."""
    return f"{'acc' if name.endswith('acc') else 'loss'}/{name}"


def text_line(row: Row) -> str:
    """Returns an epoch's line in the original's format, its "imgae" mended."""
    names = ("train_loss", "val_loss", "train_image_cls_acc", "val_image_cls_acc")
    parts = [f"{name}-{float(row[name]):.3f}" for name in names if row[name]]
    return "-".join([f"Epoch{row['epoch']}", *parts])


WIDTHS = (7, 7, 7, 11, 12, 11, 17)  # together less than 80 columns


def aligned(*cells: str) -> str:
    """Returns a line of the table on the terminal."""
    return " ".join(f"{cell:>{width}}" for cell, width in zip(cells, WIDTHS, strict=True))


HEADER = aligned("epoch", "source", "target", "label loss", "domain loss", "domain acc",
                 "seconds (steps)")  # fmt: skip


def table_line(row: Row, epochs: int, seconds: float, step_seconds: float) -> str:
    """Returns an epoch's line on the terminal, in the columns of HEADER.

    Args:
        row: of log.csv.
        epochs: how many there will be.
        seconds: that the epoch took.
        step_seconds: seconds of these that went into training steps.
    """

    def shown(name: str, digits: int = 4) -> str:
        return f"{float(row[name]):.{digits}f}" if row.get(name) else "-"

    return aligned(
        f"{int(row['epoch'])}/{epochs}",
        shown("labelled_image_cls_acc"),
        shown("val_image_cls_acc"),
        shown("train_image_cls_loss", 3),
        shown("train_domain_cls_loss", 3),
        shown("train_domain_cls_acc", 3),
        f"{seconds:.1f} ({step_seconds:.1f})",
    )


def number(value: float) -> str:
    """Returns a float32 to its last bit; nothing for NaN."""
    return "" if math.isnan(value) else f"{value:.9g}"


def rewind_events(folder: Path, last_step: int) -> set[str]:
    """Drops the events of a TensorBoard run that come after `last_step`; returns the tags left.

    What is kept is put into one file. An event that stands twice, because an earlier rewind was
    itself killed, is kept once; a record that a kill cut short ends its file.
    """
    for unfinished in folder.glob(".*.partial*"):
        unfinished.unlink()
    files = sorted(folder.glob("events.out.tfevents.*"))
    if not files:
        return set()
    seen = set()
    with whole_file(files[0]) as path, tf.io.TFRecordWriter(str(path)) as writer:
        for file in files:
            for record in read_records(file):
                event = tf.compat.v1.Event.FromString(record)
                key = (event.step, tuple(value.tag for value in event.summary.value))
                if event.step <= last_step and key not in seen:
                    seen.add(key)
                    writer.write(record)
    for file in files[1:]:
        file.unlink()
    return {tag for _, tags in seen for tag in tags}


def read_records(file: Path) -> list[bytes]:
    """Returns the undamaged records at the beginning of an event file."""
    records: list[bytes] = []
    with contextlib.suppress(tf.errors.DataLossError):
        records.extend(tf.data.TFRecordDataset(str(file)).as_numpy_iterator())
    return records
