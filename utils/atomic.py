"""Files that appear whole or not at all: write to a temporary name, then rename."""

from __future__ import annotations

import contextlib
import errno
import hashlib
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


def refuse_foreign(note: Path, *paths: Path) -> dict[str, Any]:
    """Returns what a script's note tells of the files that it wrote; nothing if there is none.

    Args:
        note: JSON, with the SHA-256 of each of its `files`, those of earlier calls too.
        paths: what the script would write.

    Raises:
        UserError: another program wrote a file that would be replaced, or changed it.
    """
    facts: Any = {}
    with contextlib.suppress(OSError, ValueError):
        facts = json.loads(note.read_text(encoding="utf-8"))
    own = isinstance(facts, dict) and "digits_sha256" in facts
    there = [path for path in (*paths, *([] if own else [note])) if path.is_file()]
    digests = {path: digest_of(path) for path in there}
    known = facts.get("files", []) if own else []
    for path, digest in digests.items():
        if digest not in known:
            raise UserError(
                f"{path}: is not as this script wrote it, as far as {note.name} tells; move it "
                "away, or choose another --output_dir or --picture"
            )
    return {**facts, "files": known} if own else {}


def digest_of(file: Path) -> str:
    """Returns the SHA-256 of a file, or raises `UserError`."""
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror}); name another") from error


def refuse_loss(output: Path, mark: str, *inputs: Path) -> None:
    """Raises `UserError` if a file to write would replace one to read, or one of another program.

    It is asked before long work, so a file that cannot be written is refused, too.

    Args:
        output: the file to write.
        mark: what each file of this script has near its beginning.
        inputs: the files to read.
    """
    if output.is_dir():
        raise UserError(f"{output}: is a folder; name a file")
    above = next(folder for folder in output.absolute().parents if folder.exists())
    if not is_stream(output) and not os.access(above, os.W_OK):
        raise cannot_write(output, PermissionError(errno.EACCES, os.strerror(errno.EACCES)))
    for path in inputs:
        with contextlib.suppress(OSError):
            if output.samefile(path):
                raise UserError(f"{output}: is read by this command; choose another output")
    if output.is_file() and not is_stream(output):
        try:
            with output.open("rb") as file:
                there = file.read(2**16)
        except OSError as error:
            raise cannot_write(output, error) from error
        if there and mark.encode() not in there:
            raise UserError(
                f"{output}: is there already, and not from this script; choose another output"
            )
