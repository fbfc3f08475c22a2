from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import idx_bytes

from utils.data.domains import Domain
from utils.data.mnist import NPZ_KEYS, find_mnist, read_idx, read_mnist
from utils.errors import UserError


def assert_equal(digits: Domain, expected: dict[str, np.ndarray]) -> None:
    for key, array in expected.items():
        np.testing.assert_array_equal(getattr(digits, key), array)


def save_npz(path: Path, digits: dict[str, np.ndarray], save: Any = np.savez) -> None:
    save(path, **{NPZ_KEYS[key]: array for key, array in digits.items()})


def test_reads_idx_gzipped_or_not(mnist_folder: Path, digits: dict[str, np.ndarray]) -> None:
    zipped = mnist_folder / "t10k-images-idx3-ubyte.gz"
    (mnist_folder / zipped.stem).write_bytes(gzip.decompress(zipped.read_bytes()))
    zipped.unlink()
    assert_equal(read_mnist(mnist_folder), digits)


def test_reads_npz(tmp_path: Path, digits: dict[str, np.ndarray]) -> None:
    path = tmp_path / "mnist.npz"
    save_npz(path, digits)
    assert_equal(read_mnist(path), digits)


def test_digest_is_of_the_content_not_the_packing(
    mnist_folder: Path, tmp_path: Path, digits: dict[str, np.ndarray]
) -> None:
    path = tmp_path / "mnist.npz"
    save_npz(path, digits, np.savez_compressed)
    assert read_mnist(path).digest == read_mnist(mnist_folder).digest


def test_looks_in_the_data_folder(mnist_folder: Path, digits: dict[str, np.ndarray]) -> None:
    assert_equal(find_mnist(None, mnist_folder, unverified=True), digits)


def test_other_digits_than_mnist_need_consent(mnist_folder: Path) -> None:
    with pytest.raises(UserError, match=r"not the official MNIST.*--unverified"):
        find_mnist(mnist_folder, mnist_folder)


IMAGES = np.zeros((3, 28, 28), np.uint8)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "magic number none"),
        (b"\0\0\x08", "magic number 000008"),
        (b"\x89PNG\r\n", "magic number 89504e47"),
        (b"\0\0\x0d\x03" + bytes(12), "magic number 00000d03"),
        (idx_bytes(IMAGES)[:10], "announces the shape"),
        (idx_bytes(IMAGES)[:-1], "announces 2352 bytes, it holds 2351"),
        (idx_bytes(IMAGES) + b"\0", "announces 2352 bytes, it holds more"),
        (b"\0\0\x08\x03" + b"\xff" * 12, "announces the shape"),
    ],
)
@pytest.mark.parametrize("zipped", [False, True])
def test_damaged_idx_is_named(tmp_path: Path, data: bytes, message: str, zipped: bool) -> None:
    path = tmp_path / ("x-idx3-ubyte.gz" if zipped else "x-idx3-ubyte")
    path.write_bytes(gzip.compress(data) if zipped else data)
    with pytest.raises(UserError, match=message) as caught:
        read_idx(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("cut", [5, 30, -4])
def test_truncated_gzip_is_named(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "x.gz"
    path.write_bytes(gzip.compress(idx_bytes(IMAGES))[:cut])
    with pytest.raises(UserError, match=r"x\.gz"):
        read_idx(path)


def test_a_gzip_bomb_is_not_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "bomb.gz"
    path.write_bytes(gzip.compress(idx_bytes(IMAGES) + bytes(2**28)))
    with pytest.raises(UserError, match="holds more"):
        read_idx(path)


def test_missing_file_is_named(mnist_folder: Path) -> None:
    (mnist_folder / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(UserError, match=r"t10k-labels-idx1-ubyte.*missing"):
        read_mnist(mnist_folder)


def test_missing_path_is_named(tmp_path: Path) -> None:
    (tmp_path / "train-images-idx3-ubyte").touch()
    with pytest.raises(UserError, match=r"takes that file, or the folder of the four IDX files"):
        read_mnist(tmp_path / "train-images-idx3-ubyte")
    with pytest.raises(UserError, match=r"nowhere: no such file"):
        read_mnist(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("key", "array", "message"),
    [
        ("train", np.zeros((300, 27, 28), np.uint8), r"\[300, 27, 28\], should be"),
        ("train_label", np.zeros(299, np.uint8), "300 images but labels"),
        ("val_label", np.full(100, 10, np.uint8), "a val label is 10"),
    ],
)
def test_wrong_arrays_are_named(
    tmp_path: Path, digits: dict[str, np.ndarray], key: str, array: np.ndarray, message: str
) -> None:
    path = tmp_path / "mnist.npz"
    save_npz(path, {**digits, key: array})
    with pytest.raises(UserError, match=message):
        read_mnist(path)


@pytest.mark.parametrize("damage", ["text", "truncated", "missing key", "objects"])
def test_damaged_npz_is_named(tmp_path: Path, digits: dict[str, np.ndarray], damage: str) -> None:
    path = tmp_path / "mnist.npz"
    arrays = dict(digits)
    if damage == "missing key":
        del arrays["val"]
    if damage == "objects":
        arrays["val"] = np.array([print], dtype=object)
    save_npz(path, arrays)
    if damage == "text":
        path.write_text("<html>404</html>")
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"mnist\.npz"):
        read_mnist(path)
