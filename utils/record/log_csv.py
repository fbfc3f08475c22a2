"""The table of a run: log.csv, a row an epoch. Read without TensorFlow."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar, get_args

from config.base import Criterion
from utils.atomic import whole_file
from utils.errors import UserError

LOG_FILE, DATA_FILE = "log.csv", "data.json"  # in a run's folder; the second: digests of the data
Row = dict[str, str]
NEEDED = {"epoch", "val_image_cls_acc", *get_args(Criterion)}
AnyRow = TypeVar("AnyRow", dict[str, str], dict[str, float])


def read_rows(path: Path) -> list[Row]:
    """Returns the rows of a log.csv; none if there is no such file.

    Raises:
        UserError: another program wrote it.
    """
    if not path.exists():
        return []
    try:
        with path.open(newline="", errors="replace") as file:
            rows = list(csv.DictReader(file))
        written_here = all(map(is_written_here, rows))
    except csv.Error:  # a cell without an end
        written_here = False
    if not written_here:
        raise UserError(f"{path}: is not as it was written; put it back, or start a new run")
    return rows


def is_written_here(row: Row) -> bool:
    """Tells whether a row has the columns that every run has, and numbers or nothing in all."""
    try:
        for cell in row.values():
            float(cell or "nan")
    except (TypeError, ValueError):  # it is longer than the first line, or holds words
        return False
    return row.keys() >= NEEDED and None not in row.values() and row["epoch"].isdigit()


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
