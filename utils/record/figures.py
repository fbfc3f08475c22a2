"""Pictures for people: samples, curves, confusion matrices."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import cv2
import matplotlib

matplotlib.use("Agg")  # figures go to files; no screen is needed
import matplotlib.pyplot as plt
import numpy as np

from utils.atomic import whole_file
from utils.data.pictures import write_picture

Values = Sequence[float] | np.ndarray
COLUMNS = 10  # images side by side
CERTAIN = 40  # images of a picture of the most certain predictions, at most


def save_figure(path: Path, figure: plt.Figure, dpi: int = 100, title: str = "") -> None:
    """Writes a figure, whole or not at all, and closes it; a PNG keeps the title in its text."""
    with whole_file(path) as temporary, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # of a class name; a box stands for it
        figure.savefig(temporary, dpi=dpi, metadata={"Title": title} if title else None)
    plt.close(figure)


def save_samples(path: Path, *rows: np.ndarray) -> None:
    """Writes images side by side, one row below the other; after ten images they go on below.

    Args:
        path: a PNG or JPEG file.
        rows: uint8 `[N, H, W, 1 or 3]` of the same H and W.
    """
    lines = [row[at : at + COLUMNS] for at in range(0, max(map(len, rows)), COLUMNS)
             for row in rows]  # fmt: skip
    height, width = rows[0].shape[1:3]
    canvas = np.full((len(lines), COLUMNS, height + 2, width + 2, 3), 255, np.uint8)
    for places, images in zip(canvas, lines, strict=True):
        places[: len(images), 1:-1, 1:-1] = images
    picture = canvas.swapaxes(1, 2).reshape(-1, COLUMNS * (width + 2), 3)
    scale = max(1, 90 // height)
    save_picture(path, picture.repeat(scale, axis=0).repeat(scale, axis=1))


def prediction_picture(
    images: np.ndarray, labels: np.ndarray, probabilities: np.ndarray, class_names: Sequence[str]
) -> np.ndarray:
    """Tiles images with their predicted class, green where right, red where wrong, else grey.

    Drawn with OpenCV, which takes a millisecond where Matplotlib takes a second.

    Args:
        images: uint8 `[N, H, W, C]`, C = 1 or 3.
        labels: int `[N]` or `[N, n]`, the true classes, -1 = unknown.
        probabilities: `[N, num_labels]` or `[N, n, num_labels]`.
        class_names: the name of each class, in order.

    Returns:
        uint8 `[height, width, 3]` RGB.
    """
    tiles = []
    for image, label, row in zip(images, labels, probabilities, strict=True):
        predicted = np.atleast_1d(row.argmax(axis=-1))
        colour = (0, 130, 0) if (predicted == label).all() else (200, 0, 0)
        if np.all(label < 0):
            colour = (110, 110, 110)
        rgb = image[..., :3] if image.shape[-1] >= 3 else np.repeat(image[..., :1], 3, axis=-1)
        tile = cv2.resize(rgb, (76, 76), interpolation=cv2.INTER_NEAREST)
        tile = cv2.copyMakeBorder(tile, 2, 18, 2, 2, cv2.BORDER_CONSTANT, value=colour)
        word = "".join(class_names[number] for number in predicted)
        word = word.encode("ascii", "replace").decode()  # OpenCV has no other letters
        text = f"{word}  {row.max(axis=-1).prod():.2f}"
        cv2.putText(tile, text, (6, 92), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (255,) * 3, 1, cv2.LINE_AA)
        tiles.append(tile)
    blank = np.full((96, 80, 3), 255, np.uint8)
    tiles += [blank] * (-len(tiles) % COLUMNS)
    return np.vstack([np.hstack(tiles[at : at + COLUMNS]) for at in range(0, len(tiles), COLUMNS)])


def confusion_picture(matrix: np.ndarray) -> np.ndarray:
    """Draws a confusion matrix, each row as shares of its true class.

    Args:
        matrix: int `[num_labels, num_labels]`, rows = true, columns = predicted.

    Returns:
        uint8 `[height, width, 3]` RGB.
    """
    figure, axis = plt.subplots(figsize=(5, 5), dpi=100)
    figure.subplots_adjust(0.1, 0.1, 0.98, 0.98)  # a layout engine takes as long as the drawing
    draw_confusion(axis, matrix, [str(number) for number in range(len(matrix))])
    figure.canvas.draw()
    picture = np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()  # type: ignore[attr-defined]
    plt.close(figure)
    return picture


def save_picture(path: Path, picture: np.ndarray) -> None:
    """Writes a picture, uint8 `[H, W, 3]` RGB."""
    with whole_file(path) as temporary:
        write_picture(temporary, picture[..., ::-1])


def save_certainty(
    path: Path,
    images: Callable[[np.ndarray], np.ndarray],
    labels: np.ndarray,
    probabilities: np.ndarray,
    class_names: Sequence[str],
) -> None:
    """Writes two pictures: the predictions that are most certain, and those that are least.

    Args:
        path: a PNG file; the second has `_least` in its name.
        images: returns the images of some rows, uint8 `[n, H, W, C]`.
        labels: int `[N]`, -1 = unknown.
        probabilities: `[N, K]`.
        class_names: of the K classes.
    """
    order = np.argsort(-probabilities.max(axis=-1), kind="stable")
    least = path.with_stem(f"{path.stem}_least")
    for place, rows in ((path, order[:CERTAIN]), (least, order[::-1][:CERTAIN])):
        picture = prediction_picture(images(rows), labels[rows], probabilities[rows], class_names)
        save_picture(place, picture)


def draw_confusion(axis: plt.Axes, matrix: np.ndarray, names: Sequence[str]) -> None:
    """Draws a confusion matrix, in percent of each true class."""
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axis.set(xlabel="predicted", ylabel="true")
    axis.set_xticks(range(len(matrix)), names)
    axis.set_yticks(range(len(matrix)), names)
    for (row, column), share in np.ndenumerate(shares):
        if share >= 0.005:
            axis.text(column, row, f"{100 * share:.0f}", ha="center", va="center", fontsize=8,
                      color="white" if share > 0.5 else "black")  # fmt: skip


def save_evaluation(
    path: Path,
    matrix: np.ndarray,
    bins: Sequence[tuple[float, float, float]],
    class_names: Sequence[str],
    title: str,
) -> None:
    """Writes a model's confusion matrix beside its reliability diagram.

    Args:
        path: a PNG file.
        matrix: int `[K, K]`, true class × predicted class.
        bins: share, accuracy and mean confidence of the predictions in each bin.
        class_names: of the K classes.
        title: by which the file is known again.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 5), layout="constrained")
    draw_confusion(left, matrix, class_names)
    share, accuracy, confidence = np.array(bins).reshape(-1, 3).T
    right.plot([0, 1], [0, 1], "k--", linewidth=1)
    right.plot(confidence, accuracy, "o-", label="accuracy")
    right.bar(confidence, share, width=0.03, alpha=0.3, label="share of the images")
    right.set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1.02), ylim=(0, 1.02))
    right.legend()
    save_figure(path, figure, title=title)


def save_curves(
    folder: Path, rows: Sequence[Mapping[str, str]], schedules: Mapping[str, Values]
) -> None:
    """Writes the original's three figures: hyperparameter.png, acc.png and loss.png.

    Args:
        folder: where to.
        rows: the rows of log.csv.
        schedules: each hyperparameter's name, with its value at every training step.
    """
    epochs = [int(row["epoch"]) for row in rows]
    # Of each figure its charts: title, name and values of the x axis, curves.
    panels: dict[str, list[tuple[str, str, Sequence[int], dict[str, Values]]]] = {
        "hyperparameter": [
            (name, "step", range(1, len(values) + 1), {"": values})
            for name, values in schedules.items()
        ],
        "acc": [],
        "loss": [],
    }
    names = [key.removeprefix("val_") for key in rows[0] if key.startswith("val_")]
    for name in names:
        lines: dict[str, Values] = {
            label: [float(row[f"{prefix}_{name}"] or "nan") for row in rows]
            for label, prefix in (("train", "train"), ("validation (target)", "val"))
        }
        panels["acc" if name.endswith("acc") else "loss"].append((name, "epoch", epochs, lines))
    for figure_name, charts in panels.items():
        columns, rows_of_charts = min(3, len(charts)), -(-len(charts) // 3)
        figure, axes = plt.subplots(
            rows_of_charts,
            columns,
            figsize=(5 * columns, 3.6 * rows_of_charts),
            layout="constrained",
            squeeze=False,
        )
        for axis in axes.flat[len(charts) :]:
            axis.remove()
        for axis, (title, unit, places, curves) in zip(axes.flat, charts, strict=False):
            for label, values in curves.items():
                axis.plot(places, values, label=label or None,
                          marker="." if len(values) < 40 else None)  # fmt: skip
            axis.set(title=title, xlabel=unit)
            axis.xaxis.get_major_locator().set_params(integer=True)  # no half epochs
            axis.grid(alpha=0.3)
            if len(curves) > 1:
                axis.legend()
        save_figure(folder / f"{figure_name}.png", figure, dpi=120)
