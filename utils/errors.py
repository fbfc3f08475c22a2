"""How a script ends: its exit codes, and the one exception that a user's mistake raises."""

from __future__ import annotations

import errno
import io
import os
import signal
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

MISTAKE, COLLAPSED, TRY_AGAIN, CTRL_C = 2, 3, 75, 130
EXIT_CODES = f"""exit codes:
  0    done
  {MISTAKE}    a mistake in the call or the data
  {COLLAPSED}    the network collapsed
  {TRY_AGAIN}   stopped by SIGTERM; the last lines tell how to continue, if a step was trained
  {CTRL_C}  stopped by Ctrl-C; the last lines tell how to continue, if a step was trained"""
# Why the system may refuse to look at a path.
REFUSED = {errno.EACCES, errno.ELOOP, errno.ENAMETOOLONG, errno.ENOTDIR, errno.EPERM}
INTERRUPTED = "\ninterrupted; no file is incomplete"


class UserError(Exception):
    """Something the user can mend: one line that names the file or field, and the remedy."""

    def __init__(self, message: str):
        super().__init__(" ".join(message.split()))  # libraries' reasons may have several lines


class FailsAgain(UserError):
    """The same run would fail again, so there is no use in resuming it."""


class Terminated(KeyboardInterrupt):
    """SIGTERM, before or after training, where nothing else notes it."""


def terminated(number: int, frame: object) -> NoReturn:
    """Raises `Terminated`, as Python itself raises `KeyboardInterrupt` for SIGINT."""
    raise Terminated


def existing_file(path: str, name: str, remedy: str) -> None:
    """Raises `UserError` unless `path`, which the setting `name` gives, is a file."""
    refuse_device(Path(path))
    if Path(path).is_dir():
        raise UserError(f"{name}: {path}: is a folder; name the file in it")
    if not Path(path).is_file():
        raise UserError(f"{name}: {path}: no such file; {remedy}")


def refuse_device(path: Path) -> None:
    """Raises `UserError` for a pipe, a socket or a device, on which a reader might wait forever."""
    try:
        mode = path.stat().st_mode
    except OSError:  # the reader itself tells what is missing
        return
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise UserError(f"{path}: is a pipe, a socket or a device; name a file")


@contextmanager
def damage_named(path: Path, remedy: str) -> Iterator[None]:
    """Turns any other error of a reader into a `UserError` that names the file."""
    try:
        yield
    except (UserError, MemoryError):
        raise
    except Exception as error:  # libraries raise many kinds
        reason = str(error).strip().split("\n")[0][:200] or type(error).__name__
        raise UserError(f"{path}: cannot be loaded ({reason}); {remedy}") from error


def run_script(main: Callable[[], int | None]) -> None:
    """Runs a script's `main` and ends the process; a `UserError` becomes one line and exit code 2.

    Args:
        main: the script's entry. It returns the exit code, None for 0.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # `script >&-`
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115
        if isinstance(getattr(sys, name), io.TextIOWrapper):  # of a terminal that is not UTF-8
            getattr(sys, name).reconfigure(errors="replace")
    try:
        signal.signal(signal.SIGTERM, terminated)
        code = main() or 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        code = MISTAKE
    except MemoryError as error:
        why = f" ({error})" if str(error) else ""
        print(f"error: there is not enough memory{why}; take fewer or smaller images",
              file=sys.stderr)  # fmt: skip
        code = MISTAKE
    except OSError as error:
        if error.filename and error.errno in REFUSED:
            told = UserError(f"{error.filename}: {error.strerror}; check it, or name another")
            print(f"error: {told}", file=sys.stderr)
        elif printed("\n"):
            raise
        code = MISTAKE
    except KeyboardInterrupt as error:
        print(INTERRUPTED, file=sys.stderr)
        code = TRY_AGAIN if isinstance(error, Terminated) else CTRL_C
    sys.exit(code if printed() else code or MISTAKE)


def printed(more: str = "") -> bool:
    """Tells whether standard output takes what is printed; if not, says so and closes it."""
    try:
        print(more, end="", flush=True)
    except OSError as error:  # a full disk, or `| head`
        print(f"error: what this prints cannot be written: {error.strerror}", file=sys.stderr)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or Python tries again at its end
        return False
    return True
