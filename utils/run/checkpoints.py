"""Checkpoints of a run: the latest two, each whole or passed over."""

from __future__ import annotations

import errno
import math
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import keras
import tensorflow as tf

from utils.errors import UserError

# What TensorFlow makes of a checkpoint; a user's copies have other names and stay.
OURS = re.compile(r"step-\d+(\.index|\.data-\d+-of-\d+)(\.tempstate\d+)?|step-\d+_temp\w*")


class Checkpoints:
    """Saves and restores all that a run needs to go on with the same bits.

    Args:
        model: a compiled `model.adaptation.Adaptation`.
        folder: where to.
        chief: whether this process writes. Saving reads sums over all workers, so all must save;
            the files of the others go to a temporary folder.
    """

    def __init__(self, model: keras.Model, folder: Path, chief: bool = True):
        self.folder = folder
        self.chief = chief
        self.step = tf.Variable(0, dtype=tf.int64)
        self.best = tf.Variable(-math.inf, dtype=tf.float64)
        state = [*model.variables, *model.metrics_variables]
        for optimizer in model.optimizers():
            state += optimizer.variables
        self.checkpoint = tf.train.Checkpoint(
            step=self.step,
            best=self.best,
            state=[variable.value for variable in state],
            average=model.average.variables if model.average else [],
        )
        self.restored = False
        self.scratch = None if chief else tempfile.TemporaryDirectory()
        self.place = Path(self.scratch.name) if self.scratch else folder
        self.place.mkdir(parents=True, exist_ok=True)
        try:
            tf.train.get_checkpoint_state(str(self.place))
        except ValueError:  # a damaged list of checkpoints; `restore` goes by their names
            (self.place / "checkpoint").unlink()
        self.manager = tf.train.CheckpointManager(
            self.checkpoint, str(self.place), max_to_keep=2, checkpoint_name="step"
        )

    def restore(self) -> int:
        """Loads the newest checkpoint that is whole and returns the step it stands at.

        Raises:
            UserError: there are checkpoints, but all are damaged.
        """
        files = [file for file in self.files() if file.suffix == ".index"]
        newest_first = sorted(files, key=lambda file: -int(file.stem.removeprefix("step-")))
        # One link for all: after a failure TensorFlow looks at the file before once more.
        with plain_path(self.folder) as folder:
            for file in newest_first:
                try:
                    self.checkpoint.restore(str(folder / file.stem)).assert_consumed()
                except (tf.errors.OpError, AssertionError, ValueError, IndexError) as error:
                    reason = str(error).strip().split("\n")[0]
                    print(f"{file}: damaged, so it is left out ({reason})", flush=True)
                else:
                    self.restored = True
                    return int(self.step.numpy())
        if newest_first:
            raise UserError(
                f"{self.folder}: all checkpoints are damaged, or of another version; start a new "
                "run"
            )
        return 0

    def save(self) -> None:
        """Writes a checkpoint of the present step; the latest two are kept."""
        with disk_faults_named(self.place):
            self.manager.save(checkpoint_number=int(self.step.numpy()))
            if self.chief:
                self.sweep()

    def remove(self) -> None:
        """Removes all checkpoints, because a finished run needs none."""
        for path in (*self.files(), *self.folder.glob("checkpoint"), *self.leftovers()):
            remove(path)

    def sweep(self) -> None:
        """Removes what a kill in the middle of a save left behind, unknown to the manager."""
        known = {Path(path).name for path in self.manager.checkpoints}
        unknown = [path for path in self.files() if path.name.split(".")[0] not in known]
        for path in (*unknown, *self.leftovers()):
            remove(path)

    def files(self) -> list[Path]:
        """Returns what TensorFlow made of checkpoints here, whole or not."""
        return [path for path in self.folder.glob("step-*") if OURS.fullmatch(path.name)]

    def leftovers(self) -> Iterator[Path]:
        """Yields models and lists of checkpoints that a kill left unfinished."""
        yield from self.folder.glob("checkpoint.tmp*")
        yield from self.folder.glob(".*.partial.keras")


def remove(path: Path) -> None:
    """Removes a file, or a folder: TensorFlow writes a checkpoint into one first."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


@contextmanager
def plain_path(folder: Path) -> Iterator[Path]:
    """Yields another path to `folder`, which has no brackets.

    TensorFlow reads brackets in a path as a pattern.
    """
    with tempfile.TemporaryDirectory() as place:
        link = Path(place) / "checkpoints"
        link.symlink_to(folder.resolve())
        yield link


@contextmanager
def disk_faults_named(place: Path) -> Iterator[None]:
    """Turns TensorFlow's file errors (disk full) and a folder that is gone into a `UserError`."""
    gone = UserError(f"{place}: is gone; put it back, or start a new run")
    if not place.is_dir():  # TensorFlow would make it anew, without what was in it
        raise gone
    try:
        yield
    except (tf.errors.OpError, OSError) as error:
        if not place.is_dir():
            raise gone from error
        text, full = str(error).strip(), os.strerror(errno.ENOSPC)
        # The first line may begin with the name of an op, or tell nothing.
        reason = full if full in text else re.sub(r"^{{.*?}} ", "", text.split("\n")[0])
        raise UserError(
            f"{place}: cannot be written ({reason}); free some space, or mend the folder"
        ) from error
