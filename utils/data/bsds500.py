"""Reads the BSDS500 training photographs from an archive or a folder, and proves they are those."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import lzma
import re
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from utils.data.downloads import download
from utils.data.pictures import decode_picture
from utils.errors import UserError, damage_named, refuse_device

URLS = (
    # The official address.
    "https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/BSR/BSR_bsds500.tgz",
    # The BIDS mirror: the same photographs, packed as a zip under another prefix.
    "https://github.com/BIDS/BSDS500/archive/refs/heads/master.zip",
    # The original repository's release.
    "https://github.com/Daipuwei/DANN-MNIST-tf2/releases/download/master/BSR_bsds500.zip",
)
# `Photos.digest` of the official 200 training photographs.
OFFICIAL_DIGEST = "28dd4917eb4fcf4c271a123a59610423f4a732da14ec6813be4e4cb1713477ee"
TRAINING_PHOTO = re.compile(r"(?:.*/)?data/images/train/([^/]+\.jpe?g)", re.IGNORECASE)
MAX_PHOTO_BYTES = 2**22  # the largest of the 200 has 0.1 MB; more is not a BSDS500 photograph
MAX_PHOTOS = 10_000
PACKERS = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\0": lzma.open}
MAX_UNPACKED = 2**30  # BSDS500 with its ground truth has 0.07 GB; a bomb unpacks to more
MIN_SIDE = 28


@dataclass(frozen=True)
class Photos:
    """Colour photographs: each uint8 `[H, W, 3]` RGB in [0, 255], sorted by name."""

    images: list[np.ndarray]
    digest: str


def find_bsds500(path: Path | None, dataset_dir: Path, unverified: bool = False) -> Photos:
    """Reads the BSDS500 training photographs from `path`, else `dataset_dir`, else a download.

    Args:
        path: a `.tgz`, `.tar` or `.zip` archive or an unpacked folder, whatever prefix stands
            before `data/images/train/`; None looks further.
        dataset_dir: where an earlier download lies, or the next one will.
        unverified: accept photographs that are not the official 200.

    Raises:
        UserError: nothing to read, a damaged or hostile archive, or not BSDS500.
    """
    if path is None:
        names = ("BSR_bsds500.tgz", "BSR_bsds500.tar", "BSDS500.zip", "BSR", "BSDS500")
        path = next((dataset_dir / name for name in names if (dataset_dir / name).exists()), None)
    if path is None:
        # An archive says by its first bytes what it is, so one name serves for every mirror.
        path = download(URLS, dataset_dir / "BSR_bsds500.tgz", read_official, "it by --bsds")
    return read_photos(path) if unverified else read_official(path)


def read_official(path: Path) -> Photos:
    """Reads the photographs and raises `UserError` unless they are the official 200."""
    photos = read_photos(path)
    if photos.digest != OFFICIAL_DIGEST:
        raise UserError(
            f"{path}: its {len(photos.images)} training photographs are not BSDS500's 200 (content "
            f"digest {photos.digest[:12]}…); fetch it again, or accept them with --unverified"
        )
    return photos


def read_photos(path: Path) -> Photos:
    """Decodes every `data/images/train/*.jpg` of an archive or folder.

    Nothing is unpacked to disk, so a path-traversal name in an archive can harm nothing; it is
    refused all the same.

    Raises:
        UserError: no photograph in it, one that does not decode, or a damaged archive.
    """
    if not path.exists():
        raise UserError(f"{path}: no such file or folder; --bsds takes an archive or a folder")
    files = {}
    with damage_named(path, "fetch it again"):
        for name, data in training_files(path):
            files[name] = data
            if len(files) > MAX_PHOTOS:
                raise UserError(f"{path}: more than {MAX_PHOTOS} training photographs")
    if not files:
        raise UserError(f"{path}: no data/images/train/*.jpg in it; is this BSDS500?")
    digest = hashlib.sha256()
    images = []
    for name, data in sorted(files.items()):
        digest.update(name.encode() + b"\0" + hashlib.sha256(data).digest())
        image = decode_picture(data, f"{path}: {name}")
        if min(image.shape[:2]) < MIN_SIDE:
            size = f"{image.shape[1]}×{image.shape[0]}"
            raise UserError(f"{path}: {name}: {size} is smaller than a 28×28 crop")
        images.append(image)
    return Photos(images, digest.hexdigest())


def training_files(path: Path) -> Iterator[tuple[str, bytes]]:
    """Yields name and bytes of every training photograph in a folder, tar or zip."""
    refuse_device(path)
    if path.is_dir():
        for file in path.rglob("*"):
            match = TRAINING_PHOTO.fullmatch(file.as_posix())
            if match and file.is_file():
                yield match[1], checked_size(file.read_bytes(), file.as_posix())
    elif zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                match = TRAINING_PHOTO.fullmatch(safe_name(path, entry.filename))
                if match:
                    with archive.open(entry) as member:
                        data = member.read(MAX_PHOTO_BYTES + 1)
                    yield match[1], checked_size(data, entry.filename)
    else:
        with Unpacked(path) as unpacked, tarfile.open(fileobj=unpacked, mode="r|") as tar:
            for info in tar:
                match = TRAINING_PHOTO.fullmatch(safe_name(path, info.name))
                member_file = tar.extractfile(info) if match and info.isfile() else None
                if match and member_file:
                    yield (match[1], checked_size(member_file.read(MAX_PHOTO_BYTES + 1), info.name))


class Unpacked(io.RawIOBase):
    """The bytes of a tar, unpacked as they are read, and not more than `MAX_UNPACKED` of them.

    tarfile itself would read a name of gigabytes.
    """

    def __init__(self, path: Path):
        with path.open("rb") as file:
            start = file.read(6)
        known = (opener for magic, opener in PACKERS.items() if start.startswith(magic))
        opener: Any = next(known, open)
        self.path, self.file, self.left = path, opener(path, "rb"), MAX_UNPACKED

    def read(self, size: int = -1) -> bytes:
        data: bytes = self.file.read(size)
        self.left -= len(data)
        if self.left < 0:
            raise UserError(f"{self.path}: unpacks to more than {MAX_UNPACKED} bytes")
        return data

    def close(self) -> None:
        self.file.close()
        super().close()


def safe_name(path: Path, name: str) -> str:
    """Returns an archive member's name, or raises `UserError` if it points out of the archive."""
    if name.startswith(("/", "\\")) or ".." in re.split(r"[/\\]", name):
        raise UserError(f"{path}: holds the unsafe name {name!r}; do not trust this archive")
    return name


def checked_size(data: bytes, name: str) -> bytes:
    """Returns `data`, or raises `UserError` if it is larger than any photograph may be."""
    if len(data) > MAX_PHOTO_BYTES:
        raise UserError(f"{name}: larger than {MAX_PHOTO_BYTES} bytes: not a BSDS500 photograph")
    return data
