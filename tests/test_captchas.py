"""The captchas, seeded and kept, and train_captcha.py as a user runs it."""

from __future__ import annotations

import csv
import dataclasses
import json
import secrets
from pathlib import Path

import captcha.image
import cv2
import keras
import numpy as np
import pytest
from helpers import rows_of, run, run_process, the_error

from benchmarks.runner import folder_flags
from config.captcha import CaptchaConfig
from model.adda import ADDA
from model.networks import captcha_discriminator, captcha_encoder
from utils.data.captchas import SIZE, STYLES, Artist, load_captchas
from utils.errors import UserError
from utils.run.flags import Start, make_settings

TINY = ["--captchas", "100", "--epoch", "1", "--source_epoch", "1", "--batch_size", "40"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the captchas of this module are kept."""
    return tmp_path_factory.mktemp("captchas")


def test_captchas_are_seeded(tmp_path: Path) -> None:
    one, two, more, other = (
        load_captchas(tmp_path / str(place), "busy", *numbers)
        for place, numbers in enumerate(((50, 20, 7), (50, 20, 7), (60, 30, 7), (50, 20, 8)))
    )
    for part in one:
        np.testing.assert_array_equal(one[part], two[part])
        np.testing.assert_array_equal(one[part], more[part][: len(one[part])])
        assert not np.array_equal(one[part], other[part])
    assert one["train"].shape == (50, 100, 100, 3)
    assert one["train"].dtype == np.uint8
    assert one["val_label"].shape == (20, 3)
    assert captcha.image.secrets is secrets


def test_the_two_styles_differ() -> None:
    plain, busy = (
        np.stack([Artist(STYLES[name]).draw(f"{index}")[0] for index in range(30)])
        for name in ("plain", "busy")
    )
    assert np.median(plain) > np.median(busy) + 10
    # Smoothing leaves fewer steps from one pixel to the next.
    steps = [np.mean(np.abs(np.diff(images.astype(int), axis=2)) > 40) for images in (plain, busy)]
    assert steps[0] > 1.5 * steps[1]


@pytest.mark.parametrize("style", ["plain", "busy"])
def test_colours_and_places_do_not_tell_the_characters(style: str) -> None:
    """What draws the characters must not come again for the colours: a network would see it."""
    artist = Artist(STYLES[style])
    drawn = [artist.draw(f"{index}") for index in range(800)]
    labels = np.array([label for _, label in drawn], float)
    background = np.array([np.median(image, axis=(0, 1)) for image, _ in drawn])
    table = np.corrcoef(np.hstack([labels, background]).T)
    np.fill_diagonal(table, 0)
    assert np.abs(table[:3]).max() < 0.15  # 4 standard deviations of chance
    counts = np.bincount(labels.astype(int).ravel(), minlength=10)
    assert np.abs(counts - 240).max() < 75  # 5 standard deviations


def test_kept_captchas_are_what_was_drawn(tmp_path: Path) -> None:
    drawn = load_captchas(tmp_path, "plain", 12, 5, 1)
    path = next(tmp_path.glob("*.npz"))
    written = path.stat().st_mtime_ns
    again = load_captchas(tmp_path, "plain", 12, 5, 1)
    assert path.stat().st_mtime_ns == written
    for part, array in drawn.items():
        np.testing.assert_array_equal(array, again[part])
    note = json.loads(path.with_suffix(".json").read_text())
    assert set(note) == {"sha256", "alphabet", "style", "captcha", "pillow", "matplotlib"}


def test_another_style_is_drawn_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = load_captchas(tmp_path, "plain", 12, 5, 1)
    darker = dataclasses.replace(STYLES["plain"], background=(100, 120))
    monkeypatch.setitem(STYLES, "plain", darker)
    after = load_captchas(tmp_path, "plain", 12, 5, 1)
    assert np.median(after["train"]) < np.median(before["train"]) - 50
    monkeypatch.undo()
    np.testing.assert_array_equal(
        load_captchas(tmp_path, "plain", 12, 5, 1)["train"], before["train"]
    )


@pytest.mark.parametrize("fault", ["cut", "swapped", "pickled", "note"])
def test_damaged_captchas_are_refused(tmp_path: Path, fault: str) -> None:
    load_captchas(tmp_path, "plain", 12, 5, 1)
    path = next(tmp_path.glob("*.npz"))
    if fault == "cut":
        path.write_bytes(path.read_bytes()[:2000])
    elif fault == "swapped":
        with np.load(path) as file:
            arrays = dict(file)
        arrays["train_label"] = arrays["train_label"][::-1]
        np.savez_compressed(path, **arrays)
    elif fault == "pickled":
        np.savez(path, train=np.array([{}], object))
    else:
        path = path.with_suffix(".json")
        path.write_text("[")
    with pytest.raises(
        UserError, match=rf"{path.suffix}: .*delete it, the next run makes it again"
    ):
        load_captchas(tmp_path, "plain", 12, 5, 1)


def test_the_discriminator_sees_each_place_alone() -> None:
    """Its logits are the mean over the 22 × 22 places of a dense network of 64 features."""
    size = captcha_encoder((SIZE, SIZE, 3), tutorial=False).output_shape[1:]
    model = captcha_discriminator(size)
    features = np.random.default_rng(0).normal(size=(2, 22 * 22, 64)).astype(np.float32)
    kernels = model.get_weights()[::2]
    seen = features
    for number, kernel in enumerate(kernels, 1):
        seen = seen @ kernel[0, 0]  # the biases are 0
        if number < len(kernels):
            seen = np.maximum(seen, 0)
    logits = model(features.reshape(2, -1))
    np.testing.assert_allclose(logits, seen.mean(axis=1), rtol=1e-3, atol=1e-5)


def final_model(folder: Path) -> Path:
    return next((folder / "checkpoints").rglob("trained_adda_captcha.keras"))


def load(folder: Path) -> ADDA:
    model = keras.saving.load_model(final_model(folder))
    assert isinstance(model, ADDA)
    return model


@pytest.fixture(scope="module")
def finished(root: Path, tmp_path_factory: pytest.TempPathFactory, smaller_captchas: None) -> Path:
    """A whole run of both stages."""
    folder = tmp_path_factory.mktemp("captcha_run")
    done = run("train_captcha.py", *TINY, "--captcha_root", root, *folder_flags(folder),
               "--run_name", "mine")  # fmt: skip
    assert "training: source_model, steps 0 to 5" in done.stdout
    assert "training: adda, steps 0 to 5" in done.stdout
    return folder


def test_a_run_records_both_stages(finished: Path) -> None:
    logs = next((finished / "logs").rglob("mine"))
    for name in ("samples.png", "predictions.png"):
        assert cv2.imread(str(logs / name)) is not None, name
    for folder, adversarial in ((logs / "source", False), (logs, True)):
        rows = rows_of(folder)
        assert len(rows) == 1 + adversarial  # the second stage's start is epoch 0
        positions = [float(rows[-1][f"val_position{n}_acc"]) for n in (1, 2, 3)]
        assert float(rows[-1]["val_image_cls_acc"]) == pytest.approx(np.mean(positions), abs=1e-6)
        assert float(rows[-1]["val_whole_string_acc"]) <= min(positions)
        assert ("val_domain_cls_acc" in rows[0]) is adversarial


def test_predictions_are_strings(finished: Path, root: Path, tmp_path: Path) -> None:
    images = load_captchas(root, "busy", 100, 25, 42)["val"][:4, ::3, ::3]
    for index, image in enumerate(images):
        cv2.imwrite(str(tmp_path / f"{index}.png"), image[..., ::-1])
    run("predict.py", "--images", tmp_path, "--model", final_model(finished), "--output",
        tmp_path / "p.csv")  # fmt: skip
    with (tmp_path / "p.csv").open() as file:
        rows = list(csv.DictReader(file))
    expected = load(finished).predict(images, verbose=0)
    for row, probabilities in zip(rows, expected, strict=True):
        assert row["label"] == "".join(str(number) for number in probabilities.argmax(-1))
        assert float(row["probability"]) == pytest.approx(probabilities.max(-1).prod(), abs=1e-4)


def test_a_quick_run_is_repeated_at_full_length(tmp_path: Path) -> None:
    quick = CaptchaConfig.of({"quick": True, **CaptchaConfig.QUICK})
    quick.save(tmp_path / "config.json")
    repeated = Start(config=tmp_path / "config.json")
    assert make_settings(CaptchaConfig, repeated, {}).captchas == 3000
    assert make_settings(CaptchaConfig, repeated, {"quick": False}) == CaptchaConfig()
    dataclasses.replace(quick, captchas=5000).save(tmp_path / "config.json")
    assert make_settings(CaptchaConfig, repeated, {"quick": False}).captchas == 5000


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--pre_model_path", "nowhere.keras"], "nowhere.keras: no such file"),
        (["--captchas", "5"], "captchas: 5 must be 100 or more"),
        (["--k_g", "0"], "k_g: 0 must be 1 or more"),
        (["--captcha_root", "{file}"], "cannot be written"),
    ],
)
def test_impossible_calls_are_named(tmp_path: Path, flags: list[str], message: str) -> None:
    (tmp_path / "file").touch()
    named = [flag.format(file=tmp_path / "file") for flag in flags]
    done = run("train_captcha.py", *named, *folder_flags(tmp_path), code=2)
    assert message in the_error(done)


@pytest.mark.long
def test_a_run_on_two_devices_ends_with_its_pictures(tmp_path: Path) -> None:
    done = run_process(
        "train_captcha.py", "--method", "source_model", "--captchas", 100, "--epoch", 1,
        "--batch_size", 64, "--strategy", "mirrored", "--logical_devices", 2,
        *folder_flags(tmp_path), "--run_name", "two",
    )  # fmt: skip
    assert "next:" in done.stdout
    assert next(tmp_path.rglob("predictions.png")).stat().st_size > 1000
