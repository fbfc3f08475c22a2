"""The three folders of a run: below logs, checkpoints and config, under the same name."""

from __future__ import annotations

import dataclasses
import fcntl
import os
import shutil
import uuid
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO

from config.base import AnyConfig, TrainingConfig
from utils.errors import UserError
from utils.run.cluster import is_chief

CONFIG_FILE = "config.json"


@dataclass(frozen=True)
class Run:
    """Where one run writes; each folder holds the run's settings as config.json."""

    logs: Path
    checkpoints: Path
    config: Path

    @classmethod
    def of(cls, config: TrainingConfig) -> Run:
        """Returns the folders of a run whose `run_name` is set."""
        tail = Path(config.experiment) / str(config.run_name)
        return cls(*(Path(root) / tail for root in (config.logs_dir, config.checkpoints_dir,
                                                    config.config_dir)))  # fmt: skip

    def below(self, name: str) -> Run:
        """Returns where a stage of this run writes; its settings are the run's."""
        return Run(self.logs / name, self.checkpoints / name, self.config)

    @property
    def folders(self) -> tuple[Path, Path, Path]:
        return self.logs, self.checkpoints, self.config


def start_run(config: AnyConfig) -> tuple[Run, AnyConfig]:
    """Makes a new run's folders and saves its settings there.

    Args:
        config: the settings; without a `run_name` the run is named after the time.

    Returns:
        the folders, and the settings with the name that the run got. Two runs that start in the
        same second get different names.

    Raises:
        UserError: the chosen `run_name` is taken, or a folder cannot be made.
    """
    if not is_chief(config):
        return Run(*[Path(os.devnull)] * 3), config  # only the chief writes
    name = config.run_name or datetime.now().strftime("%Y%m%d%H%M%S")
    attempt = 1
    while True:
        named = dataclasses.replace(config, run_name=name if attempt == 1 else f"{name}-{attempt}")
        run = Run.of(named)
        unnamed = run.logs.with_name(f".{uuid.uuid4().hex}.partial")
        named.save(unnamed / CONFIG_FILE)
        try:
            # The folder appears with its settings in it, and only one run can have the name.
            unnamed.rename(run.logs)
            break
        except OSError as error:
            shutil.rmtree(unnamed)
            if not run.logs.is_dir():
                raise UserError(f"{run.logs}: cannot be made ({error.strerror})") from error
            if config.run_name:
                raise UserError(
                    f"{run.logs}: exists; choose another --run_name, or --resume {run.logs}"
                ) from error
            attempt += 1
    for folder in (run.checkpoints, run.config):
        named.save(folder / CONFIG_FILE)
    return run, named


def claim(run: Run) -> IO[str]:
    """Takes a run for this process; it is free again when the process ends, however it ends.

    Returns:
        the lock; keep it for as long as the run is yours.

    Raises:
        UserError: another process has the run.
    """
    try:
        run.checkpoints.mkdir(parents=True, exist_ok=True)
        lock = (run.checkpoints / "lock").open("w")
    except OSError as error:
        raise UserError(f"{run.checkpoints}: cannot be written ({error.strerror})") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        lock.close()
        raise UserError(
            f"{run.logs}: another process is training this run; wait for it, or stop it first"
        ) from error
    return lock


def find_run(folder: Path, kind: type[AnyConfig]) -> tuple[Run, AnyConfig]:
    """Returns the run that `folder`, any of its three folders, belongs to, and its settings.

    Args:
        folder: the run's below logs, checkpoints or config.
        kind: the class of its settings.

    Raises:
        UserError: no run was started there.
    """
    if not (folder / CONFIG_FILE).is_file():
        raise UserError(
            f"{folder}: holds no {CONFIG_FILE}; --resume takes the folder of a run below "
            "logs/, checkpoints/ or config/"
        )
    config = kind.load(folder / CONFIG_FILE)
    return Run.of(config), config
