"""The networks of each experiment: feature extractor, label predictor, domain classifier.

Heads return logits; `Adaptation` applies the softmax for the user. Head outputs are float32
whatever the precision of the rest, since a softmax over half-precision logits loses classes.
"""

from __future__ import annotations

import difflib
import math
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import keras
import numpy as np
from keras import layers

from config.base import SCALE_THEMSELVES, Features, Network
from model.normalisation import DomainNormalization
from utils.errors import UserError, damage_named

Shape = tuple[int, ...]
# Filters and kernel size of each convolution, and whether pooling follows. 3 x 3 keeps the size.
CONVOLUTIONS = {
    "paper": ((32, 5, True), (48, 5, True)),
    "wide": ((32, 5, True), (64, 3, False), (64, 3, True), (128, 3, False), (128, 3, True)),
}
DRAWING_FILTERS = (64, 128, 256, 256, 512)
CAPTCHA_MAP = (22, 22, 64)  # what the captcha encoder makes of 100 × 100 pixels
PROBES = 64  # random features: so many that raw logits do not look like probabilities by chance
PLACES = 8  # of a random feature whose size is not fixed


def mnist_feature_extractor(
    image_shape: tuple[int, int, int],
    pixel_mean: Sequence[float],
    network: Network = "paper",
    normalised: int = 0,
) -> keras.Model:
    """Feature extractor of the paper's MNIST network, ICML 2015, figure 4 (a), or a wider one.

    Pooling comes before the ReLU. The result is the same, and the ReLU then works on a quarter of
    the values. The pixel mean is part of the first layer, so a saved model needs no side file.

    Args:
        image_shape: (height, width, channels), e.g. (28, 28, 3).
        pixel_mean: mean of each channel in [0, 255], subtracted before dividing by 255.
        network: `"paper"`, or `"wide"`: five convolutions with more filters.
        normalised: `sides` of a `DomainNormalization` before each ReLU; 0: there is none.

    Input shape: `[B, 28, 28, 3]`, uint8 or float pixel values in [0, 255].
    Output shape: `[B, 768]`; of the wide one `[B, 1152]`.
    """
    blocks: list[layers.Layer] = []
    for number, (filters, size, pooled) in enumerate(CONVOLUTIONS[network], 1):
        padding = "valid" if size == 5 else "same"
        blocks += [
            layers.Conv2D(filters, size, padding=padding, name=f"conv{number}"),
            *([layers.MaxPooling2D(2, name=f"pool{number}")] if pooled else []),
            *([DomainNormalization(sides=normalised, name=f"norm{number}")] if normalised else []),
            layers.ReLU(name=f"relu{number}"),
        ]
    offset = [-mean / 255 for mean in pixel_mean]
    return keras.Sequential(
        [keras.Input(image_shape, name="image"),
         layers.Rescaling(1 / 255, offset=offset, name="normalisation"),
         *blocks, layers.Flatten(name="features")],
        name="feature_extractor",
    )  # fmt: skip


def backbone(
    name: str,
    image_shape: tuple[int, int, int],
    pixel_mean: Sequence[float],
    weights: str | None = None,
    frozen: bool = False,
) -> keras.Model:
    """The paper's MNIST network, or a model of keras.applications.

    Images are rescaled by `pixel_mean` and 255. A trained model gets its own `preprocess_input`
    instead. One of `SCALE_THEMSELVES` gets pixel values as they are.

    Args:
        name: `paper`, or the name of a class in `keras.applications`, e.g. `ResNet50`.
        image_shape: (height, width, channels).
        pixel_mean: mean of each channel in [0, 255], subtracted before dividing by 255.
        weights: file of the model's weights, without its top.
        frozen: whether the model keeps its weights.

    Raises:
        UserError: no such model, one that refuses the shape, or weights of another.
    """
    if name == "paper":
        return mnist_feature_extractor(image_shape, pixel_mean)
    make = getattr(keras.applications, name, None)
    if not callable(make):
        known = [each for each in dir(keras.applications) if each[0].isupper()]
        near = difflib.get_close_matches(name, known, cutoff=0.3)
        hint = f"did you mean {', '.join(near)}?" if near else f"there are {', '.join(known)}"
        raise UserError(f"backbone: no {name!r} in keras.applications; {hint}")
    if weights and name.startswith("EfficientNetB"):
        raise UserError(
            f"weights: Keras builds {name} in another way for trained weights; take another "
            "backbone, for example EfficientNetV2B0"
        )
    inputs = shown = keras.Input(image_shape, name="image")
    try:
        if weights:
            shown = preprocessing(make)(inputs)
        elif not name.startswith(SCALE_THEMSELVES):
            shown = layers.Rescaling(1 / 255, offset=[-mean / 255 for mean in pixel_mean])(inputs)
        network = make(
            include_top=False, weights=None, input_shape=image_shape, input_tensor=shown
        )  # fmt: skip
    except ValueError as error:
        raise UserError(
            f"backbone: {name} refuses images of {image_shape} ({error}); name another "
            "--image_size, --channels 3, or another backbone"
        ) from error
    if weights:
        trained = make(include_top=False, weights=None, input_shape=image_shape)
        with damage_named(Path(weights), f"name weights of {name}"), warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # tells of weights that are passed over
            trained.load_weights(weights)
        _, *rest = [layer for layer in network.layers if layer.weights]
        kept = [layer for layer in trained.layers if layer.weights]
        for layer, other in zip(rest, kept, strict=True):
            layer.set_weights(other.get_weights())
    network.trainable = not frozen
    return keras.Model(inputs, network.output, name="feature_extractor")


def preprocessing(model: Callable[..., keras.Model]) -> keras.layers.Layer:
    """Returns a keras.applications model's `preprocess_input`, an affine map of RGB, as a layer."""
    preprocess = sys.modules[model.__module__].preprocess_input
    colours = np.concatenate([np.zeros((1, 3)), 255 * np.eye(3)]).astype(np.float32)
    zero, *ends = preprocess(colours.reshape(4, 1, 1, 3).copy()).reshape(4, 3)
    layer = layers.Conv2D(3, 1, trainable=False, name="preprocessing")
    layer.build((None, None, None, 3))
    layer.set_weights([(np.stack(ends) - zero)[None, None] / 255, zero])
    return layer


def dense_head(
    name: str,
    feature_shape: Sequence[int],
    hidden: Sequence[int],
    outputs: int,
    dropout: float = 0.0,
) -> keras.Model:
    """Dense layers with ReLU, then logits.

    The paper's MNIST heads (figure 4 a) are `hidden=(100, 100)` for labels and `(100,)` for
    domains, without dropout.

    Args:
        name: of the model.
        feature_shape: shape of one feature.
        hidden: units of each hidden layer.
        outputs: number of logits.
        dropout: share of each hidden layer's inputs that is left out in training.

    Input shape: `[B, *feature_shape]`. Output shape: `[B, outputs]`, float32 logits.
    """
    stack = []
    for number, units in enumerate(hidden, 1):
        if dropout:
            stack.append(layers.Dropout(dropout, name=f"dropout{number}"))
        stack.append(layers.Dense(units, activation="relu", name=f"dense{number}"))
    logits = layers.Dense(int(outputs), dtype="float32", name="logits")
    return keras.Sequential(
        [keras.Input(feature_shape, name="features"), *stack, logits], name=name
    )


def drawings_feature_extractor(image_shape: tuple[int, int, int]) -> keras.Model:
    """Feature extractor of the photos → drawings homework: VGG-like, 64-128-256-256-512.

    Its batch normalisation has PyTorch's constants, as the homework's has.

    Input shape: `[B, 32, 32, 1]`, uint8 or float pixel values in [0, 255].
    Output shape: `[B, 512]`.
    """
    blocks: list[layers.Layer] = []
    for number, filters in enumerate(DRAWING_FILTERS, 1):
        blocks += [
            layers.Conv2D(filters, 3, padding="same", use_bias=False, name=f"conv{number}"),
            layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name=f"norm{number}"),
            layers.ReLU(name=f"relu{number}"),
            layers.MaxPooling2D(2, name=f"pool{number}"),  # (B, 16, 16, 64) … (B, 1, 1, 512)
        ]
    rescaling = layers.Rescaling(1 / 255, name="normalisation")
    return keras.Sequential(
        [keras.Input(image_shape, name="image"), rescaling, *blocks,
         layers.Flatten(name="features")],
        name="feature_extractor",
    )  # fmt: skip


def drawings_domain_classifier(features: Shape) -> keras.Model:
    """Domain classifier of the same homework: four times 512, then one logit, > 0 = target.

    Input shape: `[B, *features]`. Output shape: `[B, 1]`, float32 logits.
    """
    blocks: list[layers.Layer] = []
    for number in range(1, 5):
        blocks += [
            layers.Dense(512, use_bias=False, name=f"dense{number}"),
            layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name=f"norm{number}"),
            layers.ReLU(name=f"relu{number}"),
        ]
    logit = layers.Dense(1, dtype="float32", name="logit")
    return keras.Sequential(
        [keras.Input(features, name="features"), *blocks, logit], name="domain_classifier"
    )


def captcha_encoder(image_shape: tuple[int, int, int], tutorial: bool = False) -> keras.Model:
    """Encoder of the captcha experiment: two blocks of two convolutions, 32-32 and 64-64.

    Batch normalisation comes once a block, after pooling. It then has a quarter of the values, and
    a step takes half of the time. Its momentum is Keras' 0.99. With a smaller one the statistics of
    the source are noisy, and the discriminator sees this.

    Args:
        image_shape: (height, width, channels), e.g. (100, 100, 3).
        tutorial: whether batch normalisation comes after each convolution instead.

    Input shape: `[B, 100, 100, 3]`, uint8 or float pixel values in [0, 255].
    Output shape: `[B, 30976]`.
    """

    def normalised(name: str) -> list[layers.Layer]:
        return [layers.BatchNormalization(name=f"norm{name}"), layers.ReLU(name=f"relu{name}")]

    blocks: list[layers.Layer] = []
    for number, filters in enumerate((32, 64), 1):
        a, b = f"{number}a", f"{number}b"
        # The order in which layers are made decides which random numbers they get.
        if tutorial:
            first = [layers.Conv2D(filters, 3, name=f"conv{a}"), *normalised(a)]
        else:
            first = [layers.Conv2D(filters, 3, activation="relu", name=f"conv{a}")]
        second = layers.Conv2D(filters, 3, name=f"conv{b}")
        pool = layers.MaxPooling2D(2, name=f"pool{number}")  # (B, 48, 48, 32), (B, 22, 22, 64)
        last = normalised(b if tutorial else str(number))
        blocks += [*first, second, *((*last, pool) if tutorial else (pool, *last))]
        blocks.append(layers.Dropout(0.25, name=f"dropout{number}"))
    rescaling = layers.Rescaling(1 / 255, name="normalisation")
    return keras.Sequential(
        [keras.Input(image_shape, name="image"), rescaling, *blocks,
         layers.Flatten(name="features")],
        name="encoder",
    )  # fmt: skip


def captcha_discriminator(features: Shape, placewise: bool = True) -> keras.Model:
    """Discriminator of the captcha experiment: 100-100-2, at each of the 22 × 22 places.

    Its logits are the means over all places. A discriminator of all 30,976 numbers tells the styles
    apart within 40 steps, whatever the encoder does. Its gradient then does harm. Inputs without
    places, such as CDAN's products, get dense layers of the same sizes.

    Args:
        features: shape of what it sees.
        placewise: False: one dense network of all features, as in the tutorial.

    Input shape: `[B, 30976]`, or `[B, *features]`. Output shape: `[B, 2]`, float32 logits.
    """
    if not placewise or features != (math.prod(CAPTCHA_MAP),):
        return dense_head("discriminator", features, (100, 100), outputs=2)
    return keras.Sequential(
        [
            keras.Input(features, name="features"),
            layers.Reshape(CAPTCHA_MAP, name="places"),
            layers.Conv2D(100, 1, activation="relu", name="dense1"),
            layers.Conv2D(100, 1, activation="relu", name="dense2"),
            layers.Conv2D(2, 1, dtype="float32", name="logits"),
            layers.GlobalAveragePooling2D(dtype="float32", name="mean"),
        ],
        name="discriminator",
    )


def captcha_classifier(
    feature_shape: Sequence[int], positions: int, num_labels: int
) -> keras.Model:
    """Classifier of the captcha experiment: for each character its own dense layer and logits.

    Input shape: `[B, *feature_shape]`. Output shape: `[B, positions, num_labels]`, float32 logits.
    """
    features = keras.Input(feature_shape, name="features")
    logits = []
    for number in range(1, positions + 1):
        hidden = layers.Dense(128, activation="relu", name=f"dense{number}")(features)
        outputs = layers.Dense(num_labels, dtype="float32", name=f"logits{number}")(hidden)
        logits.append(layers.Reshape((1, num_labels), name=f"position{number}")(outputs))
    return keras.Model(features, layers.Concatenate(1, dtype="float32")(logits), name="classifier")


def deepened(
    extractor: keras.Model, label_predictor: keras.Sequential, features: Features
) -> tuple[keras.Model, keras.Model]:
    """Moves layers of a label predictor to the end of the extractor.

    Args:
        extractor, label_predictor: the two networks.
        features: what the extractor's features shall be: as they are; those of the last hidden
            layer; or the logits, after which nothing is left of the label predictor.

    Returns:
        The deeper extractor, and what is left of the label predictor.
    """
    if features == "convolutional":
        return extractor, label_predictor
    moved = label_predictor.layers[: -1 if features == "hidden" else None]
    left = label_predictor.layers[len(moved) :] or [layers.Identity(dtype="float32")]
    outputs = extractor.outputs[0]
    for layer in moved:
        outputs = layer(outputs)
    deeper = keras.Model(extractor.inputs[0], outputs, name=extractor.name)
    rest = [keras.Input(outputs.shape[1:], name="features"), *left]
    return deeper, keras.Sequential(rest, name=label_predictor.name)


def in_float32(model: keras.Model) -> keras.Model:
    """Returns a model that computes in float32: a copy, if this one does not."""
    layers_of_it = [
        layer for layer in model._flatten_layers() if not isinstance(layer, keras.Model)
    ]
    if all(layer.compute_dtype == "float32" for layer in layers_of_it):
        return model

    def copied(layer: keras.Layer | keras.Operation) -> keras.Layer | keras.Operation:
        if not isinstance(layer, keras.Layer):  # a function of keras.ops
            return layer
        return type(layer).from_config({**layer.get_config(), "dtype": "float32"})

    return copy_of(model, copied)


def copy_of(
    model: keras.Model,
    layer: Callable[[keras.Layer | keras.Operation], keras.Layer | keras.Operation] | None = None,
) -> keras.Model:
    """Returns a copy of a network with its weights.

    Args:
        model: the network.
        layer: makes the copy of a layer; None: as it is.
    """
    check_plain(model)
    copy = keras.models.clone_model(model, clone_function=layer, recursive=layer is not None)
    copy.set_weights(model.get_weights())
    renew_constants(copy)
    return copy


def renew_constants(model: keras.Model) -> None:
    """Makes the constants that Keras' `Normalization` computes with, after its weights were set."""
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.Normalization):
            layer.finalize_state()


def check_plain(model: keras.Model) -> None:
    """Raises `ValueError` for a subclassed model, because its layers may not be all of it."""
    check_fixed(model, "model")
    if not type(model).__module__.startswith("keras."):
        raise ValueError(
            f"{model.name} is a {type(model).__name__}, which may do more than its layers; wrap "
            "it: inputs = keras.Input(shape); keras.Model(inputs, model(inputs))"
        )


def layers_in_order(model: keras.Model) -> Iterator[keras.Layer]:
    """Yields a model's layers, and those of models in it, in the order in which they are called."""
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from layers_in_order(layer)
        else:
            yield layer


def check_fixed(model: keras.Model, name: str) -> None:
    """Raises `TypeError` for what is no Keras model, `ValueError` for one that must be called
    before it has inputs and outputs."""
    if not isinstance(model, keras.Model):
        raise TypeError(f"{name} must be a keras.Model, got {model!r}")
    if not getattr(model, "outputs", None):
        raise ValueError(
            f"{model.name} has no fixed inputs and outputs; wrap it: "
            "inputs = keras.Input(shape); keras.Model(inputs, model(inputs))"
        )


def check_head(head: keras.Model, name: str, seen: Shape) -> None:
    """Raises `ValueError` if a network is no head for this model.

    Args:
        head: takes what it sees of an image, and gives logits, in float32.
        name: of the argument.
        seen: shape of what it sees.
    """
    check_fixed(head, name)
    if len(head.outputs) > 1 or isinstance(getattr(head, "output", None), dict):
        raise ValueError(f"{name} must give one array of logits, got {head.output_shape}")
    takes = head.input_shape[1:]
    if len(takes) != len(seen) or any(None not in pair and pair[0] != pair[1]
                                      for pair in zip(takes, seen, strict=True)):  # fmt: skip
        raise ValueError(f"{name} takes {takes} of an image, but it would be given {seen}")
    if head.outputs[0].dtype in ("float16", "bfloat16"):
        raise ValueError(
            f"{name} gives logits of {head.outputs[0].dtype}, too coarse for a softmax; give its "
            'last layer dtype="float32"'
        )
    if gives_probabilities(head):
        raise ValueError(
            f"{name} must give logits, but it gives probabilities; leave softmax or sigmoid out"
        )


def gives_probabilities(head: keras.Model) -> bool:
    """Tells whether a head's outputs for random features are in [0, 1] and add up to 1."""
    shape = [size or PLACES for size in head.input_shape[1:]]
    features = np.random.default_rng(0).normal(size=(PROBES, *shape)).astype(np.float32)
    outputs = np.asarray(head(features, training=False), np.float64)
    inside = outputs.min() >= 0 and outputs.max() <= 1 and np.ptp(outputs) > 0
    return bool(inside and (outputs.shape[-1] == 1 or np.allclose(outputs.sum(-1), 1, atol=0.01)))


def with_flat_features(
    model: keras.Model, layer: str | None, pooling: Literal["flatten", "average", "none"]
) -> keras.Model:
    """Returns a model whose output is the output of `layer`, flattened or pooled to `[B, F]`.

    Raises:
        ValueError: no such layer, one that is a model itself, no such pooling, several outputs, or
            a feature of unknown size or with a mask.
    """
    if pooling not in ("flatten", "average", "none"):
        raise ValueError(f"pooling must be flatten, average or none, got {pooling!r}")
    check_fixed(model, "feature_extractor")
    if layer is None and (len(model.outputs) > 1 or isinstance(getattr(model, "output", 0), dict)):
        raise ValueError(
            f"{model.name} has {len(model.outputs)} outputs; choose one: "
            "keras.Model(model.inputs, model.outputs[0])"
        )
    last = outputs = model.outputs[0]
    if layer is not None:
        names = [each.name for each in model.layers
                 if not isinstance(each, keras.layers.InputLayer)]  # fmt: skip
        if layer not in names:
            near = difflib.get_close_matches(layer, names, cutoff=0.3) or names
            raise ValueError(f"feature_layer: no layer {layer!r}; there are {', '.join(near)}")
        if isinstance(model.get_layer(layer), keras.Model):
            raise ValueError(f"feature_layer: {layer!r} is a model itself; wrap that model, and "
                             "name one of its layers")  # fmt: skip
        outputs = model.get_layer(layer).output
    if getattr(outputs, "_keras_mask", None) is not None:
        raise ValueError(
            f"{model.name}: its features have a mask, which the heads would not see; pool them "
            "inside of it, for example with GlobalAveragePooling1D"
        )
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
    check_plain(model)
    return keras.Model(inputs_of(model), outputs, name=model.name)


def inputs_of(model: keras.Model) -> Any:
    """Returns a model's inputs as it takes them: one, several, or by name."""
    # Keras' Sequential has no `input` of its own.
    return model.inputs[0] if isinstance(model, keras.Sequential) else model.input
