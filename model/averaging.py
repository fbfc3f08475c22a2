"""Averages of a model's weights over the steps of training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import keras
import tensorflow as tf


class WeightAverage:
    """Exponential moving average of weights: average ← d·average + (1 - d)·weight.

    The weights of an adversarial training oscillate. Their average is nearer to the solution. d
    rises from 0 to `decay` as t/(10 + t), so that the average begins at the first weights that it
    is shown and soon forgets them.

    Args:
        weights: the variables to average.
        decay: d in [0, 1).

    Reference: Tarvainen & Valpola, "Mean teachers are better role models", NeurIPS 2017, section
    2; the rise of d is that of `tf.train.ExponentialMovingAverage`, which begins at 1/10.
    """

    in_model: ClassVar[set[int]] = set()  # the weights of any model whose averages are in place

    def __init__(self, weights: Sequence[keras.Variable], decay: float):
        self.weights = list(weights)
        self.decay = decay
        # All replicas compute the same average, so any one's will do.
        first = tf.VariableAggregation.ONLY_FIRST_REPLICA
        self.steps = tf.Variable(0, dtype=tf.int64, trainable=False, aggregation=first)
        self.values = [
            tf.Variable(weight.value, trainable=False, aggregation=first) for weight in self.weights
        ]
        self.by_weight = {
            id(one): value for one, value in zip(self.weights, self.values, strict=True)
        }

    def is_of(self, weights: Sequence[keras.Variable]) -> bool:
        """Tells whether it averages just these weights."""
        return self.by_weight.keys() == set(map(id, weights))

    @property
    def begun(self) -> bool:
        """Whether it has averaged any weights, and its averages are not in the model now."""
        return not self.in_model & self.by_weight.keys() and int(self.steps.numpy()) > 0

    @property
    def variables(self) -> list[tf.Variable]:
        """What a checkpoint must hold."""
        return [self.steps, *self.values]

    def of(self, weight: keras.Variable) -> Any:
        """Returns the average of a weight; the weight itself, if it is not averaged."""
        return self.by_weight.get(id(weight), weight)

    def update(self) -> None:
        """Takes the present weights into the average."""
        step = tf.cast(self.steps, tf.float32)
        decay = tf.minimum(self.decay, step / (10.0 + step))
        for value, weight in zip(self.values, self.weights, strict=True):
            value.assign(decay * value + (1.0 - decay) * weight.value)
        self.steps.assign_add(1)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Inside, the model's weights are their averages."""
        present = [weight.numpy() for weight in self.weights]
        for weight, value in zip(self.weights, self.values, strict=True):
            weight.assign(value)
        self.in_model.update(self.by_weight)
        try:
            yield
        finally:
            self.in_model.difference_update(self.by_weight)
            for weight, array in zip(self.weights, present, strict=True):
                weight.assign(array)
