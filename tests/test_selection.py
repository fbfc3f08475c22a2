from __future__ import annotations

import math

import numpy as np
import pytest

from utils.selection import information_maximisation


@pytest.mark.parametrize(
    ("probabilities", "expected"),
    [
        (np.eye(10), math.log(10)),  # sure of everything, all classes used
        (np.tile(np.eye(10)[3], (6, 1)), 0.0),  # sure, but always the same class
        (np.full((5, 10), 0.1), 0.0),  # never sure
        # By hand: the mean is (.5, .5), whose entropy is ln 2; each has H(.9, .1) = .32508.
        (np.array([[0.9, 0.1], [0.1, 0.9]]), math.log(2) - 0.3250829733914482),
    ],
)
def test_by_hand(probabilities: np.ndarray, expected: float) -> None:
    assert information_maximisation(probabilities) == pytest.approx(expected, abs=1e-12)
