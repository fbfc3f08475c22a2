"""Chooses hyperparameters without a single target label: make search.

Trains every candidate on one pair of data sets, with target training images kept back, and ranks
what each has kept by criteria that see no label. The accuracy on the images that were kept back is
measured at the end, for the table alone. What is finished is not trained again.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
from benchmarks.rows import DIGITS, USPS
from benchmarks.runner import Training, train_all
from config.config import Config
from config.settings import Settings, at_least, some_of
from utils.atomic import write_json
from utils.errors import UserError, run_script
from utils.run.command_line import parse
from utils.run.runs import CONFIG_FILE

IMAGES = 5000  # target training images that the criteria see
TO_USPS = f"--target_dataset_path {USPS} --held_out 1000"
SHARE = 0.55  # of the first image of a mixture; MixVal, section 4
FEWER = "--source_images 10000 --target_images 15000 --held_out 5000"  # a sixth of an epoch's time
FIRST = "--preset {} --epoch 20 " + FEWER
SECOND = "--preset mean_teacher --pre_model_path {start} --epoch 12 " + FEWER


def candidates(
    name: str, flags: str, changes: dict[str, str], after: str = ""
) -> dict[str, Training]:
    """Returns what is tried: trainings with these flags, but for a change each."""
    return {
        change: Training(f"{name}-{change}", DIGITS, f"{flags} {more}", "search", after)
        for change, more in changes.items()
    }


# What is tried, by what it decides. Each candidate is the preset but for its flags.
OF_BOTH = {
    "preset": "",
    "lambda1": "--grl_lambda 1",
    "lambda4": "--grl_lambda 4",
    "rate0.025": "--init_learning_rate 0.025",
    "dropout0.2": "--dropout 0.2",
    "no_ramp": "--no_ramp",
    "invert": "--invert",
}
SEARCH = {
    "recipe": candidates("recipe", FIRST.format("recipe"), {
        **OF_BOTH,
        "hidden100": "--domain_hidden 100",
        "weight3": "--domain_weight 3",
        "weight3clip3": "--domain_weight 3 --clip_norm 3",
    }),
    "normalised": candidates("normalised", FIRST.format("normalised"), {
        **OF_BOTH,
        "hidden100": "--domain_hidden 100 --domain_weight 1",
        "weight1": "--domain_weight 1",
        "weight10": "--domain_weight 10",
        "cdan": "--method cdan",
        # later rounds, after the first had chosen a dropout of 0.2
        "dropout0": "--dropout 0",
        "dropout0.2lambda4": "--dropout 0.2 --grl_lambda 4",
        "dropout0.2no_ramp": "--dropout 0.2 --no_ramp",
        "dropout0.2no_ramphidden": "--dropout 0.2 --no_ramp --features hidden",
        "dropout0.2rate0.1": "--dropout 0.2 --init_learning_rate 0.1",
        # around what these rounds had chosen
        "dropout0no_ramp": "--dropout 0 --no_ramp",
        "dropout0.2no_ramplambda4": "--dropout 0.2 --no_ramp --grl_lambda 4",
        "dropout0.2no_ramprate0.1": "--dropout 0.2 --no_ramp --init_learning_rate 0.1",
        "dropout0.2no_rampcosine": "--dropout 0.2 --no_ramp --lr_schedule cosine",
    }),
    "mean_teacher": candidates("teacher", SECOND, {
        "preset": "",
        "ratio1": "--target_ratio 1 --batch_size 64",
        "lambda0": "--grl_lambda 0",
        "lambda0.5": "--grl_lambda 0.5",
        "weight1": "--domain_weight 1",
        "dropout0.5": "--dropout 0.5",
        "cutout0": "--cutout 0",
        "confidence0.95": "--confidence 0.95",
    }, "normalised-preset"),
    "adda": candidates("adda", f"--preset adda {TO_USPS}", {
        "preset": "",
        "hidden": "--features hidden",
        "convolutional": "--features convolutional",
        "rate0.0005": "--adda_learning_rate 0.0005 --discriminator_learning_rate 0.0005",
        "k_g2": "--k_g 2",
    }),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Arguments(Settings):
    jobs: Annotated[int, at_least(1)] = 1
    """Trainings at a time; the cores are shared out among them."""
    only: Annotated[tuple[str, ...], some_of(SEARCH)] = tuple(SEARCH)
    """Search for these alone."""


def main() -> None:
    args = Arguments.of(parse([Arguments], __doc__))
    os.chdir(ROOT)  # where the trainings run
    Config().check_paths()  # once, before each training misses its data
    groups = {name: group for name, group in SEARCH.items() if name in args.only}
    wanted = [training for group in groups.values() for training in group.values()]
    known = [training for group in SEARCH.values() for training in group.values()]
    train_all(wanted, known, args.jobs)
    for name, group in groups.items():
        scores = score(group)
        write_json(ROOT / "docs" / "search" / f"{name}.json", scores)
        print(f"\n{name}, by EnsV:")
        for candidate, values in sorted(scores.items(), key=lambda item: -item[1]["ensv"]):
            shown = "  ".join(f"{key} {value:.4f}" for key, value in values.items()
                              if key != "held_out")  # fmt: skip
            print(f"  {candidate:<16} {shown}")


def score(group: dict[str, Training]) -> dict[str, dict[str, float]]:
    """Returns what each criterion thinks of each candidate, and the accuracy held out."""
    from model.pretrained import load_model
    from train_MNIST2MNIST_M import read_data
    from utils.record.selection import Outputs, evenly, information_maximisation

    found: dict[str, dict[str, float]] = {}
    probabilities = []
    for name, training in group.items():
        place = training.find("logs", CONFIG_FILE)
        model_file = training.find("checkpoints", "best.keras")
        if place is None or model_file is None:
            raise UserError(f"{training.name}: has no model; run make search again")
        target = read_data(Config.load(place)).domains[1]
        images = evenly(target.train, IMAGES)
        model = load_model(model_file)
        probabilities.append(model.predict(images, batch_size=500, verbose=0))
        held_out = model.predict(target.val, batch_size=500, verbose=0).argmax(axis=1)
        outputs = Outputs(np.zeros(0), probabilities[-1], np.zeros(0))
        found[name] = {
            "information_maximisation": information_maximisation(outputs, outputs),
            **mixval(model, images, probabilities[-1].argmax(axis=1)),
            "held_out": float((held_out == target.val_label).mean()),
        }
    for name, value in zip(found, ensv(probabilities), strict=True):
        found[name] = {"ensv": value, **found[name]}
    return found


def ensv(probabilities: Sequence[np.ndarray]) -> list[float]:
    """Returns how often each model agrees with the mean of all.

    Reference: Hu et al., "Towards Reliable Model Selection for Unsupervised Domain Adaptation: An
    Empirical Study and A Certified Baseline", NeurIPS 2024.
    """
    together = np.mean(probabilities, axis=0).argmax(axis=1)
    return [float((one.argmax(axis=1) == together).mean()) for one in probabilities]


def mixval(model: Any, images: np.ndarray, classes: np.ndarray) -> dict[str, float]:
    """Returns how often a mixture of two images is taken for the larger one, by two kinds of pairs.

    In pairs of `intra` the model takes both images for the same class, in pairs of `inter` for
    different ones.

    Reference: Hu et al., "Mixed Samples as Probes for Unsupervised Model Selection in Domain
    Adaptation", NeurIPS 2023; the share is the paper's.
    """
    order = np.random.default_rng(0).permutation(len(images))
    mixed = SHARE * images + (1 - SHARE) * images[order].astype(np.float64)
    right = model.predict(mixed.astype(np.float32), batch_size=500, verbose=0).argmax(1) == classes
    same = classes == classes[order]
    return {"intra": float(right[same].mean()), "inter": float(right[~same].mean())}


if __name__ == "__main__":
    run_script(main)
