"""Adversarial discriminative domain adaptation (ADDA): the algorithm, beside the paper.

First a source model learns from labels: an encoder M_s and a classifier C. Then both are frozen,
and a target encoder M_t, which begins as a copy of M_s, learns to make encodings of target images
that a discriminator D cannot tell from those of source images. Predictions are C(M_t(x)).

Reference: Tzeng, Hoffman, Saenko & Darrell, "Adversarial Discriminative Domain Adaptation", CVPR
2017, arXiv 1702.05464.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, get_args

import keras
import tensorflow as tf

from model.augmentation import RandomAugmentation
from model.averaging import WeightAverage
from model.dann import (
    UNLABELLED,
    Batch,
    clip_together,
    cross_entropy,
    is_correct,
    mean_share,
    with_parts,
)
from utils.schedules import ProgressSchedule

AdversarialLoss = Literal["gan", "minimax", "confusion"]
SOURCE, TARGET = 0, 1


@keras.saving.register_keras_serializable("adda")
class SourceModel(keras.Model):
    """An encoder and a classifier, trained on labels alone: the first stage of ADDA.

    A label may have n positions, such as the characters of a captcha; each counts the same in the
    loss and in `image_cls_acc`, and the accuracy of each and of the whole string are measured too.

    Args:
        encoder: a Keras model from images to features.
        classifier: a Keras model from features to logits, `[B, num_labels]` or
            `[B, n, num_labels]`.
        clip_norm: largest norm of all gradients together; longer ones are shortened to it. 0: any.
        augmentation: what is done to the images of a training batch; None: nothing.
        average_decay: above 0 keeps a `WeightAverage` of what is trained at this decay; inside
            `averaged()` the model predicts with it.
        class_names: for people, in the order of the classes.

    Call arguments:
        images: `[B, H, W, C]`, pixel values in [0, 255].
        training: whether dropout and batch normalisation are in training mode.

    Output shape: `[B, num_labels]` or `[B, n, num_labels]`, float32 probabilities.

    Training batches are tuples `(images, labels, domains)`, labels int32 `[B]` or `[B, n]`.
    """

    def __init__(
        self,
        encoder: keras.Model,
        classifier: keras.Model,
        clip_norm: float = 0.0,
        augmentation: RandomAugmentation | None = None,
        average_decay: float = 0.0,
        class_names: Sequence[str] | None = None,
        **model_options: Any,
    ):
        super().__init__(**model_options)
        if len(classifier.output_shape) not in (2, 3):
            raise ValueError(
                "classifier must give [B, num_labels] or [B, n, num_labels], got "
                f"{classifier.output_shape}"
            )
        self.source_encoder = encoder
        self.classifier = classifier
        self.clip_norm = clip_norm
        self.augmentation = augmentation
        self.class_names = None if class_names is None else list(class_names)
        self.domain_optimizer: keras.Optimizer | None = None
        self.positions = classifier.output_shape[1] if len(classifier.output_shape) == 3 else 1
        self.label_loss = keras.metrics.Mean("image_cls_loss")
        self.label_accuracy = keras.metrics.Mean("image_cls_acc")
        names = [f"position{n}_acc" for n in range(1, self.positions + 1)] + ["whole_string_acc"]
        self.string_metrics = [keras.metrics.Mean(name) for name in names if self.positions > 1]
        self.average_decay = average_decay
        self.average: WeightAverage | None = None
        if average_decay:
            self.average = WeightAverage(self.predictor_variables, average_decay)
        self.built = True  # all parts are

    @property
    def feature_extractor(self) -> keras.Model:
        """The encoder that predictions are made from, by the name that DANN has for it."""
        return self.source_encoder

    @property
    def label_predictor(self) -> keras.Model:
        """The classifier, by the name that DANN has for it."""
        return self.classifier

    @property
    def predictor_variables(self) -> list[keras.Variable]:
        """The weights that `optimizer` trains."""
        return self.source_encoder.trainable_variables + self.classifier.trainable_variables

    def averaged(self) -> AbstractContextManager[None]:
        """Inside, the model predicts with the average of its weights, if it keeps one."""
        return self.average.in_place() if self.average else nullcontext()

    def call(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        features = self.feature_extractor(images, training=training)
        return tf.nn.softmax(self.classifier(features, training=training))

    def encode(self, images: tf.Tensor, domains: tf.Tensor) -> tf.Tensor:
        """Returns the features `[B, ...]` of images, by the encoder of each one's domain."""
        return self.source_encoder(images, training=False)

    def embed(self, images: tf.Tensor, domains: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the features `[B, ...]` and the class probabilities."""
        features = self.encode(images, domains)
        return features, tf.nn.softmax(self.classifier(features, training=False))

    def augment(self, images: tf.Tensor) -> tf.Tensor:
        if self.augmentation is None:
            return images
        return self.augmentation(images, step=self.optimizer.iterations)

    def train_step(self, batch: Batch) -> dict[str, tf.Tensor]:
        """One step on one batch: encoder and classifier descend the label loss."""
        images, labels, _ = batch
        if self.average:
            self.average.update()
        with tf.GradientTape() as tape:
            features = self.source_encoder(self.augment(images), training=True)
            loss = self.measure_labels(self.classifier(features, training=True), labels)
        self.descend(self.optimizer, tape, loss, self.predictor_variables)
        return self.get_metrics_result()

    def test_step(self, batch: Batch) -> dict[str, tf.Tensor]:
        """Measures one batch; changes nothing but the metrics."""
        images, labels, domains = batch
        features = self.encode(images, domains)
        self.measure_labels(self.classifier(features, training=False), labels)
        return self.get_metrics_result()

    def descend(
        self,
        optimizer: keras.Optimizer,
        tape: tf.GradientTape,
        loss: tf.Tensor,
        weights: list[keras.Variable],
    ) -> None:
        gradients = tape.gradient(loss, weights)
        if self.clip_norm:
            gradients = clip_together(gradients, self.clip_norm)
        optimizer.apply(gradients, weights)

    def measure_labels(self, logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        """Updates the metrics and returns this replica's share of the mean label loss."""
        labelled = tf.cast(labels != UNLABELLED, tf.float32)
        known = tf.maximum(labels, 0)  # any class will do where the weight is 0
        losses, right = cross_entropy(known, logits), is_correct(known, logits)
        self.label_loss.update_state(losses, labelled)
        self.label_accuracy.update_state(right, labelled)
        if self.string_metrics:
            *each, whole = self.string_metrics
            for position, metric in enumerate(each):
                metric.update_state(right[:, position], labelled[:, position])
            whole.update_state(tf.reduce_min(right, 1), tf.reduce_min(labelled, 1))
        return mean_share(losses, labelled)

    def get_metrics_result(self) -> dict[str, tf.Tensor]:
        """Returns `loss` and the metrics since the last reset."""
        return {"loss": self.label_loss.result(), **self.label_results()}

    def label_results(self) -> dict[str, tf.Tensor]:
        metrics = (self.label_loss, self.label_accuracy, *self.string_metrics)
        return {metric.name: metric.result() for metric in metrics}

    def get_config(self) -> dict[str, Any]:
        parts = {
            "encoder": self.feature_extractor,
            "classifier": self.classifier,
            "augmentation": self.augmentation,
        }
        return {
            **super().get_config(),
            **{name: keras.saving.serialize_keras_object(part) for name, part in parts.items()},
            "clip_norm": self.clip_norm,
            "average_decay": self.average_decay,
            "class_names": self.class_names,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> SourceModel:
        return cls(**with_parts(config, custom_objects))


@keras.saving.register_keras_serializable("adda")
class ADDA(SourceModel):
    """Adapts a trained encoder and classifier to a target domain without labels.

    In each step the discriminator descends its loss k_d times, on the encodings of both domains;
    then the target encoder descends the adversarial loss k_g times against it. The source encoder
    and the classifier are frozen: no step moves them, and they never leave inference mode. The
    target encoder has no dropout; its batch normalisation, if any, learns the target's statistics.

    Args:
        encoder: the trained source encoder, a Keras model from images to features `[B, F]`. The
            target encoder begins as its copy.
        classifier: the trained classifier, a Keras model from features to logits.
        discriminator: a Keras model from features to two logits: of source, of target.
        adversarial_loss: what the target encoder descends, with p_d the discriminator's
            probability of domain d for a target image:
            `"gan"`: -log p_source, the inverted labels of equation 7;
            `"minimax"`: log p_target, the discriminator's loss negated, equation 6;
            `"confusion"`: -½ log p_source - ½ log p_target, equation 8.
        k_d: discriminator steps in one training step.
        k_g: target encoder steps in one training step.
        grl_lambda: weight λ of the adversarial loss: a number ≥ 0, or a schedule over training
            steps. While it is 0 the discriminator trains alone, and no weight of the target
            encoder moves.
        average_decay: above 0 keeps a `WeightAverage` of the target encoder at this decay.
        source_options: of `SourceModel`.

    Call arguments:
        images: `[B, H, W, C]`, of the target; pixel values in [0, 255].
        training: whether dropout and batch normalisation are in training mode.

    Training batches are tuples `(images, labels, domains)` in two equal blocks, source and
    target. Labels are measured, not learned from.

    Example:
        ```
        model = ADDA(trained.source_encoder, trained.classifier, discriminator)
        model.compile(keras.optimizers.Adam(1e-4), keras.optimizers.Adam(1e-4))
        model.fit(dataset)  # of (images, labels, domains)
        ```
    """

    def __init__(
        self,
        encoder: keras.Model,
        classifier: keras.Model,
        discriminator: keras.Model,
        adversarial_loss: AdversarialLoss = "gan",
        k_d: int = 1,
        k_g: int = 2,
        grl_lambda: float | ProgressSchedule = 1.0,
        average_decay: float = 0.0,
        **source_options: Any,
    ):
        if adversarial_loss not in get_args(AdversarialLoss):
            raise ValueError(
                f"adversarial_loss must be one of {', '.join(get_args(AdversarialLoss))}, got "
                f"{adversarial_loss!r}"
            )
        if k_d < 1 or k_g < 1:
            raise ValueError(f"k_d and k_g must be 1 or more, got {k_d} and {k_g}")
        if discriminator.output_shape[1:] != (2,):
            raise ValueError(
                f"discriminator must give two logits, got output shape {discriminator.output_shape}"
            )
        super().__init__(encoder, classifier, **source_options)
        self.target_encoder = keras.models.clone_model(
            encoder, clone_function=without_dropout, recursive=True
        )
        self.target_encoder.set_weights(encoder.get_weights())
        self.target_encoder.trainable = True  # a frozen encoder's copy begins frozen
        self.source_encoder.trainable = False
        self.classifier.trainable = False
        self.discriminator = discriminator
        self.adversarial_loss = adversarial_loss
        self.k_d = k_d
        self.k_g = k_g
        self.grl_lambda = grl_lambda
        self.domain_loss = keras.metrics.Mean("domain_cls_loss")
        self.domain_accuracy = keras.metrics.Mean("domain_cls_acc")
        self.encoder_loss = keras.metrics.Mean("adversarial_loss")
        self.average_decay = average_decay
        if average_decay:
            self.average = WeightAverage(self.predictor_variables, average_decay)

    @property
    def feature_extractor(self) -> keras.Model:
        """The target encoder: what predictions are made from."""
        return self.target_encoder

    @property
    def predictor_variables(self) -> list[keras.Variable]:
        """The weights that `optimizer` trains: the target encoder's."""
        return self.target_encoder.trainable_variables

    def compile(
        self,
        optimizer: str | keras.Optimizer = "adam",
        domain_optimizer: str | keras.Optimizer | None = None,
        **options: Any,
    ) -> None:
        """Sets the optimizers.

        Args:
            optimizer: the target encoder's.
            domain_optimizer: the discriminator's; None takes one with the settings of `optimizer`.
            options: Keras' own, such as `run_eagerly`.
        """
        super().compile(optimizer=optimizer, **options)
        if domain_optimizer is None:
            domain_optimizer = type(self.optimizer).from_config(self.optimizer.get_config())
        self.domain_optimizer = keras.optimizers.get(domain_optimizer)
        self.optimizer.build(self.predictor_variables)
        self.domain_optimizer.build(self.discriminator.trainable_variables)

    def get_compile_config(self) -> dict[str, Any]:
        return {
            name: keras.saving.serialize_keras_object(getattr(self, name))
            for name in ("optimizer", "domain_optimizer")
            if getattr(self, name, None) is not None
        }

    def compile_from_config(self, config: dict[str, Any]) -> None:
        parts = {name: keras.saving.deserialize_keras_object(part) for name, part in config.items()}
        self.compile(**parts)

    def encode(self, images: tf.Tensor, domains: tf.Tensor) -> tf.Tensor:
        places = tf.dynamic_partition(tf.range(tf.shape(images)[0]), domains, 2)
        encoders = (self.source_encoder, self.target_encoder)
        parts = [
            encode_some(encoder, tf.gather(images, rows))
            for encoder, rows in zip(encoders, places, strict=True)
        ]
        return tf.dynamic_stitch(places, parts)

    def train_step(self, batch: Batch) -> dict[str, tf.Tensor]:
        """One step on one batch: k_d times the discriminator, then k_g times the target encoder."""
        images, labels, domains = batch
        self.check(domains)
        grl_lambda = self.grl_lambda
        if callable(grl_lambda):
            # The optimizer counts each of its steps, the schedule those of training.
            grl_lambda = grl_lambda(self.optimizer.iterations // self.k_g)
        if self.average:
            self.average.update()
        images = self.augment(images)
        source_images, target_images = tf.split(images, 2)
        source = self.source_encoder(source_images, training=False)
        self.measure_labels(self.classifier(source, training=False), tf.split(labels, 2)[0])
        for turn in range(self.k_g):
            with tf.GradientTape() as tape:
                target = self.target_encoder(target_images, training=True)
                if turn == 0:
                    with tape.stop_recording():
                        self.train_discriminator(source, target, domains)
                logits = self.discriminator(target, training=True)
                losses = self.adversarial_losses(logits)
                loss = grl_lambda * mean_share(losses, tf.ones_like(losses))
            self.encoder_loss.update_state(losses)
            self.descend(self.optimizer, tape, loss, self.predictor_variables)
        return self.get_metrics_result()

    def check(self, domains: tf.Tensor) -> None:
        """Raises `tf.errors.InvalidArgumentError` unless a batch is a block of each domain."""
        halves = tf.split(domains, 2)
        for half, domain in zip(halves, (SOURCE, TARGET), strict=True):
            tf.debugging.assert_equal(
                half, tf.cast(domain, half.dtype), "a batch must be a source and a target block"
            )

    def train_discriminator(self, source: tf.Tensor, target: tf.Tensor, domains: tf.Tensor) -> None:
        """The discriminator descends its cross-entropy k_d times: equation 3."""
        features = tf.concat([source, target], 0)
        for turn in range(self.k_d):
            with tf.GradientTape() as tape:
                logits = self.discriminator(features, training=True)
                losses = cross_entropy(domains, logits)
                loss = mean_share(losses, tf.ones_like(losses))
            if turn == 0:
                self.measure_domains(logits, domains)
            weights = self.discriminator.trainable_variables
            self.descend(self.domain_optimizer, tape, loss, weights)

    def adversarial_losses(self, logits: tf.Tensor) -> tf.Tensor:
        """Returns what the target encoder descends, for each target image: float32 `[B]`."""
        logs = tf.nn.log_softmax(logits)
        if self.adversarial_loss == "gan":
            return -logs[:, SOURCE]
        if self.adversarial_loss == "minimax":
            return logs[:, TARGET]
        return -(logs[:, SOURCE] + logs[:, TARGET]) / 2.0

    def test_step(self, batch: Batch) -> dict[str, tf.Tensor]:
        images, labels, domains = batch
        features = self.encode(images, domains)
        self.measure_labels(self.classifier(features, training=False), labels)
        logits = self.discriminator(features, training=False)
        self.measure_domains(logits, domains)
        target = tf.cast(domains == TARGET, tf.float32)
        self.encoder_loss.update_state(self.adversarial_losses(logits), target)
        return self.get_metrics_result()

    def measure_domains(self, logits: tf.Tensor, domains: tf.Tensor) -> None:
        self.domain_loss.update_state(cross_entropy(domains, logits))
        self.domain_accuracy.update_state(is_correct(domains, logits))

    def get_metrics_result(self) -> dict[str, tf.Tensor]:
        """Returns `loss`, that of labels plus that of domains, and the metrics since the reset."""
        labels, domains = self.label_results(), self.domain_loss.result()
        return {
            "loss": labels["image_cls_loss"] + domains,
            **labels,
            "domain_cls_loss": domains,
            "domain_cls_acc": self.domain_accuracy.result(),
            "adversarial_loss": self.encoder_loss.result(),
        }

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),  # its encoder is the target's, which is not frozen
            "discriminator": keras.saving.serialize_keras_object(self.discriminator),
            "adversarial_loss": self.adversarial_loss,
            "k_d": self.k_d,
            "k_g": self.k_g,
            "grl_lambda": keras.saving.serialize_keras_object(self.grl_lambda),
        }


def without_dropout(layer: keras.Layer) -> keras.Layer:
    """Returns a copy of a layer; of dropout one that drops nothing.

    The source's encodings are made without dropout. A discriminator would look for the dropped
    features, and find the domain in them.
    """
    config = layer.get_config()
    if isinstance(layer, keras.layers.Dropout):
        config["rate"] = 0.0
    return type(layer).from_config(config)


def encode_some(encoder: keras.Model, images: tf.Tensor) -> tf.Tensor:
    """Returns the features of images, of which there may be none: convolutions refuse that."""
    nothing = tf.zeros([0, *encoder.output_shape[1:]], encoder.outputs[0].dtype)
    return tf.cond(tf.size(images) > 0, lambda: encoder(images, training=False), lambda: nothing)
