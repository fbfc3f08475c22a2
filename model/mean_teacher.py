"""The second stage: an adapted model learns from its own averaged, confident predictions.

References: Tarvainen & Valpola, "Mean teachers are better role models", NeurIPS 2017; French et
al., "Self-ensembling for visual domain adaptation", ICLR 2018 (confidence thresholding); Sohn et
al., "FixMatch", NeurIPS 2020 (hard pseudo-labels, augmentation on the student's side alone).
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from model.dann import DANN, UNLABELLED, cross_entropy, mean_share


@keras.saving.register_keras_serializable("dann")
class MeanTeacher(DANN):
    """A DANN in which unlabelled images also learn from a teacher, the average of the weights.

    The teacher sees an image as it is, and its class, where it is confident, becomes the label of
    the augmented image that the student sees:

    L = L_DANN + 1/n · Σ [max p_teacher(x) > confidence] · H(argmax p_teacher(x), p(augmented x))

    over the n unlabelled images of the batch.

    Args:
        confidence: the least probability that makes a label; 0.9 to 0.97 in the papers.
        average_decay: of the teacher's weights, above 0; 0.99 to 0.999 in the papers.
        dann_options: of `DANN`.
    """

    def __init__(
        self, *dann_parts: Any, confidence: float = 0.9, average_decay: float = 0.999,
        **dann_options: Any,
    ):  # fmt: skip
        super().__init__(*dann_parts, average_decay=average_decay, **dann_options)
        if self.average is None:
            raise ValueError(f"average_decay must be above 0 for a teacher, got {average_decay}")
        self.teacher = self.average
        self.confidence = confidence

    def unlabelled_loss(
        self, images: tf.Tensor, labels: tf.Tensor, label_logits: tf.Tensor
    ) -> tf.Tensor:
        pseudo_labels, confident = self.pseudo_labels(images)
        unlabelled = tf.cast(labels == UNLABELLED, tf.float32)
        return mean_share(confident * cross_entropy(pseudo_labels, label_logits), unlabelled)

    def pseudo_labels(self, images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the teacher's classes int32 `[B]`, and 1 where it is confident, else 0."""
        weights = iter(self.teacher.values)
        outputs = images
        for part in (self.feature_extractor, self.label_predictor):
            taught = [next(weights) for _ in part.trainable_variables]
            others = part.non_trainable_variables
            outputs, _ = part.stateless_call(taught, others, outputs, training=False)
        confident = tf.reduce_max(tf.nn.softmax(outputs), -1) > self.confidence
        return tf.argmax(outputs, -1, tf.int32), tf.cast(confident, tf.float32)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "confidence": self.confidence}
