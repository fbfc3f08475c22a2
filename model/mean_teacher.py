"""The second stage: an adapted model learns from its own averaged, confident predictions.

References: Tarvainen & Valpola, "Mean teachers are better role models", NeurIPS 2017; French et
al., "Self-ensembling for visual domain adaptation", ICLR 2018 (confidence thresholding); Sohn et
al., "FixMatch", NeurIPS 2020 (hard pseudo-labels, augmentation on the student's side alone);
Berthelot et al., "ReMixMatch", ICLR 2020, section 3.1 (distribution alignment); Berthelot et al.,
"AdaMatch", ICLR 2022 (a threshold relative to the source's confidence, a weight that rises).
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import keras
import tensorflow as tf

from config.base import TrainingConfig
from model.adaptation import Batch
from model.averaging import WeightAverage
from model.dann import DANN
from model.losses import cross_entropy, mean_share, steps_taken
from model.schedules import HalfCosine, ProgressSchedule
from utils.data import UNLABELLED

MEAN_DECAY = 0.995  # of running means: some 200 batches; ReMixMatch takes the last 128


@keras.saving.register_keras_serializable("dann")
class MeanTeacher(DANN):
    """A DANN in which unlabelled images also learn from a teacher, the average of the weights.

    The teacher sees an image as it is. Where the teacher is confident, its class becomes a label.
    The student sees the augmented image and learns this label:

    L = L_DANN + μ · 1/n · Σ [max q(x) > τ] · H(argmax q(x), p(augmented x))

    over the n unlabelled images of the batch. q is the teacher's prediction p_teacher(x) divided by
    its running mean over the unlabelled images, and normalised. Otherwise classes that are
    predicted often would be predicted more and more often. All classes are taken to be equally
    frequent.

    Args:
        confidence: the probability above which a class is a label; 0.9 to 0.97 in the papers.
        relative_confidence: False: τ is `confidence`. True: τ is `confidence` times the running
            mean of the teacher's largest probability on labelled images, as in AdaMatch. It is for
            a new model, because this mean is made with the model.
        pseudo_weight: μ: a number, or a schedule over training steps such as `HalfCosine`.
        average_decay: of the teacher's weights, above 0; 0.99 to 0.999 in the papers.
        dann_options: of `DANN`.
    """

    average: WeightAverage
    parts = (*DANN.parts, "pseudo_weight")
    knobs = (*DANN.knobs, "confidence", "relative_confidence")

    def __init__(
        self,
        *dann_parts: Any,
        confidence: float = 0.9,
        relative_confidence: bool = False,
        pseudo_weight: float | ProgressSchedule = 1.0,
        average_decay: float = 0.999,
        **dann_options: Any,
    ):
        super().__init__(*dann_parts, average_decay=average_decay, **dann_options)
        if self.average is None:
            raise ValueError(f"average_decay must be above 0 for a teacher, got {average_decay}")
        if not 0 <= confidence <= 1:
            raise ValueError(f"confidence must be in [0, 1], got {confidence}")
        if not callable(pseudo_weight) and not 0 <= pseudo_weight < math.inf:
            raise ValueError(f"pseudo_weight must be 0 or more, or a schedule, got {pseudo_weight}")
        self.confidence = confidence
        self.relative_confidence = relative_confidence
        self.pseudo_weight = pseudo_weight
        shape = self.label_predictor.output_shape[1:]
        self.mean_prediction = self.running_mean("mean_prediction", shape, 1 / shape[-1])
        if relative_confidence:
            self.source_confidence = self.running_mean("source_confidence", (), 1.0)

    def running_mean(self, name: str, shape: tuple[int, ...], first: float) -> keras.Variable:
        """Returns a variable that `move_mean` moves."""
        return self.add_weight(
            shape=shape,
            initializer=keras.initializers.Constant(first),
            trainable=False,
            dtype="float32",
            aggregation="only_first_replica",
            name=name,
        )

    @classmethod
    def schedules(cls, settings: TrainingConfig, total_steps: int) -> dict[str, ProgressSchedule]:
        return {
            **super().schedules(settings, total_steps),
            "pseudo_weight": HalfCosine(total_steps, settings.pseudo_ramp),
        }

    def added_loss(self, batch: Batch, features: tf.Tensor, label_logits: tf.Tensor) -> tf.Tensor:
        images, labels, _ = batch
        unlabelled = tf.cast(labels == UNLABELLED, tf.float32)
        pseudo_labels, confident = self.pseudo_labels(images, unlabelled)
        weight = self.pseudo_weight
        if callable(weight):
            weight = weight(steps_taken(self.optimizer))
        losses = confident * cross_entropy(pseudo_labels, label_logits)
        return weight * mean_share(losses, unlabelled)

    def pseudo_labels(
        self, images: tf.Tensor, unlabelled: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the teacher's classes int32 `[B]` or `[B, n]`, and where it is confident 1."""
        predictions = self.teacher_predictions(images)  # (B, num_labels), or (B, n, num_labels)
        aligned = predictions / self.mean_prediction
        aligned /= tf.reduce_sum(aligned, axis=-1, keepdims=True)
        self.move_mean(self.mean_prediction, predictions, unlabelled[..., None])
        threshold = self.confidence
        if self.relative_confidence:
            self.move_mean(self.source_confidence, tf.reduce_max(predictions, -1), 1.0 - unlabelled)
            threshold *= self.source_confidence
        confident = tf.reduce_max(aligned, axis=-1) > threshold
        return tf.argmax(aligned, -1, tf.int32), tf.cast(confident, tf.float32)

    def teacher_predictions(self, images: tf.Tensor) -> tf.Tensor:
        """Returns the teacher's class probabilities of a training batch.

        The moving statistics of normalisation follow these images, which are as in prediction; what
        the student's augmented images made of them before is lost.
        """
        extractor = partial(self.as_teacher, self.feature_extractor)
        features = self.extract(images, extractor, follows=True)
        return tf.nn.softmax(self.as_teacher(self.label_predictor, features))

    def as_teacher(self, part: keras.Model, inputs: tf.Tensor) -> tf.Tensor:
        """Returns the output of a network with the teacher's weights.

        What the network's normalisation has measured by then is written down.
        """
        weights, others = (
            [self.average.of(weight) for weight in kind]
            for kind in (part.trainable_variables, part.non_trainable_variables)
        )
        outputs, measured = part.stateless_call(weights, others, inputs, training=False)
        for variable, value in zip(part.non_trainable_variables, measured, strict=True):
            if id(variable) in self.average.by_weight:
                variable.assign(value)
                self.average.of(variable).assign(value)
        return outputs

    def move_mean(self, mean: keras.Variable, values: tf.Tensor, weights: tf.Tensor) -> None:
        """Moves a running mean towards the weighted mean of a batch's values."""
        context = tf.distribute.get_replica_context()
        weights *= tf.ones_like(values)
        axes = list(range(len(values.shape) - len(mean.shape)))
        sums, counts = (
            context.all_reduce(tf.distribute.ReduceOp.SUM, tf.reduce_sum(part, axis=axes))
            for part in (values * weights, weights)
        )
        # Without such images in the batch, the mean stays where it is.
        moved = MEAN_DECAY * mean + (1.0 - MEAN_DECAY) * tf.math.divide_no_nan(sums, counts)
        mean.assign(tf.where(counts > 0, moved, mean))
