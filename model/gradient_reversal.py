"""The gradient reversal layer (GRL): identity forward, -λ · gradient backward."""

from __future__ import annotations

import math
import numbers
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
        grl_lambda: λ where the call gives none; a number ≥ 0. A compiled step keeps it. For a λ
            that changes, give a `keras.Variable` to the call.

    Call arguments:
        x: float tensor of any shape.
        grl_lambda: scalar λ for this call, a number, tensor or variable; None takes the layer's
            own.

    Input shape: any. Output shape: the input's.

    Raises:
        ValueError: `grl_lambda` of the layer is no number, or below 0.

    Example:
        `domain_logits = domain_classifier(GradientReversal(0.5)(features))`

    Reference: Ganin & Lempitsky, "Unsupervised Domain Adaptation by Backpropagation", ICML 2015,
    section 3.2.
    """

    def __init__(self, grl_lambda: float = 1.0, **layer_options: Any):
        super().__init__(autocast=False, **layer_options)
        number = isinstance(grl_lambda, numbers.Real)
        if not (number and 0 <= grl_lambda < math.inf):
            raise ValueError(f"grl_lambda must be a number >= 0, got {grl_lambda!r}")
        self.grl_lambda = float(grl_lambda)

    def call(self, x: tf.Tensor, grl_lambda: tf.Tensor | None = None) -> tf.Tensor:
        return reverse_gradient(x, self.grl_lambda if grl_lambda is None else grl_lambda)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "grl_lambda": self.grl_lambda}
