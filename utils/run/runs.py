"""The three folders of a run: below logs, checkpoints and config, under the same name."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import os
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO, Any

from config.base import AnyConfig, TrainingConfig
from config.presets import FOLDER as PRESETS
from config.settings import read_json
from utils.atomic import cannot_write, write_json
from utils.errors import UserError
from utils.record.log_csv import DATA_FILE
from utils.run.cluster import is_chief
from utils.run.command_line import command_of

CONFIG_FILE, LOCK_FILE = "config.json", "lock"
ROOTS = ("logs", "checkpoints", "config")  # setting logs_dir, …; in the order of `Run`
FIRST_FILE = "first_stage.json"  # the settings of a run's first stage
FINAL = "trained_*.keras"  # the model that a finished run ends with


@dataclass(frozen=True)
class Run:
    """Where one run writes; each folder holds the run's settings as config.json."""

    logs: Path
    checkpoints: Path
    config: Path

    @classmethod
    def of(cls, config: TrainingConfig) -> Run:
        """Returns the folders of a run whose `run_name` is set."""
        tail = Path(config.run_path) / str(config.run_name)
        return cls(*(Path(root) / tail for root in roots_of(config)))

    def below(self, name: str) -> Run:
        """Returns where a stage of this run writes; its settings are the run's."""
        return Run(self.logs / name, self.checkpoints / name, self.config)

    @property
    def resume_command(self) -> str:
        """What goes on with this run, to be pasted."""
        return command_of(None, "--resume", self.logs)

    @property
    def final_model(self) -> Path | None:
        """The model that a run has ended with, if it has."""
        return next(iter(sorted(self.checkpoints.glob(FINAL))), None)

    @property
    def whole(self) -> bool:
        """Whether each of its folders is there, with its settings."""
        return all((folder / CONFIG_FILE).is_file() for folder in self.folders)

    @property
    def folders(self) -> tuple[Path, Path, Path]:
        return self.logs, self.checkpoints, self.config

    def discard(self, config: TrainingConfig) -> None:
        """Removes the folders of a run that could not begin, so that its name is free again."""
        files = [path for folder in self.folders for path in files_below(folder)]
        begun = [path for path in files if path.match("step-*.index") and path.stem != "step-0"]
        # If a run is not whole, nobody knows whether it had begun.
        if not begun and self.whole and not any(path.suffix == ".keras" for path in files):
            self.remove(config)

    def remove(self, config: TrainingConfig) -> None:
        """Removes the folders of a run, and those above that are empty then."""
        for folder in self.folders:
            shutil.rmtree(folder, ignore_errors=True)
            remove_empty(folder, len(Path(config.run_path).parts))


def roots_of(config: TrainingConfig) -> list[str]:
    """Returns the folders below which runs write, in the order of `Run`."""
    return [getattr(config, f"{root}_dir") for root in ROOTS]


def remove_empty(folder: Path, levels: int) -> None:
    """Removes the folders above a run's that are empty, as many levels as its path has."""
    with contextlib.suppress(OSError):
        for parent in list(folder.parents)[:levels]:
            parent.rmdir()


def start_run(config: AnyConfig, digests: Mapping[str, str]) -> tuple[Run, AnyConfig]:
    """Makes a new run's folders and saves its settings there.

    Args:
        config: the settings; without a `run_name` the run is named after the time.
        digests: of its data.

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
        left = [folder for folder in (run.checkpoints, run.config) if files_below(folder)]
        if left and not run.logs.exists():  # they are not this run's
            if config.run_name:
                raise UserError(
                    f"{left[0]}: is of a run whose folder {run.logs} is gone; choose another "
                    "--run_name, or remove it"
                )
            attempt += 1
            continue
        unnamed = run.logs.with_name(f".{uuid.uuid4().hex}.partial")
        try:
            save_settings(named, unnamed)
            write_json(unnamed / DATA_FILE, digests)
        except UserError as error:
            shutil.rmtree(unnamed, ignore_errors=True)
            remove_empty(unnamed, len(Path(config.run_path).parts))
            raise UserError(str(error).replace(unnamed.name, run.logs.name)) from error
        try:
            # The folder appears with its settings in it, and only one run can have the name.
            unnamed.rename(run.logs)
            break
        except OSError as error:
            shutil.rmtree(unnamed)
            if not run.logs.is_dir():
                raise cannot_write(run.logs, error) from error
            if config.run_name:
                raise UserError(
                    f"{run.logs}: exists; choose another --run_name"
                    + ("" if run.final_model else f", or go on with it: {run.resume_command}")
                ) from error
            attempt += 1
    try:
        for folder in (run.checkpoints, run.config):
            save_settings(named, folder)
    except UserError:
        run.remove(named)
        raise
    return run, named


def save_settings(config: TrainingConfig, folder: Path) -> None:
    """Writes a run's settings into one of its folders, and those of its first stage.

    A preset of the first stage may change later; the run keeps what it began with.
    """
    config.save(folder / CONFIG_FILE)
    if config.first_method:
        config.of_first_stage(config.first_method).save(folder / FIRST_FILE)


def saved_first_stage(folder: Path, config: AnyConfig) -> AnyConfig | None:
    """Returns the settings of a run's first stage; None: it has no first stage.

    They are the saved ones, or, if none are saved, those that the run's settings give.

    Args:
        folder: one of the run's three.
        config: its settings.
    """
    place = folder / FIRST_FILE  # runs of earlier versions have none
    if place.exists():
        return type(config).load(place)
    return config.of_first_stage(config.first_method) if config.first_method else None


def files_below(folder: Path) -> list[Path]:
    """Returns the files in a folder, at any depth; another process may write there meanwhile."""
    paths = (Path(place, name) for place, _, names in os.walk(folder) for name in names)
    return [path for path in paths if path.is_file()]


def size_of(folder: Path) -> int:
    """Returns the bytes of all files in a folder."""
    return sum(path.stat().st_size for path in files_below(folder))


def claim(run: Run) -> IO[str]:
    """Takes a run for this process; it is free again when the process ends, however it ends.

    Returns:
        the lock; keep it for as long as the run is yours.

    Raises:
        UserError: another process has the run.
    """
    try:
        lock = (run.checkpoints / LOCK_FILE).open("w")
    except OSError as error:
        raise cannot_write(run.checkpoints, error) from error
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

    The other two are looked for where they lie from there, so a run that was moved or copied as a
    whole is found where it is now, and from any working directory.

    Args:
        folder: the run's below logs, checkpoints or config.
        kind: the class of its settings.

    Raises:
        UserError: no run was started there, or its other folders are gone.
    """
    if folder.is_file():
        raise UserError(f"{folder}: is a file; --resume takes its folder, {folder.parent}")
    if not (folder / CONFIG_FILE).is_file():
        raise UserError(
            f"{folder}: holds no {CONFIG_FILE}; --resume takes the folder of a run below "
            "logs/, checkpoints/ or config/"
        )
    config = load_config(kind, folder / CONFIG_FILE)
    place = folder.resolve()
    depth = len(Path(config.run_path).parts) + 1
    roots = [os.path.normpath(root) for root in roots_of(config)]
    found = [Run.of(config)]
    for here in dict.fromkeys([as_named(folder), place]):  # links may lead to another disk
        root, tail = Path(*here.parts[:-depth]), Path(*here.parts[-depth:])
        found += [
            Run(*(from_root(root, mine, other) / tail for other in roots))
            for mine in dict.fromkeys(roots)
        ]
    fitting = [run for run in found if place in [path.resolve() for path in run.folders]
               and len(set(run.folders)) == len(set(roots))]  # fmt: skip
    whole = [run for run in fitting if belong_together(run, config, kind)]
    if not whole:
        missing = [path / CONFIG_FILE if path.is_dir() else path
                   for run in fitting for path in run.folders
                   if not (path / CONFIG_FILE).is_file()]  # fmt: skip
        what = f"{missing[0]}: is missing" if missing else (
            f"{folder}: the {CONFIG_FILE} here is not that of the run's other folders"
        )  # fmt: skip
        raise UserError(
            f"{what}; put it back, or call from the folder where the run was started, or repeat "
            f"the run: {command_of(None, '--config', folder / CONFIG_FILE)}"
        )
    if whole[0] is found[0]:
        return whole[0], config
    places = zip(ROOTS, whole[0].folders, strict=True)
    moved: dict[str, Any] = {
        f"{root}_dir": str(Path(*path.parts[:-depth])) for root, path in places
    }
    return whole[0], dataclasses.replace(config, **moved)


def from_root(root: Path, mine: str, other: str) -> Path:
    """Returns the place of the root `other`, given that the root `mine` lies at `root` now."""
    if Path(mine).is_absolute() != Path(other).is_absolute():  # they may have moved apart
        return Path(other)
    return Path(os.path.normpath(root / os.path.relpath(other, mine)))


def as_named(folder: Path) -> Path:
    """Returns an absolute path in which links stay links."""
    return Path(os.path.normpath(folder.absolute()))


def load_config(kind: type[AnyConfig], path: Path) -> AnyConfig:
    """Returns a run's settings, or raises `UserError`."""
    try:
        return kind.load(path)
    except UserError as error:
        if not path.is_file():
            raise
        if script := script_of(path):
            raise UserError(f"{path}: is of a run of {script}; call that script") from error
        if path.resolve().parent == PRESETS.resolve():
            raise UserError(f"{error}; name it by --preset") from error
        raise


def script_of(path: Path) -> str | None:
    """Returns the script whose settings a file holds, if it is one's."""
    from config.scripts import SCRIPTS  # here, so that one script does not read all files

    for script, kind in SCRIPTS.items():
        with contextlib.suppress(UserError):
            if {*vars(kind.load(path))} <= read_json(path).keys():  # a run's has all settings
                return script
    return None


def go_home(folder: Path, config: TrainingConfig) -> None:
    """Goes to where a run was started, if the data that it names are not found from here.

    Args:
        folder: the run's below logs.
        config: its settings, whose paths may be relative.
    """
    try:
        config.check_paths()
    except UserError as error:
        if Path(config.logs_dir).is_absolute():
            raise UserError(
                f"{error}; or call from the folder where the run was started, from which its paths "
                "are looked for"
            ) from error
        depth = len(Path(config.run_path).parts) + 1
        root = Path(*as_named(folder).parts[:-depth])
        home = Path(os.path.normpath(root / os.path.relpath(".", config.logs_dir)))
        print(f"the run's data are looked for from {home}")
        os.chdir(home)


def belong_together(run: Run, config: AnyConfig, kind: type[AnyConfig]) -> bool:
    """Tells whether all three folders are there, with these settings."""
    return run.whole and all(kind.load(path / CONFIG_FILE) == config for path in run.folders)


def check_data(run: Run, digests: Mapping[str, str]) -> None:
    """Raises `UserError` if a run was started with other data."""
    file = run.logs / DATA_FILE
    before = read_json(file) if file.exists() else digests  # runs of earlier versions have none
    changed = [name for name, digest in digests.items() if before.get(name) != digest]
    if changed:
        raise UserError(
            f"{run.logs}: the data changed since this run began ({', '.join(changed)}); put them "
            "back as they were, or start a new run"
        )
