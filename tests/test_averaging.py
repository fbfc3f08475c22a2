from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest

from model.averaging import WeightAverage
from model.dann import DANN


def test_average_is_the_formulas() -> None:
    weight = keras.Variable(5.0)
    average = WeightAverage([weight], decay=0.6)
    shown = [1.0, -2.0, 4.0, 8.0]
    expected = 0.0
    for step in range(40):
        value = shown[step % 4]
        weight.assign(value)
        average.update()
        decay = min(0.6, step / (10 + step))
        expected = decay * expected + (1 - decay) * value
        assert float(average.values[0]) == pytest.approx(expected, rel=1e-5)
    assert decay == 0.6  # the ceiling was reached


def test_in_place_and_back_even_after_an_error() -> None:
    weight = keras.Variable(np.array([1.0, 2.0], np.float32))
    average = WeightAverage([weight], decay=0.9)
    average.update()
    weight.assign([5.0, 6.0])

    def fail() -> None:
        with average.in_place():
            np.testing.assert_array_equal(weight, [1.0, 2.0])
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    np.testing.assert_array_equal(weight, [5.0, 6.0])


def test_a_backbone_that_was_frozen_first_is_averaged_when_it_trains() -> None:
    backbone = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    backbone.trainable = False
    model = DANN(backbone, num_labels=2, average_decay=0.9)
    model.compile("sgd")
    assert model.average is not None
    first = model.average
    model.compile("sgd")
    assert model.average is first  # it goes on
    backbone.trainable = True
    model.compile("sgd")
    assert model.average.is_of(model.predictor_variables)


def test_weights_that_are_loaded_are_not_those_of_the_old_average(tmp_path: Path) -> None:
    """A file that was saved inside `averaged` has no average of its own."""
    model = DANN(
        keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)]), num_labels=2,
        average_decay=0.9,
    )  # fmt: skip
    model.compile("sgd")
    assert model.average is not None
    model.average.update()
    images = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    with model.averaged():
        model.save_weights(tmp_path / "m.weights.h5")
        expected = model.predict(images, verbose=0)
    for weight in model.predictor_variables:
        weight.assign(weight + 1.0)
    model.average.update()
    model.load_weights(tmp_path / "m.weights.h5")
    with model.averaged():
        np.testing.assert_array_equal(model.predict(images, verbose=0), expected)


def test_weights_that_are_set_begin_the_average_anew() -> None:
    """`EarlyStopping(restore_best_weights=True)` does that."""
    model = DANN(
        keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)]), num_labels=2,
        average_decay=0.9,
    )  # fmt: skip
    assert model.average is not None
    model.average.update()
    model.set_weights([weight + 1.0 for weight in model.get_weights()])
    images = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    expected = model.predict(images, verbose=0)
    with model.averaged():
        np.testing.assert_array_equal(model.predict(images, verbose=0), expected)
