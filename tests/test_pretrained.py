from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest
from helpers import assert_same_weights

from model import pretrained
from model.dann import DANN
from model.networks import dense_head, mnist_feature_extractor
from model.pretrained import load_model, start_from
from utils.errors import UserError


def make_dann(seed: int, hidden: int = 100, mean: float = 45.0) -> DANN:
    keras.utils.set_random_seed(seed)
    return DANN(
        mnist_feature_extractor((28, 28, 3), (mean, mean, mean)),
        dense_head("label_predictor", (768,), (hidden, 100), 10),
        dense_head("domain_classifier", (768,), (100,), 2),
    )


def write_keras2(path: Path, model: DANN, change: Any = None) -> None:
    """Writes an .h5 as Keras 2 laid it out for the original's nested models."""
    names = {
        "sequential_3": ["conv2d_6", "conv2d_7"],
        "sequential_4": ["dense_9", "dense_10", "image_cls_pred"],
        "sequential_5": ["dense_11", "domain_cls_pred"],
    }
    parts = (model.feature_extractor, model.label_predictor, model.domain_classifier)
    with h5py.File(path, "w") as file:
        root = file.create_group("model_weights")
        order = [
            "image_input",
            "sequential_3",
            "gradient_reversal_layer",
            "sequential_4",
            "sequential_5",
        ]
        root.attrs["layer_names"] = [name.encode() for name in order]
        for name in order:
            root.create_group(name).attrs["weight_names"] = np.array([], "S1")
        for (name, layers), part in zip(names.items(), parts, strict=True):
            weight_names = [f"{layer}/{kind}:0" for layer in layers for kind in ("kernel", "bias")]
            root[name].attrs["weight_names"] = [text.encode() for text in weight_names]
            for text, value in zip(weight_names, part.get_weights(), strict=True):
                root[name][text] = value
        if change:
            change(file)


@pytest.mark.parametrize("name", ["m.keras", "m.weights.h5", "keras2.h5"])
def test_loads_every_format(tmp_path: Path, name: str) -> None:
    trained, fresh = make_dann(1), make_dann(2)
    path = tmp_path / name
    if name == "m.keras":
        trained.save(path)
    elif name == "m.weights.h5":
        trained.save_weights(path)
    else:
        write_keras2(path, trained)
    start_from(fresh, path)
    assert_same_weights(fresh.get_weights(), trained.get_weights())


@pytest.mark.parametrize("name", ["m.keras", "m.weights.h5"])
def test_statistics_that_were_adapted_are_taken_over(tmp_path: Path, name: str) -> None:
    values = (100 + 50 * np.random.default_rng(0).normal(size=(64, 4))).astype(np.float32)

    def made() -> DANN:
        network = keras.Sequential([keras.Input((4,)), keras.layers.Normalization()])
        return DANN(network, num_labels=3)

    trained, fresh = made(), made()
    trained.feature_extractor.layers[0].adapt(values)
    path = tmp_path / name
    trained.save(path) if name == "m.keras" else trained.save_weights(path)
    start_from(fresh, path)
    np.testing.assert_array_equal(fresh(values), trained(values))
    other = made()
    other.set_weights(trained.get_weights())
    np.testing.assert_array_equal(other(values), trained(values))


@pytest.mark.parametrize("name", ["m.keras", "m.weights.h5"])
def test_the_average_begins_at_the_weights_that_were_read(tmp_path: Path, name: str) -> None:
    trained, fresh = make_dann(1), make_dann(2)
    for model in (trained, fresh):
        model.average_decay = 0.9
        model.keep_average()
    assert trained.average
    trained.average.update()  # of weights that are others then
    for weight in trained.weights:
        weight.assign(weight + 1)
    path = tmp_path / name
    trained.save(path) if name == "m.keras" else trained.save_weights(path)
    start_from(fresh, path)
    assert fresh.average
    fresh.average.update()
    with fresh.averaged():
        assert_same_weights(fresh.get_weights(), trained.get_weights())


def test_another_pixel_mean_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_dann(1).save(tmp_path / "m.keras")
    start_from(make_dann(2), tmp_path / "m.keras")
    assert "pixel mean" not in capsys.readouterr().out
    start_from(make_dann(2, mean=50.0), tmp_path / "m.keras")
    told = "was trained with the pixel mean 45.00 45.00 45.00; this run subtracts 50.00 50.00 50.00"
    assert told in capsys.readouterr().out


def test_keras2_predictions_are_those_of_the_originals_network(tmp_path: Path) -> None:
    """The file's arrays in NumPy order: normalise, convolve, ReLU, pool, as the original did."""
    import tensorflow as tf

    trained, fresh = make_dann(1), make_dann(2)
    write_keras2(tmp_path / "o.h5", trained)
    start_from(fresh, tmp_path / "o.h5")
    images = np.random.default_rng(0).integers(0, 256, (4, 28, 28, 3)).astype(np.uint8)
    x: Any = (images - np.float32(45.0)) / np.float32(255.0)
    with h5py.File(tmp_path / "o.h5") as file:
        root = file["model_weights"]
        for layer in ("conv2d_6", "conv2d_7"):
            group = root["sequential_3"][layer]
            x = tf.nn.relu(tf.nn.conv2d(x, group["kernel:0"][()], 1, "VALID") + group["bias:0"][()])
            x = tf.nn.max_pool2d(x, 2, 2, "VALID")
        x = tf.reshape(x, (4, -1))
        for layer in ("dense_9", "dense_10", "image_cls_pred"):
            group = root["sequential_4"][layer]
            x = x @ group["kernel:0"][()] + group["bias:0"][()]
            x = tf.nn.softmax(x) if layer == "image_cls_pred" else tf.nn.relu(x)
    np.testing.assert_allclose(fresh(images), x, rtol=1e-4, atol=1e-6)


def drop_head(file: h5py.File) -> None:
    file["model_weights"]["sequential_5"].attrs["weight_names"] = np.array([], "S1")


def drop_layer(file: h5py.File) -> None:
    group = file["model_weights"]["sequential_4"]
    group.attrs["weight_names"] = group.attrs["weight_names"][:4]


def drop_root(file: h5py.File) -> None:
    del file["model_weights"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop_head, "has 2 nested models with weights; it must have 3"),
        (drop_layer, "has 8 weights; it must have 10"),
        (drop_root, "no group 'model_weights'"),
    ],
)
def test_a_keras2_file_that_does_not_fit_is_named(
    tmp_path: Path, change: Any, message: str
) -> None:
    model = make_dann(2)
    before = model.get_weights()
    write_keras2(tmp_path / "o.h5", make_dann(1), change)
    with pytest.raises(UserError, match=message):
        start_from(model, tmp_path / "o.h5")
    assert_same_weights(before, model.get_weights())


@pytest.mark.parametrize("name", ["m.keras", "keras2.h5"])
def test_a_wrong_shape_is_named_and_nothing_is_set(tmp_path: Path, name: str) -> None:
    other, model = make_dann(1, hidden=50), make_dann(2)
    before = model.get_weights()
    path = tmp_path / name
    if name == "m.keras":
        other.save(path)
    else:
        write_keras2(path, other)
    with pytest.raises(UserError, match=r"has shape \(768, 50\).*\(768, 100\)"):
        start_from(model, path)
    assert_same_weights(before, model.get_weights())


@pytest.mark.parametrize("name", ["m.keras", "m.weights.h5", "m.h5"])
def test_a_damaged_file_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"not a model")
    with pytest.raises(
        UserError,
        match=r"is no \.keras file, or was cut short|it must hold weights of this network",
    ):
        start_from(make_dann(1), tmp_path / name)


def test_a_file_of_another_kind_is_told_by_its_name() -> None:
    with pytest.raises(UserError, match=r"is no \.keras, \.weights\.h5 or \.h5 file; training"):
        start_from(make_dann(1), Path(__file__))


def test_a_file_that_would_fill_the_memory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pretrained, "MUCH", 2**20)
    with zipfile.ZipFile(tmp_path / "bomb.keras", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", b" " * 2**21)
    with pytest.raises(UserError, match=r"bomb\.keras: unpacks to 2 MiB, as no weights do"):
        load_model(tmp_path / "bomb.keras")
