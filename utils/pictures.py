"""Decodes pictures of any common format."""

from __future__ import annotations

import cv2
import numpy as np

from utils.errors import UserError


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
