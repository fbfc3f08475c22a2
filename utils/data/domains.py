"""A domain: images to train with and to measure with."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from utils.data.folders import PictureFolder

Images = np.ndarray | PictureFolder  # uint8 `[N, H, W, C]` in [0, 255], or pictures on disk


@dataclass(frozen=True)
class Domain:
    """The images of one domain, and their classes: int32 `[N]`, or `[N, n]`; -1 = unknown."""

    train: Images
    train_label: np.ndarray
    val: Images
    val_label: np.ndarray
