"""make table: what it reports is what the logs say, recomputed by hand."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
import table
from table import CRITERIA, ROWS, Arguments, Training, grid, report, tries

ACCURACIES = {  # of three epochs; the criterion likes the middle one
    ("recipe", 0): (0.5, 0.8, 0.9),
    ("recipe", 1): (0.5, 0.7, 0.6),
    ("source_only", 0): (0.3, 0.2, 0.4),
    ("adda_minimax", 0): (0.4, 0.6, 0.7),
}


@pytest.fixture
def logged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Made-up logs of some runs, and no checkpoints."""
    for (key, seed), accuracies in ACCURACIES.items():
        folder = tmp_path / "logs" / "table" / "somewhere" / f"{key}-seed{seed}"
        folder.mkdir(parents=True)
        with (folder / "log.csv").open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["epoch", "val_image_cls_acc", "labelled_image_cls_acc", *CRITERIA])
            for epoch, accuracy in enumerate(accuracies, 1):
                rows.writerow([epoch, accuracy, 0.98, *[0.5 + (epoch == 2)] * len(CRITERIA)])
    (tmp_path / "image").mkdir()
    data = tmp_path / "model_data" / "dataset"
    data.mkdir(parents=True)
    record = {"seed": 42, "digits": "MNIST", "photos": "BSDS500 training"}
    digests = {"digits_sha256": "a" * 64, "photos_sha256": "b" * 64}
    (data / "mnist_m.json").write_text(json.dumps(record | digests))
    monkeypatch.setattr(table, "ROOT", tmp_path)
    return tmp_path


def line_of(text: str, title: str) -> list[str]:
    line = next(line for line in text.splitlines() if line.startswith(f"| {title}"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_report_says_what_the_logs_say(logged: Path) -> None:
    text = report(Arguments(seeds=(0, 1)))
    recipe = line_of(text, ROWS["recipe"].title)
    assert recipe[1] == f"0.7500 ± {np.std([0.9, 0.6], ddof=1):.4f}"
    assert recipe[2] == f"0.7500 ± {np.std([0.8, 0.7], ddof=1):.4f}"
    assert recipe[3] == f"*0.8000 ± {np.std([0.9, 0.7], ddof=1):.4f}*"
    assert line_of(text, ROWS["source_only"].title)[1] == "0.4000 ± nan"
    assert line_of(text, "`minimax`")[1:4] == ["0.7000 ± nan", "0.6000 ± nan", "0.9800 ± nan"]
    # What the pick loses: .1 and 0 for the recipe, .2 for source only.
    lost = line_of(text, "information_maximisation")
    assert lost[1 + list(ROWS).index("recipe")] == "5.0"
    assert lost[-2:] == ["10.00", "20.0"]
    assert line_of(text, "last epoch")[-1] == "10.0"
    assert ".5749 / .8149 / .9891" in text
    assert "seed 42" in text
    assert (logged / "image" / "results.png").stat().st_size > 10_000


def captcha_log(file: Path, *accuracies: float) -> None:
    """A log of captchas: the second character is .1 above the first, the third .2."""
    file.parent.mkdir(parents=True, exist_ok=True)
    names = ["val_position1_acc", "val_position2_acc", "val_position3_acc", "val_image_cls_acc",
             "val_whole_string_acc", "train_domain_cls_acc", "labelled_image_cls_acc",
             "information_maximisation"]  # fmt: skip
    with file.open("w", newline="") as lines:
        rows = csv.writer(lines)
        rows.writerow(["epoch", *names])
        for epoch, value in enumerate(accuracies, 1):
            rows.writerow([epoch, value, value + 0.1, value + 0.2, value + 0.1, value**3, 0.9, 0.99,
                           -epoch])  # fmt: skip


def test_captchas_are_reported_with_their_control(logged: Path) -> None:
    folder = logged / "logs" / "table" / "captcha" / "somewhere"
    for seed, first, second in ((0, 0.3, (0.7, 0.6)), (1, 0.5, (0.5, 0.4))):
        captcha_log(folder / f"captcha-seed{seed}" / "source" / "log.csv", 0.1, first)
        captcha_log(folder / f"captcha-seed{seed}" / "log.csv", *second)
    captcha_log(folder / "captcha_statistics-seed0" / "log.csv", 0.55)
    text = report(Arguments(seeds=(0, 1)))
    deviation = np.std([0.3, 0.5], ddof=1)
    cells = line_of(text, "source only: the first stage")
    assert cells[1:3] == [f"0.4000 ± {deviation:.4f}", f"0.5000 ± {deviation:.4f}"]
    assert cells[5] == f"{(0.3**3 + 0.5**3) / 2:.4f} ± {np.std([0.3**3, 0.5**3], ddof=1):.4f}"
    assert line_of(text, "target's batch statistics alone")[3] == "0.7500 ± nan"
    assert line_of(text, "ADDA, last epoch")[1] == f"0.5000 ± {np.std([0.6, 0.4], ddof=1):.4f}"
    assert line_of(text, "ADDA, label-free pick")[1].startswith("0.6000")
    assert "Runs that ended below source only: 1 of 2." in text
    assert "2 + 2 epochs" in text


def test_each_command_is_one_that_the_script_takes() -> None:
    from config.config import CaptchaConfig, Config, DrawingsConfig
    from utils.run.launch import parse

    for training in grid((0,)).values():
        flags = training.flags.replace("{start}", "model.keras").split()
        kinds = {
            table.DIGITS: Config,
            table.DRAWINGS: DrawingsConfig,
            table.CAPTCHAS: CaptchaConfig,
        }
        argv, kind = ["script", *flags], kinds[training.script]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", argv)
            settings: Any = parse(kind(), None).settings
        if "--epoch" in flags:
            assert settings.epoch == int(flags[flags.index("--epoch") + 1])
        assert settings.seed == 0
    for training in tries().values():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["script", *training.flags.split()])
            assert parse(Config(), None).settings.held_out == 5000


def test_what_is_finished_is_not_trained_again(logged: Path, monkeypatch: Any) -> None:
    folder = logged / "checkpoints" / "table" / "somewhere" / "recipe-seed0"
    folder.mkdir(parents=True)
    (folder / "trained_dann_mnist2mnist_m.keras").touch()
    monkeypatch.setattr(table.subprocess, "run", lambda *_, **__: pytest.fail("trained again"))
    Training("recipe-seed0", "--epoch 3").train(1)
