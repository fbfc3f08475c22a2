"""The two stages of ADDA on digits: what each records, and where the second begins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import pytest
import tensorflow as tf
from helpers import assert_same_weights, events, final_weights, rows_of, run, stop
from test_adda import small_adda, small_encoder
from test_dann import small_dann

from benchmarks.runner import folder_flags
from config.config import Config
from model.adda import ADDA, SourceModel
from model.pretrained import start_from
from utils.errors import UserError
from utils.run import launch
from utils.run.checkpoints import Checkpoints
from utils.run.runs import Run
from utils.run.stages import make_stages
from utils.run.trainer import Trainer

SECOND = ["--method", "adda", "--epoch", "2", "--batch_size", "32", "--k_g", "1",
          "--discriminator_steps", "30"]  # fmt: skip
SHORT = [*SECOND, "--source_epoch", "3"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, data_flags: list[str]) -> Path:
    folder = tmp_path_factory.mktemp("adda")
    done = run("train_MNIST2MNIST_M.py", *data_flags, *SHORT, *folder_flags(folder),
               "--run_name", "both")  # fmt: skip
    assert "training: source_model, steps 0 to 60, 20 an epoch, 16 images each" in done.stdout
    assert "training: adda, steps 0 to 40, 20 an epoch, 32 images each" in done.stdout
    return folder


def test_both_stages_are_recorded(finished: Path) -> None:
    logs = next((finished / "logs").rglob("both"))
    first, (start, *second) = rows_of(logs / "source"), rows_of(logs)
    assert (len(first), len(second)) == (3, 2)
    # Epoch 0 is what the first stage has left.
    assert start["epoch"] == "000"
    assert start["train_loss"] == ""
    for name in ("val_image_cls_acc", "labelled_image_cls_acc", "information_maximisation"):
        assert start[name] == first[-1][name]
    assert "train_domain_cls_loss" not in first[0]
    # The source model stands still in the second stage.
    accuracies = {row["labelled_image_cls_acc"] for row in (first[-1], *second)}
    assert len(accuracies) == 1
    # 30 of 40 steps teach the discriminator alone, so after 20 the target is as it was.
    assert second[0]["val_image_cls_acc"] == first[-1]["val_image_cls_acc"]
    assert second[1]["val_image_cls_loss"] != first[-1]["val_image_cls_loss"]
    found = events(logs)
    rates = [
        float(tf.io.parse_tensor(content, tf.float32))
        for _, content in found["hyperparameter:hyperparameter/learning_rate"]
    ]
    assert [rate > 0 for rate in rates] == [False] * 30 + [True] * 10  # discriminator_steps
    for name in ("train", "validation"):
        assert {f"{name}:acc/domain_cls_acc", f"{name}:loss/adversarial_loss"} <= set(found)


def test_the_second_stage_begins_where_the_first_ended(finished: Path) -> None:
    place = next((finished / "checkpoints").rglob("both"))
    source = keras.saving.load_model(place / "source" / "source_model.keras")
    adda = keras.saving.load_model(place / "trained_adda_mnist2mnist_m.keras")
    assert isinstance(source, SourceModel)
    assert isinstance(adda, ADDA)
    assert_same_weights(source.feature_extractor.weights, adda.source_extractor.weights)
    assert_same_weights(source.label_predictor.weights, adda.label_predictor.weights)


@pytest.mark.long
def test_a_run_killed_in_both_stages_ends_with_the_same_bits(
    finished: Path, data_flags: list[str], tmp_path: Path
) -> None:
    flags = [*data_flags, *SHORT, *folder_flags(tmp_path), "--run_name", "both",
             "--checkpoint_steps", "7"]  # fmt: skip
    for stage in ("source", "both"):
        stop(tmp_path, "train_MNIST2MNIST_M.py", *flags, inside=stage)
        flags = ["--resume", str(next((tmp_path / "logs").rglob("both")))]
    done = run("train_MNIST2MNIST_M.py", *flags)
    assert "training: source_model" not in done.stdout
    assert_same_weights(final_weights(finished, "both"), final_weights(tmp_path, "both"))


@pytest.mark.long
def test_a_run_killed_between_its_stages_ends_with_the_same_bits(
    finished: Path, data_flags: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second stage's discriminator begins at the same chances, whoever trained the first.

    Checkpoints that the kill left beside the first stage's model are gone in the end.
    """
    flags = [*data_flags, *SHORT, *folder_flags(tmp_path), "--run_name", "both"]
    train_stage = launch.train_stage

    def first_alone(run_: Run, trainer: Trainer, *others: Any) -> int:
        return 9 if trainer.model.name == "adda" else train_stage(run_, trainer, *others)

    monkeypatch.setattr(launch, "train_stage", first_alone)
    monkeypatch.setattr(Checkpoints, "remove", lambda _: None)
    run("train_MNIST2MNIST_M.py", *flags, code=9)
    monkeypatch.undo()
    assert list(tmp_path.rglob("step-*"))
    run("train_MNIST2MNIST_M.py", "--resume", next((tmp_path / "logs").rglob("both")))
    assert not list(tmp_path.rglob("step-*"))
    assert_same_weights(final_weights(finished, "both"), final_weights(tmp_path, "both"))


def test_a_source_model_can_be_shared(
    finished: Path, data_flags: list[str], tmp_path: Path
) -> None:
    source = next((finished / "checkpoints").rglob("source_model.keras"))
    done = run("train_MNIST2MNIST_M.py", *data_flags, *SECOND, *folder_flags(tmp_path),
               "--pre_model_path", source, "--adversarial_loss", "minimax",
               "--adda_learning_rate", "0")  # fmt: skip
    assert "training: source_model" not in done.stdout
    # The target encoder stands still: the copy predicts as its source.
    adda = keras.saving.load_model(next(tmp_path.rglob("trained_adda_mnist2mnist_m.keras")))
    assert adda.adversarial_loss == "minimax"
    assert_same_weights(adda.source_extractor.weights, adda.feature_extractor.weights)


def test_a_dann_can_be_the_source_model(tmp_path: Path) -> None:
    dann, adda = small_dann(), small_adda(seed=4)
    dann.save(tmp_path / "dann.keras")
    start_from(adda, tmp_path / "dann.keras")
    for extractor in (adda.source_extractor, adda.feature_extractor):
        assert_same_weights(extractor.weights, dann.feature_extractor.weights)
    assert_same_weights(adda.label_predictor.weights, dann.label_predictor.weights)


def test_a_discriminator_leaves_steps_to_the_encoder() -> None:
    settings = Config(method="adda", discriminator_steps=40)
    with pytest.raises(UserError, match="discriminator_steps: 40 leaves none of the 40 steps"):
        ADDA.schedules(settings, 40)
    ADDA.schedules(settings, 41)


def test_files_that_are_no_source_model_are_refused(tmp_path: Path) -> None:
    adda = small_adda()
    before = adda.get_weights()
    (tmp_path / "broken.keras").write_bytes(b"no model")
    with pytest.raises(UserError, match=r"broken.keras: is no .keras file, or was cut short"):
        start_from(adda, tmp_path / "broken.keras")
    small_encoder().save(tmp_path / "other.keras")
    with pytest.raises(UserError, match="holds a Sequential, not a model of this project"):
        start_from(adda, tmp_path / "other.keras")
    small_adda(classes=7).save(tmp_path / "adda.keras")
    with pytest.raises(UserError, match=r"has shape \(6, 7\); .*kernel must have \(6, 5\)"):
        start_from(adda, tmp_path / "adda.keras")
    assert_same_weights(before, adda.get_weights())


def test_several_workers_need_a_source_model(tmp_path: Path) -> None:
    place = Run(tmp_path, tmp_path, tmp_path)

    def count(method: str = "adda", **settings: Any) -> int:
        return len(make_stages(place, Config(method=method, **settings), None, None))  # type: ignore

    assert count() == 2
    assert count(pre_model_path="a.keras", strategy="multi_worker") == 1
    with pytest.raises(UserError, match="train source_model first, on one"):
        count(strategy="multi_worker")
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "source_model.keras").touch()
    assert count(strategy="multi_worker") == 2
    # The second stage of a mean teacher starts from best.keras, which is there before the end.
    (tmp_path / "first").mkdir()
    (tmp_path / "first" / "best.keras").touch()
    teacher = {"strategy": "multi_worker", "average_decay": 0.9}
    with pytest.raises(UserError, match="train dann first, on one"):
        count("mean_teacher", **teacher)
    (tmp_path / "first" / "dann.keras").touch()
    assert count("mean_teacher", **teacher) == 2
