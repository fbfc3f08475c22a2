"""The gradient reversal layer (GRL): identity forward, -λ · gradient backward."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf


@tf.custom_gradient
def reverse_gradient(x: tf.Tensor, grl_lambda: tf.Tensor) -> tuple[tf.Tensor, Any]:
    """Returns `x`; on the way back its gradient is multiplied by `-grl_lambda`.

    Args:
        x: float tensor of any shape.
        grl_lambda: scalar λ ≥ 0. It gets no gradient itself.
    """

    def backward(upstream: tf.Tensor) -> tuple[tf.Tensor, None]:
        return -tf.cast(grl_lambda, upstream.dtype) * upstream, None

    return tf.identity(x), backward


@keras.saving.register_keras_serializable("dann")
class GradientReversal(keras.layers.Layer):
    """Gradient reversal layer. Layers after it descend the loss, and layers before it ascend it.

    Args:
        grl_lambda: λ where the call gives none; a number ≥ 0.

    Call arguments:
        x: float tensor of any shape.
        grl_lambda: scalar λ for this call; None takes the layer's own.

    Input shape: any. Output shape: the input's.

    Example:
        `domain_logits = domain_classifier(GradientReversal(0.5)(features))`

    Reference: Ganin & Lempitsky, "Unsupervised Domain Adaptation by Backpropagation", ICML 2015,
    section 3.2.
    """

    def __init__(self, grl_lambda: float = 1.0, **layer_options: Any):
        super().__init__(**layer_options)
        if grl_lambda < 0:
            raise ValueError(f"grl_lambda must be 0 or more, got {grl_lambda}")
        self.grl_lambda = grl_lambda

    def call(self, x: tf.Tensor, grl_lambda: tf.Tensor | None = None) -> tf.Tensor:
        return reverse_gradient(x, self.grl_lambda if grl_lambda is None else grl_lambda)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "grl_lambda": self.grl_lambda}
