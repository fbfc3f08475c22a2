"""Virtual adversarial domain adaptation (VADA): decision boundaries keep away from images.

References: Shu, Bui, Narui & Ermon, "A DIRT-T Approach to Unsupervised Domain Adaptation", ICLR
2018, equations 4 to 7; Miyato et al., "Virtual Adversarial Training", IEEE TPAMI 2018, section 3.3.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import keras
import tensorflow as tf

from model.adaptation import Batch
from model.dann import DANN
from model.losses import entropy, mean_share, own_rows, steps_taken
from utils.data import UNLABELLED

HALF_RANGE = 127.5  # of pixel values in [0, 255]; in the authors' code they are in [-1, 1]
STREAM = 4  # of random numbers, beside those of augmentation
PROBE = 1.0  # ξ; the authors' 1e-6 is less than half precision resolves


@keras.saving.register_keras_serializable("dann")
class VADA(DANN):
    """A `DANN` that predicts the same for an image and its small changes, and with confidence.

    L = L_DANN + λ_s · V(labelled) + λ_t · (V(unlabelled) + H(unlabelled))

    H is the mean entropy of the predictions. V is the mean of KL(p(x) ‖ p(x + r)), where r is the
    change of length ε that changes the prediction most. One step of power iteration finds r. It has
    the direction of the gradient of KL(p(x) ‖ p(x + ξd)) for a random direction d of length ξ. V
    sees images that are not augmented, and networks in training mode. The gradient does not pass
    p(x).

    Args:
        source_smoothness: λ_s; 1 in the authors' code.
        target_smoothness: λ_t; 0.01 in the authors' code.
        radius: ε, for pixel values that are scaled to [-1, 1]; 3.5 in the authors' code.
        seed: of the random directions.
        dann_options: of `DANN`.

    Raises:
        ValueError: the feature extractor has several inputs, or integers as inputs.
    """

    knobs = (*DANN.knobs, "source_smoothness", "target_smoothness", "radius", "seed")

    def __init__(
        self,
        *dann_parts: Any,
        source_smoothness: float = 1.0,
        target_smoothness: float = 0.01,
        radius: float = 3.5,
        seed: int = 0,
        **dann_options: Any,
    ):
        super().__init__(*dann_parts, **dann_options)
        inputs = self.feature_extractor.inputs
        if len(inputs) > 1 or not inputs[0].dtype.startswith(("float", "bfloat")):
            raise ValueError("VADA changes images a little: feature_extractor must take one input "
                             f"of floats, got {[one.dtype for one in inputs]}")  # fmt: skip
        for name, value in (("source_smoothness", source_smoothness), ("radius", radius),
                            ("target_smoothness", target_smoothness)):  # fmt: skip
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} must be 0 or more, got {value}")
        self.source_smoothness = source_smoothness
        self.target_smoothness = target_smoothness
        self.radius = radius
        self.seed = seed

    def added_loss(self, batch: Batch, features: tf.Tensor, label_logits: tf.Tensor) -> tf.Tensor:
        images, labels, _ = batch
        unlabelled = tf.cast(labels == UNLABELLED, tf.float32)
        roughness = self.roughness(tf.cast(images, tf.float32))
        target = mean_share(roughness + entropy(label_logits), unlabelled)
        source = mean_share(roughness, 1.0 - unlabelled)
        return self.source_smoothness * source + self.target_smoothness * target

    def roughness(self, images: tf.Tensor) -> tf.Tensor:
        """Returns KL(p(x) ‖ p(x + r)) of each image, `[B]` or `[B, n]`."""
        logs = tf.stop_gradient(tf.nn.log_softmax(self.logits(images)))
        step = tf.cast(steps_taken(self.optimizer), tf.int64)
        chances = tf.stack([tf.constant(self.seed + (STREAM << 32), tf.int64), step])
        size, *rest = tf.unstack(tf.shape(images))

        def directions(rows: tf.Tensor) -> tf.Tensor:
            return tf.random.stateless_normal([rows, *rest], chances)

        random = own_rows(directions, size, self.num_domains, self.target_ratio)
        direction = of_length(PROBE, random)
        with tf.GradientTape() as tape:
            tape.watch(direction)
            change = tf.reduce_sum(self.divergence(logs, images + HALF_RANGE * direction))
            change = self.optimizer.scale_loss(change)  # float16 would round its gradient to 0
        worst = tf.stop_gradient(of_length(self.radius, tape.gradient(change, direction)))
        return self.divergence(logs, images + HALF_RANGE * worst)

    def divergence(self, logs: tf.Tensor, images: tf.Tensor) -> tf.Tensor:
        """Returns KL(p ‖ p(images)), with the logarithms of p."""
        others = tf.nn.log_softmax(self.logits(images))
        return tf.reduce_sum(tf.exp(logs) * (logs - others), -1)

    def logits(self, images: tf.Tensor) -> tf.Tensor:
        """Returns the logits in training mode; dropout is the same in each call of a step.

        With the moving statistics, V would become small where these do not fit the weights.
        """
        features = self.extract(images, partial(in_training, self.feature_extractor))
        return in_training(self.label_predictor, features)


def in_training(part: keras.Model, inputs: tf.Tensor) -> tf.Tensor:
    """Returns the output of a network in training mode, which forgets what it measures there.

    It forgets the losses of its layers, too, so `layer_losses` must come before.
    """
    outputs, _ = part.stateless_call(
        part.trainable_variables, part.non_trainable_variables, inputs, training=True
    )
    return outputs


def of_length(length: float, changes: tf.Tensor) -> tf.Tensor:
    """Returns changes `[B, ...]` whose numbers have this Euclidean length for each image."""
    axes = list(range(1, len(changes.shape)))
    lengths = tf.sqrt(tf.reduce_sum(changes**2, axes, keepdims=True))
    return length * tf.math.divide_no_nan(changes, lengths)
