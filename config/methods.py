"""The methods: a new one is a file in model/ and a line here.

Models are named here and not imported, because TensorFlow takes seconds to start and --help must
be fast.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Method:
    """What `--method` may name."""

    model: str
    """Module in model/, and class."""
    about: str
    """A line for --help."""
    first: str | None = None
    """The method that trains the model which this one starts from: its first stage."""
    start: str = "best.keras"
    """The model of the first stage that the second starts from."""
    first_alone: tuple[str, ...] = ()
    """Settings that the first stage uses and the second does not."""
    folder: str = "first"
    """Where the first stage is recorded, below the run's folders."""
    labels: Literal["source", "target", "both"] = "source"
    """The domains whose labels are used in training. both: those of the target are a teacher's."""
    uses_lambda: bool = True
    """False: λ is 0. Flags of λ are refused."""
    sides: int = 2
    """2: source and targets pass the same feature extractor; 1: each has its own."""
    remedy: str = (
        "try --clip_norm 1 or less, a smaller --init_learning_rate or a smaller --grl_lambda"
    )
    """What to do after a collapse."""
    domain_hidden: tuple[int, ...] = (100,)
    """Units of the domain classifier's hidden layers on digits: ICML 2015, figure 4 (a); or CVPR
    2017, section 5."""


SLOWER = "try --clip_norm 1 or less, or a smaller --init_learning_rate"
METHODS = {
    "dann": Method("dann.DANN", "domain-adversarial training: a gradient reversal layer"),
    "cdan": Method("cdan.CDAN", "dann whose domain classifier sees the predicted class too"),
    "vada": Method("vada.VADA", "dann; predictions are confident, and small changes keep them"),
    "mean_teacher": Method("mean_teacher.MeanTeacher", "second stage after dann: the averaged "
                           "model labels the target images it is sure of", first="dann",
                           remedy="try a smaller --init_learning_rate or a larger --confidence"),
    "adda": Method("adda.ADDA", "a source encoder, and a copy of it that is adapted",
                   first="source_model", start="source_model.keras", folder="source",
                   first_alone=("init_learning_rate", "momentum_rate", "dropout"),
                   sides=1, domain_hidden=(500, 500),
                   remedy="try a smaller --adda_learning_rate or a larger --k_g"),
    "source_only": Method("dann.DANN", "no adaptation: λ = 0", uses_lambda=False, remedy=SLOWER),
    "target_only": Method("dann.DANN", "no adaptation: λ = 0, on target labels",
                          uses_lambda=False, labels="target", remedy=SLOWER),
    "student": Method("dann.DANN", "a new network: λ = 0, on source labels and on the labels that "
                      "another model gives the target", uses_lambda=False, labels="both",
                      remedy=SLOWER),
    "source_model": Method("adda.SourceModel", "adda's first stage alone", uses_lambda=False,
                           sides=1, remedy=SLOWER),
}  # fmt: skip
WITHOUT_LAMBDA = tuple(name for name, method in METHODS.items() if not method.uses_lambda)
