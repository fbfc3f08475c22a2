"""evaluate.py: its numbers, recomputed from the model's predictions."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import cv2
import keras
import matplotlib.pyplot as plt
import numpy as np
import pytest
from helpers import ROOT, SHORT, Arrays, command, model_of, run, the_error
from test_pretrained import make_dann, write_keras2

from benchmarks.runner import folder_flags
from evaluate import COLUMNS, reliability, table
from model.adda import SourceModel
from model.networks import captcha_classifier
from model.pretrained import load_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, data_flags: list[str]) -> Path:
    folder = tmp_path_factory.mktemp("run")
    run("train_MNIST2MNIST_M.py", *data_flags, *SHORT, *folder_flags(folder), "--run_name", "mine")
    return model_of(folder, "mine")


def places(data_flags: list[str]) -> list[str]:
    return ["--source", data_flags[1], "--target", data_flags[3]]


def test_its_numbers_are_those_of_the_predictions(
    model: Path, data_flags: list[str], domains: Arrays, tmp_path: Path
) -> None:
    done = run("evaluate.py", "--models", model, *places(data_flags), "--json", tmp_path / "e.json",
               "--figures", tmp_path / "figures")  # fmt: skip
    (values,) = json.loads((tmp_path / "e.json").read_text()).values()
    target, labels = domains[1]["val"], domains[1]["val_label"]
    loaded: Any = load_model(model)
    probabilities = loaded.predict(target, verbose=0)
    right = probabilities.argmax(1) == labels
    assert values["accuracy"] == pytest.approx(right.mean(), abs=1e-6)
    assert f"{right.mean():.4f}" in done.stdout
    for number in range(10):
        mine = labels == number
        assert values["class_accuracy"][number] == pytest.approx(right[mine].mean(), abs=1e-6)
        assert sum(values["confusion"][number]) == mine.sum()
    confidence = probabilities.max(1)
    error = sum(
        inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
        for lower in range(15)
        if (inside := (confidence >= lower / 15) & (confidence < (lower + 1) / 15)).any()
    )
    assert values["calibration_error"] == pytest.approx(error, abs=1e-5)
    told = []
    for number, one in enumerate(domains):
        features = loaded.feature_extractor.predict(one["val"], verbose=0)
        logits = loaded.domain_classifier.predict(features, verbose=0)
        told.append((logits.argmax(1) == number).mean())
    assert values["domain_accuracy"] == pytest.approx(np.mean(told), abs=1e-6)
    picture = cv2.imread(str(tmp_path / "figures" / f"1_{model.stem}.png"))
    assert picture is not None
    assert picture.shape[1] > picture.shape[0]


def test_pictures_of_others_stay(model: Path, data_flags: list[str], tmp_path: Path) -> None:
    mine = tmp_path / f"1_{model.stem}.png"
    figure = plt.figure()
    figure.savefig(mine)
    plt.close(figure)
    drawn = mine.read_bytes()
    done = run("evaluate.py", "--models", model, *places(data_flags), "--figures", tmp_path, code=2)
    assert f"{mine}: is there already, and not from this script" in the_error(done)
    assert mine.read_bytes() == drawn
    mine.unlink()
    for _ in range(2):  # its own are replaced
        run("evaluate.py", "--models", model, *places(data_flags), "--figures", tmp_path)


def test_confidence_that_is_right_has_no_calibration_error() -> None:
    bins = reliability(np.array([True, False, True, True]), np.array([0.5, 0.5, 1.0, 1.0]))
    assert bins == [(0.5, 0.5, 0.5), (0.5, 1.0, 1.0)]


def test_folders_of_pictures(
    model: Path, data_flags: list[str], domains: Arrays, tmp_path: Path
) -> None:
    for image, label in zip(domains[1]["val"], domains[1]["val_label"], strict=True):
        folder = tmp_path / "target" / str(label)
        folder.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / f"{len(list(folder.iterdir()))}.png"), image[..., ::-1])
    flags = ["--models", model, "--source", data_flags[1], "--json"]
    run("evaluate.py", *flags, tmp_path / "a.json", "--target", tmp_path / "target")
    run("evaluate.py", *flags, tmp_path / "b.json", "--target", data_flags[3])
    one, two = (next(iter(json.loads((tmp_path / name).read_text()).values()))
                for name in ("a.json", "b.json"))  # fmt: skip
    assert one["accuracy"] == two["accuracy"]
    assert one["confusion"] == two["confusion"]
    done = run("evaluate.py", "--models", model, "--target", tmp_path / "target",
               "--json", tmp_path / "c.json")  # fmt: skip
    (alone,) = json.loads((tmp_path / "c.json").read_text()).values()
    assert "target: domain and DEV are not known without --source" in done.stderr
    unknown = {"domain_accuracy", "deep_embedded_validation"}
    assert {name for name in one if alone[name] != one[name]} == unknown
    assert all(alone[name] is None and one[name] is not None for name in unknown)
    # A folder that is no class is named; a class without a folder is no fault.
    zebra = (tmp_path / "target" / "3").rename(tmp_path / "target" / "zebra")
    told = run("predict.py", "--images", tmp_path / "target", "--model", model,
               "--output", tmp_path / "p.csv").stdout  # fmt: skip
    others = len(list(zebra.iterdir()))
    assert (
        f"on {100 - others} pictures in folders of classes; no classes of the model: zebra" in told
    )
    flags = ["--models", model, "--source", data_flags[1], "--target", tmp_path / "target"]
    done = run("evaluate.py", *flags, code=2)
    assert "these folders are none of the classes 0, 1" in the_error(done)
    shutil.rmtree(zebra)
    assert f"{100 - others} images" in run("evaluate.py", *flags).stdout


def test_the_originals_weights_get_its_pixel_mean(tmp_path: Path, data_flags: list[str]) -> None:
    write_keras2(tmp_path / "original.h5", make_dann(1))
    done = run("evaluate.py", "--models", tmp_path / "original.h5", *places(data_flags))
    assert "read with a pixel mean of 45.652287 45.652287 45.652287" in done.stderr


def test_json_on_standard_output_is_json_alone(model: Path, data_flags: list[str]) -> None:
    done = subprocess.run(
        command("evaluate.py", "--models", model, *places(data_flags), "--json", "-"),
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert next(iter(json.loads(done.stdout).values()))["images"] == 100


def test_what_does_not_fit_is_named(model: Path, tmp_path: Path, data_flags: list[str]) -> None:
    (tmp_path / "x.keras").write_bytes(b"no model")
    (tmp_path / "notes.json").write_text('{"seed": 1}')
    cases: list[tuple[list[Any], str]] = [
        (["--models", tmp_path / "x.keras"], "x.keras: is no .keras file, or was cut short"),
        (["--models", tmp_path], "is a folder"),
        (
            ["--models", model, "--target", "nowhere.pkl"],
            "nowhere.pkl: no such file or folder; create_mnistm.py makes",
        ),
        (
            ["--models", model, "--target", "my.PNG"],
            "my.PNG: is a picture; name a folder or a pick",
        ),
        (["--models", model, "--pixel_mean", 1, 2, 3], "has its own; leave it out"),
        (["--models", model, "--json", model], "is read by this command"),
        (
            ["--models", model, "--json", tmp_path / "notes.json"],
            "notes.json: is there already, and not from this script",
        ),
        (["--models", model, "--figures", ROOT / "README.md"], "README.md: is a file; name a"),
    ]
    for flags, message in cases:
        assert message in the_error(run("evaluate.py", *places(data_flags), *flags, code=2))


def test_models_of_one_name_are_told_apart() -> None:
    values: dict[str, Any] = dict.fromkeys(COLUMNS, 0.5) | {
        "soft_neighbourhood_density": None, "images": 1, "classes": ["a"], "class_accuracy": [None],
    }  # fmt: skip
    text = table({"runs/one/best.keras": values, "runs/two/best.keras": values})
    assert [line.split()[0] for line in text.splitlines()[1:3]] == ["one/best", "two/best"]
    deep = table({f"c/batch_size={size}/mine/trained_dann.keras": values for size in (64, 128)})
    assert [line.split()[0] for line in deep.splitlines()[1:3]] == [
        "batch_size=64/mine/trained_dann", "batch_size=128/mine/trained_dann",
    ]  # fmt: skip
    assert "two/best, 1 images" in text
    assert table({"runs/one/best.keras": values}).splitlines()[1].startswith("best ")
    elsewhere = table({"runs/one/best.keras": values, "/two/best.keras": values})
    assert elsewhere.splitlines()[2].startswith("two/best ")


def test_a_model_of_strings_is_measured_by_its_own_script(tmp_path: Path) -> None:
    features = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten()])
    model = SourceModel(features, captcha_classifier((192,), 3, 10))
    model.save(tmp_path / "strings.keras")
    done = run("evaluate.py", "--models", tmp_path / "strings.keras", code=2)
    assert "reads strings of several characters" in the_error(done)
