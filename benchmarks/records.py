"""What stays of a finished training: docs/runs/<name>.csv, which the results are made from.

The first line is a comment with JSON: the command, the presets that it names, as they were, and
where and when it ran. Below it is the run's log.csv, a row an epoch, of all stages.
"""

from __future__ import annotations

import csv
import hashlib
import io
import itertools
import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

from config.base import TrainingConfig
from config.presets import read_preset
from config.scripts import SCRIPTS
from utils.atomic import write_text
from utils.errors import damage_named
from utils.record.log_csv import Row, pick_of

RESTORE = "git restore it, or remove it and train anew"
FOLDER = Path(__file__).parent.parent / "docs" / "runs"


@dataclass(frozen=True)
class Facts:
    """How a training was made."""

    command: str
    flags: str
    """Those of its row; {start} stands for the model that it starts from."""
    presets: Mapping[str, Mapping[str, Any]]
    """The settings of each preset that the flags lead to, by its name."""
    commit: str
    date: str
    machine: str
    data: Mapping[str, str] = field(default_factory=dict)
    """The digest of each domain, once the training has ended."""
    table: str = ""
    """The digest of the record's rows."""

    def made_with(self, flags: str) -> bool:
        """Tells whether these flags, and the presets as they are now, would do the same."""
        kind = SCRIPTS[self.command.split()[1]]
        now = presets_used(flags)
        return self.flags == flags and changes(self.presets, kind) == changes(now, kind)


@dataclass(frozen=True)
class Record:
    """A finished training."""

    name: str
    facts: Facts
    stages: Sequence[Sequence[dict[str, float]]]
    """The log.csv of each stage; what a run without labels does not know is nan."""

    @property
    def epochs(self) -> list[int]:
        """The epochs of each stage."""
        return [round(stage[-1]["epoch"]) for stage in self.stages]

    @property
    def rows(self) -> Sequence[dict[str, float]]:
        """The rows of the last stage."""
        return self.stages[-1]

    def pick(self, criterion: str) -> dict[str, float]:
        """Returns the row of the epoch that a criterion picks."""
        return pick_of(self.rows, criterion)


def facts_of(text: str) -> Facts:
    return Facts(**json.loads(text))


def read_facts(path: Path) -> Facts:
    """Returns what `write_facts` wrote, or raises `UserError`."""
    with damage_named(path, RESTORE):
        return facts_of(path.read_text(encoding="utf-8"))


def text_of(facts: Facts) -> str:
    return json.dumps(asdict(facts), ensure_ascii=False)


def write_facts(path: Path, facts: Facts) -> None:
    write_text(path, text_of(facts) + "\n")


def read_record(name: str) -> Record | None:
    """Returns the record of a training, if there is one."""
    path = FOLDER / f"{name}.csv"
    if not path.exists():
        return None
    with damage_named(path, RESTORE):
        first, _, text = path.read_text(encoding="utf-8").partition("\n")
        facts = facts_of(first.removeprefix("#"))
        if digest_of(text) != facts.table:
            raise ValueError("its rows are not those that were written")
        rows = [{key: float(value or "nan") for key, value in row.items()}
                for row in csv.DictReader(io.StringIO(text))]  # fmt: skip
        numbers = sorted({row["stage"] for row in rows})
    return Record(name, facts, [[row for row in rows if row["stage"] == number]
                                for number in numbers])  # fmt: skip


def names_kept() -> list[str]:
    """Returns the names of all trainings that have a record."""
    return sorted(path.stem for path in FOLDER.glob("*.csv"))


def facts_now(command: str, flags: str) -> Facts:
    """Returns the facts of a training that begins here and now."""
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=Path(__file__).parent,
                          capture_output=True, text=True, check=False)  # fmt: skip
    return Facts(
        command,
        flags,
        presets_used(flags),
        commit=done.stdout.strip() or "unknown",
        date=str(date.today()),
        machine=f"{os.cpu_count()} cores, Python {platform.python_version()}, "
        f"TensorFlow {version('tensorflow')}, Keras {version('keras')}",
    )


def write_record(name: str, facts: Facts, stages: Sequence[Sequence[Row]]) -> None:
    """Writes the record of a training.

    Args:
        name: of the training.
        facts: how it was made.
        stages: the rows of the log.csv of each stage.
    """
    rows = [{"stage": str(number), **row} for number, stage in enumerate(stages, 1)
            for row in stage]  # fmt: skip
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO(newline="")
    table = csv.DictWriter(text, columns, lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    facts = replace(facts, table=digest_of(text.getvalue()))
    write_text(FOLDER / f"{name}.csv", f"# {text_of(facts)}\n{text.getvalue()}")


def digest_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def changes(
    presets: Mapping[str, Mapping[str, Any]], kind: type[TrainingConfig]
) -> dict[str, dict[str, Any]]:
    """Returns what presets change; a default that one names, too, is no change."""
    defaults = {field.name: field.default for field in fields(kind)}
    return {name: {key: value for key, value in settings.items() if value != defaults.get(key)}
            for name, settings in presets.items()}  # fmt: skip


def presets_used(flags: str) -> dict[str, dict[str, Any]]:
    """Returns the settings of each preset that a training's flags lead to, by its name."""
    words = flags.split()
    used = {}
    for flag, name in itertools.pairwise(words):
        if flag in ("--preset", "--first_stage"):
            used[name] = read_preset(name).settings
    for settings in list(used.values()):
        first = settings.get("first_stage")
        if first and not {"--first_stage", "--pre_model_path"} & {*words}:
            used[first] = read_preset(first).settings
    return used
