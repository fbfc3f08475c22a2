"""A collapse is seen, whatever the method; what only looks like one is not."""

from __future__ import annotations

import math

import numpy as np
import pytest

from utils.record.selection import Outputs, information_maximisation
from utils.run.collapse import CollapseError, check_alive, check_finite


def told_by(probabilities: np.ndarray) -> float:
    outputs = Outputs(np.zeros(0), probabilities, np.zeros(0))
    return information_maximisation(outputs, outputs)


def softmax(logits: np.ndarray) -> np.ndarray:
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)


RANDOM = np.random.default_rng(0)
UNIFORM = told_by(np.full((500, 10), 0.1, np.float32))
ONE_CLASS = told_by(softmax(np.tile([9.0] + [0.0] * 9, (500, 1)).astype(np.float32)))
# An untrained network: logits that differ a little from image to image.
UNTRAINED = told_by(softmax(RANDOM.normal(0, 0.03, (500, 10)).astype(np.float32)))
LEARNED = told_by(softmax(RANDOM.normal(0, 3.0, (500, 10)).astype(np.float32)))


@pytest.mark.parametrize(
    "told",
    [
        [UNIFORM, UNIFORM],  # dead from the first epoch on
        [ONE_CLASS, ONE_CLASS],  # likewise, and sure of it
        [LEARNED, UNIFORM, UNIFORM],  # ADDA on USPS: it destroys what it was given
        [LEARNED, 1e-3, 1e-3],  # nearly
    ],
)
def test_a_collapse_is_seen_within_two_epochs(told: list[float]) -> None:
    check_alive(told[:-1], 500, 10, len(told) - 1, 500)
    with pytest.raises(CollapseError, match="every target image gets the same prediction"):
        check_alive(told, 500, 10, len(told), 500)


@pytest.mark.parametrize(
    ("told", "steps"),
    [
        ([UNTRAINED] * 5, 5000),  # learns slowly
        ([UNIFORM, UNIFORM], 9),  # 3 classes of 40 pictures: batch normalisation knows no image
        ([LEARNED, UNIFORM, LEARNED], 500),  # comes back
        ([LEARNED, 0.02, 0.02], 500),  # badly, but it tells something
    ],
)
def test_what_only_looks_like_one_is_not(told: list[float], steps: int) -> None:
    for epoch in range(1, len(told) + 1):
        check_alive(told[:epoch], 500, 10, epoch, steps)


def test_few_images_may_all_be_the_same() -> None:
    """The information of one image is always 0."""
    check_alive([0.0] * 9, 19, 10, 9, 5000)
    with pytest.raises(CollapseError):
        check_alive([0.0] * 9, 20, 10, 9, 5000)


def test_the_same_prediction_of_many_images_tells_nothing() -> None:
    """Summed up in float32 it told up to 1e-4, and a dead network went on."""
    for logits in RANDOM.normal(0, 1.0, (100, 1, 10)).astype(np.float32):
        assert abs(told_by(np.repeat(softmax(logits), 10_000, axis=0))) < 1e-5


def test_the_numbers_are_what_they_stand_for() -> None:
    assert abs(UNIFORM) < 2e-5
    assert abs(ONE_CLASS) < 2e-5
    assert 1e-5 * math.log(10) < UNTRAINED < 1e-3 * math.log(10)
    assert 0.05 * math.log(10) < LEARNED


def test_a_loss_that_is_no_number_is_seen_unless_there_was_no_label() -> None:
    check_finite({"loss": 1.0, "image_cls_acc": 0.5}, 1)
    check_finite({"loss": math.nan, "image_cls_acc": math.nan}, 1)  # no image had a label
    with pytest.raises(CollapseError, match="epoch 2: the loss is nan"):
        check_finite({"loss": math.nan, "image_cls_acc": 0.1}, 2)
