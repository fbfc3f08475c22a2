from __future__ import annotations

import shutil
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import tensorflow as tf
from helpers import ask, tensorboard

from utils.record.figures import confusion_picture, prediction_picture, save_evaluation
from utils.record.selection import CRITERIA, Outputs
from utils.record.summaries import RunLog, rewind_events

# The original repository's.
TAGS = {
    "loss": "loss/loss",
    "image_cls_loss": "loss/image_cls_loss",
    "domain_cls_loss": "loss/domain_cls_loss",
    "image_cls_acc": "acc/image_cls_acc",
    "domain_cls_acc": "acc/domain_cls_acc",
}
SETTINGS = {"batch_size": 256, "gamma": 10.0, "select_by": "information_maximisation"}


def metrics(value: float) -> dict[str, dict[str, float]]:
    return {run: {name: value + index for index, name in enumerate(TAGS)}
            for run in ("train", "validation")}  # fmt: skip


def schedule(steps: np.ndarray) -> np.ndarray:
    return 0.5 * steps


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    """Three epochs of four steps, below a log directory."""
    log = RunLog(tmp_path / "logs" / "experiment" / "run", SETTINGS, "python train.py")
    log.open(0, 4)
    for epoch in (1, 2, 3):
        steps = range(4 * epoch - 4, 4 * epoch)
        log.epoch(
            epoch, steps, {"learning_rate": schedule, "grl_lambda": schedule},
            metrics(epoch / 8), dict.fromkeys(CRITERIA, float(epoch)),
        )  # fmt: skip
        images = np.zeros((12, 28, 28, 3), np.uint8)
        labels = np.arange(12) % 10
        outputs = Outputs(np.zeros((12, 2)), np.eye(10)[labels], labels)
        log.pictures(epoch, images, outputs, "0123456789")
    log.close()
    return tmp_path / "logs"


def steps_of(folder: Path, tag: str) -> list[int]:
    files = sorted(str(file) for file in folder.glob("events.*"))
    records = tf.data.TFRecordDataset(files).as_numpy_iterator()
    events = [tf.compat.v1.Event.FromString(record) for record in records]
    return [event.step for event in events for value in event.summary.value if value.tag == tag]


def test_log_txt_is_the_originals_with_its_spelling_mended(recorded: Path) -> None:
    lines = (recorded / "experiment/run/log.txt").read_text().splitlines()
    assert lines[1] == (
        "Epoch002-train_loss-0.250-val_loss-0.250-train_image_cls_acc-3.250-val_image_cls_acc-3.250"
    )


def test_csv_keeps_float32_to_the_last_bit(tmp_path: Path) -> None:
    value = float(np.float32(1) / np.float32(3))
    log = RunLog(tmp_path, SETTINGS, "python train.py")
    log.open(0, 1)
    log.epoch(1, range(1), {}, metrics(value), {})
    log.close()
    assert np.float32(log.rows[0]["train_loss"]) == np.float32(value)


def test_reopening_drops_what_comes_after_and_keeps_the_rest(recorded: Path) -> None:
    folder = recorded / "experiment" / "run"
    log = RunLog(folder, SETTINGS, "python train.py")
    log.open(2, 4)
    log.close()
    assert steps_of(folder / "train", "loss/loss") == [1, 2]
    assert steps_of(folder / "hyperparameter", "hyperparameter/grl_lambda") == list(range(1, 9))
    assert steps_of(folder, "selection/information_maximisation") == [1, 2]
    assert len((folder / "log.txt").read_text().splitlines()) == 2


def test_rewinding_joins_files_and_drops_doubles_and_damage(recorded: Path) -> None:
    folder = recorded / "experiment" / "run" / "train"
    first = next(folder.glob("events.*"))
    second = folder / "events.out.tfevents.9999999999.v2"
    shutil.copy(first, second)
    second.write_bytes(second.read_bytes()[:-5])  # cut short in its last record
    (folder / f".{first.name}.abc.partial.v2").write_bytes(b"left by a kill")
    rewind_events(folder, 3)
    assert [file.name for file in folder.iterdir()] == [first.name]
    assert steps_of(folder, "loss/loss") == [1, 2, 3]


def test_a_class_name_that_no_font_has_is_no_warning(tmp_path: Path) -> None:
    save_evaluation(tmp_path / "a.png", np.eye(2), [(1.0, 0.5, 0.6)], ["日本", "b"], "mark")
    assert cv2.imread(str(tmp_path / "a.png")) is not None


def test_confusion_picture_and_predictions_are_pictures() -> None:
    picture = confusion_picture(np.eye(10, dtype=int) * 7)
    assert picture.dtype == np.uint8
    assert picture.shape[2] == 3
    labels, names = np.zeros(13, int), "0123456789ABC"
    tiles = prediction_picture(np.zeros((13, 28, 28, 1), np.uint8), labels, np.eye(13), names)
    assert tiles.shape == (2 * 96, 800, 3)
    green, red = tiles[0, 0], tiles[0, 80]  # the first tile is right, the second is not
    assert green[1] > green[0]
    assert red[0] > red[1]
    for channels in (2, 4, 5):
        images = np.full((13, 28, 28, channels), 200, np.uint8)
        tiles = prediction_picture(images, labels, np.eye(13), names)
        assert (tiles[40, 40] == 200).all()


@pytest.fixture
def server(recorded: Path) -> Iterator[str]:
    with tensorboard(recorded) as address:
        yield address


def test_a_real_tensorboard_shows_runs_tags_and_values(server: str) -> None:
    wanted = {
        "experiment/run",
        *(f"experiment/run/{run}" for run in ("train", "validation", "hyperparameter")),
    }
    for _ in range(60):
        tags = ask(f"{server}/data/plugin/scalars/tags")
        if wanted <= tags.keys() and all(tags[run] for run in wanted):
            break
        time.sleep(1)
    for run in ("train", "validation"):
        assert set(tags[f"experiment/run/{run}"]) == set(TAGS.values())
    assert set(tags["experiment/run/hyperparameter"]) == {
        "hyperparameter/learning_rate", "hyperparameter/grl_lambda"}  # fmt: skip
    query = urllib.parse.urlencode(
        {"run": "experiment/run/validation", "tag": "acc/domain_cls_acc"}
    )
    points = ask(f"{server}/data/plugin/scalars/scalars?{query}")
    assert [(step, value) for _, step, value in points] == [(1, 4.125), (2, 4.25), (3, 4.375)]
    names = {"run": "experiment/run/hyperparameter", "tag": "hyperparameter/learning_rate"}
    query = urllib.parse.urlencode(names)
    points = ask(f"{server}/data/plugin/scalars/scalars?{query}")
    assert [(step, value) for _, step, value in points] == [(s + 1, s / 2) for s in range(12)]
    images = ask(f"{server}/data/plugin/images/tags")["experiment/run"]
    assert set(images) == {"target/predictions", "target/confusion"}
    settings = ask(f"{server}/data/plugin/hparams/experiment", {})
    assert {info["name"] for info in settings["hparamInfos"]} == SETTINGS.keys()
