"""What machines do to a run: damaged files, full disks, folders that go, a second process."""

from __future__ import annotations

import fcntl
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
from helpers import (
    PATIENCE,
    SHORT,
    Arrays,
    assert_same_weights,
    command,
    final_weights,
    full_disk,
    logs_of,
    model_of,
    run,
    run_process,
    the_error,
    wait_for_checkpoint,
)
from test_trainer import Killed, deterministic, kill_at, make_trainer  # noqa: F401

from benchmarks.runner import folder_flags
from utils.errors import UserError
from utils.run.runs import Run, claim
from utils.run.signals import Signals


def damage(file: Path, how: str) -> None:
    data = file.read_bytes()
    if how == "truncated":
        file.write_bytes(data[: len(data) // 2])
    elif how == "empty":
        file.write_bytes(b"")
    elif how == "gone":
        file.unlink()
    else:
        middle = len(data) // 2
        file.write_bytes(data[:middle] + bytes(64) + data[middle + 64 :])


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory, domains: Arrays) -> Path:
    """A run with the checkpoints of steps 7 and 14."""
    folder = tmp_path_factory.mktemp("killed")
    trainer = make_trainer(folder, domains)
    with pytest.MonkeyPatch.context() as patch:
        kill_at(trainer, patch, 20)
        with pytest.raises(Killed):
            trainer.train()
    return folder


@pytest.mark.parametrize("how", ["truncated", "empty", "gone", "zeroed"])
@pytest.mark.parametrize("part", ["index", "data-00000-of-00001", "checkpoint"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(
    killed: Path, tmp_path: Path, domains: Arrays, capsys: Any, how: str, part: str
) -> None:
    shutil.copytree(killed, tmp_path, dirs_exist_ok=True)
    state_file = part == "checkpoint"
    damage(tmp_path / "checkpoints" / ("checkpoint" if state_file else f"step-14.{part}"), how)
    restored = make_trainer(tmp_path, domains).checkpoints.restore()
    if state_file:  # TensorFlow's list of checkpoints is not needed: their names tell
        assert restored == 14
    else:
        assert restored == 7
        if (part, how) != ("index", "gone"):
            assert "step-14.index: damaged, so it is left out" in capsys.readouterr().out


def test_all_checkpoints_damaged_is_an_error(killed: Path, tmp_path: Path, domains: Arrays) -> None:
    shutil.copytree(killed, tmp_path, dirs_exist_ok=True)
    for file in (tmp_path / "checkpoints").glob("step-*.index"):
        damage(file, "truncated")
    with pytest.raises(UserError, match="all checkpoints are damaged"):
        make_trainer(tmp_path, domains).checkpoints.restore()


def test_a_kill_while_tensorflow_writes_leaves_a_folder_that_goes(
    killed: Path, tmp_path: Path, domains: Arrays
) -> None:
    shutil.copytree(killed, tmp_path, dirs_exist_ok=True)
    unfinished = tmp_path / "checkpoints" / "step-21_temp"
    unfinished.mkdir()
    (unfinished / "part-00000-of-00001.index").touch()
    mine = {tmp_path / "checkpoints" / name for name in ("step-14 copy.index", "step-5-backup")}
    for path in mine:
        path.touch()
    trainer = make_trainer(tmp_path, domains)
    assert trainer.checkpoints.restore() == 14
    trainer.checkpoints.save()
    assert not unfinished.exists()
    unfinished.mkdir()
    trainer.checkpoints.remove()
    assert {*(tmp_path / "checkpoints").glob("step-*")} == mine  # the user's own stay


@pytest.mark.parametrize("name", ["photos [v1]", "what*", "is it?", "back\\slash"])
def test_a_path_that_looks_like_a_pattern_is_none(
    killed: Path, tmp_path: Path, domains: Arrays, name: str
) -> None:
    shutil.copytree(killed, tmp_path / name)
    trainer = make_trainer(tmp_path / name, domains)
    assert trainer.checkpoints.restore() == 14
    trainer.checkpoints.step.assign(15)
    trainer.checkpoints.save()
    assert make_trainer(tmp_path / name, domains).checkpoints.restore() == 15


def test_the_lock_is_held_by_one_and_freed_by_its_end(tmp_path: Path) -> None:
    taken = Run(tmp_path, tmp_path, tmp_path)
    with claim(taken), pytest.raises(UserError, match="another process is training this run"):
        claim(taken)
    claim(taken).close()


def test_a_finished_run_resumes_to_nothing_and_another_process_is_refused(
    tmp_path: Path, data_flags: list[str]
) -> None:
    run(
        "train_MNIST2MNIST_M.py", *data_flags, *SHORT, *folder_flags(tmp_path), "--run_name", "mine"
    )
    folder = logs_of(tmp_path, "mine")
    before, lines = final_weights(tmp_path, "mine"), (folder / "log.txt").read_text()
    done = run("train_MNIST2MNIST_M.py", "--resume", folder)
    assert "this run is finished" in done.stdout
    assert_same_weights(before, final_weights(tmp_path, "mine"))
    assert (folder / "log.txt").read_text() == lines
    model_of(tmp_path, "mine").unlink()  # now it is not finished
    with next(tmp_path.rglob("lock")).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = run("train_MNIST2MNIST_M.py", "--resume", folder, code=2)
    assert "another process is training this run" in the_error(done)


@pytest.mark.long
def test_a_full_disk_ends_a_run_which_resumes(
    tmp_path: Path, data_flags: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of one that could not begin, nothing is left: its name is free."""
    script = "train_MNIST2MNIST_M.py"
    flags = [*data_flags, *SHORT, *folder_flags(tmp_path), "--run_name", "mine"]
    done = run_process(script, *flags, code=2, preexec_fn=full_disk)
    assert "cannot be written" in the_error(done)
    assert not list(tmp_path.rglob("mine"))
    with monkeypatch.context() as patch:
        patch.setattr(Signals, "seen", lambda self: signal.SIGINT)
        run(script, *flags, code=130)
    logs = logs_of(tmp_path, "mine")
    done = run_process(script, "--resume", logs, code=2, preexec_fn=full_disk)
    assert "free some space" in the_error(done)
    run(script, "--resume", logs)
    assert len((logs / "log.txt").read_text().splitlines()) == 2


@pytest.mark.long
@pytest.mark.parametrize("which", ["logs", "checkpoints"])
def test_a_folder_that_goes_ends_the_run_clearly(
    tmp_path: Path, data_flags: list[str], which: str
) -> None:
    flags = [*data_flags, *SHORT, *folder_flags(tmp_path), "--run_name", "mine"]
    with subprocess.Popen(
        command("train_MNIST2MNIST_M.py", *flags),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        wait_for_checkpoint(tmp_path, process)
        (tmp_path / which).rename(tmp_path / "gone")
        _, stderr = process.communicate(timeout=PATIENCE)
    assert "Traceback" not in stderr
    assert process.returncode == 2, stderr
    # The latter where it goes while a file is written, because TensorFlow may make it anew.
    assert "is gone; put it back" in stderr or "cannot be written" in stderr
    for other in {"logs", "checkpoints", "config"} - {which}:
        assert any((tmp_path / other).rglob("config.json"))


@pytest.mark.parametrize("name", ["logs", "checkpoints", "config"])
def test_a_file_in_a_folders_place_is_named(
    tmp_path: Path, data_flags: list[str], name: str
) -> None:
    (tmp_path / name).write_text("in the way")
    flags = [*data_flags, *SHORT, *folder_flags(tmp_path)]
    assert str(tmp_path / name) in the_error(run("train_MNIST2MNIST_M.py", *flags, code=2))
