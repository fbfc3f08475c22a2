"""Reads MNIST from an `mnist.npz` or from the four IDX files, checked byte by byte."""

from __future__ import annotations

import gzip
import math
import zipfile
from pathlib import Path

import numpy as np
import pooch

from utils.data.domains import Domain, official
from utils.data.downloads import download
from utils.errors import UserError, damage_named, refuse_device

# The file that keras.datasets.mnist loads, and its SHA-256 as Keras publishes it.
URLS = ("https://storage.googleapis.com/tensorflow/tf-keras-datasets/mnist.npz",)
NPZ_SHA256 = "731c5ac602752760c8e48fbffcf8c3b850d9dc2a2aedcf2cc48468fc17b673d1"
# `Domain.digest` of the official 60,000 + 10,000 images.
OFFICIAL_DIGEST = "06b0d1f124c4e5fa796686ade41a9b778edacc8622f2195a352ef479ad44fc16"

IDX_FILES = {
    "train": "train-images-idx3-ubyte",
    "train_label": "train-labels-idx1-ubyte",
    "val": "t10k-images-idx3-ubyte",
    "val_label": "t10k-labels-idx1-ubyte",
}
MAX_BYTES = 2**28  # five times MNIST; a header that announces more is damaged or hostile
NPZ_KEYS = {"train": "x_train", "train_label": "y_train", "val": "x_test", "val_label": "y_test"}


def find_mnist(path: Path | None, dataset_dir: Path, unverified: bool = False) -> Domain:
    """Reads MNIST from `path`, else from `dataset_dir`, else from a download.

    Args:
        path: an `mnist.npz` or a folder of the four IDX files, gzipped or not; None looks further.
        dataset_dir: where an earlier download lies, or the next one will.
        unverified: accept digits that are not the official MNIST.

    Raises:
        UserError: nothing to read, a damaged file, or not MNIST.
    """
    if path is None:
        candidates = (dataset_dir / "mnist.npz", dataset_dir / "mnist", dataset_dir)
        path = next((place for place in candidates if holds_mnist(place)), None)
    if path is None:
        path = download(URLS, dataset_dir / "mnist.npz", check_npz, "it by --mnist")
    return official(read_mnist(path), "MNIST", OFFICIAL_DIGEST, path, unverified)


def check_npz(path: Path) -> None:
    """Raises `UserError` unless `path` is the `mnist.npz` that Keras publishes."""
    found = pooch.file_hash(str(path))
    if found != NPZ_SHA256:
        raise UserError(f"{path}: SHA-256 is {found[:12]}…, should be {NPZ_SHA256[:12]}…")


def holds_mnist(path: Path) -> bool:
    """Tells whether `path` is an npz file or a folder that has any of the IDX files."""
    if path.is_dir():
        return any(path.glob("*[-.]idx?-ubyte*"))
    return path.suffix == ".npz" and path.exists()


def read_mnist(path: Path) -> Domain:
    """Reads the digits of an npz file or of a folder of IDX files, whichever `path` is.

    Raises:
        UserError: a file is missing, damaged, or its arrays have the wrong shape.
    """
    if path.is_dir():
        arrays = {key: read_idx(find_idx(path, name)) for key, name in IDX_FILES.items()}
    elif path.suffix == ".npz" and path.exists():
        arrays = read_npz(path)
    elif path.exists():
        raise UserError(
            f"{path}: is no mnist.npz; --mnist takes that file, or the folder of the four IDX files"
        )
    else:
        raise UserError(f"{path}: no such file or folder; --mnist takes an mnist.npz or IDX files")
    for split in ("train", "val"):
        images, labels = arrays[split], arrays[f"{split}_label"]
        if images.dtype != np.uint8 or images.ndim != 3 or images.shape[1:] != (28, 28):
            raise UserError(
                f"{path}: {split} images are {images.dtype} {list(images.shape)}, "
                "should be uint8 [N, 28, 28]; fetch MNIST again"
            )
        if labels.dtype != np.uint8 or labels.shape != images.shape[:1] or not labels.size:
            raise UserError(
                f"{path}: {split} has {images.shape[0]} images but labels {labels.dtype} "
                f"{list(labels.shape)}; fetch MNIST again"
            )
        if labels.max() > 9:
            raise UserError(f"{path}: a {split} label is {labels.max()}, should be 0..9")
    return Domain(**arrays)


def find_idx(folder: Path, name: str) -> Path:
    """Returns the path of an IDX file, gzipped or not, under `folder`."""
    for candidate in (name, name.replace("-idx", ".idx")):
        for suffix in ("", ".gz"):
            path = folder / f"{candidate}{suffix}"
            if path.is_file():
                return path
    raise UserError(f"{folder / name}[.gz]: missing; the folder must hold all four IDX files")


def read_idx(path: Path) -> np.ndarray:
    """Reads one IDX file of unsigned bytes (format: http://yann.lecun.com/exdb/mnist/).

    Never unpacks more bytes than the header announces, so a gzip bomb costs nothing.

    Returns:
        uint8 array of the shape that the header gives.

    Raises:
        UserError: wrong magic number, wrong count of bytes, or a damaged gzip stream.
    """
    refuse_device(path)
    opener = gzip.open if path.suffix == ".gz" else Path.open
    with damage_named(path, "fetch it again"), opener(path, "rb") as file:
        magic = file.read(4)
        if len(magic) < 4 or magic[:3] != b"\0\0\x08" or magic[3] not in (1, 3):
            raise UserError(f"{path}: magic number {magic.hex() or 'none'}: not an IDX file")
        sizes = file.read(4 * magic[3])
        shape = tuple(int.from_bytes(sizes[at : at + 4], "big") for at in range(0, len(sizes), 4))
        size = math.prod(shape)
        if len(sizes) != 4 * magic[3] or size > MAX_BYTES:
            raise UserError(f"{path}: its header announces the shape {list(shape)}")
        data = file.read(size + 1)
    if len(data) != size:
        raise UserError(
            f"{path}: its header announces {size} bytes, it holds "
            f"{'more' if len(data) > size else len(data)}; fetch it again"
        )
    return np.frombuffer(data, np.uint8).reshape(shape)


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """Reads the four arrays of an `mnist.npz`; object arrays, which could run code, are refused."""
    refuse_device(path)
    with damage_named(path, "fetch it again"), path.open("rb") as file:
        with zipfile.ZipFile(file) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > MAX_BYTES:
                raise UserError(f"{path}: unpacks to more than MNIST's 55 MB; fetch it again")
        file.seek(0)
        with np.load(file, allow_pickle=False) as arrays:
            return {key: arrays[name] for key, name in NPZ_KEYS.items()}
