"""Domain-adversarial training of neural networks (DANN): the algorithm, beside the paper.

References: Ganin & Lempitsky, "Unsupervised Domain Adaptation by Backpropagation", ICML 2015;
Ganin et al., "Domain-Adversarial Training of Neural Networks", JMLR 17 (2016).
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import keras
import tensorflow as tf

from model.adaptation import Batch
from model.adversarial import Adversarial
from model.gradient_reversal import GradientReversal
from model.losses import assert_blocks, label_losses, mean_share, split_batch, steps_taken
from model.networks import check_fixed, dense_head, with_flat_features
from model.normalisation import as_domain
from utils.data.batches import block_sizes


@keras.saving.register_keras_serializable("dann")
class DANN(Adversarial):
    """Learns features that separate the classes and do not separate the domains.

    The extractor has two heads. The label predictor learns from the labelled images. The
    domain classifier learns to tell the domains apart, but its gradient reaches the extractor
    reversed and scaled by λ, so that the extractor learns features that look alike in every
    domain. `call` and `predict` return class probabilities.

    Args:
        feature_extractor: any Keras model, from images or other inputs to features of any rank.
        label_predictor: a Keras model from features to `num_labels` logits; None takes one dense
            layer.
        domain_classifier: a Keras model from features to `num_domains` logits; None takes one
            dense layer.
        num_labels: number of classes; needed where `label_predictor` is None.
        num_domains: number of domains, at least 2; the source is 0.
        extractor_calls: `"joint"`: one call for the whole batch; `"per_domain"`: one call per
            domain, for batches of one block of each domain, in their order. Both compute the same
            without batch normalisation. With it, "joint" normalises over all domains and
            "per_domain" over each one.
        target_ratio: images of each target for one of the source, in `"per_domain"` batches. In
            `"joint"` batches the domains of the images say it.
        feature_layer: name of an inner layer of `feature_extractor` whose output is the feature;
            None: its last.
        pooling: what makes a feature of higher rank `[B, F]`: `"flatten"`, `"average"` over all
            places, or `"none"` for heads that take it as it is.
        alternating: False: one step for all, as in the paper. True: the domain classifier takes
            its step first, on features that it cannot change; then the extractor and the label
            predictor take theirs against the new domain classifier, as in a GAN.
        domain_weight: w > 0, of the domain loss for the domain classifier. With SGD it then learns
            w times as fast. The extractor gets -λ times the gradient of the loss, whatever
            w is. In two-step updates give `domain_optimizer` another rate instead.
        options: of `Adversarial` (`grl_lambda`, `domain_loss`) and `Adaptation` (`clip_norm`,
            `augmentation`, `average_decay`, `class_names`).

    Raises:
        ValueError: neither `num_labels` nor a label predictor, or both that differ; no such
            `feature_layer`, `pooling` or `extractor_calls`; a number out of its range; or layers
            that need other `extractor_calls`.

    Example:
        ```
        model = DANN(feature_extractor, num_labels=10, grl_lambda=0.8)
        model.compile(optimizer="sgd")
        model.fit(dataset)  # of (images, labels, domains)
        ```
    """

    knobs = (*Adversarial.knobs, "extractor_calls", "target_ratio", "alternating", "domain_weight")

    def __init__(
        self,
        feature_extractor: keras.Model,
        label_predictor: keras.Model | None = None,
        domain_classifier: keras.Model | None = None,
        num_labels: int | None = None,
        num_domains: int = 2,
        extractor_calls: Literal["joint", "per_domain"] = "joint",
        target_ratio: int = 1,
        feature_layer: str | None = None,
        pooling: Literal["flatten", "average", "none"] = "flatten",
        alternating: bool = False,
        domain_weight: float = 1.0,
        **options: Any,
    ):
        feature_extractor = with_flat_features(feature_extractor, feature_layer, pooling)
        features = feature_extractor.output_shape[1:]
        if label_predictor is None:
            if num_labels is None:
                raise ValueError("give num_labels or a label_predictor")
            if num_labels < 2:
                raise ValueError(f"num_labels must be 2 or more, got {num_labels}")
            label_predictor = dense_head("label_predictor", features, (), num_labels)
        else:
            check_fixed(label_predictor, "label_predictor")
            if num_labels not in (None, label_predictor.output_shape[-1]):
                raise ValueError(
                    f"num_labels is {num_labels}, but label_predictor gives "
                    f"{label_predictor.output_shape[-1]} logits; leave num_labels out"
                )
        if domain_classifier is None:
            seen = self.domain_input_shape(features, label_predictor.output_shape[1:])
            domain_classifier = dense_head("domain_classifier", seen, (), num_domains)
        super().__init__(
            feature_extractor, label_predictor, domain_classifier, num_domains, **options
        )
        if extractor_calls not in ("joint", "per_domain"):
            raise ValueError(f"extractor_calls must be joint or per_domain, got {extractor_calls}")
        self.extractor_calls = extractor_calls
        if self.norms() and extractor_calls == "joint":
            raise ValueError('DomainNormalization needs extractor_calls="per_domain"')
        regular = [layer.name for layer in feature_extractor._flatten_layers()
                   if getattr(layer, "activity_regularizer", None)]  # fmt: skip
        if regular and extractor_calls == "per_domain":
            raise ValueError(
                f"activity_regularizer: of {regular[0]}, Keras keeps that of one call alone; use "
                'extractor_calls="joint"'
            )
        if operator.index(target_ratio) < 1:
            raise ValueError(f"target_ratio must be 1 or more, got {target_ratio}")
        self.target_ratio = target_ratio
        if not (math.isfinite(domain_weight) and domain_weight > 0):
            raise ValueError(f"domain_weight must be above 0, got {domain_weight}")
        if alternating and domain_weight != 1:
            raise ValueError(
                "domain_weight: in two-step updates give domain_optimizer another rate instead"
            )
        self.alternating = alternating
        self.domain_weight = domain_weight
        self.gradient_reversal = GradientReversal()

    def assertions(self, labels: tf.Tensor, domains: tf.Tensor) -> list[Any]:
        made = super().assertions(labels, domains)
        if self.extractor_calls == "per_domain":
            made += assert_blocks(domains, self.num_domains, self.target_ratio)
        return made

    def blocks(self, images: tf.Tensor) -> list[tuple[int, tf.Tensor]]:
        """Returns the images of each domain, with its number; all as one in `"joint"` batches."""
        if self.extractor_calls == "joint":
            return [(1, images)]
        first = tf.nest.flatten(images)[0]
        size = first.shape[0] or tf.shape(first)[0]
        sizes = block_sizes(size, self.num_domains, self.target_ratio)
        return list(enumerate(split_batch(images, sizes)))

    def extract(
        self, images: tf.Tensor, call: Callable[[tf.Tensor], tf.Tensor], follows: bool = False
    ) -> tf.Tensor:
        """Returns the features of a training batch; each image passes the extractor once.

        Args:
            images: of all domains.
            call: returns the features of a block of them.
            follows: as in `as_domain`.
        """
        features = []
        for domain, block in self.blocks(images):
            with as_domain(self.norms(), domain, follows):
                features.append(call(block))
        return tf.concat(features, 0)

    def train_step(self, batch: Batch) -> dict[str, tf.Tensor]:
        """One step on one batch. The gradient of the domain loss reaches the extractor reversed."""
        images, labels, domains = self.verified(batch)
        grl_lambda = self.lambda_at(steps_taken(self.optimizer))
        if self.average:
            self.average.update()  # first, so that it begins at weights that were loaded
        with tf.GradientTape() as tape:
            extractor = partial(self.feature_extractor, training=True)
            features = self.extract(self.augment(images), extractor)
            label_logits = self.label_predictor(features, training=True)
            if self.alternating:
                with tape.stop_recording():
                    measured = self.step_domain_classifier(features, domains, label_logits)
            scale = grl_lambda / self.domain_weight
            reversed_features = self.gradient_reversal(features, grl_lambda=scale)
            domain_logits = self.classify_domains(reversed_features, label_logits, training=True)
            loss = mean_share(*label_losses(label_logits, labels))
            loss += self.domain_weight * self.domain_share(domain_logits, domains, label_logits)
            loss += self.layer_losses()  # now, since what comes next may call the layers again
            loss += self.added_loss((images, labels, domains), features, label_logits)
        self.measure_labels(label_logits, labels)
        # The metrics are those of the domain classifier before its step, in both kinds of steps.
        self.measure_domains(measured if self.alternating else domain_logits, domains)
        self.descend(self.optimizer, tape, loss, self.weights_of()["optimizer"])
        return self.get_metrics_result()

    def added_loss(
        self, batch: Batch, features: tf.Tensor, label_logits: tf.Tensor
    ) -> tf.Tensor | float:
        """Returns this replica's share of the loss that a method adds to that of DANN.

        Args:
            batch: as it came, without augmentation.
            features: `[B, ...]` of its augmented images, from which the gradient flows back.
            label_logits: of these features.
        """
        return 0.0

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "pooling": "none"}  # the extractor that is saved has it
