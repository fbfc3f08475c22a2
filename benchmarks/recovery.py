"""Measures how long a run takes to stop when asked, to notice a lost worker, and to be back."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from benchmarks.runner import folder_flags
from utils.errors import run_script
from utils.run.command_line import parse
from utils.run.workers import start, wait

SCRIPT = str(ROOT / "train_MNIST2MNIST_M.py")


def await_checkpoints(folder: Path, seen: set[str]) -> set[str]:
    """Waits for a checkpoint that is not in `seen` and returns all there have been."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        names = {path.name for path in folder.rglob("step-*.index")}
        if names - seen:
            return names | seen
        time.sleep(0.01)
    sys.exit("failed: no checkpoint within 120 s")


def since(began: float) -> str:
    return f"{time.monotonic() - began:.1f} s"


def main() -> None:
    parse([], __doc__)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        create: list[str | Path] = [sys.executable, ROOT / "create_mnistm.py", "--embedded"]
        places: list[str | Path] = ["--output_dir", folder / "data", "--picture", folder / "p.png"]
        subprocess.run([*create, *places], check=True, stdout=subprocess.DEVNULL)
        flags = [
            *("--source_dataset_path", str(folder / "data/MNIST/mnist_data.pkl")),
            *("--target_dataset_path", str(folder / "data/MNIST_M/mnist_m_data.pkl")),
            *("--run_name", "run", "--batch_size", "64", "--checkpoint_steps", "50"),
            *folder_flags(folder),
        ]
        seen: set[str] = set()
        command = [SCRIPT, *flags]
        print("| event | seconds |\n| --- | --- |")
        for what, number, workers in (
            ("SIGTERM to one process", signal.SIGTERM, 1),
            ("SIGKILL of one worker of two", signal.SIGKILL, 2),
            ("SIGTERM to one worker of two", signal.SIGTERM, 2),
        ):
            began = time.monotonic()
            processes = start(workers, command, quiet=True)
            seen = await_checkpoints(folder, seen)
            print(f"| start of {workers} to the next checkpoint | {since(began)} |")
            began = time.monotonic()
            processes[-1].send_signal(number)
            code = wait(processes)
            seen |= {path.name for path in folder.rglob("step-*.index")}
            print(f"| {what} to the end of all (exit code {code}) | {since(began)} |", flush=True)
            command = [SCRIPT, "--resume", str(next((folder / "logs").rglob("run")))]


if __name__ == "__main__":
    run_script(main)
