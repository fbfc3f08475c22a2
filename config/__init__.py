"""Settings. People edit their defaults, so Python's errors in them are told in a line."""

import dataclasses
import os
import sys
import traceback
from pathlib import Path
from types import TracebackType

from utils.errors import INTERRUPTED, MISTAKE

EDITED = ("config.py", "custom.py", "drawings.py", "captcha.py")


def tell(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Tells an error in a file of defaults as a user's mistake, and all others as Python does.

    Ctrl-C before `run_script` begins gets the same message as in `run_script`.
    """
    if isinstance(error, KeyboardInterrupt):
        return print(INTERRUPTED, file=sys.stderr)
    if isinstance(error, SyntaxError):
        file, line, reason = error.filename or "", error.lineno, error.msg
    else:
        # A field's impossible default fails in dataclasses; the line is then that of the class.
        last = [each for each in traceback.extract_tb(trace)
                if each.filename != dataclasses.__file__][-1]  # fmt: skip
        file, line, reason = last.filename, last.lineno, str(error)
    edited = Path(file).parent == Path(__file__).parent and Path(file).name in EDITED
    if not edited:
        return others(kind, error, trace)
    print(f"error: {file}, line {line}: {reason}; mend it", file=sys.stderr)
    sys.stdout.flush()
    os._exit(MISTAKE)  # Python would end with 1


# A program in another folder keeps its own hook. A second reading of this file changes nothing.
ROOT = Path(__file__).resolve().parent.parent
is_ours = Path(sys.argv[0]).resolve().parent in (ROOT, ROOT / "benchmarks", ROOT / "utils/run")
if is_ours and getattr(sys.excepthook, "__module__", "") != __name__:
    others = sys.excepthook
    sys.excepthook = tell
