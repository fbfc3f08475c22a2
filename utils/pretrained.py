"""Starts a model from saved weights: .keras, .weights.h5, or the original's Keras 2 .h5."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import h5py
import keras
import numpy as np

from model.adda import SourceModel
from model.dann import DANN
from utils.errors import UserError


def load_pretrained(model: DANN, path: Path) -> None:
    """Sets `model`'s weights from a file.

    Args:
        model: the DANN to start.
        path: a whole model `.keras`, weights `.weights.h5`, or a whole-model `.h5` that Keras 2
            saved from the original repository.

    Raises:
        UserError: not such a file, or its weights do not fit; names the first that does not.
    """
    try:
        if path.suffix == ".keras":
            saved = keras.saving.load_model(path, compile=False)
            if not isinstance(saved, DANN):
                raise UserError(f"{path}: holds a {type(saved).__name__}, not a DANN")
            copy_weights(path, parts_of(saved), parts_of(model))
        elif path.name.endswith(".weights.h5"):
            model.load_weights(path)
        else:
            load_keras2(model, path)
    except UserError:
        raise
    except Exception as error:  # Keras and h5py raise many kinds for a damaged file
        first = str(error).strip().split("\n")[0]
        raise UserError(f"{path}: does not fit this network or is damaged ({first})") from error


def load_source(encoder: keras.Model, classifier: keras.Model, path: Path) -> None:
    """Sets the weights that ADDA begins with from a trained model.

    Args:
        encoder, classifier: what to set.
        path: a `.keras` that holds a `SourceModel` or a `DANN`.

    Raises:
        UserError: not such a file, or its weights do not fit; names the first that does not.
    """
    try:
        saved = keras.saving.load_model(path, compile=False)
    except Exception as error:  # Keras raises many kinds for a damaged file
        first = str(error).strip().split("\n")[0]
        raise UserError(f"{path}: not a .keras file that can be loaded ({first})") from error
    if not isinstance(saved, (SourceModel, DANN)):
        raise UserError(f"{path}: holds a {type(saved).__name__}, not a SourceModel or a DANN")
    copy_weights(path, (saved.feature_extractor, saved.label_predictor), (encoder, classifier))


def copy_weights(path: Path, source: Sequence[keras.Model], target: Sequence[keras.Model]) -> None:
    """Copies the weights part by part; raises `UserError` for the first that does not fit."""
    pairs: list[tuple[keras.Variable, keras.Variable]] = []
    for old_part, new_part in zip(source, target, strict=True):
        if len(old_part.weights) != len(new_part.weights):
            raise UserError(
                f"{path}: its {new_part.name} has {len(old_part.weights)} weights, needed are "
                f"{len(new_part.weights)}"
            )
        pairs += zip(old_part.weights, new_part.weights, strict=True)
    for old, new in pairs:
        if old.shape != new.shape:
            raise UserError(f"{path}: {old.path} has shape {old.shape}, needed is {new.shape}")
    for old, new in pairs:
        new.assign(old)


def parts_of(model: DANN) -> tuple[keras.Model, keras.Model, keras.Model]:
    """Returns feature extractor, label predictor and domain classifier."""
    return model.feature_extractor, model.label_predictor, model.domain_classifier


def load_keras2(model: DANN, path: Path) -> None:
    """Loads the original's whole-model `.h5`.

    It has one HDF5 group per nested model, whose numeric suffixes vary from run to run, and in
    each the layers in their order, each with a kernel and a bias. Models and layers are matched
    by that order, and every shape is compared before the first weight is set.
    """
    parts = parts_of(model)
    with h5py.File(path, "r") as file:
        if "model_weights" not in file:
            raise UserError(f"{path}: has no group 'model_weights'; is it a Keras 2 model?")
        root = file["model_weights"]
        groups = [root[name] for name in attribute(root, "layer_names")
                  if len(attribute(root[name], "weight_names"))]  # fmt: skip
        if len(groups) != len(parts):
            raise UserError(
                f"{path}: has {len(groups)} nested models with weights, needed are 3: feature "
                "extractor, label predictor, domain classifier"
            )
        assignments: list[tuple[keras.Variable, np.ndarray]] = []
        for part, group in zip(parts, groups, strict=True):
            names = attribute(group, "weight_names")
            if len(names) != len(part.weights):
                raise UserError(
                    f"{path}: {group.name} has {len(names)} weights, the {part.name} needs "
                    f"{len(part.weights)}"
                )
            for name, weight in zip(names, part.weights, strict=True):
                value = group[name][()]
                if value.shape != weight.shape:
                    raise UserError(
                        f"{path}: {group.name}/{name} has shape {value.shape}, the {part.name}'s "
                        f"{weight.path} needs {weight.shape}"
                    )
                assignments.append((weight, value))
    for weight, value in assignments:
        weight.assign(value)


def attribute(group: h5py.Group, name: str) -> list[str]:
    """Returns a list attribute of an HDF5 group as text."""
    return [item.decode() if isinstance(item, bytes) else str(item) for item in group.attrs[name]]
