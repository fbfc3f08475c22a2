"""Small data for all tests, and two logical CPU devices."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import utils  # noqa: F401 - sets what OpenCV reads when it is imported

# isort: split
import cv2
import numpy as np
import pytest
import tensorflow as tf

import train_captcha
from utils.data import captchas
from utils.data.mnist import IDX_FILES
from utils.data.pickles import write_pickle
from utils.run import trainer

tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)


@pytest.fixture(scope="session", autouse=True)
def without_figures() -> Iterator[None]:
    """Runs in this process draw no figures, which takes a second; `figures_drawn` lets them."""
    with pytest.MonkeyPatch.context() as patch:
        for figure in ("save_curves", "save_embedding"):
            patch.setattr(trainer, figure, lambda *_: None)
        yield


@pytest.fixture(scope="module")
def smaller_captchas() -> Iterator[None]:
    """Captchas of a third of the size."""

    def smaller(*arguments: Any) -> dict[str, np.ndarray]:
        arrays = captchas.load_captchas(*arguments)
        return {name: array[:, ::3, ::3] if array.ndim == 4 else array
                for name, array in arrays.items()}  # fmt: skip

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_captcha, "load_captchas", smaller)
        patch.setattr(train_captcha, "SIZE", len(range(0, captchas.SIZE, 3)))
        yield


@pytest.fixture(scope="session")
def two_replicas() -> tf.distribute.Strategy:
    """One for all tests: TensorFlow numbers a strategy's collective calls from the start, and two
    strategies over the same devices would share the numbers."""
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])


def idx_bytes(array: np.ndarray) -> bytes:
    """Spells an array as IDX: magic number, sizes big-endian, bytes."""
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    return header + array.tobytes()


@pytest.fixture(scope="session")
def digits() -> dict[str, np.ndarray]:
    """300 + 100 made-up digits with a background of 0, and their labels."""
    random = np.random.default_rng(0)
    arrays: dict[str, np.ndarray] = {}
    for split, count in (("train", 300), ("val", 100)):
        images = random.integers(0, 256, (count, 28, 28), np.uint8)
        images[random.random(images.shape) < 0.6] = 0
        arrays[split] = images
        arrays[f"{split}_label"] = random.integers(0, 10, count, np.uint8)
    return arrays


@pytest.fixture
def mnist_folder(tmp_path: Path, digits: dict[str, np.ndarray]) -> Path:
    """The four IDX files, gzipped."""
    folder = tmp_path / "idx"
    folder.mkdir()
    for key, name in IDX_FILES.items():
        (folder / f"{name}.gz").write_bytes(gzip.compress(idx_bytes(digits[key])))
    return folder


@pytest.fixture(scope="session")
def photo_files() -> dict[str, bytes]:
    """Five small JPEG photographs of two shapes."""
    random = np.random.default_rng(1)
    files = {}
    for index in range(5):
        shape = (40, 60, 3) if index % 2 else (60, 40, 3)
        picture = cv2.resize(random.integers(0, 256, (6, 5, 3), np.uint8), shape[1::-1])
        files[f"{index}.jpg"] = cv2.imencode(".jpg", picture)[1].tobytes()
    return files


def tar_of(files: dict[str, bytes], prefix: str = "BSR/BSDS500/data/images/train/") -> bytes:
    """Packs files into a gzipped tar."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(prefix + name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    # No time of day in it: it stands in names of tests, which must be the same in every worker.
    return gzip.compress(buffer.getvalue(), mtime=0)


@pytest.fixture
def bsds_archive(tmp_path: Path, photo_files: dict[str, bytes]) -> Path:
    path = tmp_path / "BSR_bsds500.tgz"
    path.write_bytes(tar_of(photo_files))
    return path


def stripes(count: int, coloured: bool, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Ten easy classes: the height of a bright stripe; colour and noise make the domain."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 10, count).astype(np.int32)
    images = np.zeros((count, 28, 28, 3), np.uint8)
    if coloured:
        images += random.integers(0, 120, (count, 1, 1, 3), np.uint8)
    images += random.integers(0, 30, images.shape, np.uint8)
    rows = 2 + 2 * labels
    for offset in range(4):
        images[np.arange(count), rows + offset, 3:25] += np.uint8(100)
    return images, labels


@pytest.fixture(scope="session")
def domains() -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Source and target data sets of 320 + 100 striped images each."""
    sets = []
    for coloured in (False, True):
        train, train_label = stripes(320, coloured, seed=2 + coloured)
        val, val_label = stripes(100, coloured, seed=4 + coloured)
        sets.append(
            {"train": train, "train_label": train_label, "val": val, "val_label": val_label}
        )
    return sets[0], sets[1]


@pytest.fixture(scope="session")
def data_flags(
    tmp_path_factory: pytest.TempPathFactory,
    domains: tuple[dict[str, np.ndarray], dict[str, np.ndarray]],
) -> list[str]:
    """The striped data sets as pickles, named by the training script's flags."""
    folder = tmp_path_factory.mktemp("data")
    paths = [folder / "MNIST" / "mnist_data.pkl", folder / "MNIST_M" / "mnist_m_data.pkl"]
    for path, arrays in zip(paths, domains, strict=True):
        path.parent.mkdir()
        write_pickle(path, arrays)
    return ["--source_dataset_path", str(paths[0]), "--target_dataset_path", str(paths[1])]
