"""The photos → drawings experiment: reading, edges, the stand-in, and the script end to end."""

from __future__ import annotations

import csv
import errno
import os
import shutil
from pathlib import Path
from typing import Any

import cv2
import keras
import numpy as np
import pytest
from helpers import FEW_FILTERS, run, the_error

import train_real2drawing
from benchmarks.runner import folder_flags
from model import networks
from model.networks import drawings_domain_classifier, drawings_feature_extractor
from utils.data import drawings
from utils.data.drawings import canny, grey, make_standin, read_drawings, read_photos
from utils.data.pictures import decode_picture, write_picture
from utils.errors import UserError


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drawings") / "embedded_drawings"
    make_standin(folder, size=240)
    return folder


def pixels(path: Path) -> np.ndarray:
    """A picture as its file has it."""
    return np.asarray(cv2.imread(str(path), cv2.IMREAD_UNCHANGED))


def test_the_standin_has_the_homeworks_layout(root: Path) -> None:
    photo = next((root / "train_data" / "3").glob("*.bmp"))
    assert pixels(photo).shape == (32, 32, 3)
    names = sorted(path.name for path in (root / "test_data" / "0").iterdir())
    assert names[:2] == ["00000.bmp", "00001.bmp"]
    assert pixels(root / "test_data" / "0" / names[0]).shape == (28, 28)
    assert len(names) == 240
    assert not list(root.glob("train_data/*/*.csv"))


def test_the_standin_is_seeded(root: Path, tmp_path: Path) -> None:
    for seed, same in ((42, True), (43, False)):
        make_standin(tmp_path / str(seed), seed, size=240)
        files = [path for path in sorted(root.rglob("*")) if path.is_file()]
        others = [tmp_path / str(seed) / path.relative_to(root) for path in files]
        equal = all(other.is_file() and other.read_bytes() == path.read_bytes()
                    for path, other in zip(files, others, strict=True))  # fmt: skip
        assert equal is same


def test_pictures_come_in_the_order_of_their_names(root: Path) -> None:
    photos, labels = read_photos(root)
    assert photos.shape == (240, 32, 32, 3)
    assert (np.diff(labels) >= 0).all()
    images, known = read_drawings(root)
    assert images.shape == (240, 32, 32, 1)
    path = root / "test_data" / "0" / "00007.bmp"
    expected = cv2.resize(pixels(path), (32, 32))
    np.testing.assert_array_equal(images[7, ..., 0], expected)
    np.testing.assert_array_equal(known, np.loadtxt(root / "target_labels.csv"))


def test_numbers_without_leading_zeros_come_in_their_order(root: Path, tmp_path: Path) -> None:
    """Else the classes of target_labels.csv would be those of other drawings."""
    images, labels = read_drawings(root)
    shutil.copytree(root, tmp_path / "root")
    for path in (tmp_path / "root/test_data/0").iterdir():
        path.rename(path.with_stem(str(int(path.stem))))
    for found, expected in zip(read_drawings(tmp_path / "root"), (images, labels), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_edges_are_opencvs() -> None:
    photo = np.zeros((1, 32, 32, 3), np.uint8)
    photo[0, 8:24, 8:24] = (255, 255, 255)
    plain = grey(photo)
    edges = canny(plain)
    np.testing.assert_array_equal(edges[0, ..., 0], cv2.Canny(plain[0, ..., 0], 170, 300))
    assert edges[0, 16, 7:9].max() == 255
    assert edges[0, 16, 16] == 0


def test_networks_are_the_homeworks() -> None:
    extractor = drawings_feature_extractor((32, 32, 1))
    classifier = drawings_domain_classifier((512,))
    assert extractor.output_shape == (None, 512)
    filters = [
        layer.filters for layer in extractor.layers if isinstance(layer, keras.layers.Conv2D)
    ]
    assert filters == [64, 128, 256, 256, 512]
    units = [layer.units for layer in classifier.layers if isinstance(layer, keras.layers.Dense)]
    assert units == [512, 512, 512, 512, 1]


def test_the_script_writes_a_row_for_each_drawing(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(networks, "DRAWING_FILTERS", FEW_FILTERS)
    done = run("train_real2drawing.py", "--embedded", "--data_root", root.with_name("x"),
               "--epoch", "1", "--run_name", "short", "--allow_collapse",
               *folder_flags(tmp_path))  # fmt: skip
    logs = next((tmp_path / "logs").rglob("short"))
    assert b"\r" not in (logs / "DaNN_submission.csv").read_bytes()
    with (logs / "DaNN_submission.csv").open() as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["id", "label"]
    assert [row[0] for row in rows[1:]] == [str(number) for number in range(240)]
    assert str(logs / "DaNN_submission.csv") in done.stdout
    assert cv2.imread(str(logs / "pictures.png")) is not None
    model = keras.saving.load_model(next(tmp_path.rglob("trained_dann_real2drawing.keras")))
    expected = model.predict(read_drawings(root)[0], verbose=0).argmax(axis=1)
    assert [int(row[1]) for row in rows[1:]] == list(expected)


def test_a_run_that_dies_before_its_submission_writes_it_on_resume(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Training is over then, but nothing says yet that the run is."""

    def dies(*_: Any) -> None:
        raise RuntimeError("as if killed")

    monkeypatch.setattr(networks, "DRAWING_FILTERS", FEW_FILTERS)
    flags = ["--embedded", "--data_root", root.with_name("x"), "--epoch", "1",
             "--run_name", "short", "--allow_collapse", *folder_flags(tmp_path)]  # fmt: skip
    with monkeypatch.context() as patch:
        patch.setattr(train_real2drawing, "write_submission", dies)
        with pytest.raises(RuntimeError, match="as if killed"):
            run("train_real2drawing.py", *flags)
    assert not list(tmp_path.rglob("trained_dann_real2drawing.keras"))
    logs = next((tmp_path / "logs").rglob("short"))
    run("train_real2drawing.py", "--resume", logs)
    assert len((logs / "DaNN_submission.csv").read_text().splitlines()) == 241
    assert "this run is finished" in run("train_real2drawing.py", "--resume", logs).stdout


def test_a_standin_that_is_there_is_left_alone(tmp_path: Path) -> None:
    """Two runs may make it at the same time."""
    (tmp_path / "there").mkdir()
    make_standin(tmp_path / "there", size=3)
    assert [path.name for path in tmp_path.iterdir()] == ["there"]
    assert not list((tmp_path / "there").iterdir())


def test_impossible_folders_are_named(root: Path, tmp_path: Path) -> None:
    done = run("train_real2drawing.py", "--data_root", tmp_path / "no", code=2)
    assert "no such folder; unpack the homework's real_or_drawing there" in the_error(done)
    (tmp_path / "train_data" / "0").mkdir(parents=True)
    with pytest.raises(UserError, match="must have the class folders 0 … 9; it has 0"):
        read_photos(tmp_path)
    (tmp_path / "test_data" / "0").mkdir(parents=True)
    with pytest.raises(UserError, match="no pictures in it"):
        read_drawings(tmp_path)
    (tmp_path / "test_data" / "0" / "00000.bmp").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"00000\.bmp: does not decode"):
        read_drawings(tmp_path)
    cv2.imwrite(str(tmp_path / "test_data" / "0" / "00000.bmp"), np.zeros((28, 28), np.uint8))
    for text, message in (
        ("3\n4\n", "has 2 classes; write a class 0 … 9, or -1 = unknown, for each of 1 drawings"),
        ("3 3\n", r"cannot be loaded .*'3 3.*; write a class"),
        ("x", r"cannot be loaded .*'x'.*; write a class"),
        ("\n10\n", "has the class 10; write a class"),
        ("-2", "has the class -2; write a class"),
        ("", "has 0 classes; write a class"),
    ):
        (tmp_path / "target_labels.csv").write_text(text)
        with pytest.raises(UserError, match=message):
            read_drawings(tmp_path)
    (tmp_path / "target_labels.csv").write_bytes(
        b"\xef\xbb\xbf# of one drawing\r\n\r\n 7 # a seven\r\n"
    )
    assert read_drawings(tmp_path)[1].tolist() == [7]
    (tmp_path / "target_labels.csv").unlink()
    os.mkfifo(tmp_path / "target_labels.csv")
    with pytest.raises(UserError, match="is a pipe, a socket or a device; name a file"):
        read_drawings(tmp_path)
    (tmp_path / "target_labels.csv").unlink()
    (tmp_path / "target_labels.csv").mkdir()
    with pytest.raises(UserError, match=r"cannot be loaded .*Is a directory.*; write a class"):
        read_drawings(tmp_path)


def test_a_full_disk_leaves_no_half_standin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, picture: np.ndarray) -> None:
        if path.stem == "00005":
            raise OSError(errno.ENOSPC, "No space left on device")
        write_picture(path, picture)

    monkeypatch.setattr(drawings, "write_picture", full)
    with pytest.raises(UserError, match=r"No space left on device.*free some space"):
        make_standin(tmp_path / "standin", size=20)
    assert list(tmp_path.iterdir()) == []


def test_a_png_that_announces_more_than_it_has_costs_no_memory() -> None:
    """OpenCV would allocate the two gigabytes of such a chunk, and clear them, before it reads."""
    picture = cv2.imencode(".png", np.zeros((4, 5, 3), np.uint8))[1].tobytes()
    assert decode_picture(picture + b"and more", "p.png").shape == (4, 5, 3)
    at = picture.index(b"IDAT") - 4
    hostile = picture[:at] + (2**31 + 5).to_bytes(4, "big") + picture[at + 4 :]
    for data in (hostile, picture[:-20]):
        with pytest.raises(UserError, match=r"p\.png: is cut or damaged"):
            decode_picture(data, "p.png")
