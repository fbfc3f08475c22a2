"""Every method on every experiment: trained for a few steps, stopped, resumed, predicted with."""

from __future__ import annotations

import csv
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import FEW_FILTERS, Arrays, model_of, rows_of, run, stopped_soon

from benchmarks.runner import folder_flags
from config.methods import METHODS
from config.scripts import SCRIPTS
from model import networks
from utils.data.captchas import CHARACTERS
from utils.data.drawings import make_standin
from utils.data.pickles import write_pickle

COMMON = ["--epoch", 1, "--source_epoch", 1, "--average_decay", 0.9, "--checkpoint_steps", 2,
          "--run_name", "mine", "--allow_collapse"]  # fmt: skip
EXPERIMENTS = ["digits", "custom", "drawings", "captcha"]  # in the order of SCRIPTS


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, domains: Arrays) -> dict[str, list[Any]]:
    """Little data for each experiment, as its flags."""
    root = tmp_path_factory.mktemp("data")
    for name, arrays in zip(("source", "target"), domains, strict=True):
        write_pickle(root / f"{name}.pkl", {key: value[:40] for key, value in arrays.items()})
        for index in range(60):
            folder = root / name / f"c{arrays['train_label'][index] % 3}"
            folder.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(folder / f"{index}.png"), arrays["train"][index])
    make_standin(root / "embedded_drawings", seed=1, size=80)
    return {
        "digits": ["--batch_size", 16, "--source_dataset_path", root / "source.pkl",
                   "--target_dataset_path", root / "target.pkl"],
        "custom": ["--batch_size", 16, "--source", root / "source", "--target", root / "target",
                   "--pixel_mean", 50, 50, 50],
        "drawings": ["--batch_size", 24, "--embedded", "--data_root", root / "x"],
        "captcha": ["--batch_size", 40, "--captchas", 100, "--captcha_root", root / "captchas"],
    }  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def small_and_quick(smaller_captchas: None) -> Iterator[None]:
    """Small captchas, an eighth of the drawings' filters; graphs are not optimised."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(networks, "DRAWING_FILTERS", FEW_FILTERS)
        tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
        yield
        tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": False})


@contextmanager
def eager() -> Iterator[None]:
    """Inside, nothing is traced: the start of the run did that, and again would take as long."""
    tf.config.run_functions_eagerly(True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*does not apply to tf.data functions")
        try:
            yield
        finally:
            tf.config.run_functions_eagerly(False)


def flags_of(method: str) -> list[Any]:
    """What the pair has of its own; a flag that the method does not use would be refused."""
    flags: list[Any] = ["--method", method, *COMMON]
    if not METHODS[method].first:
        at = flags.index("--source_epoch")
        del flags[at : at + 2]
    return flags + (["--confidence", 0.2] if method == "mean_teacher" else [])


@pytest.mark.parametrize("experiment", EXPERIMENTS)
@pytest.mark.parametrize("method", METHODS)
def test_method_on_experiment(
    method: str,
    experiment: str,
    data: dict[str, list[Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    script = dict(zip(EXPERIMENTS, SCRIPTS, strict=True))[experiment]
    flags = [*flags_of(method), *data[experiment], *folder_flags(tmp_path)]
    if method == "student":
        lesson = [*flags_of("dann"), *data[experiment], *folder_flags(tmp_path / "t")]
        with eager():
            run(script, *lesson)
        flags += ["--teacher", model_of(tmp_path / "t", "mine")]
    with stopped_soon():
        done = run(script, *flags, code=130)
    assert "SIGINT: saved at step" in done.stdout
    logs = next(path for path in (tmp_path / "logs").rglob("mine"))
    with eager():
        done = run(script, "--resume", logs)
    (row,) = [row for row in rows_of(logs) if int(row["epoch"])]
    assert np.isfinite([float(value) for value in row.values()]).all()
    model = model_of(tmp_path, "mine")
    kept = keras.saving.load_model(model)
    assert type(kept).__name__ == METHODS[method].model.split(".")[1]
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    shape = kept.feature_extractor.input_shape[1:]
    images = np.random.default_rng(0).integers(0, 256, (3, *shape)).astype(np.uint8)
    for index, image in enumerate(images):
        cv2.imwrite(str(pictures / f"{index}.png"), image[..., ::-1])
    with eager():
        run("predict.py", "--images", pictures, "--model", model, "--output", tmp_path / "p.csv")
        predicted = kept(images).numpy()
    with (tmp_path / "p.csv").open() as file:
        labels = [row["label"] for row in csv.DictReader(file)]
    classes = kept.classes()
    for label, row in zip(labels, predicted, strict=True):
        assert label == "".join(classes[number] for number in np.atleast_1d(row.argmax(-1)))
    if experiment == "captcha":
        assert all(len(label) == CHARACTERS for label in labels)
