"""Reads trained models, and starts a model from their weights."""

from __future__ import annotations

import importlib
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

import h5py
import keras
import numpy as np

from config.methods import METHODS
from model.adaptation import Adaptation
from model.dann import DANN
from model.networks import dense_head, mnist_feature_extractor, renew_constants
from utils.errors import UserError, damage_named, refuse_device

# 2³²/(120000·784): the mean of the original repository, where its float32 sum stops growing.
ORIGINAL_MEAN = (45.652287,) * 3
NAME_WEIGHTS = "it must hold weights of this network; name another"
MUCH, PACKED = 2**30, 20  # bytes, and a factor: weights never shrink so much; hostile files do
MNIST_MEAN = (75.65, 76.18, 70.19)  # of MNIST and MNIST-M of seed 42, all training images


def load_model(path: Path, pixel_mean: Sequence[float] | None = None) -> Adaptation:
    """Loads a trained model; code stored in the file is never run.

    Args:
        path: a `.keras` file; or the `.weights.h5` or Keras 2 `.h5` of the paper's digits network.
        pixel_mean: that network's; None: the original repository's for a `.h5`, that of MNIST and
            MNIST-M for a `.weights.h5`.

    Raises:
        UserError: no such file, a damaged one, or one of another kind of model.
    """
    refuse_others(path)
    if path.suffix == ".h5":
        return digits_model(path, pixel_mean)
    if pixel_mean is not None:
        raise UserError(f"pixel_mean: {path} has its own; leave it out")
    for method in METHODS.values():  # so that Keras knows the classes
        model_class(method.model)
    if not zipfile.is_zipfile(path):
        raise UserError(f"{path}: is no .keras file, or was cut short; name another")
    with damage_named(path, "name another .keras file"):
        with zipfile.ZipFile(path) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
        if size > max(MUCH, PACKED * path.stat().st_size):
            raise UserError(f"{path}: unpacks to {size >> 20} MiB, as no weights do; name another")
        model = keras.saving.load_model(path, compile=False, safe_mode=True)
    if not isinstance(model, Adaptation):
        raise UserError(
            f"{path}: holds a {type(model).__name__}, not a model of this project; name one that "
            "training left in checkpoints/"
        )
    check_weights(path, model)
    return model


def refuse_others(path: Path) -> None:
    """Raises `UserError` for a path that cannot be a trained model."""
    refuse_device(path)
    if not path.is_file() or path.suffix not in (".keras", ".h5"):
        if path.is_dir():
            raise UserError(f"{path}: is a folder; name a model in it, such as best.keras")
        what = "is no .keras, .weights.h5 or .h5 file" if path.exists() else "no such file"
        raise UserError(f"{path}: {what}; training leaves models in checkpoints/")


def model_class(path: str) -> type[Adaptation]:
    """Returns the class that a line of the methods' table names."""
    module, name = path.split(".")
    kind: type[Adaptation] = getattr(importlib.import_module(f"model.{module}"), name)
    return kind


def check_weights(path: Path, model: Adaptation) -> None:
    """Raises `UserError` if the weights that a file gave are no numbers."""
    if not all(np.isfinite(weight).all() for weight in model.get_weights()):
        raise UserError(f"{path}: its weights are no numbers, so its training failed; name another")


def digits_model(path: Path, pixel_mean: Sequence[float] | None) -> Adaptation:
    """Returns the paper's digits network with weights from a `.h5`."""
    weights_alone = path.name.endswith(".weights.h5")
    mean = tuple(pixel_mean or (MNIST_MEAN if weights_alone else ORIGINAL_MEAN))
    if len(mean) != len(MNIST_MEAN):
        raise UserError(f"pixel_mean: {mean} must be one number for each of the 3 channels")
    print(f"{path}: read with a pixel mean of {' '.join(map(str, mean))}", file=sys.stderr)
    extractor = mnist_feature_extractor((28, 28, 3), mean)
    features = extractor.output_shape[1:]
    model = DANN(
        extractor,
        dense_head("label_predictor", features, (100, 100), 10),
        dense_head("domain_classifier", features, METHODS["dann"].domain_hidden, 2),
        extractor_calls="per_domain",
    )
    start_from(model, path)
    return model


def picture_shape(model: Adaptation, path: Path) -> tuple[int, int, int]:
    """Returns height, width and channels that a model takes, or raises `UserError`.

    Args:
        model: the model.
        path: where it comes from, for the message.
    """
    shape = model.feature_extractor.input_shape[1:]
    if len(shape) != 3 or None in shape or shape[2] not in (1, 3):
        raise UserError(
            f"{path}: takes inputs of shape {list(shape)}, which are no pictures of one size; "
            "call predict() in a program of your own"
        )
    return tuple(shape)


def start_from(model: Adaptation, path: Path) -> None:
    """Sets the weights that a model begins with from a file.

    Args:
        model: the model to start. Where the feature extractor ends and the label predictor begins
            need not be the same as in the file.
        path: a whole model `.keras`, weights `.weights.h5`, or a whole-model `.h5` that Keras 2
            saved from the original repository.

    Raises:
        UserError: not such a file, or its weights do not fit; names the first that does not.
    """
    refuse_others(path)
    if path.name.endswith(".weights.h5"):
        with damage_named(path, NAME_WEIGHTS):
            model.load_weights(path)
    else:
        predictor, domains = read_weights(path, model)
        pairs = [(all_weights(*parts), predictor) for parts in model.predictors()]
        for weights, arrays in pairs:
            reason = misfit(weights, arrays)
            if reason:
                raise UserError(f"{path}: {reason}; give this run the network of that model")
        if model.adversary():
            if not misfit(model.adversary(), domains):
                pairs.append((model.adversary(), domains))
            elif domains:
                print(f"{path}: its domain classifier does not fit; a new one begins untrained")
        for weights, arrays in pairs:
            for weight, array in zip(weights, arrays, strict=True):
                weight.assign(array)
        renew_constants(model)
    check_weights(path, model)
    model.forget_average()  # it begins at these weights, whatever the file's was
    model.keep_average()


def read_weights(path: Path, model: Adaptation) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Returns the weights of what predicts, and of the domain classifier, if there is one.

    Args:
        path: of a model.
        model: what they are for. A pixel mean unlike its own is told.

    Raises:
        UserError: the file's classes have other names, or another order, than the model's.
    """
    if path.suffix != ".keras":
        with damage_named(path, NAME_WEIGHTS):
            return read_keras2(path)
    saved = load_model(path)
    check_classes(path, saved, model.class_names)
    theirs, ours = (pixel_mean_of(one) for one in (saved, model))
    if theirs != ours:
        print(f"{path}: was trained with the pixel mean {theirs}; this run subtracts {ours}")
    parts = all_weights(*saved.predictors()[-1]), saved.adversary()
    predictor, domains = ([weight.numpy() for weight in part] for part in parts)
    return predictor, domains


def pixel_mean_of(model: Adaptation) -> str:
    """Returns what a model subtracts from each channel first, in [0, 255]; "none" if nothing."""
    for layer in model.feature_extractor.layers:
        if isinstance(layer, keras.layers.Rescaling):
            return " ".join(f"{0 - 255 * offset:.2f}" for offset in np.atleast_1d(layer.offset))
    return "none"


def check_classes(path: Path, model: Adaptation, class_names: Sequence[str] | None) -> None:
    """Raises `UserError` if a model's classes have other names, or another order, than the data."""
    if class_names and model.class_names and list(class_names) != model.class_names:
        raise UserError(
            f"{path}: has the classes {', '.join(model.class_names)}, but the data have "
            f"{', '.join(class_names)}; rename the class folders"
        )


def all_weights(*parts: keras.Model) -> list[keras.Variable]:
    """Returns the weights of networks, one after the other."""
    return [weight for part in parts for weight in part.weights]


def misfit(weights: Sequence[keras.Variable], arrays: Sequence[np.ndarray]) -> str | None:
    """Returns why arrays cannot be these weights, or None if they can."""
    for number, (weight, array) in enumerate(zip(weights, arrays, strict=False), 1):
        if tuple(weight.shape) != array.shape:
            return (
                f"its weight {number} has shape {array.shape}; {weight.path} must have "
                f"{tuple(weight.shape)}"
            )
    if len(arrays) != len(weights):
        return f"has {len(arrays)} weights; it must have {len(weights)}"
    return None


def read_keras2(path: Path) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Returns the weights of the original's whole-model `.h5`: what predicts, and the rest.

    It has one HDF5 group per nested model, whose numeric suffixes vary from run to run, and in
    each the layers in their order, each with a kernel and a bias. Models are known by that order.
    """
    with h5py.File(path, "r") as file:
        if "model_weights" not in file:
            raise UserError(f"{path}: has no group 'model_weights'; is it a Keras 2 model?")
        root = file["model_weights"]
        groups = [root[name] for name in attribute(root, "layer_names")
                  if len(attribute(root[name], "weight_names"))]  # fmt: skip
        if len(groups) != 3:
            raise UserError(
                f"{path}: has {len(groups)} nested models with weights; it must have 3: "
                "feature extractor, label predictor, domain classifier"
            )
        extractor, predictor, domains = (
            [group[name][()] for name in attribute(group, "weight_names")] for group in groups
        )
        return [*extractor, *predictor], domains


def attribute(group: h5py.Group, name: str) -> list[str]:
    """Returns a list attribute of an HDF5 group as text."""
    return [item.decode() if isinstance(item, bytes) else str(item) for item in group.attrs[name]]
