"""Values that change over a run, as pure functions of the step. So they need not be saved.

Progress is p = step / total_steps, 0 at the first step and just under 1 at the last.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import keras
import tensorflow as tf

from config.base import TrainingConfig


@dataclasses.dataclass(eq=False)
class ProgressSchedule(keras.optimizers.schedules.LearningRateSchedule):
    """A value that depends on progress alone; works wherever Keras takes a learning rate.

    Args:
        total_steps: steps of the whole run, > 0. Beyond them the value stays at its last.
        delay: so many steps at the beginning have the value 0.
    """

    total_steps: int
    delay: int = dataclasses.field(default=0, kw_only=True)

    def __post_init__(self) -> None:
        if self.total_steps < 1:
            raise ValueError(f"total_steps must be 1 or more, got {self.total_steps}")

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        """Returns the value at `step` (0 = the first): float32, of `step`'s shape."""
        step = tf.cast(step, tf.float32)
        value = self.at(tf.minimum(step / self.total_steps, 1.0))
        return tf.where(step < self.delay, 0.0, value) if self.delay else value

    def at(self, progress: tf.Tensor) -> tf.Tensor:
        """Returns the value at `progress` in [0, 1]."""
        raise NotImplementedError

    def get_config(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


@keras.saving.register_keras_serializable("dann")
@dataclasses.dataclass(eq=False)
class GRLLambda(ProgressSchedule):
    """λ_p = grl_lambda · (2 / (1 + exp(-γ·p)) - 1): from 0, so that early noise does no harm.

    Args:
        total_steps: steps of the whole run.
        gamma: slope γ ≥ 0; 10 in the paper.
        grl_lambda: ceiling; 1 in the paper.

    Reference: Ganin & Lempitsky, ICML 2015, equation 14.
    """

    gamma: float = 10.0
    grl_lambda: float = 1.0

    def at(self, progress: tf.Tensor) -> tf.Tensor:
        return self.grl_lambda * (2.0 / (1.0 + tf.exp(-self.gamma * progress)) - 1.0)


@keras.saving.register_keras_serializable("dann")
@dataclasses.dataclass(eq=False)
class AnnealedLearningRate(ProgressSchedule):
    """μ_p = μ_0 / (1 + α·p)^β.

    Args:
        total_steps: steps of the whole run.
        init_learning_rate: μ_0; 0.01 in the paper.
        lr_alpha: α ≥ 0; 10 in the paper.
        lr_beta: β ≥ 0; 0.75 in the paper.

    Reference: Ganin & Lempitsky, ICML 2015, supplementary material.
    """

    init_learning_rate: float = 0.01
    lr_alpha: float = 10.0
    lr_beta: float = 0.75

    def at(self, progress: tf.Tensor) -> tf.Tensor:
        return self.init_learning_rate / (1.0 + self.lr_alpha * progress) ** self.lr_beta


@keras.saving.register_keras_serializable("dann")
@dataclasses.dataclass(eq=False)
class CosineLearningRate(ProgressSchedule):
    """μ_p = μ_0 · (1 + cos(π·p)) / 2: from μ_0 to 0.

    Args:
        total_steps: steps of the whole run.
        init_learning_rate: μ_0.

    Reference: Loshchilov & Hutter, "SGDR", ICLR 2017, equation 5, one cycle.
    """

    init_learning_rate: float

    def at(self, progress: tf.Tensor) -> tf.Tensor:
        return self.init_learning_rate * (1.0 + tf.cos(math.pi * progress)) / 2.0


@keras.saving.register_keras_serializable("dann")
@dataclasses.dataclass(eq=False)
class HalfCosine(ProgressSchedule):
    """A weight that rises from 0 to 1 over the first share of a run: (1 - cos(π·p/share)) / 2.

    Args:
        total_steps: steps of the whole run.
        share: in [0, 1]; ½ in AdaMatch. 0: the weight is 1 throughout.

    Reference: Berthelot et al., "AdaMatch", ICLR 2022, section 3.
    """

    share: float

    def at(self, progress: tf.Tensor) -> tf.Tensor:
        if not self.share:
            return tf.ones_like(progress)
        return (1.0 - tf.cos(math.pi * tf.minimum(progress / self.share, 1.0))) / 2.0


@keras.saving.register_keras_serializable("dann")
@dataclasses.dataclass(eq=False)
class Constant(ProgressSchedule):
    """The same value at every step.

    Args:
        total_steps: steps of the whole run.
        value: the value.
    """

    value: float

    def at(self, progress: tf.Tensor) -> tf.Tensor:
        return self.value * tf.ones_like(progress)


def rate_schedule(
    total_steps: int, first: float, settings: TrainingConfig, delay: int = 0
) -> ProgressSchedule:
    """Returns the schedule of a learning rate that begins at `first`; it is 0 in `delay` steps."""
    if settings.lr_schedule == "cosine":
        return CosineLearningRate(total_steps, first, delay=delay)
    alpha, beta = settings.lr_alpha, settings.lr_beta
    return AnnealedLearningRate(total_steps, first, alpha, beta, delay=delay)
