"""Measures trained models: on a data set pickle, or on folders of pictures named as the classes.

For each model a line, and one of the accuracy of each class. The columns of the first:
  acc     accuracy on the target
  ECE     calibration error: how far the confidence is from the accuracy, between 0 and 1
  domain  accuracy of the domain classifier, 0.5 if it cannot tell two domains apart
  others  label-free criteria, the higher the better
Nothing is trained.
"""

from __future__ import annotations

import dataclasses
import math
import os
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from config.config import Config
from config.settings import PIXELS, Settings
from predict import SHIPPED
from utils.atomic import is_stream, write_json
from utils.data import UNLABELLED
from utils.data.folders import PictureFolder, open_target
from utils.data.pickles import read_pickle
from utils.data.pictures import SUFFIXES
from utils.errors import UserError, run_script
from utils.ownership import refuse_loss
from utils.run.command_line import parse
from utils.run.quiet import quiet_start

Labelled = tuple[np.ndarray | PictureFolder, np.ndarray]  # images and their classes
MARK = "confusion and reliability, by evaluate.py"  # in the text of a picture
BINS = 15  # of confidence; Guo et al., "On Calibration of Modern Neural Networks", ICML 2017
COLUMNS = {
    "accuracy": "acc", "calibration_error": "ECE", "domain_accuracy": "domain",
    "information_maximisation": "IM", "entropy": "entropy", "nuclear_norm": "nuclear",
    "soft_neighbourhood_density": "SND", "deep_embedded_validation": "DEV",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Arguments(Settings):
    models: tuple[Path, ...] = (SHIPPED,)
    """Models: .keras of checkpoints/, .weights.h5, or a .h5 of the original repository."""
    target: Path = Path(str(Config.target_dataset_path))  # an edited default may be no text
    """What is measured: a pickle, of which the test images; or a folder with a folder of pictures
    for each class."""
    source: Path | None = None
    """The labelled domain, in the same form. The domain accuracy and DEV need it. If the target is
    a pickle, it is by default that of config.py."""
    pixel_mean: Annotated[tuple[float, ...] | None, PIXELS] = None
    """Mean that was subtracted in training, of .weights.h5 and .h5 files. By default the
    original repository's for .h5, and that of MNIST and MNIST-M for .weights.h5."""
    json: Path | None = None
    """Write all numbers here, with the accuracy of each class and the confusion matrix. - is
    standard output."""
    figures: Path | None = None
    """Write a picture for each model into this folder: confusion matrix and reliability diagram."""


def main() -> None:
    args = Arguments.of(parse([Arguments], __doc__))
    if len({*args.models}) < len(args.models):
        raise UserError("models: one is named twice; name each once")
    if args.source is None and args.target.is_file():
        args = dataclasses.replace(args, source=Path(str(Config.source_dataset_path)))
    places = [place for place in (args.source, args.target) if place]
    if args.json:
        refuse_loss(args.json, "calibration_error", *args.models, *places)
    pictures: list[Path] = []
    if args.figures:
        if args.figures.exists() and not args.figures.is_dir():
            raise UserError(f"figures: {args.figures}: is a file; name a folder")
        pictures = [args.figures / f"{number}_{path.stem}.png"
                    for number, path in enumerate(args.models, 1)]  # fmt: skip
        for picture in pictures:
            refuse_loss(picture, MARK)
    with quiet_start():
        from model.pretrained import load_model

        models = [load_model(path, args.pixel_mean) for path in args.models]
    with redirect_stdout(sys.stderr):  # all of them first: what does not fit is told at once
        data = [read_domains(places, *pair) for pair in zip(models, args.models, strict=True)]
    if args.source is None:
        print(f"{args.target}: domain and DEV are not known without --source", file=sys.stderr)
    found = {str(path): measure(model, domains)
             for path, model, domains in zip(args.models, models, data, strict=True)}  # fmt: skip
    to_stream = args.json is not None and is_stream(args.json)
    print(table(found), file=sys.stderr if to_stream else sys.stdout)
    if args.json:
        write_json(args.json, found)
        print(f"{args.json}: written", file=sys.stderr)
    if pictures:
        from utils.record.figures import save_evaluation

        for picture, told in zip(pictures, found.values(), strict=True):
            save_evaluation(
                picture, np.array(told["confusion"]), told["reliability"], told["classes"], MARK
            )
            print(f"{picture}: written", file=sys.stderr)


def read_domains(places: Sequence[Path], model: Any, path: Path) -> list[Labelled]:
    """Returns images and classes of some domains, as a model takes them."""
    from model.pretrained import picture_shape

    for picture in (place for place in places if place.suffix.lower() in SUFFIXES):
        raise UserError(f"{picture}: is a picture; name a folder or a pickle")
    if len(model.label_predictor.output_shape) > 2:
        raise UserError(
            f"{path}: reads strings of several characters; only train_captcha.py measures it, "
            "after each epoch; see log.csv in its log folder"
        )
    shape = picture_shape(model, path)
    count = model.label_predictor.output_shape[-1]
    classes = model.classes()
    domains: list[Labelled] = []
    for place in places:
        if not place.exists():
            raise UserError(
                f"{place}: no such file or folder; create_mnistm.py makes the pickles of the "
                "digits; others are named by --source and --target"
            )
        try:
            if place.is_dir():
                folder = open_target(place, classes, shape)
                if {*folder.labels} == {UNLABELLED}:
                    print(f"{place}: has no class folders, so its accuracy is not known",
                          file=sys.stderr)  # fmt: skip
                elif len({*folder.labels}) == 1:
                    name = classes[folder.labels[0]]
                    print(f"{place}: only {name!r} has a folder; is it a class?", file=sys.stderr)
                domains.append((folder, folder.labels))
            else:
                arrays = read_pickle(place, shape, count)
                domains.append((arrays["val"], arrays["val_label"]))
        except UserError as error:
            reason = str(error).removeprefix(f"{place}: ").partition(";")[0]
            raise UserError(
                f"{place}: {path.name} cannot be measured on it ({reason}); name domains of this "
                "model: --target and --source"
            ) from error
    return domains


def measure(model: Any, domains: Sequence[Labelled]) -> dict[str, Any]:
    """Returns all that is told of a model, by name.

    Args:
        model: the model.
        domains: source and target, or the target alone.
    """
    from utils.data.batches import evaluation_batches
    from utils.record.selection import CRITERIA, confusion, outputs_of

    outputs, told = [], []
    for number, (images, labels) in enumerate(domains, 2 - len(domains)):
        model.reset_metrics()
        batches = evaluation_batches(images, labels, number)
        outputs.append(outputs_of(model.examine, batches))
        told.append(model.get_metrics_result().get("domain_cls_acc"))
    # With more than two domains, the number of this target is not known.
    two = getattr(model, "num_domains", 0) == 2 and len(domains) == 2
    of_source, of_target = outputs[0], outputs[-1]
    if len(domains) == 1:  # DEV needs labels of the source; the others do not look at it
        unknown = np.full_like(of_target.labels, UNLABELLED)
        of_source = dataclasses.replace(of_target, labels=unknown)
    matrix = confusion(of_target)
    known = of_target.labels >= 0
    probabilities = of_target.probabilities[known]
    right = probabilities.argmax(axis=-1) == of_target.labels[known]
    bins = reliability(right, probabilities.max(axis=-1))
    return {
        "images": len(of_target.labels),
        "accuracy": float(right.mean()) if len(right) else None,
        "calibration_error": sum(share * abs(accuracy - sure) for share, accuracy, sure in bins)
        if len(right) else None,
        "domain_accuracy": float(np.mean(told)) if two else None,
        **{name: None if math.isnan(value := score(of_source, of_target)) else value
           for name, score in CRITERIA.items()},
        "classes": model.classes(),
        "class_accuracy": [float(row[number] / row.sum()) if row.sum() else None
                           for number, row in enumerate(matrix)],
        "confusion": matrix.tolist(),
        "reliability": bins,
    }  # fmt: skip


def reliability(right: np.ndarray, confidence: np.ndarray) -> list[tuple[float, float, float]]:
    """Returns share, accuracy and mean confidence of the predictions in each bin of confidence."""
    places = np.minimum((confidence * BINS).astype(int), BINS - 1)
    bins = []
    for place in range(BINS):
        inside = places == place
        if inside.any():
            bins.append((float(inside.mean()), float(right[inside].mean()),
                         float(confidence[inside].mean())))  # fmt: skip
    return bins


def table(found: dict[str, dict[str, Any]]) -> str:
    """Returns a line for each model, and one of its classes."""
    names = [Path(path).stem for path in found]
    if len({*names}) < len(names):  # such as several best.keras: their folders are the runs'
        shared = os.path.commonpath([Path(name).absolute().parent for name in found])
        names = [os.path.relpath(name, shared).removesuffix(".keras") for name in found]
    width = max(15, *map(len, names)) + 1
    lines = [f"{'model':<{width}}" + "".join(f"{short:>8}" for short in COLUMNS.values())]
    for name, values in zip(names, found.values(), strict=True):
        cells = ["–" if values[key] is None else f"{values[key] + 0.0:.4f}" for key in COLUMNS]
        lines.append(f"{name:<{width}}" + "".join(f"{cell:>8}" for cell in cells))
    for name, values in zip(names, found.values(), strict=True):
        classes = "  ".join(f"{each} {'–' if share is None else f'{share:.3f}'}"
                            for each, share in zip(values["classes"], values["class_accuracy"],
                                                   strict=True))  # fmt: skip
        lines.append(f"{name}, {values['images']} images, by class: {classes}")
    return "\n".join(lines)


if __name__ == "__main__":
    run_script(main)
