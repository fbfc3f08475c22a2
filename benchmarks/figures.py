"""The two pictures of docs/results.md."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.lines import Line2D

from benchmarks.records import Record
from benchmarks.report import ORIGINAL, Runs, runs_of
from benchmarks.rows import PAIRS, ROWS
from benchmarks.runner import Training
from utils.record.embeddings import LAST, load_pair, save_embedding
from utils.record.figures import save_figure


def draw_curves(runs: Runs, place: Path) -> None:
    """Draws the target accuracy of each preset on MNIST-M, beside the original's run."""
    figure, axis = plt.subplots(figsize=(10, 5), layout="constrained")
    strong_first = [*range(0, 20, 2), *range(1, 20, 2)]
    colors = iter(plt.get_cmap("tab20")(strong_first))
    ends: dict[Line2D, float] = {}
    for row in PAIRS["mnist_m"].rows:
        curves = [curve(run) for run in runs_of(runs, "mnist_m", row)]
        begins_trained = ROWS[row].after  # its epochs would not count those of its teacher
        if not curves or begins_trained or not ROWS[row].flags.startswith(f"--preset {row}"):
            continue
        values = np.array(curves)  # (seeds, epochs, 2)
        epochs, accuracy = values[0, :, 0], values[..., 1]
        style = {"source_only": ":", "target_only": "-."}.get(row, "-")
        color = next(colors) if style == "-" else "black"
        (line,) = axis.plot(epochs, accuracy.mean(axis=0), style, color=color, label=row)
        ends[line] = accuracy[:, -1].mean()
        axis.fill_between(epochs, accuracy.min(axis=0), accuracy.max(axis=0), alpha=0.2,
                          color=color)  # fmt: skip
    (line,) = axis.plot(*zip(*ORIGINAL.items(), strict=True), "k--o",
                        label="original repository's run")  # fmt: skip
    ends[line] = [*ORIGINAL.values()][-1]
    axis.set_title("line: mean of the seeds; band: from the lowest to the highest seed")
    axis.set_xlabel("epoch, through all stages")
    axis.set_ylabel("accuracy on the MNIST-M test set")
    axis.set_xscale("log")
    axis.grid(alpha=0.3)
    highest_first = sorted(ends, key=lambda line: -ends[line])
    axis.legend(handles=highest_first, loc="center left", bbox_to_anchor=(1, 0.5))
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
