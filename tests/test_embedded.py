from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import sklearn.datasets
from helpers import run, the_error

from utils.data.domains import Domain
from utils.data.embedded import COPIES, VAL_SCANS, embedded_digits, embedded_photos


@pytest.fixture(scope="module")
def digits() -> Domain:
    return embedded_digits(np.random.RandomState(42))


def test_shapes_and_background(digits: Domain) -> None:
    assert digits.train.shape == ((1797 - VAL_SCANS) * COPIES, 28, 28)
    assert digits.val.shape == (VAL_SCANS * COPIES, 28, 28)
    assert digits.train.dtype == np.uint8
    empty = (digits.train == 0).mean()
    assert 0.5 < empty < 0.9  # MNIST: 0.81


def test_no_scan_is_on_both_sides(digits: Domain, monkeypatch: pytest.MonkeyPatch) -> None:
    """Spells each scan's number in place of its picture, and looks where the numbers go."""
    scans = sklearn.datasets.load_digits()
    numbered = np.zeros((1797, 8, 8))
    numbered[:, 0, 0] = np.arange(1797)
    scans.images = numbered
    monkeypatch.setattr(sklearn.datasets, "load_digits", lambda: scans)
    monkeypatch.setattr("utils.data.embedded.enlarge", lambda scan, _: scan[0, 0])
    monkeypatch.setattr("utils.data.embedded.Domain", SimpleNamespace)  # numbers are no pixels
    split = embedded_digits(np.random.RandomState(42))
    train, val = set(split.train.tolist()), set(split.val.tolist())
    assert not train & val
    assert len(train | val) == 1797
    np.testing.assert_array_equal(scans.target[split.val.astype(int)], split.val_label)


def test_same_seed_same_digits(digits: Domain) -> None:
    assert embedded_digits(np.random.RandomState(42)).digest == digits.digest
    assert embedded_digits(np.random.RandomState(43)).digest != digits.digest


def test_photos_are_in_colour() -> None:
    photos = embedded_photos()
    assert len(photos) == 8
    for photo in photos:
        assert photo.dtype == np.uint8
        assert photo.shape[2] == 3
        assert (photo[..., 0] != photo[..., 2]).mean() > 0.3


def test_small_data_name_a_training_that_has_steps_enough(tmp_path: Path) -> None:
    done = run("create_mnistm.py", "--embedded", "--output_dir", tmp_path)
    assert (
        "next:    python train_MNIST2MNIST_M.py --epoch 20 --batch_size 64 --source" in done.stdout
    )


def test_what_was_changed_after_it_was_made_stays(tmp_path: Path) -> None:
    flags = ["--embedded", "--output_dir", tmp_path]
    for _ in range(2):  # its own are replaced
        run("create_mnistm.py", *flags, "--picture", tmp_path / "p.png")
    mine = tmp_path / "MNIST_M" / "mnist_m_data.pkl"
    for path in (tmp_path / "p.png", mine):
        path.write_text("mine")
        done = run("create_mnistm.py", *flags, "--picture", tmp_path / "p.png", code=2)
        assert f"{path}: is not as this script wrote it" in the_error(done)
        path.unlink()


def test_a_picture_of_another_program_stays(tmp_path: Path) -> None:
    (tmp_path / "samples.png").write_text("mine")
    done = run("create_mnistm.py", "--embedded", "--output_dir", tmp_path, code=2)
    assert "samples.png: is not as this script wrote it" in the_error(done)
    assert (tmp_path / "samples.png").read_text() == "mine"
