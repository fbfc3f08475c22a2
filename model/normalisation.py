"""Batch normalisation with statistics of its own for source and target."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import keras
import tensorflow as tf

UNKNOWN = -1.0  # the variance of what was not measured yet; 1 is used in its place


@keras.saving.register_keras_serializable("dann")
class DomainNormalization(keras.layers.Layer):
    """Normalises each channel by the statistics of one domain; scale and shift are shared.

    A domain's images are normalised by their own mean and variance: in training by those of its
    block of the batch, over all replicas; else by a moving average of them, which begins at the
    first that are measured. All targets share their moving average. In training it follows the
    batches. Inside `as_domain(…, follows=True)` it follows every input. `as_domain` sets the
    domain. Without it, inputs are of a target; a training call must name its domain.

    Args:
        momentum: of the moving averages, in [0, 1); its default and that of `epsilon` are those
            of `keras.layers.BatchNormalization`.
        epsilon: added to the variance.
        sides: 2, source and targets; 1, if the network only ever sees one of them.

    Call arguments:
        inputs: `[B, ..., C]`, of one domain.
        training: whether the statistics are those of `inputs`; they are not, and the moving
            averages stay, if the layer is not `trainable`, as in `keras.layers.BatchNormalization`.

    Output shape: that of `inputs`.

    Raises:
        ValueError: a training call outside `as_domain`, of a layer with two sides.

    Reference: Chang et al., "Domain-Specific Batch Normalization for Unsupervised Domain
    Adaptation", CVPR 2019; there scale and shift are of each domain, too.
    """

    def __init__(
        self, momentum: float = 0.99, epsilon: float = 1e-3, sides: int = 2, **options: Any
    ):
        super().__init__(**options)
        self.momentum = momentum
        self.epsilon = epsilon
        self.sides = sides
        self.domain: int | None = None
        self.follows = False

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        def weight(name: str, first: Any, trainable: bool = False) -> keras.Variable:
            return self.add_weight(
                shape=input_shape[-1:], initializer=first, trainable=trainable, name=name,
                dtype="float32", autocast=False, aggregation="only_first_replica",
            )  # fmt: skip

        self.gamma, self.beta = weight("gamma", "ones", True), weight("beta", "zeros", True)
        unknown = keras.initializers.Constant(UNKNOWN)
        self.moving = [
            (weight(f"{side}_mean", "zeros"), weight(f"{side}_variance", unknown))
            for side in ("source", "target")[: self.sides]
        ]

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        values = tf.cast(inputs, tf.float32)  # half precision loses a mean of so many
        if training and self.domain is None and self.sides > 1:
            raise ValueError(
                f"{self.name}: whose images are these? Train inside as_domain, as DANN.extract does"
            )
        moving = self.moving[min(1 if self.domain is None else self.domain, self.sides - 1)]
        mean, variance = (statistic.value for statistic in moving)
        known = variance >= 0.0
        variance = tf.where(known, variance, 1.0)
        if self.trainable and (training or self.follows):
            axes = list(range(len(inputs.shape) - 1))
            context = tf.distribute.get_replica_context()
            mean_now, square = context.all_reduce(
                tf.distribute.ReduceOp.MEAN,
                [tf.reduce_mean(values, axes), tf.reduce_mean(values**2, axes)],
            )
            now = mean_now, tf.maximum(square - mean_now**2, 0.0)
            if training:
                mean, variance = now
            for statistic, value in zip(moving, now, strict=True):
                moved = self.momentum * statistic + (1.0 - self.momentum) * value
                statistic.assign(tf.where(known, moved, value))
        scale = self.gamma * tf.math.rsqrt(variance + self.epsilon)
        return tf.cast(values * scale + (self.beta - mean * scale), self.compute_dtype)

    def get_config(self) -> dict[str, Any]:
        own = {"momentum": self.momentum, "epsilon": self.epsilon, "sides": self.sides}
        return {**super().get_config(), **own}


def domain_normalizations(model: keras.Model) -> list[DomainNormalization]:
    """Returns the layers of this kind in a model, and in models inside it."""
    layers = model._flatten_layers(include_self=False)
    return [layer for layer in layers if isinstance(layer, DomainNormalization)]


@contextmanager
def as_domain(
    layers: Sequence[DomainNormalization], domain: int, follows: bool = False
) -> Iterator[None]:
    """Inside, what passes these layers is of this domain; 0 = source.

    Args:
        layers: to tell.
        domain: its number.
        follows: whether the moving averages follow what passes, out of training, too.
    """
    for layer in layers:
        layer.domain, layer.follows = domain, follows
    try:
        yield
    finally:
        for layer in layers:
            layer.domain, layer.follows = None, False
