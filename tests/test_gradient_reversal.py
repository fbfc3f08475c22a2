from __future__ import annotations

from pathlib import Path

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


def test_survives_saving_inside_a_model(tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((2,)), GradientReversal(0.25)])
    model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    assert loaded.layers[-1].grl_lambda == 0.25


def test_refuses_a_negative_lambda() -> None:
    with pytest.raises(ValueError, match=r"0 or more, got -1"):
        GradientReversal(-1.0)
