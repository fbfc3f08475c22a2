"""Classifies pictures with a trained model; writes file, class and probability to a CSV."""

from __future__ import annotations

import csv
import dataclasses
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tyro
from tqdm import tqdm

from utils.atomic import whole_file
from utils.errors import UserError, run_script
from utils.pictures import find_pictures, read_picture

BATCH = 256
SHIPPED = Path(__file__).parent / "model_data" / "model_weight" / "mnist2mnist_m.keras"


@dataclasses.dataclass
class Arguments:
    images: Path
    """A picture, or a folder that is searched with all its subfolders."""
    model: Path = SHIPPED
    """A .keras file from checkpoints/. By default the best one of RESULTS.md, for digits."""
    output: Path = Path("predictions.csv")
    """The CSV to write."""


def main() -> None:
    args = tyro.cli(Arguments, description=__doc__, use_underscores=True)
    paths = find_pictures(args.images)
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


def load_model(path: Path):  # type: ignore[no-untyped-def]
    """Loads a DANN or ADDA from a `.keras` file; code stored in the file is never run."""
    if not path.is_file():
        raise UserError(f"{path}: no such file; training leaves models in checkpoints/")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import keras

    from model.adda import SourceModel
    from model.dann import DANN
    from model.mean_teacher import MeanTeacher  # noqa: F401  registers itself for loading

    try:
        model = keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # Keras raises many kinds for a damaged file
        reason = str(error).strip().split("\n")[0]
        raise UserError(f"{path}: not a model that predict.py can load ({reason})") from error
    if not isinstance(model, (DANN, SourceModel)):
        raise UserError(f"{path}: holds a {type(model).__name__}, not a DANN or an ADDA")
    return model


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
