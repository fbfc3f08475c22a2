"""Finds and decodes pictures of any common format."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from utils.errors import UserError

SUFFIXES = {".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp", ".ppm", ".pgm"}


def find_pictures(place: Path) -> list[Path]:
    """Returns the picture `place`, or the pictures at any depth below it, sorted by name."""
    if place.is_file():
        return [place]
    if not place.is_dir():
        raise UserError(f"{place}: no such file or folder; name a picture or a folder of pictures")
    paths = sorted(path for path in place.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise UserError(f"{place}: no pictures in it ({', '.join(sorted(SUFFIXES))})")
    return paths


def read_picture(path: Path, shape: tuple[int, int, int]) -> np.ndarray:
    """Reads a picture as uint8 of `shape` (height, width, channels), or raises `UserError`."""
    height, width, channels = shape
    try:
        image = decode_picture(path.read_bytes(), str(path), channels)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    return resize(image, height, width)


def decode_picture(data: bytes, name: str, channels: int = 3) -> np.ndarray:
    """Decodes one picture.

    Args:
        data: the file's bytes.
        name: the file's name, for the message.
        channels: 3 = RGB, 1 = grey; pictures of the other kind are converted.

    Returns:
        uint8 `[H, W, channels]`, pixel values in [0, 255].

    Raises:
        UserError: it does not decode, or has more pixels than `utils/__init__.py` allows.
    """
    mode = cv2.IMREAD_GRAYSCALE if channels == 1 else cv2.IMREAD_COLOR
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), mode) if data else None
    except (cv2.error, MemoryError):
        image = None
    if image is None:
        raise UserError(f"{name}: does not decode as a picture; replace or remove it")
    return image[..., None] if channels == 1 else cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resizes uint8 `[H, W, C]` to `[height, width, C]`; averages where it shrinks."""
    resized = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    return resized.reshape(height, width, image.shape[2])
