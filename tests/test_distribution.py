"""One process, logical devices and worker processes do the same; a lost worker is survived."""

from __future__ import annotations

import csv
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from helpers import (
    ROOT,
    figures_drawn,
    final_weights,
    run,
    run_process,
    stop,
    the_error,
    wait_for_checkpoint,
)

from benchmarks.runner import folder_flags
from utils.run.workers import start, wait

# 200 steps. A rate at which rounding does not grow: at 0.01 a difference of 1e-8 after 50 steps is
# one of 0.1 after 200, in the nature of an adversarial game; a loss scaled wrongly shows at any.
FLAGS = ["--epoch", "5", "--batch_size", "16", "--checkpoint_steps", "7",
         "--init_learning_rate", "0.0003", "--run_name", "parity"]  # fmt: skip
SCRIPT = str(ROOT / "train_MNIST2MNIST_M.py")


def table(folder: Path) -> np.ndarray:
    with next((folder / "logs").rglob("log.csv")).open() as file:
        return np.array([[float(x) for x in row] for row in list(csv.reader(file))[1:]])


def written(folder: Path) -> set[str]:
    """The files that a run left, without the numbers in the names of event files."""
    return {str(path.relative_to(folder)).split(".tfevents")[0]
            for path in folder.rglob("*") if path.is_file()}  # fmt: skip


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, data_flags: list[str]) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    with figures_drawn():
        run("train_MNIST2MNIST_M.py", *data_flags, *FLAGS, *folder_flags(folder))
    return folder


def assert_parity(folder: Path, alone: Path, tolerance: float = 1e-5) -> None:
    one, other = (
        np.concatenate([weight.ravel() for weight in final_weights(place, "parity")])
        for place in (alone, folder)
    )
    assert np.linalg.norm(one - other) <= tolerance * np.linalg.norm(one)
    np.testing.assert_allclose(table(folder), table(alone), rtol=tolerance, atol=tolerance)
    assert written(folder) == written(alone)


@pytest.mark.long
def test_logical_devices(alone: Path, tmp_path: Path, data_flags: list[str]) -> None:
    """Four; `test_several_devices_go_on_from_one_process` has two."""
    flags = ["--strategy", "mirrored", "--logical_devices", "4"]
    done = run_process(
        "train_MNIST2MNIST_M.py", *data_flags, *FLAGS, *folder_flags(tmp_path), *flags
    )
    assert "4 replicas" in done.stdout
    assert_parity(tmp_path, alone)


@pytest.fixture
def workers(tmp_path: Path, data_flags: list[str]) -> list[subprocess.Popen[bytes]]:
    return start(2, [SCRIPT, *data_flags, *FLAGS, *folder_flags(tmp_path)])


@pytest.mark.long
def test_worker_processes(
    alone: Path, tmp_path: Path, workers: list[subprocess.Popen[bytes]]
) -> None:
    assert wait(workers) == 0
    assert_parity(tmp_path, alone)


@pytest.mark.long
def test_a_killed_worker_stops_the_cluster_which_resumes(
    alone: Path, tmp_path: Path, workers: list[subprocess.Popen[bytes]]
) -> None:
    wait_for_checkpoint(tmp_path, *workers)
    workers[1].send_signal(signal.SIGKILL)
    assert wait(workers) != 0
    logs = next((tmp_path / "logs").rglob("parity"))
    assert wait(start(2, [SCRIPT, "--resume", str(logs)])) == 0
    assert_parity(tmp_path, alone)


@pytest.mark.long
def test_sigterm_to_one_worker_saves_all_and_one_process_goes_on(
    alone: Path, tmp_path: Path, workers: list[subprocess.Popen[bytes]]
) -> None:
    wait_for_checkpoint(tmp_path, *workers)
    workers[1].send_signal(signal.SIGTERM)
    assert wait(workers) == 75
    assert [worker.returncode for worker in workers] == [75, 75]
    logs = next((tmp_path / "logs").rglob("parity"))
    with figures_drawn():
        run("train_MNIST2MNIST_M.py", "--resume", logs)
    assert_parity(tmp_path, alone)


@pytest.mark.long
def test_several_devices_go_on_from_one_process(
    alone: Path, tmp_path: Path, data_flags: list[str]
) -> None:
    flags = [*data_flags, *FLAGS, *folder_flags(tmp_path)]
    stop(tmp_path, "train_MNIST2MNIST_M.py", *flags)
    logs = next((tmp_path / "logs").rglob("parity"))
    where = ["--strategy", "mirrored", "--logical_devices", "2"]
    run_process("train_MNIST2MNIST_M.py", "--resume", logs, *where)
    assert_parity(tmp_path, alone)


def test_a_worker_that_hangs_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever ends first: the launcher must look at all of them."""
    monkeypatch.setattr("utils.run.workers.GRACE", 0.5)
    for first in (0, 1):
        codes = ["import time; time.sleep(60)", "import time; time.sleep(60)"]
        codes[first] = "import sys; sys.exit(7)"
        processes = [subprocess.Popen([sys.executable, "-c", code]) for code in codes]
        began = time.monotonic()
        assert wait(processes) == 7
        assert time.monotonic() - began < 30


def test_a_worker_that_is_done_does_not_stop_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first one writes figures and the final model, when the others have ended."""
    monkeypatch.setattr("utils.run.workers.GRACE", 0.2)
    codes = ["import time; time.sleep(2)", "pass"]
    processes = [subprocess.Popen([sys.executable, "-c", code]) for code in codes]
    assert wait(processes) == 0
    assert [process.returncode for process in processes] == [0, 0]
    codes = ["pass", "import time; time.sleep(60)"]
    processes = [subprocess.Popen([sys.executable, "-c", code]) for code in codes]
    assert wait(processes) == -9


def test_the_launcher_needs_a_number_and_a_script() -> None:
    done = subprocess.run([sys.executable, "-m", "utils.run.workers", "two"], cwd=ROOT,
                          capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == 2
    assert "python -m utils.run.workers 2 train" in done.stderr


def test_a_batch_that_replicas_cannot_share_is_named(tmp_path: Path, data_flags: list[str]) -> None:
    flags = ["--strategy", "mirrored", "--logical_devices", "3", *folder_flags(tmp_path)]
    done = run_process("train_MNIST2MNIST_M.py", *data_flags, *flags, code=2)
    assert "batch_size: 256 cannot be shared by 3" in the_error(done)


@pytest.mark.parametrize(
    ("strategy", "message"),
    [
        ("mirrored", "strategy: mirrored finds no GPU"),
        ("multi_worker", "TF_CONFIG: missing or not as TensorFlow documents it"),
    ],
)
def test_what_is_not_there_is_named(
    tmp_path: Path, data_flags: list[str], strategy: str, message: str
) -> None:
    flags = [*data_flags, *folder_flags(tmp_path), "--strategy", strategy]
    assert message in the_error(run("train_MNIST2MNIST_M.py", *flags, code=2))
