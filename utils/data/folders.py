"""Domains that are folders of pictures: found once, decoded whenever a batch needs them."""

from __future__ import annotations

import hashlib
import os
import sys
import unicodedata
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from utils.data import UNLABELLED
from utils.data.pictures import SUFFIXES, find_pictures, is_hidden, read_file, read_picture
from utils.errors import UserError

Shape = tuple[int, int, int]
SPLITS = {"train", "training", "val", "valid", "validation", "test"}  # names of no class
# Threads are here, because tf.data runs Python code one call at a time in repeatable runs.
READERS = ThreadPoolExecutor(os.cpu_count(), "reader")


@dataclass(frozen=True)
class PictureFolder:
    """The pictures of one domain.

    Attributes:
        paths: of the pictures; all of them decoded when they were looked for.
        labels: int32 `[N]`, the class of each, -1 = unknown.
        shape: (height, width, channels) that each is brought to.
    """

    paths: np.ndarray
    labels: np.ndarray
    shape: Shape

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """Decodes pictures: uint8 `[len(rows), *shape]`, pixel values in [0, 255]."""
        paths = [Path(self.paths[row]) for row in rows]
        return np.stack(list(READERS.map(partial(read_picture, shape=self.shape), paths)))

    @property
    def root(self) -> str:
        """The folder that the pictures share."""
        return os.path.commonpath([Path(path).parent for path in self.paths])

    @property
    def fingerprint(self) -> bytes:
        """Of the pictures' names and contents, from the folder that they share."""
        paths = [Path(path) for path in self.paths]
        digests = READERS.map(lambda path: hashlib.sha256(read_file(path)).hexdigest(), paths)
        root = self.root
        names = (str(path.relative_to(root)) for path in paths)
        return repr(list(zip(names, digests, strict=True))).encode()

    def split(self, share: float, seed: int) -> tuple[PictureFolder, PictureFolder]:
        """Returns the rest, and a random `share` (at least one picture) for measuring."""
        order = np.random.default_rng(seed).permutation(len(self))
        count = max(1, round(share * len(self)))
        if count >= len(self):
            raise UserError(
                f"{self.root}: has {len(self)} picture(s), too few to train with some and to keep "
                f"a share of {share} back for measuring; add some"
            )
        return self.take(np.sort(order[count:])), self.take(order[:count])

    def evenly(self, count: int) -> PictureFolder:
        """Returns at most `count` of the pictures, spread evenly over all."""
        return self.take(np.arange(0, len(self), max(1, -(-len(self) // count))))

    def take(self, rows: np.ndarray) -> PictureFolder:
        """Returns some of the pictures."""
        return PictureFolder(self.paths[rows], self.labels[rows], self.shape)


def find_classes(folder: Path) -> list[str]:
    """Returns the names of the class folders in `folder`, sorted; names what is left out.

    Raises:
        UserError: the folder is split into train and val, or loose pictures lie beside classes.
    """
    folders = sorted(path.name for path in folder.iterdir() if path.is_dir())
    names = [name for name in folders if not is_hidden(name)]
    if len(names) < len(folders):
        left = ", ".join(name for name in folders if is_hidden(name))
        print(f"{folder}: hidden folders are left out: {left}", flush=True)
    if names and {name.lower() for name in names} <= SPLITS:
        first = next((name for name in names if name.lower().startswith("train")), names[0])
        raise UserError(
            f"{folder}: is split into {', '.join(names)}; name one of them, such as "
            f"{folder / first} (a share of its pictures is kept back for measuring)"
        )
    loose = [path.name for path in folder.iterdir()
             if path.suffix.lower() in SUFFIXES and path.is_file()
             and not is_hidden(path.name)]  # fmt: skip
    if names and loose:
        raise UserError(
            f"{folder}: pictures, such as {loose[0]}, lie beside the class folders "
            f"{', '.join(names)}; move them into one, or away"
        )
    return names


def composed(name: str) -> str:
    """Returns a name in one spelling: an é of macOS is two characters, that of Linux one."""
    return unicodedata.normalize("NFC", name)


def open_sources(folders: Sequence[Path], shape: Shape) -> tuple[list[PictureFolder], list[str]]:
    """Returns labelled domains and the names of the classes that any of them has.

    Raises:
        UserError: fewer than two class folders, a class folder without pictures, or none decodes.
    """
    found = [find_classes(folder) for folder in folders]
    classes = sorted({composed(name) for names in found for name in names})
    for folder, names in zip(folders, found, strict=True):
        if not names or len(classes) < 2:
            raise UserError(
                f"{folder}: must have 2 or more class folders, each with the pictures of one "
                f"class; it has {len(names)}"
            )
    return [open_folder(folder, names, classes, shape)
            for folder, names in zip(folders, found, strict=True)], classes  # fmt: skip


def open_target(folder: Path, classes: Sequence[str], shape: Shape) -> PictureFolder:
    """Returns a domain to adapt to; labelled, for measuring, if it has class folders.

    Raises:
        UserError: class folders that are none of `classes`, no pictures, or none decodes.
    """
    found = find_classes(folder)
    unknown = [name for name in found if composed(name) not in classes]
    if unknown:
        raise UserError(
            f"{folder}: these folders are none of the classes {', '.join(classes)}: "
            f"{', '.join(unknown)}; rename them, or put the pictures of an unlabelled domain into "
            f"{folder} itself"
        )
    return open_folder(folder, found, classes, shape)


def open_folder(
    folder: Path, names: Sequence[str], classes: Sequence[str], shape: Shape
) -> PictureFolder:
    """Finds and checks the pictures of the class folders `names`, or of `folder` if there is none.

    What does not decode is named on stderr, counted and left out.
    """
    labelled = [(path, classes.index(composed(name))) for name in names
                for path in find_pictures(folder / name)]  # fmt: skip
    if not names:
        labelled = [(path, UNLABELLED) for path in find_pictures(folder)]
    checks = READERS.map(lambda pair: why_unreadable(pair[0], shape), labelled)
    reasons = list(tqdm(checks, total=len(labelled), desc=f"checking {folder}", unit="picture",
                        leave=False, disable=None))  # fmt: skip
    for reason in filter(None, reasons):
        print(f"skipped: {reason}", file=sys.stderr)
    good = [pair for pair, reason in zip(labelled, reasons, strict=True) if reason is None]
    if not good:
        raise UserError(f"{folder}: none of its {len(labelled)} pictures decodes")
    print(f"{folder}: {len(good)} pictures, {len(labelled) - len(good)} skipped", flush=True)
    paths = np.array([str(path) for path, _ in good], np.str_)
    return PictureFolder(paths, np.array([label for _, label in good], np.int32), shape)


def why_unreadable(path: Path, shape: Shape) -> str | None:
    """Returns why a picture cannot be used, or None if it can."""
    try:
        read_picture(path, shape)
    except UserError as error:
        return str(error)
    return None


def mean_of(folders: Sequence[PictureFolder]) -> tuple[float, ...]:
    """Returns each channel's mean: that of the domains' means over up to 2,000 pictures each."""

    def mean(path: str, shape: Shape) -> np.ndarray:
        return read_picture(Path(path), shape).mean(axis=(0, 1))

    some = [folder.evenly(2000) for folder in folders]
    means = [np.mean(list(READERS.map(partial(mean, shape=folder.shape), folder.paths)), axis=0)
             for folder in some]  # fmt: skip
    return tuple(float(value) for value in np.mean(means, axis=0))
