"""What methods with an adversary share: a domain classifier, its losses and metrics, and λ."""

from __future__ import annotations

import math
import numbers
from typing import Any, get_args

import keras
import tensorflow as tf

from config.base import DomainLoss, TrainingConfig
from model.adaptation import Adaptation
from model.losses import assert_below, cross_entropy, is_correct, mean_share
from model.networks import Shape, check_head
from model.schedules import Constant, GRLLambda, ProgressSchedule


class Adversarial(Adaptation):
    """An `Adaptation` with a domain classifier.

    Args:
        domain_classifier: a Keras model from features to `num_domains` logits, or to one logit,
            which tells the second of two domains.
        num_domains: number of domains, at least 2; the source is 0.
        grl_lambda: λ: a number ≥ 0, or a schedule over training steps such as `GRLLambda`. It may
            be set anew at any time, also by a callback while `fit` runs.
        domain_loss: of a batch: `"mean"` over the images of all domains, as in the original
            repository (of CDAN: the mean of each domain's mean); or the `"sum"` of each
            domain's mean: JMLR 2016, equation 18.
        predictor_options: of `Adaptation`.

    Raises:
        ValueError: networks that do not fit together or share weights, or a λ, a number of domains
            or a loss that cannot be.
    """

    parts = (*Adaptation.parts, "domain_classifier", "grl_lambda")
    knobs = (*Adaptation.knobs, "num_domains", "domain_loss")
    domain_classifier: keras.Model
    alternating = False  # whether the domain classifier takes steps of its own

    def __init__(
        self,
        feature_extractor: keras.Model,
        label_predictor: keras.Model,
        domain_classifier: keras.Model,
        num_domains: int = 2,
        grl_lambda: float | ProgressSchedule = 1.0,
        domain_loss: DomainLoss = "mean",
        **predictor_options: Any,
    ):
        super().__init__(feature_extractor, label_predictor, **predictor_options)
        if num_domains < 2:
            raise ValueError(f"num_domains must be 2 or more, got {num_domains}")
        seen = self.domain_input_shape(
            feature_extractor.output_shape[1:], label_predictor.output_shape[1:]
        )
        check_head(domain_classifier, "domain_classifier", seen)
        logits = domain_classifier.output_shape[1:]
        if logits != (num_domains,) and not (logits == (1,) and num_domains == 2):
            raise ValueError(
                f"domain_classifier must give {num_domains} logits, got output shape "
                f"{domain_classifier.output_shape}"
            )
        parts = (feature_extractor, label_predictor, domain_classifier)
        weights = [id(weight) for part in parts for weight in part.weights]
        if len({*weights}) < len(weights):
            raise ValueError(
                "feature_extractor, label_predictor and domain_classifier share weights; give each "
                "its own"
            )
        if domain_loss not in get_args(DomainLoss):
            raise ValueError(f"domain_loss must be mean or sum, got {domain_loss!r}")
        self.domain_classifier = domain_classifier
        self.num_domains = num_domains
        self.domain_loss = domain_loss
        # A variable, so that a step that is compiled already sees a new value.
        self.lambda_variable = tf.Variable(0.0, trainable=False, name="grl_lambda")
        self.own_variable = self.lambda_variable
        self.lambda_schedule: ProgressSchedule | None = None
        self.set_lambda(grl_lambda)

    @staticmethod
    def domain_input_shape(features: Shape, label_logits: Shape) -> Shape:
        """Returns the shape of what a domain classifier sees of one image."""
        return features

    @classmethod
    def schedules(cls, settings: TrainingConfig, total_steps: int) -> dict[str, ProgressSchedule]:
        ceiling = settings.grl_lambda
        return {
            **super().schedules(settings, total_steps),
            "grl_lambda": GRLLambda(total_steps, settings.gamma, ceiling)
            if settings.ramp
            else Constant(total_steps, ceiling),
        }

    def compile(
        self,
        optimizer: str | keras.Optimizer = "sgd",
        domain_optimizer: str | keras.Optimizer | None = None,
        **options: Any,
    ) -> None:
        """Sets the optimizers.

        Args:
            optimizer: of all weights; in two-step updates, of all but the domain classifier's.
            domain_optimizer: of the domain classifier in two-step updates; None takes one with the
                settings of `optimizer`.
            options: of `Adaptation.compile`.
        """
        if self.alternating:
            options["domain_optimizer"] = domain_optimizer
        elif domain_optimizer is not None:
            raise ValueError("domain_optimizer: this model has no step of its own for domains")
        super().compile(optimizer, **options)

    @property
    def grl_lambda(self) -> float | ProgressSchedule:
        """λ: a number, or its schedule."""
        return self.lambda_schedule or float(self.lambda_variable.numpy())

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "grl_lambda":  # Keras would take a variable for one of the model's weights
            self.set_lambda(value)
        else:
            super().__setattr__(name, value)

    def set_lambda(self, value: float | ProgressSchedule) -> None:
        """Sets λ; a number does not make the step be compiled again."""
        number = isinstance(value, numbers.Real) and math.isfinite(value) and value >= 0
        if not (number or callable(value) or isinstance(value, keras.Variable)):
            raise ValueError(f"grl_lambda must be a number >= 0 or a schedule, got {value!r}")
        schedule, variable = self.lambda_schedule, self.lambda_variable
        self.lambda_schedule = value if callable(value) else None
        if isinstance(value, keras.Variable):
            self.lambda_variable = value.value
        elif number:
            self.lambda_variable = self.own_variable
            self.lambda_variable.assign(value)
        # By identity, because two variables are equal where their values are.
        changed = self.lambda_schedule is not schedule or self.lambda_variable is not variable
        if changed and getattr(self, "train_function", None):
            self.make_train_function(force=True)  # they are parts of the compiled step

    def lambda_at(self, step: tf.Tensor) -> tf.Tensor:
        """Returns λ at a training step."""
        if self.lambda_schedule:
            return tf.cast(self.lambda_schedule(step), tf.float32)
        return self.lambda_variable

    def classify_domains(
        self, features: tf.Tensor, label_logits: tf.Tensor, training: bool
    ) -> tf.Tensor:
        """Returns a logit for each domain: `[B, num_domains]`.

        Args:
            features: of images.
            label_logits: of the same images, for methods whose domain classifier sees them.
            training: whether the domain classifier is in training mode.
        """
        logits = self.domain_classifier(features, training=training)
        if logits.shape[-1] == 1:  # it tells the second of two domains
            logits = tf.concat([tf.zeros_like(logits), logits], -1)
        return logits

    def domain_weights(self, label_logits: tf.Tensor) -> tf.Tensor | None:
        """Returns how much each image counts in its domain's mean, `[B]`.

        None: all count the same, and `"mean"` is over the images of all domains.
        """
        return None

    def domain_share(
        self, logits: tf.Tensor, domains: tf.Tensor, label_logits: tf.Tensor
    ) -> tf.Tensor:
        """Returns this replica's share of the batch's domain loss."""
        losses = cross_entropy(domains, logits)
        weights = self.domain_weights(label_logits)
        if weights is None:
            weights = tf.ones_like(losses)
            if self.domain_loss == "mean":
                return mean_share(losses, weights)
        total = tf.add_n([
            mean_share(losses, weights * tf.cast(domains == domain, tf.float32))
            for domain in range(self.num_domains)
        ])  # fmt: skip
        return total if self.domain_loss == "sum" else total / self.num_domains

    def step_domain_classifier(
        self, features: tf.Tensor, domains: tf.Tensor, label_logits: tf.Tensor
    ) -> tf.Tensor:
        """The domain classifier alone descends its loss, by `domain_optimizer`.

        Returns:
            its logits before the step.
        """
        with tf.GradientTape() as tape:
            logits = self.classify_domains(features, label_logits, training=True)
            loss = self.domain_share(logits, domains, label_logits) + self.layer_losses()
        weights = self.domain_classifier.trainable_variables
        self.descend(self.domain_optimizer, tape, loss, weights)
        return logits

    def weights_of(self) -> dict[str, list[keras.Variable]]:
        if not self.alternating:
            return super().weights_of()
        return {
            "optimizer": self.predictor_variables,
            "domain_optimizer": self.domain_classifier.trainable_variables,
        }

    def in_range(self, labels: tf.Tensor, domains: tf.Tensor) -> list[Any]:
        made = super().in_range(labels, domains)
        return made + assert_below(domains, 0, self.num_domains, "domains")

    def measure_features(
        self, features: tf.Tensor, label_logits: tf.Tensor, domains: tf.Tensor
    ) -> None:
        self.measure_domains(self.classify_domains(features, label_logits, training=False), domains)

    @property
    def metric_names(self) -> list[str]:
        loss, *accuracies = super().metric_names
        return [loss, "domain_cls_loss", *accuracies, "domain_cls_acc"]

    def measure_domains(self, logits: tf.Tensor, domains: tf.Tensor) -> None:
        """Updates the metrics of domains; the loss is the mean over images, ln D if undecided."""
        self.meters["domain_cls_loss"].update_state(cross_entropy(domains, logits))
        self.meters["domain_cls_acc"].update_state(is_correct(domains, logits))
