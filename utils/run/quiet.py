"""Starts TensorFlow without what it says of itself, but with its errors."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import tempfile
from collections.abc import Iterator

# It says what it was built with, that it found no GPU, and that it has not set up its own log yet.
NOISE = re.compile(
    r"WARNING: All log messages before absl|[IW]\d{4} |.*cuInit|.*[Cc]ould not find cuda|"
    r"To enable the following instructions|\d{4}-\d\d-\d\d .*: [IW] "
)


@contextlib.contextmanager
def quiet_start() -> Iterator[None]:
    """Inside, what is written to standard error is kept; afterwards its errors are shown.

    TensorFlow writes there before any of its settings can stop it, from C++.
    """
    sys.stderr.flush()
    with tempfile.TemporaryFile() as kept:
        stderr = os.dup(2)
        os.dup2(kept.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            kept.seek(0)
            for line in kept.read().decode(errors="replace").splitlines():
                if line.strip() and not NOISE.match(line):
                    print(line, file=sys.stderr)
