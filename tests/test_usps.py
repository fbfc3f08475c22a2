"""USPS from both of its forms, and what is refused."""

from __future__ import annotations

import gzip
import pickle
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest
from helpers import run, the_error

from utils.data.usps import MAX_TEXT, TEXTS, read_text, read_usps
from utils.errors import UserError

RANDOM = np.random.default_rng(0)
VALUES = {split: RANDOM.integers(-1000, 1001, (count, 256)) / 1000
          for split, count in (("train", 30), ("val", 12))}  # fmt: skip
LABELS = {split: RANDOM.integers(0, 10, len(values)) for split, values in VALUES.items()}


def write_texts(folder: Path) -> None:
    for split, name in TEXTS.items():
        lines = [f"{label:.4f} " + " ".join(f"{value:.4f}" for value in row)
                 for label, row in zip(LABELS[split], VALUES[split], strict=True)]  # fmt: skip
        (folder / name).write_bytes(gzip.compress("\n".join(lines).encode()))


def write_h5(path: Path) -> None:
    with h5py.File(path, "w") as file:
        for split, group in (("train", "train"), ("val", "test")):
            file[f"{group}/data"] = ((VALUES[split] + 1) / 2).astype(np.float32)
            file[f"{group}/target"] = LABELS[split].astype(np.int32)


def test_both_forms_give_the_same_digits(tmp_path: Path) -> None:
    write_texts(tmp_path)
    write_h5(tmp_path / "usps.h5")
    texts, h5 = read_usps(tmp_path), read_usps(tmp_path / "usps.h5")
    assert texts.digest == h5.digest
    for split in ("train", "val"):
        np.testing.assert_array_equal(getattr(texts, f"{split}_label"), LABELS[split])
        grey = np.round((VALUES[split][3] + 1) / 2 * 255).astype(np.uint8).reshape(16, 16)
        np.testing.assert_array_equal(getattr(texts, split)[3], cv2.resize(grey, (28, 28)))


def test_the_script_writes_the_pickle(tmp_path: Path) -> None:
    write_h5(tmp_path / "usps.h5")
    flags = ["--usps", tmp_path / "usps.h5", "--output_dir", tmp_path / "out"]
    assert "are not the official USPS" in the_error(run("create_usps.py", *flags, code=2))
    assert not (tmp_path / "out").exists()
    run("create_usps.py", "--usps", tmp_path, *flags[2:], "--unverified")  # its folder
    (tmp_path / "out" / "usps.json").unlink()  # so it is not known whose the pickle is
    foreign = the_error(run("create_usps.py", *flags, "--unverified", code=2))
    assert "usps_data.pkl: is not as this script wrote it" in foreign
    arrays = pickle.loads((tmp_path / "out" / "USPS" / "usps_data.pkl").read_bytes())
    assert arrays["train"].shape == (30, 28, 28, 3)
    assert arrays["val_label"].dtype == np.int32
    np.testing.assert_array_equal(arrays["val"][..., 0], arrays["val"][..., 2])


@pytest.mark.parametrize("fault", ["missing", "cut", "words", "columns", "class", "range", "bomb"])
def test_damaged_texts_are_named(tmp_path: Path, fault: str) -> None:
    write_texts(tmp_path)
    path = tmp_path / TEXTS["train"]
    row = " ".join(["0.5"] * 256)
    texts = {"words": "a b c", "columns": "3 0.5 0.5", "class": f"11 {row}",
             "range": f"3 7 {row[4:]}", "bomb": " " * (MAX_TEXT + 1)}  # fmt: skip
    if fault == "missing":
        path.unlink()
    elif fault == "cut":
        path.write_bytes(path.read_bytes()[:-30])
    else:
        path.write_bytes(gzip.compress(texts[fault].encode()))
    told = "missing; name a folder" if fault == "missing" else ""
    with pytest.raises(UserError, match=rf"zip\.train\.gz: {told}"):
        read_text(path)


@pytest.mark.parametrize("fault", ["cut", "group", "shape", "class"])
def test_damaged_h5_is_named(tmp_path: Path, fault: str) -> None:
    path = tmp_path / "usps.h5"
    write_h5(path)
    if fault == "cut":
        path.write_bytes(path.read_bytes()[:1000])
    else:
        with h5py.File(path, "r+") as file:
            if fault == "group":
                del file["test"]
            elif fault == "shape":
                del file["train/data"]
                file["train/data"] = np.zeros((30, 100), np.float32)
            else:
                file["train/target"][0] = 12
    with pytest.raises(UserError, match=r"usps\.h5: "):
        read_usps(path)


def test_nothing_there_is_named(tmp_path: Path) -> None:
    (tmp_path / "usps.pkl").touch()
    with pytest.raises(UserError, match=r"usps.pkl: is no usps.h5"):
        read_usps(tmp_path / "usps.pkl")
    with pytest.raises(UserError, match="no such file or folder"):
        read_usps(Path("nowhere"))
