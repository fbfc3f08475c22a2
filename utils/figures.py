"""Pictures for people: samples, curves, confusion matrices."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # figures go to files; no screen is needed
import matplotlib.pyplot as plt
import numpy as np


def save_samples(
    path: Path, upper: np.ndarray, lower: np.ndarray, columns: int = 10
) -> None:
    """Writes a picture of image pairs: each `upper` image above its `lower` one.

    Args:
        path: a PNG file.
        upper, lower: uint8 `[N, H, W, 3]` RGB, the same N.
        columns: pairs side by side.
    """
    rows = -(-len(upper) // columns)
    figure, axes = plt.subplots(
        2 * rows, columns, figsize=(columns * 0.8, rows * 1.65), layout="constrained"
    )
    for axis in axes.flat:
        axis.axis("off")
    for index, pair in enumerate(zip(upper, lower, strict=True)):
        row, column = divmod(index, columns)
        for line, image in enumerate(pair):
            axes[2 * row + line, column].imshow(image)
    figure.savefig(path, dpi=120)
    plt.close(figure)
