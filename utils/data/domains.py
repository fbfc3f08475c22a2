"""A domain: images to train with and to measure with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from utils.data.folders import PictureFolder

Images = TypeVar("Images", np.ndarray, PictureFolder)


@dataclass(frozen=True)
class Domain(Generic[Images]):
    """The images of one domain, uint8 `[N, H, W, C]` in [0, 255] or pictures on disk.

    Their classes are int32 `[N]`, or `[N, n]` for n positions; -1 = unknown.
    """

    train: Images
    train_label: np.ndarray
    val: Images
    val_label: np.ndarray


Arrays = Domain[np.ndarray]
Pictures = Domain[PictureFolder]
