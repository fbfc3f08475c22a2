"""The table of a run: log.csv, a row an epoch. Read without TensorFlow."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from utils.atomic import whole_file
from utils.errors import UserError

Row = dict[str, str]
AnyRow = TypeVar("AnyRow", dict[str, str], dict[str, float])


def read_rows(path: Path) -> list[Row]:
    """Returns the rows of a log.csv; none if there is no such file.

    Raises:
        UserError: another program wrote it.
    """
    if not path.exists():
        return []
    with path.open(newline="", errors="replace") as file:
        rows = list(csv.DictReader(file))
    if not all(str(row.get("epoch")).isdigit() and None not in row.values() for row in rows):
        raise UserError(f"{path}: is not as it was written; put it back, or start a new run")
    return rows


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Writes a log.csv anew, whole: a kill leaves the old one or the new one."""
    with whole_file(path) as temporary, temporary.open("w", newline="") as file:
        if rows:
            table = csv.DictWriter(file, rows[0], lineterminator="\n")
            table.writeheader()
            table.writerows(rows)


def pick_of(rows: Sequence[AnyRow], criterion: str) -> AnyRow:
    """Returns the row that a criterion picks: the last one if it is nan throughout."""
    known = [row for row in rows if row[criterion] != "" and not math.isnan(float(row[criterion]))]
    return max(known, key=lambda row: float(row[criterion])) if known else rows[-1]
