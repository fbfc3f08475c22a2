"""Batch normalisation with statistics of its own for source and target."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import keras
import tensorflow as tf


@keras.saving.register_keras_serializable("dann")
class DomainNormalization(keras.layers.Layer):
    """Normalises each channel by the statistics of one domain; scale and shift are shared.

    A domain's images are normalised by their own mean and variance: in training by those of its
    block of the batch, over all replicas; else by a moving average of them. All targets share
    their moving average. Which domain it is, `as_domain` says; without it, a target.

    Args:
        momentum: of the moving averages, in [0, 1).
        epsilon: added to the variance.

    Call arguments:
        inputs: `[B, ..., C]`, of one domain.
        training: whether the statistics are those of `inputs`.

    Output shape: that of `inputs`.

    Reference: Chang et al., "Domain-Specific Batch Normalization for Unsupervised Domain
    Adaptation", CVPR 2019; there scale and shift are of each domain, too.
    """

    def __init__(self, momentum: float = 0.99, epsilon: float = 1e-3, **layer_options: Any):
        super().__init__(**layer_options)
        self.momentum = momentum
        self.epsilon = epsilon
        self.of_source, self.of_target = (
            keras.layers.BatchNormalization(
                momentum=momentum, epsilon=epsilon, center=False, scale=False, synchronized=True,
                name=name,
            )
            for name in ("of_source", "of_target")
        )  # fmt: skip
        self.domain = 1

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        self.of_source.build(input_shape)
        self.of_target.build(input_shape)
        channels = input_shape[-1:]
        self.gamma = self.add_weight(shape=channels, initializer="ones", name="gamma")
        self.beta = self.add_weight(shape=channels, initializer="zeros", name="beta")

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        normalise = self.of_target if self.domain else self.of_source
        return normalise(inputs, training=training) * self.gamma + self.beta

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "momentum": self.momentum, "epsilon": self.epsilon}


def domain_normalizations(model: keras.Model) -> list[DomainNormalization]:
    """Returns the layers of this kind in a model, and in models inside it."""
    layers = model._flatten_layers(include_self=False)
    return [layer for layer in layers if isinstance(layer, DomainNormalization)]


@contextmanager
def as_domain(layers: Sequence[DomainNormalization], domain: int) -> Iterator[None]:
    """Inside, what passes these layers is of this domain; 0 = source."""
    for layer in layers:
        layer.domain = domain
    try:
        yield
    finally:
        for layer in layers:
            layer.domain = 1
