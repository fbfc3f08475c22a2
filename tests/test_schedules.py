from __future__ import annotations

import math

import keras
import numpy as np
import pytest

from model.schedules import (
    AnnealedLearningRate,
    Constant,
    CosineLearningRate,
    GRLLambda,
    HalfCosine,
)


@pytest.mark.parametrize("step", [0, 1, 250, 999, 1000])
def test_grl_lambda_is_equation_14(step: int) -> None:
    expected = 0.5 * (2 / (1 + math.exp(-7 * step / 1000)) - 1)
    assert float(GRLLambda(1000, gamma=7, grl_lambda=0.5)(step)) == pytest.approx(
        expected, abs=1e-6
    )


@pytest.mark.parametrize("step", [0, 1, 250, 999, 1000])
def test_learning_rate_is_the_papers(step: int) -> None:
    expected = 0.01 / (1 + 10 * step / 1000) ** 0.75
    assert float(AnnealedLearningRate(1000)(step)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("step", [0, 1, 250, 999, 1000])
def test_cosine_falls_to_zero(step: int) -> None:
    expected = 0.05 * (1 + math.cos(math.pi * step / 1000)) / 2
    assert float(CosineLearningRate(1000, 0.05)(step)) == pytest.approx(expected, abs=1e-8)


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_half_cosine_rises_over_its_share(share: float) -> None:
    for step in (0, 100, 249, 250, 700, 1000):
        done = min(step / 1000 / share, 1) if share else 1
        expected = (1 - math.cos(math.pi * done)) / 2
        assert float(HalfCosine(1000, share)(step)) == pytest.approx(expected, abs=1e-6)


def test_lambda_starts_at_zero_and_saturates_near_its_ceiling() -> None:
    values = GRLLambda(100)(np.arange(100)).numpy()
    assert values[0] == 0
    assert (np.diff(values) > 0).all()
    assert values[-1] > 0.999


def test_values_stay_beyond_the_end() -> None:
    schedule = AnnealedLearningRate(10)
    assert float(schedule(10)) == float(schedule(10_000))


@pytest.mark.parametrize(
    "schedule",
    [GRLLambda(100, gamma=3, grl_lambda=0.2), CosineLearningRate(100, 0.1), HalfCosine(100, 0.5),
     Constant(100, 0.3)],
)  # fmt: skip
def test_survives_serialisation(schedule: GRLLambda) -> None:
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(schedule))
    assert float(copy(40)) == float(schedule(40))


def test_refuses_no_steps() -> None:
    with pytest.raises(ValueError, match="total_steps"):
        GRLLambda(0)
