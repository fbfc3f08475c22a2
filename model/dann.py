"""Domain-adversarial training of neural networks (DANN): the algorithm, beside the paper.

References: Ganin & Lempitsky, "Unsupervised Domain Adaptation by Backpropagation", ICML 2015;
Ganin et al., "Domain-Adversarial Training of Neural Networks", JMLR 17 (2016).
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import keras
import tensorflow as tf

from model.augmentation import RandomAugmentation
from model.averaging import WeightAverage
from model.gradient_reversal import GradientReversal
from model.networks import dense_head
from utils.schedules import ProgressSchedule

Batch = tuple[tf.Tensor, tf.Tensor, tf.Tensor]  # images, labels, domains
UNLABELLED = -1


@keras.saving.register_keras_serializable("dann")
class DANN(keras.Model):
    """A feature extractor whose features tell the classes apart, and the domains not.

    Two heads stand on the extractor. The label predictor learns from the labelled images. The
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
        grl_lambda: λ: a number ≥ 0, or a schedule over training steps such as `GRLLambda`. At 0
            the extractor never hears of the domains, and the domain classifier is a mere probe.
        extractor_calls: `"joint"`: one call for the whole batch; `"per_domain"`: one call per
            domain, for batches of `num_domains` equal blocks in the order of the domains. The same
            function, unless the extractor has batch normalisation: then "joint" normalises over
            all domains together and "per_domain" over each by itself: two different methods.
        feature_layer: name of an inner layer of `feature_extractor` whose output is the feature;
            None: its last.
        pooling: what makes a feature of higher rank `[B, F]`: `"flatten"`, `"average"` over all
            places, or `"none"` for heads that take it as it is.
        alternating: False: one step for all, as in the paper. True: the domain classifier takes
            its step first, on features that it cannot change; then the extractor and the label
            predictor take theirs against the new domain classifier, as in a GAN.
        clip_norm: largest norm of all gradients together; longer ones are shortened to it. 0: any.
        augmentation: what is done to the images of a training batch; None: nothing.
        class_names: for people, in the order of the classes.
        average_decay: above 0 keeps a `WeightAverage` of extractor and label predictor at this
            decay; inside `averaged()` the model predicts with it.

    Call arguments:
        images: `[B, H, W, C]`, pixel values in [0, 255].
        training: whether dropout and batch normalisation are in training mode.

    Output shape: `[B, num_labels]`, float32 probabilities.

    Training batches are tuples `(images, labels, domains)`: labels int32 `[B]` with -1 =
    unlabelled, domains int32 `[B]` in 0..num_domains-1.

    Example:
        ```
        model = DANN(feature_extractor, num_labels=10, grl_lambda=0.8)
        model.compile(optimizer="sgd")
        model.fit(dataset)  # of (images, labels, domains)
        ```
    """

    def __init__(
        self,
        feature_extractor: keras.Model,
        label_predictor: keras.Model | None = None,
        domain_classifier: keras.Model | None = None,
        num_labels: int | None = None,
        num_domains: int = 2,
        grl_lambda: float | ProgressSchedule = 1.0,
        extractor_calls: Literal["joint", "per_domain"] = "joint",
        feature_layer: str | None = None,
        pooling: Literal["flatten", "average", "none"] = "flatten",
        alternating: bool = False,
        clip_norm: float = 0.0,
        augmentation: RandomAugmentation | None = None,
        average_decay: float = 0.0,
        class_names: Sequence[str] | None = None,
        **model_options: Any,
    ):
        super().__init__(**model_options)
        if num_domains < 2:
            raise ValueError(f"num_domains must be 2 or more, got {num_domains}")
        if extractor_calls not in ("joint", "per_domain"):
            raise ValueError(f"extractor_calls must be joint or per_domain, got {extractor_calls}")
        feature_extractor = with_flat_features(feature_extractor, feature_layer, pooling)
        feature_shape = feature_extractor.output_shape[1:]
        if label_predictor is None:
            if num_labels is None:
                raise ValueError("give num_labels or a label_predictor")
            if num_labels < 2:
                raise ValueError(f"num_labels must be 2 or more, got {num_labels}")
            label_predictor = dense_head("label_predictor", feature_shape, (), num_labels)
        if domain_classifier is None:
            domain_classifier = dense_head("domain_classifier", feature_shape, (), num_domains)
        self.feature_extractor = feature_extractor
        self.label_predictor = label_predictor
        self.domain_classifier = domain_classifier
        self.num_domains = num_domains
        self.grl_lambda = grl_lambda
        self.extractor_calls = extractor_calls
        self.alternating = alternating
        self.domain_optimizer: keras.Optimizer | None = None
        self.clip_norm = clip_norm
        self.augmentation = augmentation
        self.average_decay = average_decay
        self.class_names = None if class_names is None else list(class_names)
        self.average: WeightAverage | None = None
        if average_decay:
            self.average = WeightAverage(self.predictor_variables, average_decay)
        self.gradient_reversal = GradientReversal()
        self.label_loss = keras.metrics.Mean("image_cls_loss")
        self.domain_loss = keras.metrics.Mean("domain_cls_loss")
        self.label_accuracy = keras.metrics.Mean("image_cls_acc")
        self.domain_accuracy = keras.metrics.Mean("domain_cls_acc")
        self.built = True  # all parts are

    def call(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        return self.embed(images, training=training)[1]

    def embed(
        self, images: tf.Tensor, domains: tf.Tensor | None = None, training: bool = False
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the features `[B, ...]` and the class probabilities `[B, num_labels]`.

        The features are the same whatever the domain; `ADDA.embed` has one encoder for each.
        """
        features = self.feature_extractor(images, training=training)
        return features, tf.nn.softmax(self.label_predictor(features, training=training))

    def compile(
        self,
        optimizer: str | keras.Optimizer = "sgd",
        domain_optimizer: str | keras.Optimizer | None = None,
        **options: Any,
    ) -> None:
        """Sets the optimizers.

        Args:
            optimizer: of all weights; with `alternating`, of all but the domain classifier's.
            domain_optimizer: with `alternating`, the domain classifier's; None takes one with the
                settings of `optimizer`.
            options: Keras' own, such as `run_eagerly`.
        """
        super().compile(optimizer=optimizer, **options)
        if self.alternating:
            if domain_optimizer is None:
                domain_optimizer = type(self.optimizer).from_config(self.optimizer.get_config())
            self.domain_optimizer = keras.optimizers.get(domain_optimizer)
            self.optimizer.build(self.predictor_variables)
            self.domain_optimizer.build(self.domain_classifier.trainable_variables)

    def get_compile_config(self) -> dict[str, Any]:
        names = ("optimizer", "domain_optimizer") if self.alternating else ("optimizer",)
        return {
            name: keras.saving.serialize_keras_object(getattr(self, name))
            for name in names
            if getattr(self, name, None) is not None
        }

    def compile_from_config(self, config: dict[str, Any]) -> None:
        parts = {name: keras.saving.deserialize_keras_object(part) for name, part in config.items()}
        self.compile(**parts)
        if not self.alternating:
            self.optimizer.build(self.trainable_variables)

    @property
    def predictor_variables(self) -> list[keras.Variable]:
        """The trainable weights of the feature extractor and the label predictor."""
        parts = (self.feature_extractor, self.label_predictor)
        return [weight for part in parts for weight in part.trainable_variables]

    def extract(self, images: tf.Tensor) -> tf.Tensor:
        """Returns the features of a training batch; each image passes the extractor once."""
        if self.augmentation is not None:
            images = self.augmentation(images, step=self.optimizer.iterations)
        if self.extractor_calls == "joint":
            return self.feature_extractor(images, training=True)
        blocks = tf.split(images, self.num_domains)
        return tf.concat([self.feature_extractor(block, training=True) for block in blocks], 0)

    def train_step(self, batch: Batch) -> dict[str, tf.Tensor]:
        """One step on one batch: descends the label loss, and the domain loss in a tug of war."""
        images, labels, domains = batch
        self.check(labels, domains)
        grl_lambda = self.grl_lambda
        if callable(grl_lambda):
            grl_lambda = grl_lambda(self.optimizer.iterations)
        if self.average:
            self.average.update()  # first, so that it begins at weights that were loaded
        with tf.GradientTape() as tape:
            features = self.extract(images)
            label_logits = self.label_predictor(features, training=True)
            if self.alternating:
                with tape.stop_recording():
                    self.step_domain_classifier(features, domains)
            domain_logits = self.classify_domains(
                self.gradient_reversal(features, grl_lambda=grl_lambda), training=True
            )
            loss = self.measure(label_logits, labels, domain_logits, domains)
            loss += self.unlabelled_loss(images, labels, label_logits)
            loss += tf.add_n(self.losses) / replicas() if self.losses else 0.0
        weights = self.predictor_variables if self.alternating else self.trainable_variables
        self.descend(self.optimizer, tape.gradient(loss, weights), weights)
        return self.get_metrics_result()

    def step_domain_classifier(self, features: tf.Tensor, domains: tf.Tensor) -> None:
        """The first of two alternating steps: the domain classifier alone descends its loss."""
        weights = self.domain_classifier.trainable_variables
        with tf.GradientTape() as tape:
            losses = cross_entropy(domains, self.classify_domains(features, training=True))
            loss = mean_share(losses, tf.ones_like(losses))
        self.descend(self.domain_optimizer, tape.gradient(loss, weights), weights)

    def descend(
        self, optimizer: keras.Optimizer, gradients: list[tf.Tensor], weights: list[keras.Variable]
    ) -> None:
        if self.clip_norm:
            gradients = clip_together(gradients, self.clip_norm)
        optimizer.apply(gradients, weights)

    def classify_domains(self, features: tf.Tensor, training: bool) -> tf.Tensor:
        """Returns a logit for each domain; a single one of two domains tells the second's."""
        logits = self.domain_classifier(features, training=training)
        return tf.concat([tf.zeros_like(logits), logits], -1) if logits.shape[-1] == 1 else logits

    def check(self, labels: tf.Tensor, domains: tf.Tensor) -> None:
        """Raises `tf.errors.InvalidArgumentError` for a class or a domain that does not exist."""
        num_labels = self.label_predictor.output_shape[-1]
        for name, values, lowest, end in (
            ("labels", labels, UNLABELLED, num_labels),
            ("domains", domains, 0, self.num_domains),
        ):
            message = f"{name} must be in {lowest}..{end - 1}"
            tf.debugging.assert_greater_equal(values, tf.cast(lowest, values.dtype), message)
            tf.debugging.assert_less(values, tf.cast(end, values.dtype), message)

    def averaged(self) -> AbstractContextManager[None]:
        """Inside, the model predicts with the average of its weights, if it keeps one."""
        return self.average.in_place() if self.average else nullcontext()

    def unlabelled_loss(
        self, images: tf.Tensor, labels: tf.Tensor, label_logits: tf.Tensor
    ) -> tf.Tensor | float:
        """Returns this replica's share of what else unlabelled images teach: in DANN, nothing."""
        return 0.0

    def test_step(self, batch: Batch) -> dict[str, tf.Tensor]:
        """Measures one batch; changes nothing but the metrics."""
        images, labels, domains = batch
        features = self.feature_extractor(images, training=False)
        label_logits = self.label_predictor(features, training=False)
        domain_logits = self.classify_domains(features, training=False)
        self.measure(label_logits, labels, domain_logits, domains)
        return self.get_metrics_result()

    def measure(
        self,
        label_logits: tf.Tensor,
        labels: tf.Tensor,
        domain_logits: tf.Tensor,
        domains: tf.Tensor,
    ) -> tf.Tensor:
        """Updates the metrics and returns this replica's share of the batch's loss.

        The label loss is the mean over the labelled images, the domain loss the mean over all,
        both of the whole batch across replicas: the shares add up to their sum.
        """
        labelled = tf.cast(labels != UNLABELLED, tf.float32)
        known = tf.maximum(labels, 0)  # any class will do where the weight is 0
        label_losses = cross_entropy(known, label_logits)
        domain_losses = cross_entropy(domains, domain_logits)
        self.label_loss.update_state(label_losses, labelled)
        self.domain_loss.update_state(domain_losses)
        self.label_accuracy.update_state(is_correct(known, label_logits), labelled)
        self.domain_accuracy.update_state(is_correct(domains, domain_logits))
        return mean_share(label_losses, labelled) + mean_share(
            domain_losses, tf.ones_like(domain_losses)
        )

    def get_metrics_result(self) -> dict[str, tf.Tensor]:
        """Returns `loss`, the sum of the two losses, and the four metrics since the last reset."""
        label_loss, domain_loss = self.label_loss.result(), self.domain_loss.result()
        return {
            "loss": label_loss + domain_loss,
            "image_cls_loss": label_loss,
            "domain_cls_loss": domain_loss,
            "image_cls_acc": self.label_accuracy.result(),
            "domain_cls_acc": self.domain_accuracy.result(),
        }

    def get_config(self) -> dict[str, Any]:
        parts = (
            "feature_extractor",
            "label_predictor",
            "domain_classifier",
            "grl_lambda",
            "augmentation",
        )
        return {
            **super().get_config(),
            **{part: keras.saving.serialize_keras_object(getattr(self, part)) for part in parts},
            "num_domains": self.num_domains,
            "extractor_calls": self.extractor_calls,
            "pooling": "none",  # the extractor that is saved has it
            "alternating": self.alternating,
            "clip_norm": self.clip_norm,
            "average_decay": self.average_decay,
            "class_names": self.class_names,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> DANN:
        return cls(**with_parts(config, custom_objects))


def with_parts(config: dict[str, Any], custom_objects: Any) -> dict[str, Any]:
    """Returns a model's settings, in which those that describe networks are made networks."""
    parts = {
        key: keras.saving.deserialize_keras_object(value, custom_objects=custom_objects)
        for key, value in config.items()
        if isinstance(value, dict) and key != "dtype"
    }
    return {**config, **parts}


def with_flat_features(
    model: keras.Model, layer: str | None, pooling: Literal["flatten", "average", "none"]
) -> keras.Model:
    """Returns a model whose output is the output of `layer`, flattened or pooled to `[B, F]`.

    Raises:
        ValueError: no such layer, no such pooling, or a feature of unknown size.
    """
    if pooling not in ("flatten", "average", "none"):
        raise ValueError(f"pooling must be flatten, average or none, got {pooling!r}")
    if not getattr(model, "outputs", None):
        raise ValueError(
            f"{model.name} has no fixed inputs and outputs; wrap it: "
            "inputs = keras.Input(shape); keras.Model(inputs, model(inputs))"
        )
    last = outputs = model.outputs[0]
    if layer is not None:
        names = [each.name for each in model.layers]
        if layer not in names:
            near = difflib.get_close_matches(layer, names, cutoff=0.3) or names
            raise ValueError(f"feature_layer: no layer {layer!r}; there are {', '.join(near)}")
        outputs = model.get_layer(layer).output
    places = len(outputs.shape) - 2
    if pooling == "average" and places > 0:
        outputs = keras.ops.mean(outputs, axis=list(range(1, places + 1)))
    elif pooling == "flatten" and places > 0:
        if None in outputs.shape[1:]:
            raise ValueError(
                f"the feature's shape {outputs.shape} has an unknown size; give the extractor's "
                'input a full shape, or choose pooling="average"'
            )
        outputs = keras.layers.Flatten(name="features")(outputs)
    if outputs is last:
        return model
    inputs = model.inputs if len(model.inputs) > 1 else model.inputs[0]
    return keras.Model(inputs, outputs, name=model.name)


def cross_entropy(classes: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Returns -log softmax(logits)[class] of each example: float32 `[B]`."""
    return tf.nn.sparse_softmax_cross_entropy_with_logits(classes, logits)


def is_correct(classes: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Returns 1 where the largest logit is the class's, else 0: float32 `[B]`."""
    right = tf.equal(tf.argmax(logits, -1, tf.int32), tf.cast(classes, tf.int32))
    return tf.cast(right, tf.float32)


def mean_share(values: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
    """Returns this replica's share of the weighted mean over all replicas; 0 without weight."""
    context = tf.distribute.get_replica_context()
    total = context.all_reduce(tf.distribute.ReduceOp.SUM, tf.reduce_sum(weights))
    return tf.math.divide_no_nan(tf.reduce_sum(values * weights), total)


def clip_together(gradients: list[tf.Tensor], norm: float) -> list[tf.Tensor]:
    """Returns this replica's shares of the gradient, shortened to `norm` where it is longer.

    The length is that of the sum over replicas, so that it does not depend on their number.
    """
    context = tf.distribute.get_replica_context()
    length = tf.linalg.global_norm(context.all_reduce(tf.distribute.ReduceOp.SUM, gradients))
    return [
        gradient * tf.math.divide_no_nan(norm, tf.maximum(length, norm)) for gradient in gradients
    ]


def replicas() -> int:
    """Returns the number of replicas that a step runs on."""
    return tf.distribute.get_strategy().num_replicas_in_sync
