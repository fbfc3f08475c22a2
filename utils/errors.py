"""The one exception that a user's mistake raises, and how a script ends on it."""

from __future__ import annotations

import sys
from collections.abc import Callable


class UserError(Exception):
    """Something the user can mend: one line that names the file or field, and the remedy."""

    def __init__(self, message: str):
        super().__init__(" ".join(message.split()))  # libraries' reasons may have several lines


def run_script(main: Callable[[], int | None]) -> None:
    """Runs a script's `main` and ends the process; a `UserError` becomes one line and exit code 2.

    Args:
        main: the script's entry. It returns the exit code, None for 0.
    """
    try:
        code = main() or 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        print("\ninterrupted; nothing was written half", file=sys.stderr)
        code = 130
    sys.exit(code)
