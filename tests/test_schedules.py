from __future__ import annotations

import math

import keras
import numpy as np
import pytest

from model.schedules import AnnealedLearningRate, GRLLambda


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


def test_lambda_starts_at_zero_and_saturates_near_its_ceiling() -> None:
    values = GRLLambda(100)(np.arange(100)).numpy()
    assert values[0] == 0
    assert (np.diff(values) > 0).all()
    assert values[-1] > 0.999


def test_values_stay_beyond_the_end() -> None:
    schedule = AnnealedLearningRate(10)
    assert float(schedule(10)) == float(schedule(10_000))


def test_survives_serialisation() -> None:
    schedule = GRLLambda(100, gamma=3, grl_lambda=0.2)
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(schedule))
    assert float(copy(40)) == float(schedule(40))


def test_refuses_no_steps() -> None:
    with pytest.raises(ValueError, match="total_steps"):
        GRLLambda(0)
