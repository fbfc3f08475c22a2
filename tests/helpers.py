"""What several test files use: scripts called here or as processes, runs that are killed."""

from __future__ import annotations

import contextlib
import csv
import importlib
import io
import itertools
import json
import re
import resource
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from utils.errors import run_script
from utils.record.embeddings import save_embedding
from utils.record.figures import save_curves
from utils.run import trainer
from utils.run.runs import ROOTS, files_below
from utils.run.signals import Signals

ROOT = Path(__file__).parent.parent
Arrays = tuple[dict[str, np.ndarray], dict[str, np.ndarray]]
FEW_FILTERS = (8, 16, 32, 32, 64)  # an eighth of the drawings' network
PATIENCE = 1200  # seconds: what takes longer hangs, however busy the machine is
# 40 steps an epoch of the striped images.
SHORT = ["--epoch", "2", "--batch_size", "16", "--checkpoint_steps", "5"]


def share(batch: Sequence[Any], blocks: Sequence[int], context: Any) -> tuple[tf.Tensor, ...]:
    """A replica's part of a batch: as large a part of each block, of which each has a domain."""
    replicas, mine = context.num_replicas_in_sync, context.replica_id_in_sync_group
    rows = np.split(np.arange(sum(blocks)), np.cumsum(blocks)[:-1])
    mine_of_all = np.concatenate([np.split(block, replicas)[mine] for block in rows])
    return tuple(tf.gather(part, mine_of_all) for part in batch)


@contextlib.contextmanager
def figures_drawn() -> Iterator[None]:
    """Inside, runs of this process draw their figures, as scripts do (conftest.py)."""
    with pytest.MonkeyPatch.context() as patch:
        for figure in (save_curves, save_embedding):
            patch.setattr(trainer, figure.__name__, figure)
        yield


def run(script: str, *flags: Any, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Calls a script's `main` in this process, as `python script flags` would."""
    module = importlib.import_module(script.removesuffix(".py"))
    out, err, ended = io.StringIO(), io.StringIO(), 0
    before, handler = sys.argv, signal.getsignal(signal.SIGTERM)
    sys.argv = [script, *map(str, flags)]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            run_script(module.main)
    except SystemExit as end:
        ended = int(end.code or 0)
    finally:
        sys.argv = before
        signal.signal(signal.SIGTERM, handler)
        keras.mixed_precision.set_global_policy("float32")
    assert ended == code, f"{ended}\n{out.getvalue()}\n{err.getvalue()}"
    return subprocess.CompletedProcess(script, ended, out.getvalue(), err.getvalue())


@contextlib.contextmanager
def stopped_soon() -> Iterator[None]:
    """Inside, a run of this process sees a SIGINT when it looks for signals a second time."""
    looks = itertools.count(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Signals, "seen", lambda self: signal.SIGINT if next(looks) == 2 else 0)
        yield


def command(script: str, *flags: Any) -> list[str]:
    return [sys.executable, str(ROOT / script), *map(str, flags)]


def run_process(
    script: str, *flags: Any, code: int = 0, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Runs a script as a process of its own, where the process is the subject."""
    done = subprocess.run(
        command(script, *flags),
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
        **options,
    )
    assert done.returncode == code, f"{done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def stop(
    folder: Path, script: str, *flags: Any, number: int = signal.SIGKILL, inside: str = "**"
) -> subprocess.CompletedProcess[str]:
    """Starts a script and sends it a signal as soon as it has saved a checkpoint.

    Args:
        folder: what it writes in.
        script, flags: the command.
        number: the signal.
        inside: the folder of the checkpoint: of which stage.
    """
    with subprocess.Popen(
        command(script, *flags), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        wait_for_checkpoint(folder, process, inside=inside)
        process.send_signal(number)
        out, err = process.communicate(timeout=PATIENCE)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def wait_for_checkpoint(
    folder: Path, *processes: subprocess.Popen[Any], inside: str = "**"
) -> None:
    """Waits until a run has saved something; fails if one of its processes ends before."""
    while not any(path.match(f"{inside}/step-[1-9]*.index") for path in files_below(folder)):
        assert all(process.poll() is None for process in processes)
        time.sleep(0.01)


def the_error(done: Any) -> str:
    """The one line that a user's mistake may print."""
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, done.stderr
    return str(lines[0])


def folders_below(folder: Path) -> dict[str, Any]:
    """The settings of a run's folders."""
    return {f"{root}_dir": str(folder / root) for root in ROOTS}


def logs_of(folder: Path, name: str) -> Path:
    return folder / f"logs/MNIST2MNIST_M/SGD-lr=0.01-momentum=0.9/batch_size=16/{name}"


def model_of(folder: Path, name: str) -> Path:
    """The final model of a run."""
    return next((folder / "checkpoints").rglob(f"{name}/trained_*.keras"))


def final_weights(folder: Path, name: str) -> list[np.ndarray]:
    weights: list[np.ndarray] = keras.saving.load_model(model_of(folder, name)).get_weights()
    return weights


def assert_same_weights(one: list[np.ndarray], other: list[np.ndarray]) -> None:
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a, b)


def rows_of(logs: Path) -> list[dict[str, str]]:
    """The rows of a run's log.csv."""
    with (logs / "log.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@contextlib.contextmanager
def tensorboard(logs: Path) -> Iterator[str]:
    """The address of a real TensorBoard on loopback, on a port of its choice."""
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(logs), "--host",
               "127.0.0.1", "--port", "0", "--load_fast", "false"]  # fmt: skip
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if match := re.search(r"http://127\.0\.0\.1:\d+", line):
                break
        assert match is not None
        try:
            yield match[0]
        finally:
            process.terminate()
        process.stdout.read()


def ask(url: str, question: Any = None) -> Any:
    """TensorBoard's answer, as soon as it has read the run."""
    data = None if question is None else json.dumps(question).encode()
    for _ in range(60):
        with contextlib.suppress(OSError):
            request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
            with urllib.request.urlopen(request, timeout=30) as answer:
                if found := json.loads(answer.read()):
                    return found
        time.sleep(1)
    raise AssertionError(f"{url}: no answer")


def full_disk() -> None:
    """A limit on file size stands in for a full disk: writes fail half way."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))


def events(folder: Path) -> dict[str, list[tuple[int, bytes]]]:
    """Every event of every run: tag → (step, value), in the order of the files."""
    found: dict[str, list[tuple[int, bytes]]] = {}
    for file in sorted(folder.rglob("events.out.tfevents.*")):
        for record in tf.data.TFRecordDataset(str(file)).as_numpy_iterator():
            event = tf.compat.v1.Event.FromString(record)
            for value in event.summary.value:
                if value.tag in ("command", "settings"):
                    continue  # they spell the run's own name
                # The HParams tab's events have no tensor; they spell the run's own name and time.
                content = value.tensor.SerializeToString() if value.HasField("tensor") else b""
                key = f"{file.parent.relative_to(folder)}:{value.tag}"
                found.setdefault(key, []).append((event.step, content))
    return found


def blocks(page: str | Path, language: str) -> list[str]:
    """The code of one language that a page shows."""
    text = (ROOT / page).read_text()
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)
