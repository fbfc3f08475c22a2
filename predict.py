"""Classifies pictures with a trained model; writes file, class and probability as CSV.

A picture is resized to what the model takes, transparent parts become white, and it is taken as a
whole: crop it to what is to be classified. The model that ships here reads one digit in the middle
of a picture, as large as in MNIST, in any colour that differs from the background.
"""

from __future__ import annotations

import csv
import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
from tqdm import tqdm

from config.settings import PIXELS, Settings
from utils.atomic import is_stream, whole_file
from utils.data.folders import composed
from utils.data.pictures import find_pictures, read_picture
from utils.errors import UserError, run_script
from utils.ownership import refuse_loss
from utils.run.command_line import parse
from utils.run.quiet import quiet_start

BATCH = 256
SHIPPED = Path(__file__).parent / "model_data" / "model_weight" / "mnist2mnist_m.keras"
HEADER = "file,label,probability"


@dataclasses.dataclass(frozen=True)
class Arguments(Settings):
    images: tuple[Path, ...]
    """Pictures, or folders that are searched with all their subfolders. If these are named as the
    classes are, the accuracy is told, too."""
    model: Path = SHIPPED
    """A model: .keras from checkpoints/, .weights.h5, or a .h5 of the original repository. By
    default the one of the preset mean_teacher, for digits."""
    pixel_mean: Annotated[tuple[float, ...] | None, PIXELS] = None
    """Mean that was subtracted in training, of .weights.h5 and .h5 files, as in evaluate.py."""
    output: Path = Path("predictions.csv")
    """The CSV to write; - is standard output. A CSV of an earlier call is replaced."""
    probabilities: bool = False
    """Write the probability of every class, too."""


def main() -> None:
    args = Arguments.of(parse([Arguments], __doc__))
    roots: dict[Path, Path] = {}
    for root in args.images:
        for path in find_pictures(root):
            roots.setdefault(path, root)
    paths = list(roots)
    refuse_loss(args.output, HEADER, args.model, *paths)
    with quiet_start():
        from model.pretrained import load_model, picture_shape

        model = load_model(args.model, args.pixel_mean)
    shape = picture_shape(model, args.model)
    classes = model.classes()
    names: list[Path] = []
    found: list[np.ndarray] = []
    skipped: list[str] = []
    with tqdm(total=len(paths), desc="classifying", unit="picture", disable=None) as bar:
        for some, images in batches(paths, shape, skipped):
            names += some
            found += list(model.predict_on_batch(images))
            bar.update(len(some))
    for reason in skipped:
        print(f"skipped: {reason}", file=sys.stderr)
    if not names:
        places = ", ".join(map(str, args.images))
        raise UserError(f"{places}: none of the {len(paths)} pictures decodes")
    rows = [row_of(name, row, classes, args.probabilities)
            for name, row in zip(names, found, strict=True)]  # fmt: skip
    columns = probability_columns(found[0], classes) if args.probabilities else []
    with (
        whole_file(args.output) as temporary,
        temporary.open(
            "w",
            newline="",
            encoding="utf-8",
            errors="surrogateescape",  # of names that are not UTF-8
        ) as file,
    ):
        table = csv.writer(file, lineterminator="\n")
        table.writerow((*HEADER.split(","), *columns))
        table.writerows(rows)
    told = sys.stderr if is_stream(args.output) else sys.stdout
    height, width, channels = shape
    print(f"{args.output}: {len(rows)} predictions, {len(skipped)} pictures skipped", file=told)
    print(f"each picture was seen as a whole, at {width}x{height} pixels, "
          f"{'grey' if channels == 1 else 'RGB'}", file=told)  # fmt: skip
    told_by = [class_folder(name, roots[name], classes) for name in names]
    known = [(folder, row[1]) for folder, row in zip(told_by, rows, strict=True) if folder]
    strings = found[0].ndim > 1  # of several characters, which no folder of classes has
    folders = {folder for folder, _ in known}
    if len(folders) == 1 and not strings:  # it may mean something else
        print(f"no accuracy: of the classes only {folders.pop()!r} has a folder", file=told)
    elif folders and not strings:
        right = np.mean([folder == label for folder, label in known])
        others = sorted({name.parent.name for name, folder in zip(names, told_by, strict=True)
                         if not folder})  # fmt: skip
        left = f"; no classes of the model: {', '.join(others)}" if others else ""
        print(f"accuracy: {right:.4f} on {len(known)} pictures in folders of classes{left}",
              file=told)  # fmt: skip


def class_folder(path: Path, root: Path, classes: list[str]) -> str | None:
    """Returns the uppermost folder of a picture that has the name of a class, if there is one."""
    parents = map(composed, path.relative_to(root.parent).parts[:-1])
    return next((name for name in parents if name in classes), None)


def row_of(name: Path, row: np.ndarray, classes: list[str], all_of_them: bool) -> list[str]:
    """Returns a line of the CSV. A string has a class for each position; its probability is their
    product."""
    word = "".join(classes[number] for number in np.atleast_1d(row.argmax(axis=-1)))
    line = [str(name), word, f"{row.max(axis=-1).prod():.4f}"]
    return line + [f"{value:.4f}" for value in row.ravel()] if all_of_them else line


def probability_columns(row: np.ndarray, classes: list[str]) -> list[str]:
    """Returns the names of the columns with all probabilities."""
    if row.ndim == 1:
        return [f"p({name})" for name in classes]
    return [f"p{position}({name})" for position in range(1, len(row) + 1) for name in classes]


def batches(
    paths: list[Path], shape: tuple[int, int, int], skipped: list[str]
) -> Iterator[tuple[list[Path], np.ndarray]]:
    """Yields paths and images uint8 `[B, *shape]`; notes in `skipped` what does not decode."""
    for start in range(0, len(paths), BATCH):
        names, images = [], []
        for path in paths[start : start + BATCH]:
            try:
                images.append(read_picture(path, shape))
                names.append(path)
            except UserError as error:
                skipped.append(str(error))
        if names:
            yield names, np.stack(images)


if __name__ == "__main__":
    run_script(main)
