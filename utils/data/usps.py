"""Reads the USPS digits, 16×16 scans of envelopes: Kaggle's usps.h5, or ESL's text files."""

from __future__ import annotations

import gzip
import io
from pathlib import Path

import cv2
import h5py
import numpy as np

from utils.data.domains import Domain, official
from utils.data.downloads import download
from utils.errors import UserError, damage_named, refuse_device

# The site of "The Elements of Statistical Learning" (Hastie, Tibshirani & Friedman).
SITES = (
    "https://hastie.su.domains/ElemStatLearn/datasets/",
    "https://web.stanford.edu/~hastie/ElemStatLearn/datasets/",
)
BY_HAND = "the folder of both zip.*.gz by --usps"
TEXTS = {"train": "zip.train.gz", "val": "zip.test.gz"}
# `Domain.digest` of the 7,291 + 2,007 digits, enlarged by `enlarge`.
OFFICIAL_DIGEST = "8fa14d6890c8938458d853302c6122d0d71ff58fb08979ff8ff32f4cf41fe967"
MAX_TEXT = 2**26  # bytes; zip.train.gz unpacks to 13 MB
MAX_DIGITS = 100_000
SIDE = 16
RULE = "16x16 grey values in [-1, 1] to [0, 255], enlarged to 28x28, bilinear"


def find_usps(path: Path | None, dataset_dir: Path, unverified: bool = False) -> Domain:
    """Reads USPS from `path`, else from `dataset_dir`, else from a download.

    Args:
        path: Kaggle's `usps.h5`, or a folder with it or with zip.train.gz and zip.test.gz; None
            looks further.
        dataset_dir: where an earlier download lies, or the next one will.
        unverified: accept digits that are not the official USPS.

    Raises:
        UserError: nothing to read, a damaged file, or not USPS.
    """
    place = path or dataset_dir
    if (place / "usps.h5").exists():
        place = place / "usps.h5"
    elif path is None:
        for name in TEXTS.values():
            if not (place / name).exists():
                download([site + name for site in SITES], place / name, read_text, BY_HAND)
    return official(read_usps(place), "USPS", OFFICIAL_DIGEST, place, unverified)


def read_usps(path: Path) -> Domain:
    """Reads the digits of an `usps.h5` or of a folder of text files, whichever `path` is.

    Returns:
        grey digits, enlarged to 28×28.

    Raises:
        UserError: a file is missing, damaged, or not of this form.
    """
    refuse_device(path)
    if path.is_dir():
        parts = {split: read_text(path / name) for split, name in TEXTS.items()}
    elif path.suffix == ".h5" and path.exists():
        parts = read_h5(path)
    elif path.exists():
        raise UserError(f"{path}: is no usps.h5; --usps takes that file, or a folder of zip.*.gz")
    else:
        raise UserError(f"{path}: no such file or folder; --usps takes usps.h5 or zip.*.gz")
    arrays: dict[str, np.ndarray] = {}
    for split, (values, labels) in parts.items():
        arrays[split] = enlarge(values)
        arrays[f"{split}_label"] = labels.astype(np.uint8)
    return Domain(**arrays)


def enlarge(values: np.ndarray) -> np.ndarray:
    """Returns grey values `[N, 256]` in [-1, 1] as digits uint8 `[N, 28, 28]` in [0, 255]."""
    small = np.round((values + 1) * 127.5).astype(np.uint8).reshape(-1, SIDE, SIDE)
    return np.stack([cv2.resize(digit, (28, 28)) for digit in small])


def read_text(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Reads a zip.*.gz: a line a digit, its class and 256 grey values in [-1, 1]."""
    refuse_device(path)
    if not path.exists():
        raise UserError(f"{path}: missing; name a folder with both zip.*.gz, or the file usps.h5")
    with damage_named(path, "fetch it again"):
        with gzip.open(path) as file:
            text = file.read(MAX_TEXT + 1)
        if len(text) > MAX_TEXT:
            raise UserError(f"{path}: unpacks to more than {MAX_TEXT} bytes; fetch it again")
        table = np.loadtxt(io.BytesIO(text), ndmin=2)
    return checked(path, np.round(table[:, 1:], 3), table[:, 0])


def read_h5(path: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Reads an `usps.h5`: groups train and test of data `[N, 256]` in [0, 1] and target `[N]`."""
    parts = {}
    with damage_named(path, "name the file usps.h5, or fetch it again"), h5py.File(path) as file:
        for split, group in (("train", "train"), ("val", "test")):
            data, target = file[group]["data"], file[group]["target"]
            if max(len(data), target.size) > MAX_DIGITS or data.size > MAX_DIGITS * SIDE**2:
                raise UserError(f"{path}: {group} has {data.shape} values; fetch it again")
            values = data[()].astype(np.float64) * 2 - 1
            parts[split] = checked(path, np.round(values, 3), target[()])
    return parts


def checked(path: Path, values: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns grey values and classes, or raises `UserError` if they are impossible."""
    if values.ndim != 2 or values.shape[1] != SIDE**2 or not len(values):
        raise UserError(f"{path}: holds values {list(values.shape)}, should be [N, 256]")
    if labels.shape != (len(values),) or not np.isin(labels, range(10)).all():
        raise UserError(f"{path}: its classes are not one of 0..9 for each digit")
    if not np.isfinite(values).all() or np.abs(values).max() > 1.001:
        raise UserError(f"{path}: has grey values outside their range; fetch it again")
    return np.clip(values, -1, 1), labels
