"""Which files a script may replace: its own, and none of another program."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from utils.atomic import cannot_write, is_stream
from utils.errors import UserError


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
    own = isinstance(facts, dict) and isinstance(facts.get("files"), list)
    known = facts["files"] if own else []
    for path in (*paths, *([] if own else [note])):
        if path.is_file() and digest_of(path) not in known:
            flag = "--output_dir" if path.suffix in (".pkl", ".json") else "--picture"
            raise UserError(
                f"{path}: is not as this script wrote it, as far as {note.name} tells; move it "
                f"away, or choose another {flag}"
            )
    return facts if own else {}


def digest_of(file: Path) -> str:
    """Returns the SHA-256 of a file, or raises `UserError`."""
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror}); name another") from error


def refuse_loss(output: Path, mark: str, *inputs: Path) -> None:
    """Raises `UserError` if a file to write would replace one to read, or one of another program.

    Scripts call this before long work. So it also refuses a file that cannot be written.

    Args:
        output: the file to write.
        mark: what each file of this script has near its beginning.
        inputs: the files to read.
    """
    refuse_unwritable(output)
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


def refuse_unwritable(output: Path) -> None:
    """Raises `UserError` if no file can appear at a path."""
    if is_stream(output):
        return
    final = Path(os.path.realpath(output))  # a link stays a link, and what it leads to is replaced
    try:
        if final.is_dir():
            raise UserError(f"{output}: is a folder; name a file")
        above = next(folder for folder in final.parents if folder.exists())
        if not above.is_dir():
            raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        if not os.access(above, os.W_OK):
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:  # these, or such as a name that is too long
        raise cannot_write(output, error) from error
