"""Lists the runs below logs/, checkpoints/ and config/, and removes them if the user says so."""

from __future__ import annotations

import shutil
from pathlib import Path

from utils.errors import run_script
from utils.run.runs import CONFIG_FILE

ROOTS = tuple(Path(name) for name in ("logs", "checkpoints", "config"))


def main() -> None:
    runs = find_runs()
    if not runs:
        print("there are no runs")
        return
    for name, folders in runs.items():
        megabytes = sum(size_of(folder) for folder in folders) / 1e6
        done = any(folder.glob("trained_*.keras") for folder in folders)
        print(f"{megabytes:8.1f} MB  {name}{'' if done else '  (not finished)'}")
    if input(f"remove these {len(runs)} runs, with their models? [y/N] ").strip().lower() != "y":
        print("nothing is removed")
        return
    for folders in runs.values():
        for folder in folders:
            shutil.rmtree(folder)
            remove_empty(folder.parent)
    print(f"{len(runs)} runs are removed")


def find_runs() -> dict[str, list[Path]]:
    """Returns the folders of each run, by its path below logs, checkpoints and config."""
    runs: dict[str, list[Path]] = {}
    for root in ROOTS:
        for file in sorted(root.rglob(CONFIG_FILE)):
            runs.setdefault(str(file.parent.relative_to(root)), []).append(file.parent)
    return runs


def remove_empty(folder: Path) -> None:
    """Removes a folder, and those above it, below the three roots, as far as they are empty."""
    while folder not in ROOTS and not any(folder.iterdir()):
        folder.rmdir()
        folder = folder.parent


def size_of(folder: Path) -> int:
    """Returns the bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


if __name__ == "__main__":
    run_script(main)
