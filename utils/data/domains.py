"""Domains: images to train with and to measure with."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np

from utils.data.folders import PictureFolder
from utils.errors import UserError

DIGIT_NAMES = "0123456789"
Images = TypeVar("Images", np.ndarray, PictureFolder)


@dataclass(frozen=True)
class Domain(Generic[Images]):
    """The images of one domain, uint8 `[N, H, W]` or `[N, H, W, C]` in [0, 255], or
    pictures on disk.

    Their classes are whole numbers `[N]`, or `[N, n]` for n positions; -1 = unknown.

    Raises:
        ValueError: other types, or lengths that differ.
    """

    train: Images
    train_label: np.ndarray
    val: Images
    val_label: np.ndarray

    def __post_init__(self) -> None:
        for images, labels in ((self.train, self.train_label), (self.val, self.val_label)):
            if isinstance(images, np.ndarray) and images.dtype != np.uint8:
                raise ValueError(f"images must be uint8 in [0, 255], got {images.dtype}")
            if labels.dtype.kind not in "iu" or len(labels) != len(images):
                raise ValueError(f"{len(images)} images need as many whole numbers as classes, got "
                                 f"{labels.dtype}{list(labels.shape)}")  # fmt: skip

    @property
    def digest(self) -> str:
        """SHA-256 over images and classes; of pictures on disk, over their names and files."""
        total = hashlib.sha256()
        for images, labels in ((self.train, self.train_label), (self.val, self.val_label)):
            if isinstance(images, PictureFolder):
                total.update(images.fingerprint)
            else:
                total.update(np.ascontiguousarray(images).data)
            total.update(np.ascontiguousarray(labels).data)
        return total.hexdigest()


@dataclass(frozen=True)
class Domains(Generic[Images]):
    """What a run trains and measures with."""

    domains: list[Domain[Images]]
    """The sources first."""
    class_names: Sequence[str] = DIGIT_NAMES
    """In the order of their numbers."""
    num_sources: int = 1
    """How many of the domains are sources."""
    pixel_mean: tuple[float, ...] = ()
    """What their network subtracts of each channel, in [0, 255]; empty: nothing."""

    def without_targets(self) -> Domains[Images]:
        """Returns the same with a source in the place of each target.

        The target then stays unseen. Batch normalisation would learn from it.
        """
        sources = self.domains[: self.num_sources]
        in_their_place = sources[:1] * (len(self.domains) - self.num_sources)
        return dataclasses.replace(self, domains=sources + in_their_place)

    def digests(self) -> dict[str, str]:
        """Returns the digest of each domain, by its name."""
        names = ["source", *(f"source {number}" for number in range(2, self.num_sources + 1))]
        targets = len(self.domains) - self.num_sources
        names += [f"target {number}" for number in range(1, targets + 1)]
        return {name: one.digest for name, one in zip(names, self.domains, strict=True)}


AnyDomains = TypeVar("AnyDomains", bound=Domains)


def official(digits: Domain, name: str, digest: str, path: Path, unverified: bool) -> Domain:
    """Returns digits, or raises `UserError` if they are not the official ones.

    Args:
        digits: that were read.
        name: of the data set.
        digest: of the official digits.
        path: where they come from.
        unverified: accept any.
    """
    if not unverified and digits.digest != digest:
        raise UserError(
            f"{path}: these digits are not the official {name} (content digest "
            f"{digits.digest[:12]}…); fetch it again, or accept them with --unverified"
        )
    return digits
