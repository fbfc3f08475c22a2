"""Settings. People edit their defaults, so Python's errors in them are told in a line."""

import os
import sys
import traceback
from pathlib import Path
from types import TracebackType

from utils.errors import MISTAKE

EDITED = ("config.py", "custom.py", "drawings.py", "captcha.py")


def tell(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Tells an error in a file of defaults as a user's mistake, and all others as Python does."""
    places = [(place.filename, place.lineno) for place in traceback.extract_tb(trace)[-1:]]
    if isinstance(error, SyntaxError):
        places = [(error.filename or "", error.lineno)]
    for file, line in places:
        if Path(file).parent == Path(__file__).parent and Path(file).name in EDITED:
            reason = error.msg if isinstance(error, SyntaxError) else error
            print(f"error: {file}, line {line}: {reason}; mend this line", file=sys.stderr)
            sys.stdout.flush()
            os._exit(MISTAKE)  # Python would end with 1
    sys.__excepthook__(kind, error, trace)


sys.excepthook = tell
