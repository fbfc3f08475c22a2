"""Adversarial discriminative domain adaptation (ADDA): the algorithm, beside the paper.

First a source model learns from labels: an encoder M_s and a classifier C. Then both are frozen,
and a target encoder M_t, which begins as a copy of M_s, learns to make encodings of target images
that a discriminator D cannot tell from those of source images. Predictions are C(M_t(x)).

In this repository's words M_t is the `feature_extractor`, M_s the `source_extractor`, C the
`label_predictor` and D the `domain_classifier`.

Reference: Tzeng, Hoffman, Saenko & Darrell, "Adversarial Discriminative Domain Adaptation", CVPR
2017, arXiv 1702.05464.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from functools import partial
from typing import Any, get_args

import keras
import tensorflow as tf

from config.base import AdversarialLoss, TrainingConfig
from model.adaptation import Adaptation, Batch
from model.adversarial import Adversarial
from model.losses import assert_blocks, label_losses, mean_share, split_batch, steps_taken
from model.networks import copy_of, layers_in_order
from model.normalisation import domain_normalizations
from model.schedules import Constant, ProgressSchedule, rate_schedule
from utils.errors import UserError

SOURCE, TARGET = 0, 1
# The names that Keras gives to dropout rates and to the size of noise.
CHANCES = ("rate", "dropout", "recurrent_dropout", "stddev", "drop_path_rate")
# CVPR 2017, section 5, has Adam; the Keras tutorials of ADDA have SGD.
OPTIMIZERS = {
    "adam": partial(keras.optimizers.Adam, beta_1=0.5),
    "sgd": partial(keras.optimizers.SGD, momentum=0.9, nesterov=True),
}


@keras.saving.register_keras_serializable("adda")
class SourceModel(Adaptation):
    """An encoder and a classifier, trained on labels alone: the first stage of ADDA.

    Args:
        options: of `Adaptation`.
    """

    source_alone = True

    def train_step(self, batch: Batch) -> dict[str, tf.Tensor]:
        """One step on one batch: encoder and classifier descend the label loss."""
        check_normalisation(self.feature_extractor)
        images, labels, domains = self.checked(batch)
        with tf.control_dependencies(self.assertions(labels, domains)):
            # Not the images, because their sums would be rounded in another order.
            labels = tf.identity(labels)
        if self.average:
            self.average.update()
        with tf.GradientTape() as tape:
            features = self.feature_extractor(self.augment(images), training=True)
            logits = self.label_predictor(features, training=True)
            loss = mean_share(*label_losses(logits, labels)) + self.layer_losses()
        self.measure_labels(logits, labels)
        self.descend(self.optimizer, tape, loss, self.predictor_variables)
        return self.get_metrics_result()


@keras.saving.register_keras_serializable("adda")
class ADDA(Adversarial):
    """Adapts a trained encoder and classifier to a target domain without labels.

    In each step the discriminator descends its loss k_d times, on the encodings of both domains;
    then the target encoder descends the adversarial loss k_g times against it. The source encoder
    and the classifier are frozen: no step moves them, and they never leave inference mode. The
    target encoder has no dropout; its batch normalisation, if any, learns the target's statistics.

    Args:
        feature_extractor: the trained source encoder, a Keras model from images to features. It is
            copied twice. One copy is frozen; the other is the target encoder, which is the
            `feature_extractor` from then on.
        label_predictor: the trained classifier, a Keras model from features to logits; copied.
        domain_classifier: the discriminator, a Keras model from features to logits of two domains.
        adversarial_loss: what the target encoder descends, with p_d the discriminator's
            probability of domain d for a target image:
            `"gan"`: -log p_source, the inverted labels of equation 7;
            `"minimax"`: log p_target, the discriminator's loss negated, equation 6;
            `"confusion"`: -½ log p_source - ½ log p_target, equation 8.
        k_d: discriminator steps in one training step.
        k_g: target encoder steps in one training step.
        shared_layers: so many of the first layers with weights are the source encoder's in both
            encoders, and frozen; CVPR 2017 discusses unshared, shared and partially shared. It
            is for a new model: to set it later changes nothing.
        options: of `Adversarial`: there λ is the weight of the adversarial loss. At 0 the
            discriminator trains alone. Adam makes the same steps at every other λ, because it
            divides by the size of the gradient. And of `Adaptation`: `average_decay` averages the
            target encoder.

    Each optimizer counts its own steps: k_g and k_d for each batch. A schedule of Keras for its
    rate needs so many times the steps.

    Training batches are in two equal blocks, source and target. Labels are measured, not learned
    from.

    Raises:
        ValueError: no such loss, more than two domains, or a number out of its range.
        UserError: `shared_layers` are not fewer than the encoder's layers with weights.

    Example:
        ```
        model = ADDA(trained.feature_extractor, trained.label_predictor, discriminator)
        model.compile(keras.optimizers.Adam(1e-4), domain_optimizer=keras.optimizers.Adam(1e-4))
        model.fit(dataset)  # of (images, labels, domains)
        ```
    """

    knobs = (*Adversarial.knobs, "adversarial_loss", "k_d", "k_g", "shared_layers")
    alternating = True

    def __init__(
        self,
        feature_extractor: keras.Model,
        label_predictor: keras.Model,
        domain_classifier: keras.Model,
        adversarial_loss: AdversarialLoss = "gan",
        k_d: int = 1,
        k_g: int = 2,
        shared_layers: int = 0,
        **options: Any,
    ):
        if adversarial_loss not in get_args(AdversarialLoss):
            raise ValueError(
                f"adversarial_loss must be one of {', '.join(get_args(AdversarialLoss))}, got "
                f"{adversarial_loss!r}"
            )
        if operator.index(k_d) < 1 or operator.index(k_g) < 1:
            raise ValueError(f"k_d and k_g must be 1 or more, got {k_d} and {k_g}")
        # Copies, since they are frozen: the caller may go on training the given networks.
        source, classifier = copy_of(feature_extractor), copy_of(label_predictor)
        check_normalisation(source)
        super().__init__(source, classifier, domain_classifier, **options)
        if self.num_domains != 2:
            raise ValueError(f"ADDA has one source and one target, got {self.num_domains} domains")
        self.adversarial_loss = adversarial_loss
        self.k_d = k_d
        self.k_g = k_g
        self.shared_layers = shared_layers
        self.source_extractor = source
        self.feature_extractor = copy_of(source, without_dropout)
        if not self.feature_extractor.trainable:  # a frozen encoder's copy begins frozen
            self.feature_extractor.trainable = True
        weighted = [layer for layer in layers_in_order(self.feature_extractor) if layer.weights]
        if not 0 <= shared_layers < len(weighted):
            raise UserError(
                f"shared_layers: {shared_layers} must be in 0..{len(weighted) - 1}; the encoder "
                f"has {len(weighted)} layers with weights, and one must be the target's own"
            )
        for layer in weighted[:shared_layers]:
            layer.trainable = False
        self.source_extractor.trainable = False
        self.label_predictor.trainable = False
        self.keep_average()

    @classmethod
    def schedules(cls, settings: TrainingConfig, total_steps: int) -> dict[str, ProgressSchedule]:
        """The rate, and not λ, is 0 at first, because Adam would divide by a mean of zeros."""
        rate, delay = settings.adda_learning_rate, settings.discriminator_steps
        if delay >= total_steps:
            raise UserError(
                f"discriminator_steps: {delay} leaves none of the {total_steps} steps to the "
                "target encoder; take fewer"
            )
        return {
            "learning_rate": rate_schedule(total_steps, rate, settings, delay),
            "grl_lambda": Constant(total_steps, settings.grl_lambda),
        }

    @classmethod
    def optimizers_for(
        cls,
        settings: TrainingConfig,
        total_steps: int,
        make: Callable[[ProgressSchedule], keras.Optimizer],
    ) -> dict[str, keras.Optimizer]:
        """Those that `adda_optimizer` names, whatever the first stage had."""
        new = OPTIMIZERS[settings.adda_optimizer]
        # An optimizer counts its own steps, of which a training step has several.
        return {
            name: new(rate_schedule(steps * total_steps, value, settings, steps * delay))
            for name, steps, value, delay in (
                ("optimizer", settings.k_g, settings.adda_learning_rate,
                 settings.discriminator_steps),
                ("domain_optimizer", settings.k_d, settings.discriminator_learning_rate, 0),
            )
        }  # fmt: skip

    def predictors(self) -> list[tuple[keras.Model, keras.Model]]:
        return [(self.source_extractor, self.label_predictor), *super().predictors()]

    @property
    def encodes_by_domain(self) -> bool:
        return True

    def encode_as(self, images: tf.Tensor, domain: int) -> tf.Tensor:
        encoder = self.feature_extractor if domain else self.source_extractor
        return encoder(images, training=False)

    def train_step(self, batch: Batch) -> dict[str, tf.Tensor]:
        """One step on one batch: k_d times the discriminator, then k_g times the target encoder."""
        images, labels, domains = self.verified(batch)
        # The optimizer counts each of its steps, the schedule those of training.
        grl_lambda = self.lambda_at(steps_taken(self.optimizer) // self.k_g)
        if self.average:
            self.average.update()
        half = tf.shape(domains)[0] // 2
        source_images, target_images = split_batch(self.augment(images), [half, half])
        source = self.source_extractor(source_images, training=False)
        source_logits = self.label_predictor(source, training=False)
        self.measure_labels(source_logits, tf.split(labels, 2)[0])
        for turn in range(self.k_g):
            with tf.GradientTape() as tape:
                target = self.feature_extractor(target_images, training=True)
                target_logits = self.label_predictor(target, training=False)
                if turn == 0:
                    with tape.stop_recording():
                        features = tf.concat([source, target], 0)
                        logits = tf.concat([source_logits, target_logits], 0)
                        for number in range(self.k_d):
                            before = self.step_domain_classifier(features, domains, logits)
                            if number == 0:
                                self.measure_domains(before, domains)
                judged = self.classify_domains(target, target_logits, training=True)
                losses = self.adversarial_losses(judged)
                loss = grl_lambda * mean_share(losses, tf.ones_like(losses)) + self.layer_losses()
            self.meters["adversarial_loss"].update_state(losses)
            self.descend(self.optimizer, tape, loss, self.predictor_variables)
        return self.get_metrics_result()

    def assertions(self, labels: tf.Tensor, domains: tf.Tensor) -> list[Any]:
        return super().assertions(labels, domains) + assert_blocks(domains, self.num_domains)

    def adversarial_losses(self, logits: tf.Tensor) -> tf.Tensor:
        """Returns what the target encoder descends, for each target image: float32 `[B]`."""
        logs = tf.nn.log_softmax(logits)
        if self.adversarial_loss == "gan":
            return -logs[:, SOURCE]
        if self.adversarial_loss == "minimax":
            return logs[:, TARGET]
        return -(logs[:, SOURCE] + logs[:, TARGET]) / 2.0

    @property
    def metric_names(self) -> list[str]:
        return [*self.label_metric_names, "domain_cls_loss", "domain_cls_acc", "adversarial_loss"]

    def measure_features(
        self, features: tf.Tensor, label_logits: tf.Tensor, domains: tf.Tensor
    ) -> None:
        logits = self.classify_domains(features, label_logits, training=False)
        self.measure_domains(logits, domains)
        target = tf.cast(domains == TARGET, tf.float32)
        self.meters["adversarial_loss"].update_state(self.adversarial_losses(logits), target)


def check_normalisation(feature_extractor: keras.Model) -> None:
    """Raises `ValueError` if an encoder, which sees one domain, has statistics of two."""
    if any(norm.sides > 1 for norm in domain_normalizations(feature_extractor)):
        raise ValueError("feature_extractor: each encoder sees one domain; DomainNormalization "
                         "must have sides=1")  # fmt: skip


def without_dropout(layer: keras.Layer) -> keras.Layer:
    """Returns a copy of a layer; of one of Keras with dropout or noise, one without.

    The source's encodings are made without dropout. A discriminator would look for the dropped
    features, and find the domain in them.
    """
    config = layer.get_config()
    keras_own = type(layer).__module__.startswith("keras.")
    return type(layer).from_config(without_chance(config) if keras_own else config)


def without_chance(config: Any) -> Any:
    """Returns settings of a layer of Keras, and of others in it, without dropout and noise."""
    if isinstance(config, list):
        return [without_chance(value) for value in config]
    if not isinstance(config, dict) or not str(config.get("module", "keras")).startswith("keras"):
        return config
    return {
        name: value if name == "arguments"  # of a Lambda
        else 0.0 if name in CHANCES and isinstance(value, int | float)
        else without_chance(value)
        for name, value in config.items()
    }  # fmt: skip
