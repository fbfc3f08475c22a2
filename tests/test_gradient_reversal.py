from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from model.gradient_reversal import GradientReversal, reverse_gradient


@pytest.mark.parametrize("grl_lambda", [0.0, 0.3, 1.0, 2.5])
def test_identity_forward_and_minus_lambda_backward(grl_lambda: float) -> None:
    x = tf.random.stateless_normal((4, 5), (1, 2))
    weights = tf.random.stateless_normal((4, 5), (3, 4))
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = GradientReversal(grl_lambda)(x)
        value = tf.reduce_sum(weights * y**3)
    np.testing.assert_array_equal(y, x)
    # d(Σ w·x³)/dx = 3·w·x², written out: nothing of the layer's own code is used.
    np.testing.assert_allclose(
        tape.gradient(value, x), -grl_lambda * 3 * weights * x**2, rtol=1e-6, atol=1e-7
    )


def test_lambda_of_the_call_replaces_the_layers() -> None:
    x = tf.constant([1.0, -2.0])
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = tf.reduce_sum(GradientReversal(9.0)(x, grl_lambda=tf.constant(0.5)))
    np.testing.assert_array_equal(tape.gradient(y, x), [-0.5, -0.5])


def test_lambda_itself_gets_no_gradient() -> None:
    x, grl_lambda = tf.constant([1.0, 2.0]), tf.constant(0.5)
    with tf.GradientTape() as tape:
        tape.watch(grl_lambda)
        y = tf.reduce_sum(reverse_gradient(x, grl_lambda))
    assert tape.gradient(y, grl_lambda) is None


def test_in_a_graph_and_in_half_precision() -> None:
    @tf.function
    def gradient(x: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = tf.reduce_sum(GradientReversal(0.5, dtype="bfloat16")(x))
        return tape.gradient(y, x)

    result = gradient(tf.ones((3,), tf.bfloat16))
    assert result.dtype == tf.bfloat16
    np.testing.assert_array_equal(tf.cast(result, tf.float32), [-0.5] * 3)


def test_mixed_precision_rounds_neither_float32_features_nor_lambda() -> None:
    x = tf.constant([1.2345678])
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = GradientReversal(dtype="mixed_bfloat16")(x, tf.constant(2 / 3))
    np.testing.assert_array_equal(y, x)
    np.testing.assert_array_equal(tape.gradient(y, x), np.array([-2 / 3], np.float32))


def test_survives_saving_inside_a_model(tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((2,)), GradientReversal(0.25)])
    model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    assert loaded.layers[-1].grl_lambda == 0.25


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf"), "a", None])
def test_refuses_what_is_no_lambda(value: Any) -> None:
    with pytest.raises(ValueError, match=f"a number >= 0, got {value!r}"):
        GradientReversal(value)


def test_a_variable_changes_lambda_of_a_compiled_step() -> None:
    """Control: the weight before the layer stays where it is while λ is 0."""
    grl_lambda = keras.Variable(0.0, trainable=False)
    images = keras.Input((1,))
    first = keras.layers.Dense(1, use_bias=False, kernel_initializer="ones")
    second = keras.layers.Dense(1, use_bias=False, kernel_initializer="ones", trainable=False)
    model = keras.Model(images, second(GradientReversal()(first(images), grl_lambda=grl_lambda)))
    model.compile(keras.optimizers.SGD(0.5), loss="mse")
    x, y = np.ones((1, 1)), np.zeros((1, 1))
    model.fit(x, y, verbose=0)
    assert first.kernel.numpy() == 1.0
    grl_lambda.assign(0.25)
    model.fit(x, y, verbose=0)
    assert first.kernel.numpy() == 1.0 + 0.5 * 0.25 * 2.0  # up the loss: d(x²)/dx = 2
