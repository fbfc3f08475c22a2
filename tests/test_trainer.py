"""The training loop: resume, logs, collapse, signals; in this process, on striped images."""

from __future__ import annotations

import math
import os
import signal
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import Arrays, events, figures_drawn

from config.config import Config
from model.augmentation import RandomAugmentation
from model.dann import DANN
from model.mean_teacher import MeanTeacher
from model.networks import dense_head, mnist_feature_extractor
from model.pretrained import load_model
from utils.data.batches import DomainBatches, evaluation_batches
from utils.errors import UserError
from utils.record.selection import CRITERIA
from utils.run import collapse
from utils.run.collapse import CollapseError
from utils.run.devices import prepare_devices
from utils.run.runs import Run
from utils.run.signals import Interrupted
from utils.run.trainer import EvaluationData, Trainer

EPOCHS, EPOCH_STEPS = 2, 20


@pytest.fixture(scope="module", autouse=True)
def deterministic() -> None:
    prepare_devices(Config())


def make_trainer(
    folder: Path, domains: Arrays, rate: float = 0.01, recipe: bool = False, **settings: Any
) -> Trainer:
    """A fresh model and trainer, as a newly started script has them.

    `recipe` turns everything on that has a state or a chance of its own.
    """
    source, target = domains
    keras.utils.set_random_seed(1)
    config = Config(**{"epoch": EPOCHS, "batch_size": 32, "checkpoint_steps": 7,
                       "init_learning_rate": rate, **settings})  # fmt: skip
    schedules = DANN.schedules(config, EPOCHS * EPOCH_STEPS)
    parts = (
        mnist_feature_extractor((28, 28, 3), (20.0, 20.0, 20.0)),
        dense_head("label_predictor", (768,), (20,), 10, dropout=0.5 * recipe),
        dense_head("domain_classifier", (768,), (20,), 2),
    )
    if recipe:
        model: DANN = MeanTeacher(
            *parts, grl_lambda=schedules["grl_lambda"], clip_norm=1.0, average_decay=0.9,
            augmentation=RandomAugmentation(3, contrast=0.5), confidence=0.2,
        )  # fmt: skip
    else:
        model = DANN(*parts, grl_lambda=schedules["grl_lambda"])
    model.compile(optimizer=keras.optimizers.SGD(schedules["learning_rate"], 0.9))
    return Trainer(
        model,
        DomainBatches([source["train"], target["train"]], [source["train_label"], None], 32, 1),
        config,
        Run(folder / "logs", folder / "checkpoints", folder / "config"),
        EvaluationData(
            target=evaluation_batches(target["val"], target["val_label"], domain=1),
            labelled=evaluation_batches(source["val"], source["val_label"], domain=0),
            unlabelled=evaluation_batches(target["train"][:50], np.full(50, -1), domain=1),
        ),
        "trained_dann_mnist2mnist_m",
    )


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, domains: Arrays) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    trainer = make_trainer(folder, domains)
    trainer.checkpoints.restore()
    with figures_drawn():
        trainer.train()
    np.savez(folder / "weights.npz", *trainer.model.get_weights())
    return folder


def assert_same_end(folder: Path, trainer: Trainer, undisturbed: Path) -> None:
    with np.load(undisturbed / "weights.npz") as expected:
        for name, weight in zip(expected.files, trainer.model.get_weights(), strict=True):
            np.testing.assert_array_equal(weight, expected[name])
    for name in ("log.csv", "log.txt"):
        assert (folder / "logs" / name).read_bytes() == (undisturbed / "logs" / name).read_bytes()
    assert events(folder / "logs") == events(undisturbed / "logs")


class Killed(Exception):
    pass


def kill_at(trainer: Trainer, monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Makes the trainer die just before it saves `step`: what it did since is lost."""
    save = trainer.checkpoints.save

    def die_or_save() -> None:
        if trainer.step == step:
            raise Killed
        save()

    monkeypatch.setattr(trainer.checkpoints, "save", die_or_save)


# 14: in mid-epoch. 20: after the first epoch was recorded and before it was saved. 40: likewise
# the last. 7: before any checkpoint.
@pytest.mark.parametrize("step", [7, 14, 20, 40])
def test_a_killed_run_ends_as_if_undisturbed(
    tmp_path: Path, domains: Arrays, undisturbed: Path, monkeypatch: Any, step: int
) -> None:
    trainer = make_trainer(tmp_path, domains)
    kill_at(trainer, monkeypatch, step)
    with pytest.raises(Killed):
        trainer.train()
    trainer.log.flush()
    # A kill may also cut a record short.
    for file in tmp_path.glob("logs/train/events.*"):
        file.write_bytes(file.read_bytes() + b"\x10\0\0\0\0\0\0")
    resumed = make_trainer(tmp_path, domains)
    assert resumed.checkpoints.restore() == max(s for s in (0, 7, 14, 20, 21, 28, 35) if s < step)
    resumed.train()
    assert_same_end(tmp_path, resumed, undisturbed)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_where_the_run_stands(
    tmp_path: Path, domains: Arrays, undisturbed: Path, number: signal.Signals
) -> None:
    trainer = make_trainer(tmp_path, domains, checkpoint_steps=1000)
    run_steps = trainer.run_steps

    def signalled(*args: Any) -> Any:
        os.kill(os.getpid(), number)
        return run_steps(*args)

    handler = signal.getsignal(number)
    trainer.run_steps = signalled
    with pytest.raises(Interrupted) as caught:
        trainer.train()
    assert caught.value.signal_number == number
    assert signal.getsignal(number) is handler
    resumed = make_trainer(tmp_path, domains)
    assert resumed.checkpoints.restore() == trainer.step > 0
    resumed.train()
    assert_same_end(tmp_path, resumed, undisturbed)


@pytest.mark.long
def test_a_killed_run_with_every_switch_on_ends_as_if_undisturbed(
    tmp_path: Path, domains: Arrays, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The average, the mean prediction and the chances of dropout and augmentation come back."""
    whole = tmp_path / "whole"
    trainer = make_trainer(whole, domains, recipe=True)
    trainer.train()
    np.savez(whole / "weights.npz", *trainer.model.get_weights())
    broken = make_trainer(tmp_path / "killed", domains, recipe=True)
    kill_at(broken, monkeypatch, 14)
    with pytest.raises(Killed):
        broken.train()
    broken.log.flush()
    resumed = make_trainer(tmp_path / "killed", domains, recipe=True)
    assert resumed.checkpoints.restore() == 7
    resumed.train()
    assert_same_end(tmp_path / "killed", resumed, whole)


def test_what_is_measured_and_kept_is_the_average(tmp_path: Path, domains: Arrays) -> None:
    trainer = make_trainer(tmp_path, domains, recipe=True)
    trainer.train()
    kept = keras.saving.load_model(tmp_path / "checkpoints/trained_dann_mnist2mnist_m.keras")
    images, labels = domains[1]["val"], domains[1]["val_label"]
    probabilities = kept.predict(images, verbose=0)
    with trainer.model.averaged():
        np.testing.assert_array_equal(probabilities, trainer.model.predict(images, verbose=0))
    assert np.abs(probabilities - trainer.model.predict(images, verbose=0)).max() > 1e-3
    accuracy = (probabilities.argmax(axis=1) == labels).mean()
    assert float(trainer.log.rows[-1]["val_image_cls_acc"]) == pytest.approx(accuracy, abs=1e-6)


@pytest.mark.parametrize("criterion", ["entropy", "soft_neighbourhood_density"])
def test_best_is_the_criterions_epoch(tmp_path: Path, domains: Arrays, criterion: str) -> None:
    """From log.csv and the saved file alone: it gives the target accuracy of the best epoch."""
    trainer = make_trainer(tmp_path, domains, select_by=criterion)
    trainer.train()
    best = max(trainer.log.rows, key=lambda row: float(row[criterion]))
    kept = keras.saving.load_model(tmp_path / "checkpoints/best.keras")
    predicted = kept.predict(domains[1]["val"], verbose=0).argmax(axis=1)
    accuracy = (predicted == domains[1]["val_label"]).mean()
    assert float(best["val_image_cls_acc"]) == pytest.approx(accuracy, abs=1e-6)
    for name in CRITERIA:
        assert name in best


def test_a_criterion_without_a_value_keeps_a_model(
    tmp_path: Path, domains: Arrays, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(CRITERIA, "soft_neighbourhood_density", lambda source, target: math.nan)
    make_trainer(tmp_path, domains, select_by="soft_neighbourhood_density").train()
    assert (tmp_path / "checkpoints/best.keras").exists()


def test_the_next_save_removes_what_a_kill_in_mid_save_left(
    tmp_path: Path, domains: Arrays
) -> None:
    trainer = make_trainer(tmp_path, domains)
    checkpoints = tmp_path / "checkpoints"
    trainer.checkpoints.save()
    for name in ("step-7.index", "step-7.data-00000-of-00001", "checkpoint.tmp0123",
                 ".best.0123abcd.partial.keras"):  # fmt: skip
        (checkpoints / name).write_bytes(b"cut short")
    trainer.checkpoints.step.assign(14)
    trainer.checkpoints.save()
    assert {file.name.split(".")[0] for file in checkpoints.iterdir()} == {
        "checkpoint", "step-0", "step-14",
    }  # fmt: skip
    assert not list(checkpoints.glob("*tmp*"))


def test_record_follows_the_contract(undisturbed: Path) -> None:
    found = {
        tag: [step for step, _ in values] for tag, values in events(undisturbed / "logs").items()
    }
    epochs = [1, 2]
    for run in ("train", "validation"):
        for tag in ("loss/loss", "loss/image_cls_loss", "loss/domain_cls_loss",
                    "acc/image_cls_acc", "acc/domain_cls_acc"):  # fmt: skip
            assert found.pop(f"{run}:{tag}") == epochs
    for tag in ("learning_rate", "grl_lambda"):
        assert found.pop(f"hyperparameter:hyperparameter/{tag}") == list(range(1, 41))
    assert all(tag.startswith(".:") for tag in found)


def test_validation_is_measured_on_the_target_test_set_with_losses_as_losses(
    tmp_path: Path, domains: Arrays, undisturbed: Path
) -> None:
    """From the saved model and NumPy alone; the original logged an accuracy as the domain loss."""
    model = keras.saving.load_model(undisturbed / "checkpoints/trained_dann_mnist2mnist_m.keras")
    images, labels = domains[1]["val"], domains[1]["val_label"]
    probabilities = model.predict(images, verbose=0)
    logits = model.domain_classifier(model.feature_extractor(images)).numpy()
    label_loss = -np.log(probabilities[np.arange(100), labels]).mean()
    domain_loss = (np.log(np.exp(logits).sum(axis=1)) - logits[:, 1]).mean()
    expected = {
        "loss/loss": label_loss + domain_loss,
        "loss/image_cls_loss": label_loss,
        "loss/domain_cls_loss": domain_loss,
        "acc/image_cls_acc": (probabilities.argmax(1) == labels).mean(),
        "acc/domain_cls_acc": (logits.argmax(1) == 1).mean(),
    }
    found = events(undisturbed / "logs")
    for tag, value in expected.items():
        tensor = type(tf.make_tensor_proto(0)).FromString(found[f"validation:{tag}"][-1][1])
        assert float(tf.make_ndarray(tensor)) == pytest.approx(value, rel=1e-4, abs=1e-6), tag


def test_each_epochs_train_metrics_are_its_own(tmp_path: Path, domains: Arrays) -> None:
    """Replays the batches by hand: the second epoch's mean has no share of the first's."""
    trainer = make_trainer(tmp_path, domains)
    replay = make_trainer(tmp_path / "replay", domains)
    trainer.train()
    losses = []
    for step in range(40):
        replay.model.reset_metrics()
        losses.append(float(replay.model.train_step(replay.batches.batch(step))["image_cls_loss"]))
    rows = trainer.log.rows
    for epoch, row in enumerate(rows):
        expected = np.mean(losses[epoch * 20 : epoch * 20 + 20])
        assert float(row["train_image_cls_loss"]) == pytest.approx(expected, rel=1e-3)


def test_a_finished_run_keeps_the_best_and_the_final_model(undisturbed: Path) -> None:
    names = {file.name for file in (undisturbed / "checkpoints").iterdir()}
    assert names == {"best.keras", "trained_dann_mnist2mnist_m.keras"}


def test_figures_are_written(undisturbed: Path) -> None:
    for name in ("hyperparameter", "acc", "loss", "embedding"):
        data = (undisturbed / "logs" / f"{name}.png").read_bytes()
        assert data.startswith(b"\x89PNG")
        assert len(data) > 5000


@pytest.fixture
def dead(tmp_path: Path, domains: Arrays, request: pytest.FixtureRequest) -> Trainer:
    """A trainer whose features have died: every ReLU is off, whatever the image."""
    trainer = make_trainer(tmp_path, domains, allow_collapse=getattr(request, "param", False))
    kernel, bias = trainer.model.feature_extractor.get_layer("conv2").weights
    kernel.assign(tf.zeros(kernel.shape))
    bias.assign(tf.fill(bias.shape, -100.0))
    return trainer


def test_collapse_is_noticed_after_two_epochs(
    dead: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collapse, "STEPS", 0)
    with pytest.raises(CollapseError, match=r"epoch 2: every target image gets the same"):
        dead.train()
    assert dead.checkpoints.restore() < dead.total_steps  # a resume does not take it for finished


@pytest.mark.parametrize("dead", [True], indirect=True)
def test_collapse_may_be_allowed(dead: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collapse, "STEPS", 0)
    dead.train()
    assert len(dead.log.rows) == 2


def test_weights_that_are_no_numbers_are_noticed(tmp_path: Path, domains: Arrays) -> None:
    """A ReLU makes zeros of them, so the loss and the predictions look healthy."""
    trainer = make_trainer(tmp_path, domains, allow_collapse=True)
    kernel = trainer.model.feature_extractor.get_layer("conv1").weights[0]
    kernel.assign(tf.fill(kernel.shape, math.nan))
    with pytest.raises(CollapseError, match=r"epoch 1: the weights are no numbers"):
        trainer.train()
    assert not list(tmp_path.rglob("*.keras"))
    trainer.save_model(tmp_path / "lost.keras")
    with pytest.raises(UserError, match=r"lost\.keras: its weights are no numbers"):
        load_model(tmp_path / "lost.keras")


def test_nan_is_noticed_at_once(tmp_path: Path, domains: Arrays) -> None:
    trainer = make_trainer(tmp_path, domains, rate=1e38)
    with pytest.raises(CollapseError, match=r"epoch 1: the loss is (nan|inf)"):
        trainer.train()
    assert trainer.log.rows == []


def test_nan_of_the_last_step_of_an_epoch_is_noticed(tmp_path: Path, domains: Arrays) -> None:
    """Its loss was measured before the weights were lost."""
    trainer = make_trainer(tmp_path, domains)
    logits = trainer.model.label_predictor.get_layer("logits")
    logits.bias.assign(tf.fill(logits.bias.shape, np.nan))
    with pytest.raises(CollapseError, match="epoch 3: the predictions are no numbers"):
        trainer.evaluate(3, {})
