"""Finds and decodes pictures of any common format."""

from __future__ import annotations

import io
import math
import os
import re
import stat
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps

from utils.errors import UserError

SUFFIXES = {".avif", ".bmp", ".gif", ".jp2", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif",
            ".tiff", ".webp"}  # fmt: skip
warnings.filterwarnings("ignore", module=r"PIL\.")  # they do not name the file
MAX_PIXELS = int(os.environ["OPENCV_IO_MAX_IMAGE_PIXELS"])
HIDDEN = ("__MACOSX", "Thumbs.db")  # what other programs leave in folders, beside names with a dot
TRANSPARENT = ("AVIF", "GIF", "JPEG2000", "PNG", "TIFF", "WEBP")  # formats that may be
IN_LETTERS = (b"P1", b"P2", b"P3")  # PBM, PGM and PPM whose numbers are written out
PNG = b"\x89PNG\r\n\x1a\n"  # what one begins with


def find_pictures(place: Path) -> list[Path]:
    """Returns the picture `place`, or the pictures at any depth below it, sorted by name.

    Links to folders are followed, each folder once.

    Only regular files are read, because a pipe that is named like a picture would never end. Hidden
    files and folders, and those that macOS and Windows leave behind, are passed over.

    Raises:
        UserError: no such file or folder, one that cannot be read, or one without a picture.
    """
    if place.is_file():
        return [place]
    if not place.is_dir():
        what = "is neither a picture nor a folder" if place.exists() else "no such file or folder"
        raise UserError(f"{place}: {what}; name a picture or a folder of pictures")
    seen = [path for path in sorted(walk(place))
            if not any(map(is_hidden, path.relative_to(place).parts))]  # fmt: skip
    paths = [path for path in seen if path.suffix.lower() in SUFFIXES and path.is_file()]
    lost = [path for path in seen if path.is_symlink() and not path.exists()]
    others = sorted({path.suffix or "without suffix" for path in {*seen} - {*paths, *lost}})
    if lost:
        print(f"{place}: links to nothing are left out, such as {lost[0]} ({len(lost)} in all)",
              file=sys.stderr)  # fmt: skip
    if others:
        print(
            f"{place}: only regular files of known picture formats are read, not "
            f"{', '.join(others)} ({len(seen) - len(paths) - len(lost)} in all)",
            file=sys.stderr,
        )
    if not paths:
        raise UserError(f"{place}: no pictures in it ({', '.join(sorted(SUFFIXES))})")
    return paths


def walk(place: Path) -> Iterator[Path]:
    """Yields the files at any depth below a folder, or raises `UserError`."""

    def refuse(error: OSError) -> None:
        raise UserError(f"{error.filename}: cannot be read ({error.strerror}); name other folders")

    been = set()
    for folder, below, names in os.walk(place, onerror=refuse, followlinks=True):
        if (here := os.path.realpath(folder)) in been:  # a link to a folder above
            below.clear()
            continue
        been.add(here)
        below.sort()  # so that of two ways to a folder it is always the same
        yield from (Path(folder, name) for name in names)


def write_picture(path: Path, picture: np.ndarray) -> None:
    """Writes a picture as OpenCV has it, uint8 `[H, W]` or `[H, W, 3]` BGR, or raises `OSError`."""
    path.write_bytes(cv2.imencode(path.suffix, picture)[1].tobytes())


def is_hidden(name: str) -> bool:
    """Tells whether a file or folder is none of the user's own."""
    return name.startswith(".") or name in HIDDEN


def read_picture(path: Path, shape: tuple[int, int, int]) -> np.ndarray:
    """Reads a picture as uint8 of `shape` (height, width, channels), or raises `UserError`."""
    height, width, channels = shape
    image = decode_picture(read_file(path), str(path), channels)
    try:
        return resize(image, height, width)
    except cv2.error as error:
        raise UserError(f"{path}: cannot be resized ({error}); replace or remove it") from error


def read_file(path: Path) -> bytes:
    """Returns a regular file's bytes, or raises `UserError`; never waits for a pipe."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise UserError(f"{path}: is no regular file; remove it")
            return file.read()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); put it back") from error


def decode_picture(data: bytes, name: str, channels: int = 3) -> np.ndarray:
    """Decodes one picture. What is transparent in it becomes white.

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
    if cut_png(data):
        raise UserError(f"{name}: is cut or damaged; replace or remove it")
    white = white_of(data)
    scaled = data[:2] in IN_LETTERS and 0 < white < 255  # OpenCV brings these to 255
    if white not in (255, 2**16 - 1) and not scaled:
        raise UserError(
            f"{name}: white is {white} in it, which OpenCV does not know; save it with 255 or as a "
            "PNG"
        )
    try:
        image = on_white(data)
        if image is None and data:
            if data[:2] in IN_LETTERS:
                data += b"\n"  # without an end of its line OpenCV does not see the last number
            image = cv2.imdecode(np.frombuffer(data, np.uint8), mode)
        elif image is not None and channels == 1:
            image = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
    except (cv2.error, MemoryError) as error:
        if "CV_IO_MAX_IMAGE_PIXELS" in str(error):
            raise UserError(
                f"{name}: has more than {MAX_PIXELS} pixels; make it smaller"
            ) from error
        image = None
    if image is None:
        raise UserError(
            f"{name}: does not decode as a picture of 8 or 16 bits; save it anew, or remove it"
        )
    return image[..., None] if channels == 1 else cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def cut_png(data: bytes) -> bool:
    """Tells whether a PNG announces more bytes than it has; OpenCV would allocate all of them."""
    at = len(PNG)
    if data[:at] != PNG:
        return False
    name = b""
    while at < len(data) and name != b"IEND":  # after the end there may be anything
        name = data[at + 4 : at + 8]
        at += 12 + int.from_bytes(data[at : at + 4], "big")  # length, name, content, checksum
    return at > len(data)


def white_of(data: bytes) -> int:
    """Returns the value of white that a PGM or PPM tells; of other formats 255."""
    if data[:2] not in (b"P2", b"P3", b"P5", b"P6"):
        return 255
    words = re.sub(rb"#[^\n]*", b" ", data[:1000]).split(maxsplit=4)
    if len(words) < 4 or words[0] != data[:2]:
        return 255
    return int(words[3]) if words[3].isdigit() else 0


def on_white(data: bytes) -> np.ndarray | None:
    """Returns a picture that has transparency on white, uint8 `[H, W, 3]` BGR; else None."""
    try:
        with Image.open(io.BytesIO(data), formats=TRANSPARENT) as picture:
            deep = picture.mode.startswith("I")  # Pillow would make 16 bits white
            if not picture.has_transparency_data or deep or math.prod(picture.size) > MAX_PIXELS:
                return None
            turned = ImageOps.exif_transpose(picture).convert("RGBA")
    except Exception:  # of many kinds; what Pillow does not decode, OpenCV may
        return None
    white = Image.new("RGBA", turned.size, "white")
    return np.asarray(Image.alpha_composite(white, turned).convert("RGB"))[..., ::-1]


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resizes uint8 `[H, W, C]` to `[height, width, C]`; averages unless both sides grow."""
    grows = height >= image.shape[0] and width >= image.shape[1]
    how = cv2.INTER_LINEAR if grows else cv2.INTER_AREA
    resized = cv2.resize(image, (width, height), interpolation=how)
    return resized.reshape(height, width, image.shape[2])
