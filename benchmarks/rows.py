"""The rows of the results: which trainings there are, on which data. Each one is a command."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from benchmarks.runner import Training

DIGITS, DRAWINGS, CAPTCHAS = "train_MNIST2MNIST_M.py", "train_real2drawing.py", "train_captcha.py"
SETS = "model_data/dataset"
USPS = f"{SETS}/USPS/usps_data.pkl"
MNIST = f"{SETS}/MNIST/mnist_data.pkl"
MNIST_M_7 = f"{SETS}/seed7/MNIST_M/mnist_m_data.pkl"
ADDA_PROTOCOL = "--source_images {} --target_images {}"  # CVPR 2017, section 5.1


@dataclasses.dataclass(frozen=True)
class Pair:
    """A source, a target, and what is trained on them."""

    title: str
    flags: str
    """They name the data."""
    rows: tuple[str, ...]
    script: str = DIGITS


@dataclasses.dataclass(frozen=True)
class Row:
    """A training that is repeated with several seeds."""

    title: str
    flags: str
    """{start} stands for the model that `after` kept."""
    after: str = ""
    """The row whose model this one starts from."""
    start: str = "best.keras"
    """Which of its models: the one that was kept, or that of its first stage."""


ROWS = {
    "source_only": Row("source only", "--preset source_only"),
    "source_recipe": Row(
        "source only, the recipe's training", "--preset recipe --method source_only"
    ),
    "paper": Row("DANN, as in the paper", "--preset paper"),
    "original": Row("DANN, as in the original repository", "--preset original"),
    "cdan": Row("CDAN", "--preset cdan"),
    "vada": Row("VADA", "--preset vada"),
    "adda": Row("ADDA", "--preset adda"),
    "adda_60": Row("ADDA, 60 + 60 epochs", "--preset adda --source_epoch 60 --epoch 60"),
    "adda_normalised": Row(
        "ADDA on convolutional features, normalised, averaged",
        "--method adda --epoch 10 --normalisation per_domain --average_decay 0.999 "
        "--mixed_precision",
    ),
    "source_augmented": Row(
        "ADDA's first stage, normalised, augmented",
        "--method source_model --epoch 10 --batch_size 64 --init_learning_rate 0.05 --clip_norm 1 "
        "--dropout 0.2 --augmentation affine_colour --normalisation per_domain "
        "--average_decay 0.999 --mixed_precision",
    ),
    "adda_augmented": Row(
        "ADDA on convolutional features, from this first stage",
        "--method adda --epoch 10 --discriminator_learning_rate 0.00005 "
        "--normalisation per_domain --average_decay 0.999 --mixed_precision "
        "--pre_model_path {start}",
        after="source_augmented",
    ),
    "recipe": Row("recipe", "--preset recipe"),
    "recipe_hidden": Row(
        "recipe, domain classifier on the hidden layer", "--preset recipe --features hidden"
    ),
    "recipe_hidden_half": Row(
        "recipe, domain classifier on the hidden layer, λ up to 0.5",
        "--preset recipe --features hidden --grl_lambda 0.5",
    ),
    "recipe_hidden_30": Row(
        "recipe, domain classifier on the hidden layer, 30 epochs",
        "--preset recipe --features hidden --epoch 30",
    ),
    "recipe_15": Row("recipe, 15 epochs", "--preset recipe --epoch 15"),
    "normalised": Row("recipe with normalisation per domain", "--preset normalised"),
    "searched": Row(
        "normalised, as the search without labels chose it: λ constant, dropout 0.2",
        "--preset searched",
    ),
    "searched_50": Row(
        "searched, 50 epochs and a longer average of the weights",
        "--preset searched --epoch 50 --average_decay 0.9998",
    ),
    "searched_ramp": Row(
        "searched, λ rises within four epochs", "--preset searched --ramp --gamma 40"
    ),
    "searched_128": Row(
        "searched, batches of 128, 60 epochs", "--preset searched --batch_size 128 --epoch 60"
    ),
    "normalised_40": Row(
        "recipe with normalisation per domain, λ constant, 40 epochs",
        "--preset normalised --no_ramp --epoch 40",
    ),
    "fast": Row("mean teacher from the third epoch on", "--preset fast"),
    "mean_teacher": Row("second stage", "--preset mean_teacher"),
    "fast_hidden": Row(
        "mean teacher from the third epoch on, domain classifier on the hidden layer",
        "--preset fast --features hidden",
    ),
    "mean_teacher_hidden": Row(
        "second stage, domain classifier on the hidden layer",
        "--preset mean_teacher --features hidden",
    ),
    "wide": Row("second stage, wide network", "--preset wide"),
    "student": Row("a wide student of the second stage", "--preset student --teacher {start}",
                   after="mean_teacher"),
    "target_only": Row("trained on target labels, the defaults", "--preset target_only"),
    "ceiling": Row("on target labels, the second stage's training",
                   "--preset mean_teacher --method target_only"),
    "ceiling_wide": Row("on target labels, wide network's second stage",
                        "--preset wide --method target_only"),
    "drawings_grey": Row("source only, grey photos", "--method source_only --no_canny"),
    "drawings_source": Row("source only, Canny edges", "--method source_only"),
    "drawings": Row("DANN, Canny edges", ""),
    "captcha": Row("ADDA", "--preset captcha"),
    "captcha_statistics": Row(
        "target's batch statistics alone (λ = 0)",
        "--preset captcha --pre_model_path {start} --grl_lambda 0 --epoch 1",
        after="captcha", start="source_model.keras",
    ),
    "captcha_tutorial": Row("ADDA as in the tutorial", "--preset captcha_tutorial"),
}  # fmt: skip
ALL = (
    "source_only", "source_recipe", "paper", "cdan", "vada", "adda", "recipe", "normalised",
    "searched", "fast", "mean_teacher",
)  # fmt: skip
OF_USPS = (*ALL, "recipe_hidden", "recipe_hidden_half", "fast_hidden", "mean_teacher_hidden")
IN_PROTOCOL = (*OF_USPS, "adda_60")
PAIRS = {
    "mnist_m": Pair(
        "MNIST → MNIST-M", "",
        (*ALL, "ceiling", "wide", "ceiling_wide", "student", "searched_50", "searched_ramp",
         "searched_128", "recipe_15", "normalised_40", "adda_normalised",
         "source_augmented", "adda_augmented", "original", "target_only"),
    ),
    "mnist_m_7": Pair(
        "MNIST → MNIST-M, drawn with seed 7",
        f"--target_dataset_path {MNIST_M_7}",
        ("recipe", "normalised", "searched", "mean_teacher", "wide"),
    ),
    "usps": Pair("MNIST → USPS", f"--target_dataset_path {USPS}", (*OF_USPS, "recipe_hidden_30")),
    "mnist": Pair("USPS → MNIST", f"--source_dataset_path {USPS} --target_dataset_path {MNIST}",
                  OF_USPS),
    "usps_small": Pair(
        "MNIST → USPS, ADDA's protocol: 2,000 and 1,800 images",
        f"--target_dataset_path {USPS} {ADDA_PROTOCOL.format(2000, 1800)}",
        IN_PROTOCOL,
    ),
    "mnist_small": Pair(
        "USPS → MNIST, ADDA's protocol: 1,800 and 2,000 images",
        f"--source_dataset_path {USPS} --target_dataset_path {MNIST} "
        f"{ADDA_PROTOCOL.format(1800, 2000)}", IN_PROTOCOL,
    ),
    "drawings": Pair("Photos → drawings, on the stand-in", "--embedded --epoch 10",
                     ("drawings_grey", "drawings_source", "drawings"), DRAWINGS),
    "captcha": Pair("Captchas, from one style to the other", "",
                    ("captcha", "captcha_statistics", "captcha_tutorial"), CAPTCHAS),
}  # fmt: skip


def training(pair: str, row: str, seed: int) -> Training:
    """Returns the training of a row on a pair with a seed."""
    data, wanted = PAIRS[pair], ROWS[row]
    flags = " ".join(filter(None, (wanted.flags, data.flags, f"--seed {seed}")))
    after = name_of(pair, wanted.after, seed) if wanted.after else ""
    return Training(
        name_of(pair, row, seed), data.script, flags, after=after, start=wanted.start
    )  # fmt: skip


def name_of(pair: str, row: str, seed: int) -> str:
    """Returns the name of a run."""
    return f"{pair}-{row}-{seed}"


def grid(
    seeds: Sequence[int], pairs: Sequence[str] = tuple(PAIRS), rows: Sequence[str] = tuple(ROWS)
) -> dict[tuple[str, str, int], Training]:
    """Returns the trainings of some rows on some pairs, by pair, row and seed."""
    return {
        (pair, row, seed): training(pair, row, seed)
        for seed in seeds
        for pair in PAIRS
        for row in PAIRS[pair].rows
        if pair in pairs and row in rows
    }
