"""The contract of all methods: what the Trainer trains and saves, and predict.py predicts with."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, ClassVar

import keras
import tensorflow as tf

from config.base import TrainingConfig
from model.augmentation import RandomAugmentation
from model.averaging import WeightAverage
from model.losses import assert_below, clip_together, is_correct, label_losses, steps_taken
from model.networks import check_fixed, check_head, in_float32, inputs_of, renew_constants
from model.normalisation import DomainNormalization, as_domain, domain_normalizations
from model.schedules import ProgressSchedule, rate_schedule
from utils.data import UNLABELLED
from utils.errors import UserError

Scaled = keras.optimizers.LossScaleOptimizer
Batch = tuple[tf.Tensor, tf.Tensor, tf.Tensor]  # images, labels, domains


AVERAGE = "averaged_"  # what the names of averaged weights in a file begin with
FORM = (
    "a batch must be (images, labels, domains): labels int32 [B] with -1 = unlabelled, domains "
    "int32 [B] with 0 = source, such as those of "
    "tf.data.Dataset.from_tensor_slices((images, labels, domains)).batch(64)"
)


class Adaptation(keras.Model):
    """A feature extractor, a label predictor, and what a method puts beside them.

    A method says what a step does (`train_step`) and which weights each of its optimizers trains
    (`weights_of`). The rest is here: compiling, saving, averaged weights, metrics, prediction.

    Args:
        feature_extractor: a Keras model from images to features.
        label_predictor: a Keras model from features to logits, `[B, num_labels]`, or
            `[B, n, num_labels]` for n positions, such as the characters of a captcha. Each
            position counts the same in the loss and in `image_cls_acc`.
        clip_norm: largest norm of all gradients together; longer ones are shortened. 0: no limit.
        augmentation: what is done to the images of a training batch; None: nothing.
        average_decay: above 0 keeps a `WeightAverage` of what predicts, at this decay; inside
            `averaged()` the model predicts with it.
        class_names: for people, in the order of the classes.

    Call arguments:
        images: `[B, H, W, C]`, pixel values in [0, 255].
        training: whether dropout and batch normalisation are in training mode. A network with
            `DomainNormalization` must be told the domain then (`as_domain`).

    Output shape: `[B, num_labels]` or `[B, n, num_labels]`, float32 probabilities.

    Training batches are tuples `(images, labels, domains)`: labels int32 `[B]` or `[B, n]` with
    -1 = unlabelled, domains int32 `[B]`, 0 = source.

    Raises:
        ValueError: networks that do not fit together, a head that gives probabilities, or a number
            out of its range.
    """

    # The arguments of which a saved model is made again: Keras objects and plain values.
    parts: ClassVar[tuple[str, ...]] = ("feature_extractor", "label_predictor", "augmentation")
    knobs: ClassVar[tuple[str, ...]] = ("clip_norm", "average_decay", "class_names")
    domain_classifier: keras.Model | None = None  # a method may have one
    source_alone: ClassVar[bool] = False  # whether its training batches have source images only

    def __init__(
        self,
        feature_extractor: keras.Model,
        label_predictor: keras.Model,
        clip_norm: float = 0.0,
        augmentation: RandomAugmentation | None = None,
        average_decay: float = 0.0,
        class_names: Sequence[str] | None = None,
        **model_options: Any,
    ):
        # Inputs keep their precision: the extractor casts them where it is told to, as in training.
        super().__init__(autocast=False, **model_options)
        check_fixed(feature_extractor, "feature_extractor")
        check_head(label_predictor, "label_predictor", feature_extractor.output_shape[1:])
        if not (math.isfinite(clip_norm) and clip_norm >= 0):
            raise ValueError(f"clip_norm must be a number >= 0, got {clip_norm}")
        if not 0 <= average_decay < 1:
            raise ValueError(f"average_decay must be in [0, 1), got {average_decay}")
        seen = feature_extractor.input_shape
        is_image = len(feature_extractor.inputs) == 1 and len(seen) == 4 and None not in seen[1:]
        if augmentation is not None and not is_image:
            raise ValueError(
                "augmentation: needs a feature_extractor with one input, images of a fixed size, "
                f"but it takes {seen}; augment in the dataset instead"
            )
        if not (augmentation is None or isinstance(augmentation, RandomAugmentation)):
            raise ValueError(
                f"augmentation must be a RandomAugmentation, got {type(augmentation).__name__}; "
                "other layers belong into the dataset or into feature_extractor"
            )
        if len(label_predictor.output_shape) > 3:
            raise ValueError(
                "label_predictor must give logits [B, num_labels] or [B, n, num_labels], got "
                f"{label_predictor.output_shape}"
            )
        num_labels = label_predictor.output_shape[-1]
        if num_labels < 2:
            raise ValueError(f"label_predictor must give 2 logits or more, got {num_labels}")
        if class_names is not None and len(class_names) != num_labels:
            raise ValueError(
                f"class_names must be {num_labels}, as many as label_predictor has logits, got "
                f"{len(class_names)}"
            )
        names = None if class_names is None else [str(name) for name in class_names]
        if names is not None and len({*names}) < len(names):
            raise ValueError(f"class_names must differ, got {names}")
        self.feature_extractor = feature_extractor
        self.label_predictor = label_predictor
        self.clip_norm = clip_norm
        self.augmentation = augmentation
        self.average_decay = float(average_decay)
        self.class_names = names
        self.average: WeightAverage | None = None
        self.meters = {name: keras.metrics.Mean(name) for name in self.metric_names}
        self.traced = ""
        self.keep_average()
        self.built = True  # its parts are built already

    def classes(self) -> list[str]:
        """Returns the names of the classes; their numbers, if they have none."""
        return self.class_names or [str(n) for n in range(self.label_predictor.output_shape[-1])]

    @property
    def predictor_variables(self) -> list[keras.Variable]:
        """The trainable weights of what predicts."""
        parts = (self.feature_extractor, self.label_predictor)
        return [weight for part in parts for weight in part.trainable_variables]

    @property
    def predictor_weights(self) -> list[keras.Variable]:
        """All weights of what predicts, in an order that does not depend on which are frozen."""
        return [*self.feature_extractor.weights, *self.label_predictor.weights]

    def weights_of(self) -> dict[str, list[keras.Variable]]:
        """Returns the weights that each optimizer trains, by the optimizer's name in `compile`."""
        return {"optimizer": self.trainable_variables}

    # A method and no property: Keras would save what a property holds a second time.
    def predictors(self) -> list[tuple[keras.Model, keras.Model]]:
        """Returns each pair of networks that predicts; what predicts for targets is the last."""
        return [(self.feature_extractor, self.label_predictor)]

    def adversary(self) -> list[keras.Variable]:
        """Returns the weights of what tells domains apart."""
        return self.domain_classifier.weights if self.domain_classifier else []

    @classmethod
    def schedules(cls, settings: TrainingConfig, total_steps: int) -> dict[str, ProgressSchedule]:
        """Returns what changes over a run, such as `learning_rate`, by its name."""
        return {"learning_rate": rate_schedule(total_steps, settings.init_learning_rate, settings)}

    @classmethod
    def optimizers_for(
        cls,
        settings: TrainingConfig,
        total_steps: int,
        make: Callable[[ProgressSchedule], keras.Optimizer],
    ) -> dict[str, keras.Optimizer]:
        """Returns the arguments of `compile` for a run.

        Args:
            settings: of the run.
            total_steps: of the run.
            make: makes the script's optimizer from a schedule.
        """
        return {"optimizer": make(cls.schedules(settings, total_steps)["learning_rate"])}

    def keep_average(self) -> None:
        """Keeps an average of what predicts, if one is asked for.

        It begins anew if other weights train now, because a backbone is no longer frozen.
        """
        if not self.average_decay:
            self.average = None
            return
        moving = [weight for norm in self.norms() for weight in norm.non_trainable_variables]
        weights = [*self.predictor_variables, *moving]
        if self.average is None or not self.average.is_of(weights):
            self.average = WeightAverage(weights, self.average_decay)
        self.average.decay = self.average_decay

    def averaged(self) -> AbstractContextManager[None]:
        """Inside, the model predicts with the average of its weights, if it keeps one."""
        if self.average and self.average.begun:
            return self.average.in_place()
        return nullcontext()

    def call(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        features = self.feature_extractor(images, training=training)
        return tf.nn.softmax(self.label_predictor(features, training=training))

    def norms(self) -> list[DomainNormalization]:
        """Returns the layers of the feature extractor that must know the domain."""
        return domain_normalizations(self.feature_extractor)

    @property
    def encodes_by_domain(self) -> bool:
        """Whether source and target images do not pass the same layers."""
        return bool(self.norms())

    def encode_as(self, images: tf.Tensor, domain: int) -> tf.Tensor:
        """Returns the features `[B, ...]` of images of the source, or of a target."""
        with as_domain(self.norms(), domain):
            return self.feature_extractor(images, training=False)

    def encode(self, images: tf.Tensor, domains: tf.Tensor) -> tf.Tensor:
        """Returns the features `[B, ...]` of images of any domains."""
        if not self.encodes_by_domain:
            return self.feature_extractor(images, training=False)
        sides = tf.cast(domains > 0, tf.int32)
        places = tf.dynamic_partition(tf.range(tf.size(domains)), sides, 2)

        def some(rows: tf.Tensor) -> Any:
            return tf.nest.map_structure(lambda one: tf.gather(one, rows), images)

        # There may be no image of a side, and convolutions refuse that.
        parts = [
            tf.cond(
                tf.size(rows) > 0,
                lambda rows=rows, side=side: self.encode_as(some(rows), side),
                lambda side=side: self.encode_as(some(tf.range(1)), side)[:0],
            )
            for side, rows in enumerate(places)
        ]
        return tf.dynamic_stitch(places, parts)

    def compile(self, optimizer: str | keras.Optimizer = "sgd", **options: Any) -> None:
        """Sets the optimizers. Losses and metrics are the method's own.

        Args:
            optimizer: of the weights that `weights_of` names for it.
            options: each further optimizer by its name there, by default one with the settings of
                `optimizer`; and Keras' own, such as `run_eagerly`.

        Raises:
            ValueError: losses or metrics are given, one optimizer is given twice, it accumulates
                gradients, or it is one of several and has `use_ema`.
            UserError: `jit_compile` with an augmentation.
        """
        for name in ("loss", "metrics", "weighted_metrics", "loss_weights"):
            if options.get(name) is not None:
                raise ValueError(f"{name}: {type(self).__name__} has its own; leave it out")
        options.setdefault("jit_compile", False)  # XLA would leave out the checks of batches
        if options["jit_compile"] is True and self.augmentation:
            raise UserError("jit_compile: XLA cannot change images; leave it out, or augmentation, "
                            "cutout, invert")  # fmt: skip
        names = [name for name in self.weights_of() if name != "optimizer"]
        others = {name: options.pop(name, None) for name in names}
        for name, other in others.items():
            if other is optimizer and not isinstance(other, str):
                raise ValueError(f"{name}: optimizer has other weights; give it one of its own")
        super().compile(optimizer=optimizer, **options)
        self.keep_average()
        for name, other in others.items():
            copy = type(self.optimizer).from_config(self.optimizer.get_config())
            chosen = keras.optimizers.get(other or copy)
            if isinstance(self.optimizer, Scaled) and not isinstance(chosen, Scaled):
                chosen = Scaled(chosen)  # as Keras does with `optimizer` under mixed_float16
            setattr(self, name, chosen)
        for name, weights in self.weights_of().items():
            getattr(self, name).build(weights)
        for one in self.optimizers():
            inner = getattr(one, "inner_optimizer", one)
            if inner.gradient_accumulation_steps:
                raise ValueError(
                    "gradient_accumulation_steps: schedules and random changes go by the steps of "
                    "the optimizer; use larger batches"
                )
            if inner.use_ema and others:
                raise ValueError(
                    "use_ema: Keras averages the weights of one optimizer alone; use average_decay"
                )

    def optimizers(self) -> list[keras.Optimizer]:
        """Every optimizer, for checkpoints."""
        return [getattr(self, name) for name in self.weights_of()]

    def save_own_variables(self, store: Any) -> None:
        """Keras calls this for what no layer holds; here the averaged weights, once there are."""
        super().save_own_variables(store)
        if self.average and self.average.begun:
            store[f"{AVERAGE}steps"] = self.average.steps.numpy()
            for place, weight in enumerate(self.predictor_weights):
                if self.average.of(weight) is not weight:
                    store[f"{AVERAGE}{place}"] = self.average.of(weight).numpy()

    def load_own_variables(self, store: Any) -> None:
        self.refuse_inside_averaged()
        names = list(store.keys())
        super().load_own_variables(
            {name: store[name] for name in names if not name.startswith(AVERAGE)}
        )
        if self.average and f"{AVERAGE}steps" in names:
            averaged = [(weight, store[f"{AVERAGE}{place}"])
                        for place, weight in enumerate(self.predictor_weights)
                        if f"{AVERAGE}{place}" in names]  # fmt: skip
            # The average is of the weights in the file, also of those that are frozen now.
            weights = [weight for weight, _ in averaged]
            if not self.average.is_of(weights):
                self.average = WeightAverage(weights, self.average_decay)
                self.traced = ""  # the compiled step moves the average before
            self.average.steps.assign(store[f"{AVERAGE}steps"])
            for weight, value in averaged:
                self.average.of(weight).assign(value)
        else:
            self.forget_average()

    def set_weights(self, weights: list[Any]) -> None:
        self.refuse_inside_averaged()
        super().set_weights(weights)
        renew_constants(self)
        self.forget_average()

    def quantize(self, *mode: Any, **options: Any) -> None:
        """Quantizes the weights. The averages replace them first, if the model keeps any."""
        if self.average and self.average.begun:
            for weight, value in zip(self.average.weights, self.average.values, strict=True):
                weight.assign(value)
        self.average = None
        super().quantize(*mode, **options)

    def forget_average(self) -> None:
        """Begins the average anew, if there is one, at weights that were given to the model."""
        if self.average:
            self.average.steps.assign(0)

    @contextmanager
    def without_optimizers(self) -> Iterator[None]:
        """What is saved inside has no optimizer: with Adam a third of the size is left."""
        kept = {name: getattr(self, name) for name in self.weights_of()}
        for name in kept:
            setattr(self, name, None)
        try:
            yield
        finally:
            for name, optimizer in kept.items():
                setattr(self, name, optimizer)

    def get_compile_config(self) -> dict[str, Any] | None:
        return {
            name: keras.saving.serialize_keras_object(getattr(self, name))
            for name in self.weights_of()
            if getattr(self, name, None) is not None
        } or None

    def compile_from_config(self, config: dict[str, Any]) -> None:
        parts = {name: keras.saving.deserialize_keras_object(part) for name, part in config.items()}
        self.compile(**parts)

    def augment(self, images: tf.Tensor) -> tf.Tensor:
        """Returns images `[B, …]` of a training batch as this step's augmentation makes them."""
        if self.augmentation is None:
            return images
        return self.augmentation(images, step=steps_taken(self.optimizer))

    def layer_losses(self) -> tf.Tensor | float:
        """Returns this replica's share of what layers add to the loss, such as weight decay."""
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        return tf.add_n(self.losses) / replicas if self.losses else 0.0

    def descend(
        self,
        optimizer: keras.Optimizer,
        tape: tf.GradientTape,
        loss: tf.Tensor,
        weights: list[keras.Variable],
    ) -> None:
        """Takes one step down this replica's share of a loss.

        Under `mixed_float16` the optimizer scales gradients up, so that small ones do not vanish
        in float16, and down again before it applies them.
        """
        scale = optimizer.scale_loss(tf.ones_like(loss))
        gradients = tape.gradient(loss, weights, output_gradients=scale)
        if self.clip_norm:
            gradients = clip_together(gradients, self.clip_norm * scale)
        optimizer.apply(gradients, weights)

    def fit(self, *data: Any, class_weight: Any = None, **options: Any) -> Any:
        """Trains on batches `(images, labels, domains)`, as `keras.Model.fit` does.

        Raises:
            ValueError: batches of another form, or `class_weight`.
            RuntimeError: inside `averaged()`, which puts the weights back when it ends.
        """
        if class_weight is not None:
            raise ValueError("class_weight: is not used; repeat the images of rare classes instead")
        check_alone(data, options)
        return super().fit(*data, **options)

    def evaluate(self, *data: Any, **options: Any) -> Any:
        """Measures batches `(images, labels, domains)`, as `keras.Model.evaluate` does."""
        check_alone(data, options)
        return super().evaluate(*data, **options)

    def refuse_inside_averaged(self) -> None:
        """Raises `RuntimeError` where weights that are set would be lost."""
        placed = WeightAverage.in_model
        if placed and any(id(weight) in placed for weight in self.predictor_weights):
            raise RuntimeError(
                "averaged(): gives the weights back when it ends; train and set weights outside"
            )

    def make_train_function(self, force: bool = False) -> Any:
        """Makes the function that `fit` calls, anew if a setting was changed since the last."""
        self.refuse_inside_averaged()
        parts = {name: getattr(self, name) for name in self.parts}
        if isinstance(parts.get("grl_lambda"), float):  # a variable holds it
            del parts["grl_lambda"]
        values = [part if isinstance(part, float) else id(part) for part in parts.values()]
        settings = repr([*values, *(getattr(self, name) for name in self.knobs)])
        if settings != self.traced:
            self.keep_average()
        function = super().make_train_function(force or settings != self.traced)
        self.traced = settings
        return function

    def checked(self, batch: Any) -> Batch:
        """Returns a batch, or raises `ValueError` if it has another form."""
        if not isinstance(batch, (tuple, list)) or len(batch) != 3:
            parts = isinstance(batch, (tuple, list))
            raise ValueError(f"{FORM}; got {f'{len(batch)} parts' if parts else type(batch)}")
        images, labels, domains = batch
        positions = self.label_predictor.output_shape[1:-1]
        for name, values, shape in (("labels", labels, positions), ("domains", domains, ())):
            kind = tf.as_dtype(values.dtype) if hasattr(values, "dtype") else None
            found = tf.TensorShape(getattr(values, "shape", None))
            fits = found.rank == 1 + len(shape) and found[1:].is_compatible_with(shape)
            if kind is None or not kind.is_integer or not fits:
                what = f"type {kind.name} and shape {values.shape}" if kind else repr(values)
                raise ValueError(f"{FORM}; got {name} of {what}")
        return images, tf.cast(labels, tf.int32), tf.cast(domains, tf.int32)

    def verified(self, batch: Any) -> Batch:
        """Returns a training batch; in a graph, its `assertions` come before any weight moves."""
        images, labels, domains = self.checked(batch)
        with tf.control_dependencies(self.assertions(labels, domains)):
            return tf.nest.map_structure(tf.identity, (images, labels, domains))

    def assertions(self, labels: tf.Tensor, domains: tf.Tensor) -> list[Any]:
        """Raises `tf.errors.InvalidArgumentError` for a batch that the method cannot learn from.

        Returns:
            in a graph, the operations that do so; else Nones.
        """
        return self.in_range(labels, domains)

    def in_range(self, labels: tf.Tensor, domains: tf.Tensor) -> list[Any]:
        """Raises `InvalidArgumentError` for a class or a domain that does not exist.

        Returns:
            what `assertions` returns.
        """
        del domains  # a method without a domain classifier takes any
        return assert_below(labels, UNLABELLED, self.label_predictor.output_shape[-1], "labels")

    def export(self, filepath: str | Path, format: str = "tf_saved_model", **options: Any) -> Any:
        """Writes what `predict` does as a SavedModel, or as ONNX.

        ONNX computes in float32, whatever the model was trained in. It needs the packages onnx and
        tf2onnx.

        Args:
            filepath: where to.
            format: `"tf_saved_model"`, `"onnx"`, or what else `keras.Model.export` knows.
            options: of `keras.Model.export`.
        """
        images = keras.tree.map_structure(
            lambda one: keras.Input(batch_shape=one.shape, dtype=one.dtype, name=one.name),
            inputs_of(self.feature_extractor),
        )
        logits = self.label_predictor(self.feature_extractor(images))
        network = keras.Model(images, keras.layers.Softmax(dtype="float32")(logits))
        if format == "onnx":  # whose converter mistakes bfloat16 for float16
            network = in_float32(network)
        network(images)  # Keras exports no model that was never called
        return network.export(filepath, format=format, **options)

    def test_step(self, batch: Batch) -> dict[str, tf.Tensor]:
        """Measures one batch; changes nothing but the metrics."""
        images, labels, domains = self.checked(batch)
        with tf.control_dependencies(self.in_range(labels, domains)):
            self.examine((images, tf.identity(labels), tf.identity(domains)))
        return self.get_metrics_result()

    def examine(self, batch: Batch) -> tuple[tf.Tensor, tf.Tensor]:
        """Measures one batch; returns its features `[B, ...]` and class probabilities."""
        images, labels, domains = batch
        features = self.encode(images, domains)
        label_logits = self.label_predictor(features, training=False)
        self.measure_labels(label_logits, labels)
        self.measure_features(features, label_logits, domains)
        return features, tf.nn.softmax(label_logits)

    def measure_features(
        self, features: tf.Tensor, label_logits: tf.Tensor, domains: tf.Tensor
    ) -> None:
        """Updates the metrics that are not of labels; here there are none."""
        del features, label_logits, domains  # AutoGraph warns of a body that is a docstring alone

    @property
    def position_names(self) -> list[str]:
        """The metrics of strings: the accuracy of each position, and of whole strings."""
        shape = self.label_predictor.output_shape
        if len(shape) == 2:
            return []
        return [f"position{n}_acc" for n in range(1, shape[1] + 1)] + ["whole_string_acc"]

    @property
    def label_metric_names(self) -> list[str]:
        """The metrics of labels. Images without labels do not count in them."""
        return ["image_cls_loss", "image_cls_acc", *self.position_names]

    @property
    def metric_names(self) -> list[str]:
        """All metrics but `loss`, in the order of log.csv."""
        return self.label_metric_names

    def measure_labels(self, logits: tf.Tensor, labels: tf.Tensor) -> None:
        """Updates the metrics of labels."""
        losses, labelled = label_losses(logits, labels)
        right = is_correct(labels, logits)
        self.meters["image_cls_loss"].update_state(losses, labelled)
        self.meters["image_cls_acc"].update_state(right, labelled)
        for position, name in enumerate(self.position_names[:-1]):
            self.meters[name].update_state(right[:, position], labelled[:, position])
        if self.position_names:
            whole = self.meters["whole_string_acc"]
            whole.update_state(tf.reduce_min(right, 1), tf.reduce_min(labelled, 1))

    def get_metrics_result(self) -> dict[str, tf.Tensor]:
        """Returns `loss`, the sum of those of labels and domains, and the metrics since a reset.

        One is nan if nothing was measured for it, as of labels in batches without labels.
        """
        results = {name: tf.where(meter.count > 0, meter.result(), math.nan)
                   for name, meter in self.meters.items()}  # fmt: skip
        domains = self.meters.get("domain_cls_loss")
        loss = results["image_cls_loss"] + (domains.result() if domains else 0.0)
        return {"loss": loss, **results}

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            **{part: keras.saving.serialize_keras_object(getattr(self, part))
               for part in self.parts},
            **{knob: getattr(self, knob) for knob in self.knobs},
        }  # fmt: skip

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Adaptation:
        parts = {
            name: keras.saving.deserialize_keras_object(config[name], custom_objects=custom_objects)
            for name in cls.parts
            if isinstance(config.get(name), dict)
        }
        return cls(**{**config, **parts})


def check_alone(data: Sequence[Any], options: Mapping[str, Any]) -> None:
    """Raises `ValueError` if arrays are given in the place of a dataset."""
    named = [name for name in ("y", "sample_weight") if options.get(name) is not None]
    if len(data) > 1 or named:
        raise ValueError(f"{FORM}; got {', '.join(named) or f'{len(data)} arguments'}")
