"""Lists the runs below logs/, checkpoints/ and config/, and removes them if the user says so."""

from __future__ import annotations

import contextlib
import shutil
import sys
from pathlib import Path
from typing import Any

from config.settings import read_json
from utils.errors import UserError, run_script
from utils.run.runs import (
    CONFIG_FILE,
    FINAL,
    LOCK_FILE,
    ROOTS,
    Run,
    claim,
    files_below,
    remove_empty,
    size_of,
)


def main() -> None:
    found = find_runs()
    runs = {name: run for name, run in found.items() if not in_use(run[1])}
    for name in sorted({*found} - {*runs}):
        print(f"  in training  {name}  (is kept)")
    if not runs:
        print("there are no runs to remove")
        return
    for name, (_, folders) in runs.items():
        megabytes = sum(size_of(folder) for folder in folders) / 1e6
        done = any(list(folder.glob(FINAL)) for folder in folders)
        print(f"{megabytes:8.1f} MB  {name}{'' if done else '  (not finished)'}")
        for folder in folders:
            if folder not in [Path(root, name) for root in ROOTS]:
                print(f"             in {folder}")
    print(f"remove these {len(runs)} runs, with their models? [y/N] ", end="", flush=True)
    if sys.stdin.readline().strip().lower() != "y":
        print("nothing is removed")
        return
    for name, (levels, folders) in runs.items():
        if in_use(folders):  # since it was listed
            print(f"  in training  {name}  (is kept)")
            continue
        for folder in folders:
            if folder.is_symlink():
                folder.unlink()  # what it leads to stays
            else:
                shutil.rmtree(folder)
            remove_empty(folder, levels)
        print(f"  removed      {name}")


def find_runs() -> dict[str, tuple[int, list[Path]]]:
    """Returns the folders of each run, by its path below logs, checkpoints or config.

    A run's settings tell where its folders are; they need not be below these three. Each value is
    a pair: the number of parent folders that belong to the run's path, and the folders.
    """
    runs: dict[str, tuple[int, list[Path]]] = {}
    for root in ROOTS:
        for file in sorted(path for path in files_below(Path(root)) if path.name == CONFIG_FILE):
            folder = file.parent
            try:
                settings = read_json(file)
                tail = folder.absolute().relative_to(Path(settings[f"{root}_dir"]).absolute())
                places = [Path(settings[f"{other}_dir"]) / tail for other in ROOTS]
            except (UserError, KeyError, ValueError, TypeError):  # of another program
                continue
            known_already = any(folder in folders for _, folders in runs.values())
            if known_already or folder.name != settings.get("run_name"):  # a copy of its settings
                continue
            name, levels = str(folder.relative_to(root)), len(tail.parts) - 1
            _, known = runs.setdefault(name, (levels, []))
            known += [place for place in dict.fromkeys([folder, *places])
                      if place.is_dir() and not is_of_another(place, settings)]  # fmt: skip
    return runs


def is_of_another(folder: Path, settings: dict[str, Any]) -> bool:
    """Tells whether a folder holds other settings than a run's."""
    with contextlib.suppress(UserError):
        return read_json(folder / CONFIG_FILE) != settings
    return False


def in_use(folders: list[Path]) -> bool:
    """Tells whether a process is training a run."""
    for folder in folders:
        if (folder / LOCK_FILE).exists():
            try:
                claim(Run(folder, folder, folder)).close()
            except UserError:
                return True
    return False


if __name__ == "__main__":
    run_script(main)
