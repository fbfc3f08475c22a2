"""Classifies pictures with a trained model; writes file, class and probability to a CSV."""

from __future__ import annotations

import csv
import dataclasses
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tqdm import tqdm

from config.settings import Settings
from utils.atomic import whole_file
from utils.data.pictures import find_pictures, read_picture
from utils.errors import UserError, run_script
from utils.run.command_line import parse

BATCH = 256
SHIPPED = Path(__file__).parent / "model_data" / "model_weight" / "mnist2mnist_m.keras"


@dataclasses.dataclass(frozen=True)
class Arguments(Settings):
    images: Path
    """A picture, or a folder that is searched with all its subfolders."""
    model: Path = SHIPPED
    """A .keras file from checkpoints/. By default the best one of RESULTS.md, for digits."""
    output: Path = Path("predictions.csv")
    """The CSV to write."""


def main() -> None:
    args = Arguments.of(parse([Arguments], __doc__))
    paths = find_pictures(args.images)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    from model.pretrained import load_model

    model = load_model(args.model)
    shape = model.feature_extractor.input_shape[1:]
    classes = model.class_names or [str(x) for x in range(model.label_predictor.output_shape[-1])]
    rows: list[tuple[Path, str, str]] = []
    skipped: list[str] = []
    with tqdm(total=len(paths), desc="classifying", unit="picture", disable=None) as bar:
        for names, images in batches(paths, shape, skipped):
            probabilities = model.predict_on_batch(images)
            for name, row in zip(names, probabilities, strict=True):
                # A string has a row for each of its characters; its probability is their product.
                word = "".join(classes[number] for number in np.atleast_1d(row.argmax(axis=-1)))
                rows.append((name, word, f"{row.max(axis=-1).prod():.4f}"))
            bar.update(len(names))
    for reason in skipped:
        print(f"skipped: {reason}", file=sys.stderr)
    if not rows:
        raise UserError(f"{args.images}: none of its {len(paths)} pictures decodes")
    with whole_file(args.output) as temporary, temporary.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(("file", "label", "probability"))
        table.writerows(rows)
    print(f"{args.output}: {len(rows)} predictions, {len(skipped)} pictures skipped")


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
