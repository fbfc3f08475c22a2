"""Reads trained models, and starts a model from their weights."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import h5py
import keras
import numpy as np

from config.methods import METHODS
from model.adaptation import Adaptation
from utils.errors import UserError

KERAS2_PARTS = ("feature_extractor", "label_predictor", "domain_classifier")


def load_model(path: Path) -> Adaptation:
    """Loads a trained model from a `.keras` file; code stored in the file is never run.

    Raises:
        UserError: no such file, a damaged one, or one of another kind of model.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; training leaves models in checkpoints/")
    for method in METHODS.values():  # so that Keras knows the classes
        importlib.import_module(f"model.{method.model.split('.')[0]}")
    try:
        model = keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # Keras raises many kinds for a damaged file
        reason = str(error).strip().split("\n")[0]
        raise UserError(f"{path}: not a .keras file that can be loaded ({reason})") from error
    if not isinstance(model, Adaptation):
        raise UserError(f"{path}: holds a {type(model).__name__}, not a model of this project")
    return model


def start_from(model: Adaptation, path: Path) -> None:
    """Sets the weights that a model begins with from a file.

    Args:
        model: the model to start.
        path: a whole model `.keras`, weights `.weights.h5`, or a whole-model `.h5` that Keras 2
            saved from the original repository.

    Raises:
        UserError: not such a file, or its weights do not fit; names the first that does not.
    """
    if path.name.endswith(".weights.h5"):
        with named(path):
            model.load_weights(path)
        model.keep_average()
        return
    if path.suffix == ".keras":
        saved = {name: parts[-1].get_weights() for name, parts in load_model(path).copies().items()}
    else:
        with named(path):
            saved = read_keras2(path)
    begun = model.copies()
    classifiers = begun.get("domain_classifier", [])
    if any(misfit(part, saved.get("domain_classifier", [])) for part in classifiers):
        print(f"{path}: has no domain classifier that fits; a new one begins untrained")
        del begun["domain_classifier"]
    pairs = [(part, saved[name]) for name, parts in begun.items() for part in parts]
    for part, arrays in pairs:
        reason = misfit(part, arrays)
        if reason:
            raise UserError(f"{path}: {reason}")
    for part, arrays in pairs:
        part.set_weights(arrays)
    model.keep_average()


def misfit(part: keras.Model, arrays: Sequence[np.ndarray]) -> str | None:
    """Returns why arrays cannot be a network's weights, or None if they can."""
    if len(arrays) != len(part.weights):
        return f"its {part.name} has {len(arrays)} weights, needed are {len(part.weights)}"
    for weight, array in zip(part.weights, arrays, strict=True):
        if tuple(weight.shape) != array.shape:
            return (
                f"its {part.name}'s {weight.path} has shape {array.shape}, needed is "
                f"{tuple(weight.shape)}"
            )
    return None


@contextlib.contextmanager
def named(path: Path) -> Iterator[None]:
    """Turns whatever Keras and h5py raise for a damaged file into a `UserError`."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        reason = str(error).strip().split("\n")[0]
        raise UserError(f"{path}: does not fit this network or is damaged ({reason})") from error


def read_keras2(path: Path) -> dict[str, list[np.ndarray]]:
    """Returns the weights of the original's whole-model `.h5`, by part.

    It has one HDF5 group per nested model, whose numeric suffixes vary from run to run, and in
    each the layers in their order, each with a kernel and a bias. Models are known by that order.
    """
    with h5py.File(path, "r") as file:
        if "model_weights" not in file:
            raise UserError(f"{path}: has no group 'model_weights'; is it a Keras 2 model?")
        root = file["model_weights"]
        groups = [root[name] for name in attribute(root, "layer_names")
                  if len(attribute(root[name], "weight_names"))]  # fmt: skip
        if len(groups) != len(KERAS2_PARTS):
            raise UserError(
                f"{path}: has {len(groups)} nested models with weights, needed are 3: feature "
                "extractor, label predictor, domain classifier"
            )
        return {
            part: [group[name][()] for name in attribute(group, "weight_names")]
            for part, group in zip(KERAS2_PARTS, groups, strict=True)
        }


def attribute(group: h5py.Group, name: str) -> list[str]:
    """Returns a list attribute of an HDF5 group as text."""
    return [item.decode() if isinstance(item, bytes) else str(item) for item in group.attrs[name]]
