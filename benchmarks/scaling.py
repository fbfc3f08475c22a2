"""Trains on the real pickles with every strategy and some batch sizes: images per second, and how
far the weights and logged values end from those of one process."""

from __future__ import annotations

import dataclasses
import sys
import tempfile
from pathlib import Path
from typing import Annotated

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
import keras
import numpy as np

import model.dann  # noqa: F401 - makes Keras know the class
from benchmarks.rows import DIGITS
from benchmarks.runner import completed, folder_flags, seconds_of
from config.settings import Settings, at_least
from utils.errors import run_script
from utils.record.log_csv import LOG_FILE, read_rows
from utils.run.command_line import parse

STRATEGIES = {
    "1 process": [],
    "2 logical devices": ["--strategy", "mirrored", "--logical_devices", "2"],
    "4 logical devices": ["--strategy", "mirrored", "--logical_devices", "4"],
    "2 worker processes": ["2"],
}


@dataclasses.dataclass(frozen=True)
class Arguments(Settings):
    batch_sizes: tuple[int, ...] = (256, 1024)
    """Images of a batch."""
    epoch: Annotated[int, at_least(1)] = 2
    """Epochs of each training; one with batches of 600 is 200 steps."""


def train(strategy: list[str], batch_size: int, epochs: int, folder: str) -> float:
    """Trains some epochs and returns the seconds of the last one's steps."""
    script = [DIGITS, "--epoch", str(epochs), "--batch_size", str(batch_size), "--run_name", "run",
              "--init_learning_rate", "0.001", *folder_flags(folder)]  # fmt: skip
    if strategy and strategy[0].isdigit():
        done = completed("-m", "utils.run.workers", strategy[0], *script)
    else:
        done = completed(*script, *strategy)
    return seconds_of(done.stdout)[-1][1]


def result(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Returns a run's final weights, joined, and its table of logged values."""
    path = next(folder.rglob("trained_dann_mnist2mnist_m.keras"))
    weights = keras.saving.load_model(path).get_weights()
    rows = read_rows(next(folder.rglob(LOG_FILE)))
    values = [[float(cell) for cell in row.values()] for row in rows]
    return np.concatenate([weight.ravel() for weight in weights]), np.array(values)


def main() -> None:
    args = Arguments.of(parse([Arguments], __doc__))
    print("| batch | strategy | images/s | of 1 process | weights, relative | log, relative |")
    print("| --- | --- | --- | --- | --- | --- |")
    for batch_size in args.batch_sizes:
        alone: tuple[np.ndarray, np.ndarray] | None = None
        speed_alone = 0.0
        for name, strategy in STRATEGIES.items():
            with tempfile.TemporaryDirectory() as place:
                seconds = train(strategy, batch_size, args.epoch, place)
                weights, table = result(Path(place))
            speed = -(-60_000 // (batch_size // 2)) * batch_size / seconds
            if alone is None:
                alone, speed_alone = (weights, table), speed
            weight_error = np.linalg.norm(weights - alone[0]) / np.linalg.norm(alone[0])
            table_error = np.max(np.abs(table - alone[1]) / np.maximum(np.abs(alone[1]), 1e-12))
            print(
                f"| {batch_size} | {name} | {speed:,.0f} | {speed / speed_alone:.2f} | "
                f"{weight_error:.1e} | {table_error:.1e} |",
                flush=True,
            )


if __name__ == "__main__":
    run_script(main)
