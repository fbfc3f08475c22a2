"""The second stage: an adapted model learns from its own averaged, confident predictions.

References: Tarvainen & Valpola, "Mean teachers are better role models", NeurIPS 2017; French et
al., "Self-ensembling for visual domain adaptation", ICLR 2018 (confidence thresholding); Sohn et
al., "FixMatch", NeurIPS 2020 (hard pseudo-labels, augmentation on the student's side alone);
Berthelot et al., "ReMixMatch", ICLR 2020, section 3.1 (distribution alignment).
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from model.dann import DANN
from model.losses import UNLABELLED, cross_entropy, mean_share

MEAN_DECAY = 0.995  # of the mean prediction: some 200 batches; ReMixMatch takes the last 128


@keras.saving.register_keras_serializable("dann")
class MeanTeacher(DANN):
    """A DANN in which unlabelled images also learn from a teacher, the average of the weights.

    The teacher sees an image as it is, and its class, where it is confident, becomes the label of
    the augmented image that the student sees:

    L = L_DANN + 1/n · Σ [max q(x) > confidence] · H(argmax q(x), p(augmented x))

    over the n unlabelled images of the batch. Left to itself this prefers the classes that it
    already prefers, more and more; so q is the teacher's prediction p_teacher(x) divided by its
    running mean over the unlabelled images, and normalised: all classes are taken to be equally
    frequent.

    Args:
        confidence: the least probability that makes a label; 0.9 to 0.97 in the papers.
        average_decay: of the teacher's weights, above 0; 0.99 to 0.999 in the papers.
        dann_options: of `DANN`.
    """

    knobs = (*DANN.knobs, "confidence")

    def __init__(
        self, *dann_parts: Any, confidence: float = 0.9, average_decay: float = 0.999,
        **dann_options: Any,
    ):  # fmt: skip
        super().__init__(*dann_parts, average_decay=average_decay, **dann_options)
        if self.average is None:
            raise ValueError(f"average_decay must be above 0 for a teacher, got {average_decay}")
        self.teacher = self.average
        self.confidence = confidence
        shape = self.label_predictor.output_shape[1:]
        self.mean_prediction = self.add_weight(
            shape=shape,
            initializer=keras.initializers.Constant(1 / shape[-1]),
            trainable=False,
            dtype="float32",
            aggregation="only_first_replica",
            name="mean_prediction",
        )

    def unlabelled_loss(
        self, images: tf.Tensor, labels: tf.Tensor, label_logits: tf.Tensor
    ) -> tf.Tensor:
        unlabelled = tf.cast(labels == UNLABELLED, tf.float32)
        pseudo_labels, confident = self.pseudo_labels(images, unlabelled)
        return mean_share(confident * cross_entropy(pseudo_labels, label_logits), unlabelled)

    def pseudo_labels(
        self, images: tf.Tensor, unlabelled: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the teacher's classes int32 `[B]` or `[B, n]`, and where it is confident 1."""
        weights = iter(self.teacher.values)
        outputs = images
        for part in (self.feature_extractor, self.label_predictor):
            taught = [next(weights) for _ in part.trainable_variables]
            others = part.non_trainable_variables
            outputs, _ = part.stateless_call(taught, others, outputs, training=False)
        predictions = tf.nn.softmax(outputs)  # (B, num_labels), or (B, n, num_labels)
        aligned = predictions / self.mean_prediction
        aligned /= tf.reduce_sum(aligned, axis=-1, keepdims=True)
        self.follow(predictions, unlabelled)
        confident = tf.reduce_max(aligned, axis=-1) > self.confidence
        return tf.argmax(aligned, -1, tf.int32), tf.cast(confident, tf.float32)

    def follow(self, predictions: tf.Tensor, unlabelled: tf.Tensor) -> None:
        """Takes a batch's unlabelled images into the mean prediction."""
        sums = tf.reduce_sum(predictions * unlabelled[..., None], axis=0)
        context = tf.distribute.get_replica_context()
        sums = context.all_reduce(tf.distribute.ReduceOp.SUM, sums)  # of the whole batch
        mean = sums / tf.reduce_sum(sums, axis=-1, keepdims=True)
        self.mean_prediction.assign(MEAN_DECAY * self.mean_prediction + (1.0 - MEAN_DECAY) * mean)
