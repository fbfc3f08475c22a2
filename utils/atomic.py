"""Files that appear whole or not at all: write to a temporary name, then rename."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import stat
import sys
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from utils.errors import UserError

REMEDIES = {
    errno.ENOSPC: "free some space or choose another folder",
    errno.EDQUOT: "free some space or choose another folder",
    errno.EFBIG: "free some space or choose another folder",
    errno.EACCES: "choose a folder that you may write to",
    errno.EPERM: "choose a folder that you may write to",
    errno.EROFS: "choose a folder that you may write to",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ENXIO: "nobody reads from this pipe",
    errno.EPIPE: "nobody reads from this pipe",
    errno.ENOTDIR: "a part of the path is a file; choose another folder",
}

OPEN = {"-": 1, "/dev/stdout": 1, "/dev/stderr": 2}
DESCRIPTORS = (Path("/dev/fd"), Path("/proc/self/fd"))


@contextlib.contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields a temporary path; when the block ends well, its file takes the name `path`.

    Whatever goes wrong inside the block, what stood at `path` before is untouched and the
    temporary file is gone. The temporary name keeps the suffix, since Keras and Matplotlib
    choose the format by it. A link stays a link: what it leads to is replaced. A device or a pipe,
    such as /dev/stdout, is written to and never replaced.

    Args:
        path: the final name; missing parent folders are made.

    Raises:
        UserError: the folder cannot be written, or the disk is full.
    """
    path = Path(path)
    final = path if is_stream(path) else Path(os.path.realpath(path))
    place = Path(tempfile.gettempdir()) if is_stream(path) else final.parent
    temporary = place / f".{final.stem[:100]}.{uuid.uuid4().hex[:8]}.partial{final.suffix}"
    try:
        place.mkdir(parents=True, exist_ok=True)
        if final.is_dir():
            raise UserError(f"{path}: is a folder; name a file")
        yield temporary
        if is_stream(path):
            descriptor = open_stream(final)
            with temporary.open("rb") as source, os.fdopen(descriptor, "wb") as stream:
                shutil.copyfileobj(source, stream)
        else:
            temporary.replace(final)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Writes a text file, whole or not at all."""
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike[str], values: Any) -> None:
    """Writes a JSON file, whole or not at all."""
    write_text(path, json.dumps(values, indent=2) + "\n")


def is_stream(path: Path) -> bool:
    """Tells whether something stands at `path` that is written to, and not replaced."""
    if is_open(path):
        return True
    try:
        kind = path.stat().st_mode
    except OSError:
        return False
    return not stat.S_ISREG(kind) and not stat.S_ISDIR(kind)


def is_open(path: Path) -> bool:
    """Tells whether a name is that of a file that the process has open; - is standard output."""
    return str(path) in OPEN or (path.parent in DESCRIPTORS and path.name.isdigit())


def open_stream(path: Path) -> int:
    """Returns a descriptor to write to a device, a pipe, or a file that the process has open.

    The latter goes on where it stands, as with >> in a shell. A pipe that nobody reads is an error.
    """
    if is_open(path):
        sys.stdout.flush()
        return os.dup(OPEN.get(str(path)) or int(path.name))
    descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
    os.set_blocking(descriptor, True)
    return descriptor


def cannot_write(path: Path, error: OSError) -> UserError:
    """Returns what to tell a user about a file that cannot be written."""
    remedy = REMEDIES.get(error.errno or 0, "choose another folder")
    return UserError(f"{path}: cannot be written ({error.strerror or error}); {remedy}")
