"""Conditional domain-adversarial networks (CDAN): the algorithm, beside the paper.

Reference: Long, Cao, Wang & Jordan, "Conditional Adversarial Domain Adaptation", NeurIPS 2018,
arXiv 1705.10667.
"""

from __future__ import annotations

import math
from typing import Any

import keras
import tensorflow as tf

from model.dann import DANN
from model.losses import entropy
from model.networks import Shape

LARGEST = 4096  # numbers of the full product; the paper's limit
RANDOM = 1024  # numbers of the random product; those of the authors' code


@keras.saving.register_keras_serializable("dann")
class CDAN(DANN):
    """A `DANN` whose domain classifier sees which class the label predictor takes an image for.

    For features f and class probabilities g it sees the products f ⊗ g, the paper's multilinear
    map. Above 4,096 products it sees d = 1,024 random combinations of them, the paper's randomized
    multilinear map (R_f f) ⊙ (R_g g) / √d. The gradient reaches f alone; g is taken as it is.

    Args:
        entropy_conditioning: whether an image counts 1 + exp(-H(g)) in the mean of its domain, H
            being the entropy of its prediction, so that images that are hard to classify count
            less: the paper's CDAN+E.
        dann_options: of `DANN`.
    """

    knobs = (*DANN.knobs, "entropy_conditioning")

    def __init__(self, *dann_parts: Any, entropy_conditioning: bool = True, **dann_options: Any):
        super().__init__(*dann_parts, **dann_options)
        self.entropy_conditioning = entropy_conditioning
        parts = (self.feature_extractor, self.label_predictor)
        self.sizes = tuple(math.prod(part.output_shape[1:]) for part in parts)
        self.random_maps = [
            self.add_weight(
                shape=(size, RANDOM),
                initializer=keras.initializers.RandomNormal(stddev=1.0),
                trainable=False,
                autocast=False,
                name=f"random_map{number}",
            )
            for number, size in enumerate(self.sizes if math.prod(self.sizes) > LARGEST else ())
        ]

    def adversary(self) -> list[keras.Variable]:
        return [*super().adversary(), *self.random_maps]

    @staticmethod
    def domain_input_shape(features: Shape, label_logits: Shape) -> Shape:
        size = math.prod(features) * math.prod(label_logits)
        return (size if size <= LARGEST else RANDOM,)

    def classify_domains(
        self, features: tf.Tensor, label_logits: tf.Tensor, training: bool
    ) -> tf.Tensor:
        classes = tf.stop_gradient(tf.nn.softmax(label_logits))
        f_size, g_size = self.sizes
        f = tf.reshape(tf.cast(features, tf.float32), [-1, f_size])  # (B, F)
        g = tf.reshape(classes, [-1, g_size])  # (B, num_labels)
        if self.random_maps:
            of_features, of_classes = self.random_maps
            seen = (f @ of_features) * (g @ of_classes) / math.sqrt(RANDOM)
        else:
            seen = tf.reshape(f[:, :, None] * g[:, None, :], [-1, f_size * g_size])
        return super().classify_domains(seen, label_logits, training)

    def domain_weights(self, label_logits: tf.Tensor) -> tf.Tensor:
        if not self.entropy_conditioning:
            return tf.ones(tf.shape(label_logits)[:1])
        entropies = entropy(tf.stop_gradient(label_logits))
        rows = tf.reshape(entropies, [tf.shape(entropies)[0], -1])  # (B, 1), or (B, n)
        return 1.0 + tf.exp(-tf.reduce_mean(rows, 1))
