"""The two schedules of DANN, as pure functions of the step: nothing to save, nothing to resume.

Progress is p = step / total_steps, 0 at the first step and just under 1 at the last.
"""

from __future__ import annotations

import math
from typing import Any

import keras
import tensorflow as tf


class ProgressSchedule(keras.optimizers.schedules.LearningRateSchedule):
    """A value that depends on progress alone; works wherever Keras takes a learning rate.

    Args:
        total_steps: steps of the whole run, > 0. Beyond them the value stays at its last.
    """

    def __init__(self, total_steps: int):
        if total_steps < 1:
            raise ValueError(f"total_steps must be 1 or more, got {total_steps}")
        self.total_steps = total_steps

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        """Returns the value at `step` (0 = the first): float32, of `step`'s shape."""
        progress = tf.cast(step, tf.float32) / self.total_steps
        return self.at(tf.minimum(progress, 1.0))

    def at(self, progress: tf.Tensor) -> tf.Tensor:
        """Returns the value at `progress` in [0, 1]."""
        raise NotImplementedError

    def get_config(self) -> dict[str, Any]:
        return dict(vars(self))


@keras.saving.register_keras_serializable("dann")
class GRLLambda(ProgressSchedule):
    """λ_p = grl_lambda · (2 / (1 + exp(-γ·p)) - 1): from 0, so that early noise does no harm.

    Args:
        total_steps: steps of the whole run.
        gamma: slope γ ≥ 0; 10 in the paper.
        grl_lambda: ceiling; 1 in the paper.

    Reference: Ganin & Lempitsky, ICML 2015, equation 14.
    """

    def __init__(self, total_steps: int, gamma: float = 10.0, grl_lambda: float = 1.0):
        super().__init__(total_steps)
        self.gamma = gamma
        self.grl_lambda = grl_lambda

    def at(self, progress: tf.Tensor) -> tf.Tensor:
        return self.grl_lambda * (2.0 / (1.0 + tf.exp(-self.gamma * progress)) - 1.0)


@keras.saving.register_keras_serializable("dann")
class AnnealedLearningRate(ProgressSchedule):
    """μ_p = μ_0 / (1 + α·p)^β.

    Args:
        total_steps: steps of the whole run.
        init_learning_rate: μ_0; 0.01 in the paper.
        lr_alpha: α ≥ 0; 10 in the paper.
        lr_beta: β ≥ 0; 0.75 in the paper.

    Reference: Ganin & Lempitsky, ICML 2015, section 4, "SGD schedule".
    """

    def __init__(
        self,
        total_steps: int,
        init_learning_rate: float = 0.01,
        lr_alpha: float = 10.0,
        lr_beta: float = 0.75,
    ):
        super().__init__(total_steps)
        self.init_learning_rate = init_learning_rate
        self.lr_alpha = lr_alpha
        self.lr_beta = lr_beta

    def at(self, progress: tf.Tensor) -> tf.Tensor:
        return self.init_learning_rate / (1.0 + self.lr_alpha * progress) ** self.lr_beta


@keras.saving.register_keras_serializable("dann")
class CosineLearningRate(ProgressSchedule):
    """μ_p = μ_0 · (1 + cos(π·p)) / 2: from μ_0 to 0.

    Args:
        total_steps: steps of the whole run.
        init_learning_rate: μ_0.

    Reference: Loshchilov & Hutter, "SGDR", ICLR 2017, equation 5, one cycle.
    """

    def __init__(self, total_steps: int, init_learning_rate: float):
        super().__init__(total_steps)
        self.init_learning_rate = init_learning_rate

    def at(self, progress: tf.Tensor) -> tf.Tensor:
        return self.init_learning_rate * (1.0 + tf.cos(math.pi * progress)) / 2.0


@keras.saving.register_keras_serializable("dann")
class HalfCosine(ProgressSchedule):
    """A weight that rises from 0 to 1 over the first share of a run: (1 - cos(π·p/share)) / 2.

    Args:
        total_steps: steps of the whole run.
        share: in [0, 1]; ½ in AdaMatch. 0: the weight is 1 throughout.

    Reference: Berthelot et al., "AdaMatch", ICLR 2022, section 3.
    """

    def __init__(self, total_steps: int, share: float):
        super().__init__(total_steps)
        self.share = share

    def at(self, progress: tf.Tensor) -> tf.Tensor:
        if not self.share:
            return tf.ones_like(progress)
        return (1.0 - tf.cos(math.pi * tf.minimum(progress / self.share, 1.0))) / 2.0


@keras.saving.register_keras_serializable("dann")
class Constant(ProgressSchedule):
    """The same value at every step.

    Args:
        total_steps: steps of the whole run.
        value: the value.
    """

    def __init__(self, total_steps: int, value: float):
        super().__init__(total_steps)
        self.value = value

    def at(self, progress: tf.Tensor) -> tf.Tensor:
        return self.value * tf.ones_like(progress)


@keras.saving.register_keras_serializable("dann")
class Delayed(ProgressSchedule):
    """0 for the first steps, then the same value.

    Args:
        total_steps: steps of the whole run.
        value: the value.
        delay: how many steps it is 0.
    """

    def __init__(self, total_steps: int, value: float, delay: int):
        super().__init__(total_steps)
        self.value = value
        self.delay = delay

    def at(self, progress: tf.Tensor) -> tf.Tensor:
        begun = progress * self.total_steps > self.delay - 0.5  # half a step of rounding is left
        return self.value * tf.cast(begun, tf.float32)
