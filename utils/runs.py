"""The three folders of a run: below logs, checkpoints and config, under the same name."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from config.config import Config
from utils.cluster import is_chief
from utils.errors import UserError

CONFIG_FILE = "config.json"


@dataclass(frozen=True)
class Run:
    """Where one run writes; each folder holds the run's settings as config.json."""

    logs: Path
    checkpoints: Path
    config: Path

    @classmethod
    def of(cls, config: Config) -> Run:
        """Returns the folders of a run whose `run_name` is set."""
        tail = Path(config.experiment) / str(config.run_name)
        return cls(*(Path(root) / tail for root in (config.logs_dir, config.checkpoints_dir,
                                                    config.config_dir)))  # fmt: skip

    @property
    def folders(self) -> tuple[Path, Path, Path]:
        return self.logs, self.checkpoints, self.config


def start_run(config: Config) -> tuple[Run, Config]:
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
        try:
            run.logs.mkdir(parents=True)  # making a folder is atomic: only one run can have it
            break
        except FileExistsError as error:
            if config.run_name or not run.logs.is_dir():
                raise UserError(
                    f"{run.logs}: exists; choose another --run_name, or --resume {run.logs}"
                ) from error
            attempt += 1
        except OSError as error:
            raise UserError(f"{run.logs}: cannot be made ({error.strerror})") from error
    for folder in run.folders:
        named.save(folder / CONFIG_FILE)
    return run, named


def find_run(folder: Path) -> tuple[Run, Config]:
    """Returns the run that `folder`, any of its three folders, belongs to, and its settings.

    Raises:
        UserError: no run was started there.
    """
    if not (folder / CONFIG_FILE).is_file():
        raise UserError(
            f"{folder}: holds no {CONFIG_FILE}; --resume takes the folder of a run below "
            "logs/, checkpoints/ or config/"
        )
    config = Config.load(folder / CONFIG_FILE)
    return Run.of(config), config
