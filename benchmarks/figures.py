"""The two pictures of docs/results.md."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from benchmarks.records import Record
from benchmarks.report import ORIGINAL, Runs, runs_of
from benchmarks.rows import PAIRS, ROWS
from benchmarks.runner import Training
from utils.record.embeddings import LAST, load_pair, save_embedding
from utils.record.figures import save_figure


def draw_curves(runs: Runs, place: Path) -> None:
    """Draws the target accuracy of each preset on MNIST-M, beside the original's run."""
    figure, axis = plt.subplots(figsize=(10, 5), layout="constrained")
    paired = plt.get_cmap("tab20").colors
    colors = iter((*paired[::2], *paired[1::2]))  # the strong ones first
    for row in PAIRS["mnist_m"].rows:
        curves = [curve(run) for run in runs_of(runs, "mnist_m", row)]
        if not curves or ROWS[row].flags != f"--preset {row}":
            continue
        values = np.array(curves)  # (seeds, epochs, 2)
        epochs, accuracy = values[0, :, 0], values[..., 1]
        is_control = row in ("source_only", "target_only")
        color, style = ("black", ":") if is_control else (next(colors), "-")
        axis.plot(epochs, accuracy.mean(axis=0), style, color=color, label=row)
        axis.fill_between(epochs, accuracy.min(axis=0), accuracy.max(axis=0), alpha=0.2,
                          color=color)  # fmt: skip
    axis.plot(*zip(*ORIGINAL.items(), strict=True), "k--o", label="original repository's run")
    axis.set_title("line: mean of the seeds; band: from the lowest to the highest seed")
    axis.set_xlabel("epoch, through all stages")
    axis.set_ylabel("accuracy on the MNIST-M test set")
    axis.set_xscale("log")
    axis.grid(alpha=0.3)
    # From the highest curve to the lowest, as they end.
    ended = sorted(axis.lines, key=lambda line: -line.get_ydata()[-1])
    axis.legend(handles=ended, loc="center left", bbox_to_anchor=(1, 0.5))
    save_figure(place, figure)


def curve(run: Record) -> list[tuple[float, float]]:
    """Returns each epoch with its target accuracy; epochs count through all stages."""
    return [
        (before + one["epoch"], one["val_image_cls_acc"])
        for before, stage in zip(accumulate(run.epochs, initial=0), run.stages, strict=False)
        for one in stage if one["epoch"]
    ]  # fmt: skip


def draw_embedding(
    trainings: Mapping[tuple[str, str, int], Training], place: Path, seed: int
) -> None:
    """Draws the features without adaptation, with DANN, and after the second stage.

    Features are no part of the records: if the trainings were not made here, the picture stays.
    """
    rows = ("source_only", "recipe", "mean_teacher")
    made = {row: trainings["mnist_m", row, seed] for row in rows}
    panels = [(ROWS[row].title, load_pair(file)) for row, one in made.items()
              if one.ended() and (file := one.find("logs", LAST))]  # fmt: skip
    if len(panels) == len(rows):
        save_embedding(place, panels)
