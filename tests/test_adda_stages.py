"""The two stages of ADDA on digits: what each records, and where the second begins."""

from __future__ import annotations

import csv
import signal
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import ROOT
from test_adda import small_adda, small_encoder
from test_dann import small_dann
from test_end_to_end import run, run_folders, wait_for_checkpoint
from test_trainer import events
from utils.adda_stages import needs_first_stage

from config.config import Config
from model.adda import ADDA, SourceModel
from model.networks import dense_head
from model.pretrained import load_source
from utils.errors import UserError
from utils.run.runs import Run

SHORT = ["--method", "adda", "--epoch", "2", "--source_epoch", "3", "--batch_size", "32",
         "--k_g", "1", "--discriminator_steps", "30"]  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, data_flags: list[str]) -> Path:
    folder = tmp_path_factory.mktemp("adda")
    done = run("train_MNIST2MNIST_M.py", *data_flags, *SHORT, *run_folders(folder),
               "--run_name", "both")  # fmt: skip
    assert "training: source_model, steps 0 to 60, 20 an epoch, 16 images each" in done.stdout
    assert "training: adda, steps 0 to 40, 20 an epoch, 32 images each" in done.stdout
    return folder


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "log.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_both_stages_are_recorded(finished: Path) -> None:
    logs = next((finished / "logs").rglob("both"))
    first, second = rows_of(logs / "source"), rows_of(logs)
    assert (len(first), len(second)) == (3, 2)
    assert "train_domain_cls_loss" not in first[0]
    # The source model stands still in the second stage.
    accuracies = {row["labelled_image_cls_acc"] for row in (first[-1], *second)}
    assert len(accuracies) == 1
    # 30 of 40 steps teach the discriminator alone, so after 20 the target is as it was.
    assert second[0]["val_image_cls_acc"] == first[-1]["val_image_cls_acc"]
    assert second[1]["val_image_cls_loss"] != first[-1]["val_image_cls_loss"]
    found = events(logs)
    weights = [
        float(tf.io.parse_tensor(content, tf.float32))
        for _, content in found["hyperparameter:hyperparameter/grl_lambda"]
    ]
    assert weights == [0.0] * 30 + [1.0] * 10
    for name in ("train", "validation"):
        assert {f"{name}:acc/domain_cls_acc", f"{name}:loss/adversarial_loss"} <= set(found)


def test_the_second_stage_begins_where_the_first_ended(finished: Path) -> None:
    place = next((finished / "checkpoints").rglob("both"))
    source = keras.saving.load_model(place / "source" / "source_model.keras")
    adda = keras.saving.load_model(place / "trained_adda_mnist2mnist_m.keras")
    assert isinstance(source, SourceModel)
    assert isinstance(adda, ADDA)
    for one, two in zip(
        [*source.source_encoder.weights, *source.classifier.weights],
        [*adda.source_encoder.weights, *adda.classifier.weights], strict=True,
    ):  # fmt: skip
        np.testing.assert_array_equal(one, two)


def test_a_run_killed_in_both_stages_ends_with_the_same_bits(
    finished: Path, data_flags: list[str], tmp_path: Path
) -> None:
    flags = [*data_flags, *SHORT, *run_folders(tmp_path), "--run_name", "both",
             "--checkpoint_steps", "7"]  # fmt: skip
    for stage in ("source", "both"):
        command = [sys.executable, ROOT / "train_MNIST2MNIST_M.py", *flags]
        with subprocess.Popen(
            list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as process:
            wait_for_checkpoint(tmp_path, process, inside=stage)
            process.send_signal(signal.SIGKILL)
        flags = ["--resume", str(next((tmp_path / "logs").rglob("both")))]
    done = run("train_MNIST2MNIST_M.py", *flags)
    assert "training: source_model" not in done.stdout
    undisturbed, resumed = (
        keras.saving.load_model(next(folder.rglob("trained_adda_mnist2mnist_m.keras")))
        for folder in (finished, tmp_path)
    )
    for one, two in zip(undisturbed.get_weights(), resumed.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)


def test_a_source_model_can_be_shared(
    finished: Path, data_flags: list[str], tmp_path: Path
) -> None:
    source = next((finished / "checkpoints").rglob("source_model.keras"))
    done = run("train_MNIST2MNIST_M.py", *data_flags, *SHORT, *run_folders(tmp_path),
               "--pre_model_path", source, "--adversarial_loss", "minimax",
               "--discriminator_steps", "99")  # fmt: skip
    assert "training: source_model" not in done.stdout
    # No step of the target encoder: the copy predicts as its source.
    adda = keras.saving.load_model(next(tmp_path.rglob("trained_adda_mnist2mnist_m.keras")))
    assert adda.adversarial_loss == "minimax"
    for one, two in zip(adda.source_encoder.weights, adda.target_encoder.weights, strict=True):
        np.testing.assert_array_equal(one, two)


def test_a_dann_can_be_the_source_model(finished: Path, tmp_path: Path) -> None:
    dann = small_dann()
    dann.compile("sgd")
    dann.save(tmp_path / "dann.keras")
    encoder, classifier = small_encoder(), dense_head("classifier", (144,), (6,), 5)
    load_source(encoder, classifier, tmp_path / "dann.keras")
    for one, two in zip(
        [*dann.feature_extractor.weights, *dann.label_predictor.weights],
        [*encoder.weights, *classifier.weights], strict=True,
    ):  # fmt: skip
        np.testing.assert_array_equal(one, two)


def test_files_that_are_no_source_model_are_refused(tmp_path: Path) -> None:
    encoder, classifier = small_encoder(), dense_head("classifier", (144,), (6,), 5)
    (tmp_path / "broken.keras").write_bytes(b"no model")
    with pytest.raises(UserError, match=r"broken.keras: not a .keras file that can be loaded"):
        load_source(encoder, classifier, tmp_path / "broken.keras")
    small_encoder().save(tmp_path / "other.keras")
    with pytest.raises(UserError, match="holds a Sequential, not a SourceModel or a DANN"):
        load_source(encoder, classifier, tmp_path / "other.keras")
    small_adda().save(tmp_path / "adda.keras")
    before = encoder.get_weights()
    with pytest.raises(UserError, match=r"kernel has shape \(6, 5\), needed is \(6, 7\)"):
        load_source(encoder, dense_head("c", (144,), (6,), 7), tmp_path / "adda.keras")
    for one, two in zip(before, encoder.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)


def test_several_workers_need_a_source_model(tmp_path: Path) -> None:
    place = Run(tmp_path, tmp_path, tmp_path)
    assert needs_first_stage(place, Config(method="adda"))
    assert not needs_first_stage(place, Config(method="adda", pre_model_path="a.keras"))
    with pytest.raises(UserError, match="train the source model first, on one"):
        needs_first_stage(place, Config(method="adda", strategy="multi_worker"))
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "source_model.keras").touch()
    assert not needs_first_stage(place, Config(method="adda"))
