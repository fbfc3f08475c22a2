"""What a run's folders mean: resume acts on the one that was named, or refuses."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import pytest
from helpers import (
    PATIENCE,
    ROOT,
    SHORT,
    Arrays,
    assert_same_weights,
    command,
    final_weights,
    folders_below,
    logs_of,
    model_of,
    rows_of,
    run,
    stopped_soon,
    the_error,
)

from benchmarks.runner import folder_flags
from config import base
from config.base import TrainingConfig
from config.config import Config, Network
from config.custom import CustomConfig
from config.presets import Preset, read_preset
from utils.data.domains import Domains
from utils.data.pickles import write_pickle
from utils.errors import FailsAgain, UserError
from utils.record.log_csv import read_rows
from utils.record.selection import CRITERIA
from utils.run import launch, workers
from utils.run.checkpoints import Checkpoints
from utils.run.clean import main as clean
from utils.run.flags import Start, make_settings
from utils.run.runs import (
    CONFIG_FILE,
    Run,
    claim,
    files_below,
    find_run,
    go_home,
    saved_first_stage,
    start_run,
)
from utils.run.signals import Signals
from utils.run.stages import make_stages
from utils.run.trainer import Trainer

DIGITS = "train_MNIST2MNIST_M.py"
BELOW = "MNIST2MNIST_M/SGD-lr=0.01-momentum=0.9/batch_size=16/mine"


def stopped(folder: Path, flags: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Starts a run in a folder, with relative paths, and stops it in its first epoch."""
    monkeypatch.chdir(folder)
    with stopped_soon():
        run(DIGITS, *flags, *SHORT, "--run_name", "mine", code=130)


@pytest.fixture(scope="module")
def halted(tmp_path_factory: pytest.TempPathFactory, data_flags: list[str]) -> Path:
    """A run that was stopped."""
    folder = tmp_path_factory.mktemp("halted")
    with pytest.MonkeyPatch.context() as patch:
        stopped(folder, data_flags, patch)
    return folder


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, data_flags: list[str]) -> Path:
    """The same run, to its end."""
    folder = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run(DIGITS, *data_flags, *SHORT, "--run_name", "mine")
    return folder


def test_resume_acts_on_the_named_run_from_anywhere(
    halted: Path, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy goes on, whichever of its folders is named; the original is left alone."""
    home, elsewhere = tmp_path / "home", tmp_path / "elsewhere"
    shutil.copytree(halted, home)
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    found = [find_run(home / root / BELOW, Config)[0] for root in ("logs", "checkpoints", "config")]
    assert {run_of.logs.resolve() for run_of in found} == {(home / "logs" / BELOW).resolve()}
    before = sorted((halted / "checkpoints").rglob("*"))
    run(DIGITS, "--resume", home / "checkpoints" / BELOW)
    assert list(elsewhere.iterdir()) == []
    assert sorted((halted / "checkpoints").rglob("*")) == before
    assert_same_weights(final_weights(home, "mine"), final_weights(undisturbed, "mine"))


@pytest.mark.parametrize("roots", [("logs", "{}/ck", "config"), ("runs", "runs/", "./runs")])
def test_a_run_is_found_however_its_folders_were_named(
    roots: tuple[str, str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One on another disk, or all the same, from another working directory."""
    home, elsewhere = tmp_path / "home", tmp_path / "else" / "where"
    for folder in (home, elsewhere):
        folder.mkdir(parents=True)
    logs, checkpoints, settings = (root.format(tmp_path) for root in roots)
    monkeypatch.chdir(home)
    started, _ = start_run(
        Config(logs_dir=logs, checkpoints_dir=checkpoints, config_dir=settings, run_name="mine"), {}
    )
    places = [folder.resolve() for folder in started.folders]
    monkeypatch.chdir(elsewhere)
    found, _ = find_run(places[0], Config)
    assert [folder.resolve() for folder in found.folders] == places


@pytest.mark.parametrize(
    ("which", "named"), [("checkpoints", "logs"), ("config", "logs"), ("logs", "checkpoints")]
)
def test_a_run_without_one_of_its_folders_is_refused(
    which: str, named: str, halted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(halted, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    shutil.rmtree(tmp_path / which)
    done = run(DIGITS, "--resume", tmp_path / named / BELOW, code=2)
    assert f"error: {which}/{BELOW}: is missing; put it back" in the_error(done)
    assert "--config" in the_error(done)


def test_checkpoints_that_went_are_no_new_start(undisturbed: Path, tmp_path: Path) -> None:
    shutil.copytree(undisturbed, tmp_path, dirs_exist_ok=True)
    log = (tmp_path / "logs" / BELOW / "log.csv").read_bytes()
    for file in (tmp_path / "checkpoints").rglob("*.keras"):
        file.unlink()
    done = run(DIGITS, "--resume", tmp_path / "logs" / BELOW, code=2)
    assert "holds no checkpoint, but" in the_error(done)
    assert (tmp_path / "logs" / BELOW / "log.csv").read_bytes() == log


def test_a_resume_needs_what_was_recorded(
    tmp_path: Path, data_flags: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def after_an_epoch(self: Signals) -> int:
        return signal.SIGINT if list(tmp_path.rglob("best.keras")) else 0

    with monkeypatch.context() as patch:
        patch.setattr(Signals, "seen", after_an_epoch)
        run(DIGITS, *data_flags, *SHORT, *folder_flags(tmp_path), "--run_name", "mine", code=130)
    for file, message in (
        ("logs/*/*/*/mine/log.csv", "tells of 0 epochs, but 1 are trained; put it back"),
        ("checkpoints/*/*/*/mine/best.keras", "is gone; put it back"),
    ):
        (gone,) = tmp_path.glob(file)
        kept = gone.read_bytes()
        gone.unlink()
        done = run(DIGITS, "--resume", tmp_path / "logs" / BELOW, code=2)
        assert message in the_error(done)
        gone.write_bytes(kept)
    features = tmp_path / "logs" / BELOW / "features_first_epoch.npz"
    features.write_bytes(b"")
    done = run(DIGITS, "--resume", tmp_path / "logs" / BELOW)
    assert "embedding.png has no features after epoch 1: " in done.stdout
    assert model_of(tmp_path, "mine").exists()


def test_what_does_not_fit_into_the_memory_is_named(tmp_path: Path, data_flags: list[str]) -> None:
    flags = [*data_flags, *SHORT, *folder_flags(tmp_path), "--domain_hidden", 2**32 - 1]
    assert "there is not enough memory" in the_error(run(DIGITS, *flags, code=2))
    assert not list(tmp_path.rglob("config.json"))


def test_empty_folders_of_the_user_stay(
    tmp_path: Path, data_flags: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    roots = [Path(f"own/{root}").absolute() for root in ("logs", "checkpoints", "config")]
    for root in roots:
        root.mkdir(parents=True)
    flags = [*data_flags, *SHORT, *folder_flags(tmp_path / "own"), "--batch_size", 4096]
    run(DIGITS, *flags, code=2)
    assert [list(root.iterdir()) for root in roots] == [[], [], []]
    run_of, _ = start_run(Config(logs_dir="logs", checkpoints_dir=str(roots[1])), {})
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    clean()
    assert not run_of.logs.exists()
    assert list(roots[1].iterdir()) == []


def test_settings_of_fewer_epochs_than_are_trained_are_refused(
    tmp_path: Path, data_flags: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All three copies were edited; two epochs were trained."""
    logs = tmp_path / "logs" / BELOW

    def after_two_epochs(self: Signals) -> int:
        csv = logs / "log.csv"
        return signal.SIGINT if csv.exists() and len(rows_of(logs)) == 2 else 0

    with monkeypatch.context() as patch:
        patch.setattr(Signals, "seen", after_two_epochs)
        flags = [*data_flags, *SHORT, "--epoch", 3, *folder_flags(tmp_path), "--run_name", "mine"]
        run(DIGITS, *flags, code=130)
    for config in tmp_path.rglob(CONFIG_FILE):
        config.write_text(config.read_text().replace('"epoch": 3', '"epoch": 1'))
    done = run(DIGITS, "--resume", logs, code=2)
    assert "has 1 epochs, but" in the_error(done)


def test_a_kill_between_an_epochs_record_and_its_checkpoint(
    tmp_path: Path, data_flags: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The record is then one epoch ahead; the first checkpoint is that of step 0."""
    saved: list[int] = []
    save = Checkpoints.save

    def die(self: Checkpoints) -> None:
        saved.append(1)
        if len(saved) == 2:
            raise KeyboardInterrupt
        save(self)

    flags = [*data_flags, *SHORT, "--checkpoint_steps", 100, *folder_flags(tmp_path)]
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", die)
        run(DIGITS, *flags, "--run_name", "mine", code=130)
    logs = tmp_path / "logs" / BELOW
    assert [row["epoch"] for row in rows_of(logs)] == ["001"]
    run(DIGITS, "--resume", logs)
    assert [row["epoch"] for row in rows_of(logs)] == ["001", "002"]


def test_data_that_changed_are_refused(tmp_path: Path, domains: Arrays, monkeypatch: Any) -> None:
    flags = []
    for name, arrays in zip(("source", "target"), domains, strict=True):
        place = tmp_path / name.upper() / "data.pkl"
        place.parent.mkdir()
        write_pickle(place, arrays)
        flags += [f"--{name}_dataset_path", str(place)]
    stopped(tmp_path, flags, monkeypatch)
    changed = {**domains[1], "train": domains[1]["train"][::-1].copy()}
    write_pickle(tmp_path / "TARGET" / "data.pkl", changed)
    logs = next((tmp_path / "logs").rglob("mine"))
    done = run(DIGITS, "--resume", logs, code=2)
    assert "the data changed since this run began (target 1)" in the_error(done)


def test_a_run_that_cannot_start_leaves_its_name_free(
    tmp_path: Path, data_flags: list[str]
) -> None:
    (tmp_path / "bad.keras").write_bytes(b"no model")
    flags = [*data_flags, *SHORT, *folder_flags(tmp_path), "--run_name", "mine"]
    for more in (["--pre_model_path", tmp_path / "bad.keras"], ["--batch_size", 2000]):
        run(DIGITS, *flags, *more, code=2)
        left = sorted(path.name for path in tmp_path.rglob("*"))
        assert left == ["bad.keras", "checkpoints", "config", "logs"]


def test_the_printed_command_can_be_pasted(
    tmp_path: Path, data_flags: list[str], monkeypatch: Any
) -> None:
    home = tmp_path / 'it\'s $HOME; a "name"'
    home.mkdir()
    flags = [*data_flags, *SHORT, *folder_flags(home), "--run_name", "mine"]
    with stopped_soon():
        run(DIGITS, *flags, code=130)
    done = run(DIGITS, *flags, code=2)
    pasted = the_error(done).split("go on with it: ")[1]
    shell = pasted.replace("python ", f"'{sys.executable}' ", 1)
    again = subprocess.run(["bash", "-c", shell], cwd=ROOT, capture_output=True, text=True,
                           check=False)  # fmt: skip
    assert "target accuracy" in again.stdout
    told = the_error(run(DIGITS, *flags, code=2))  # nothing is left to go on with
    assert told.endswith("exists; choose another --run_name")


@pytest.mark.long
def test_a_picture_that_goes_while_training_is_named(tmp_path: Path, domains: Arrays) -> None:
    for name, arrays in zip(("source", "target"), domains, strict=True):
        for index in range(60):
            folder = tmp_path / name / f"c{arrays['train_label'][index] % 3}"
            folder.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(folder / f"{index}.png"), arrays["train"][index])
    flags = ["--source", tmp_path / "source", "--target", tmp_path / "target", "--batch_size", 16,
             "--epoch", 200, "--run_name", "mine", *folder_flags(tmp_path / "runs")]  # fmt: skip
    with subprocess.Popen(command("train_custom.py", *flags), stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True) as process:  # fmt: skip
        assert process.stdout is not None
        for line in process.stdout:
            if line.strip().startswith("1/200"):
                break
        for picture in (tmp_path / "source").rglob("*.png"):
            picture.unlink()
        _, stderr = process.communicate(timeout=PATIENCE)
    assert process.returncode == 2, stderr
    assert "cannot be read" in stderr
    assert "Traceback" not in stderr
    assert len(stderr.strip().splitlines()) == 1, stderr


def test_an_unlabelled_target_cannot_teach(tmp_path: Path, domains: Arrays) -> None:
    for index, image in enumerate(domains[0]["train"][:60]):
        for folder in (tmp_path / "source" / f"c{index % 3}", tmp_path / "target"):
            folder.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(folder / f"{index}.png"), image)
    flags = ["--source", tmp_path / "source", "--target", tmp_path / "target", "--batch_size", 16,
             *folder_flags(tmp_path / "runs")]  # fmt: skip
    done = run("train_custom.py", *flags, "--method", "target_only", code=2)
    assert "target_only learns from labels of the target, which has none" in the_error(done)


def test_a_start_with_other_classes_is_refused(tmp_path: Path) -> None:
    from test_fit import dann

    from model.pretrained import start_from

    saved = dann(class_names=["a", "b", "c"])
    place = tmp_path / "model.keras"
    saved.save(place)
    with pytest.raises(UserError, match="has the classes a, b, c, but the data have b, a, c"):
        start_from(dann(class_names=["b", "a", "c"]), place)
    start_from(dann(class_names=["a", "b", "c"]), place)


def test_an_interrupt_after_the_last_step_says_how_to_go_on(
    tmp_path: Path, data_flags: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def ctrl_c(*_: object) -> None:
        raise KeyboardInterrupt  # shells start what is in the background deaf to SIGINT

    def terminated(*_: object) -> None:
        signal.raise_signal(signal.SIGTERM)

    flags = [*data_flags, *SHORT, "--epoch", 1, *folder_flags(tmp_path), "--run_name", "mine"]
    for stop, code in ((ctrl_c, 130), (terminated, 75)):
        with monkeypatch.context() as patch:
            patch.setattr(Trainer, "finish", stop)
            done = run("train_MNIST2MNIST_M.py", *flags, code=code)
        flags = ["--resume", logs_of(tmp_path, "mine")]
        assert f"--resume {flags[1]}" in done.stdout
    run("train_MNIST2MNIST_M.py", *flags)
    assert model_of(tmp_path, "mine").exists()


def test_a_folder_that_vanishes_while_it_is_listed_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As TensorFlow's step-5_temp does, when another run saves a checkpoint."""
    kept = tmp_path / "run" / "config.json"
    for file in (kept, tmp_path / "step-5_temp" / "part"):
        file.parent.mkdir()
        file.touch()
    scandir = os.scandir

    def just_gone(folder: Any) -> Any:
        if Path(folder).name == "step-5_temp":
            raise FileNotFoundError(folder)
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", just_gone)
    assert files_below(tmp_path) == [kept]


def test_clean_tells_what_is_unfinished_and_removes_nothing_unasked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Standard input is at its end."""
    monkeypatch.chdir(tmp_path)
    for root in ("logs", "checkpoints"):
        for name in ("whole", "half"):
            Config(run_name=name).save(tmp_path / root / name / CONFIG_FILE)
    (tmp_path / "checkpoints" / "whole" / "trained_dann.keras").touch()
    monkeypatch.setattr("sys.stdin", io.StringIO())
    clean()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("MB  ")[1] for line in lines[:2]] == ["half  (not finished)", "whole"]
    assert lines[-1].endswith("nothing is removed")
    assert (tmp_path / "logs" / "half").exists()


def test_clean_keeps_what_is_of_other_programs_and_what_links_lead_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for place, text in (
        ("checkpoints/bert", '{"model_type": "bert"}'),
        ("config/presets", '{"about": "", "settings": {}}'),
        ("logs/other", '{"logs_dir": "logs", "checkpoints_dir": "c", "config_dir": "config"}'),
        ("config/copy", json.dumps(dataclasses.asdict(Config(run_name="run")))),
    ):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / CONFIG_FILE).write_text(text)
    Config(run_name="run").save(tmp_path / "logs" / "run" / CONFIG_FILE)
    Config(run_name="run").save(tmp_path / "disk" / CONFIG_FILE)
    (tmp_path / "checkpoints" / "run").symlink_to(tmp_path / "disk")
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    clean()
    assert "removed      run" in capsys.readouterr().out
    left = {str(path.parent.relative_to(tmp_path)) for path in tmp_path.rglob(CONFIG_FILE)}
    others = {"checkpoints/bert", "config/presets", "logs/other"}
    assert left == others | {"config/copy", "disk"}
    assert not (tmp_path / "checkpoints" / "run").is_symlink()


def test_clean_takes_no_folder_of_all_runs_for_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Somebody has copied a run's settings beside config.py."""
    monkeypatch.chdir(tmp_path)
    for root in ("logs", "checkpoints", "config"):
        (tmp_path / root).mkdir()
    Config().save(tmp_path / "config" / CONFIG_FILE)
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    clean()
    assert (tmp_path / "config" / CONFIG_FILE).exists()
    assert "MB" not in capsys.readouterr().out


def test_clean_keeps_a_folder_of_another_run_of_that_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Config(run_name="run").save(tmp_path / "logs" / "run" / CONFIG_FILE)
    other = tmp_path / "checkpoints" / "run" / CONFIG_FILE
    Config(run_name="run", epoch=7, checkpoints_dir="elsewhere").save(other)
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    clean()
    assert not (tmp_path / "logs" / "run").exists()
    assert other.exists()


def test_clean_knows_where_else_a_run_has_its_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One that is in training there is kept; one that is finished there is, too."""
    monkeypatch.chdir(tmp_path)
    for name in ("busy", "done"):
        config = Config(logs_dir="logs/mine", checkpoints_dir=str(tmp_path / "far"), run_name=name)
        run_of = Run.of(config)
        for folder in run_of.folders:
            config.save(folder / CONFIG_FILE)
    (next((tmp_path / "far").rglob("done")) / "trained_dann.keras").touch()
    busy = Run.of(dataclasses.replace(config, run_name="busy"))
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    with claim(busy):
        clean()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("  in training  mine/")
    assert lines[1].endswith("/done")  # finished
    assert lines[2].startswith(f"             in {tmp_path}/far/")
    assert all(folder.exists() for folder in busy.folders)
    assert not any(list(tmp_path.rglob("done")))


@dataclasses.dataclass(frozen=True)
class Told:
    """An experiment that trains nothing: it tells the method of a stage, and its name."""

    settings: TrainingConfig

    def trainer(self, run: Run, settings: TrainingConfig, start: Any, name: Any = None) -> Any:
        return self.settings.method, name


def test_a_run_keeps_the_first_stage_that_it_began_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its preset is edited while the run is stopped."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", [DIGITS])
    preset = read_preset("mean_teacher").settings
    run_of, config = start_run(Config.of({**preset, "run_name": "mine"}), {})
    before = saved_first_stage(run_of.logs, config)
    assert before
    assert (before.init_learning_rate, before.epoch) == (0.05, config.source_epoch)
    edited = Preset("", DIGITS, {**read_preset("normalised").settings, "init_learning_rate": 0.01})
    monkeypatch.setattr(base, "read_preset", lambda *_: edited)
    assert config.of_first_stage("dann").init_learning_rate == 0.01
    for folder in run_of.folders:
        assert saved_first_stage(folder, config) == before
    other = Preset("", DIGITS, {**edited.settings, "method": "source_only"})
    with monkeypatch.context() as patch:
        patch.setattr(base, "read_preset", lambda *_: other)
        assert config.first_method == "source_only"
        first, _ = make_stages(run_of, config, Domains([]), lambda settings, _: Told(settings))
        assert first() == ("dann", "dann")  # it resumes what it began with
        with pytest.raises(UserError, match=r"has changed .* \(method, init_learning_rate\)"):
            make_settings(Config, Start(config=run_of.config / CONFIG_FILE), {})
    repeated = Start(config=run_of.config / CONFIG_FILE)
    with pytest.raises(UserError, match=r"normalised has changed .* \(init_learning_rate\)"):
        make_settings(Config, repeated, {})
    assert make_settings(Config, repeated, {"first_stage": "normalised"}).epoch == config.epoch
    assert make_settings(Config, repeated, {"pre_model_path": "m.keras"}).epoch == config.epoch
    run_of.discard(config)
    assert not any(tmp_path.rglob("*.json"))


def test_a_first_stage_may_have_had_other_values_of_what_it_does_not_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Earlier versions noted a default that was edited for another method."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", [DIGITS])
    run_of, _ = start_run(Config.of({**read_preset("adda").settings, "run_name": "mine"}), {})
    noted = run_of.config / "first_stage.json"
    noted.write_text(json.dumps({**json.loads(noted.read_text()), "grl_lambda": 0.8}))
    assert make_settings(Config, Start(config=run_of.config / CONFIG_FILE), {}).method == "adda"


def test_sigterm_before_training_is_as_sigterm_in_it(
    tmp_path: Path, data_flags: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run that has not begun is gone, and its name is free; a scheduler may start it again."""
    monkeypatch.setattr(launch, "train", lambda *_: signal.raise_signal(signal.SIGTERM))
    done = run(DIGITS, *data_flags, *SHORT, *folder_flags(tmp_path), "--run_name", "mine", code=75)
    assert "interrupted" in done.stderr
    assert not list(tmp_path.rglob("mine"))


def test_checkpoints_of_a_deleted_run_are_not_taken_over(
    halted: Path, tmp_path: Path, data_flags: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They were: with other settings, the new run went on from the old weights."""
    shutil.copytree(halted, tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "logs")
    monkeypatch.chdir(tmp_path)
    kept = files_below(tmp_path / "checkpoints")
    said = run(DIGITS, *data_flags, *SHORT, "--run_name", "mine", "--grl_lambda", "2", code=2)
    assert "is of a run whose folder" in the_error(said)
    assert files_below(tmp_path / "checkpoints") == kept
    assert not (tmp_path / "logs").exists()


def test_settings_that_were_kept_are_not_overwritten(tmp_path: Path, data_flags: list[str]) -> None:
    """Logs and models were removed; README repeats a run from its config.json."""
    run_folder = Run.of(Config(run_name="mine", batch_size=16, **folders_below(tmp_path)))
    kept = run_folder.config / CONFIG_FILE
    kept.parent.mkdir(parents=True)
    kept.write_text("{}")
    done = run(DIGITS, *data_flags, *SHORT, *folder_flags(tmp_path), "--run_name", "mine", code=2)
    assert f"{run_folder.config}: is of a run whose folder" in the_error(done)
    assert kept.read_text() == "{}"


def test_a_table_that_another_program_wrote_is_named(tmp_path: Path) -> None:
    columns = ",".join(["epoch", "val_image_cls_acc", *CRITERIA])
    rest = ",1" * len(CRITERIA)
    (tmp_path / "log.csv").write_text(f"{columns}\n001,{rest}\n")
    assert len(read_rows(tmp_path / "log.csv")) == 1
    for text in (f"\ufeff{columns}\n001,1{rest}\n", f"{columns}\n,1{rest}\n",
                 f"{columns}\n001,oops{rest}\n", f"{columns}\n001{rest}\n",
                 f"{columns}\n001,1,1{rest}\n", "epoch,a\n001,1\n",
                 f"{columns}\n001,{'1' * 140_000}{rest}\n"):  # fmt: skip
        (tmp_path / "log.csv").write_text(text, encoding="utf-8")
        with pytest.raises(UserError, match=r"log\.csv: is not as it was written; put it back"):
            read_rows(tmp_path / "log.csv")


def test_a_preset_of_another_method_leaves_a_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """What only the preset's own method uses is not checked."""
    monkeypatch.setattr("sys.argv", [DIGITS])
    given = {"method": "adda", "batch_size": 64}
    settings = make_settings(Config, Start(preset="mean_teacher"), given)
    assert (settings.batch_size, settings.target_ratio) == (64, 1)


def test_a_resumed_run_computes_where_it_began(
    tmp_path: Path, data_flags: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of several workers, what starts them tells where."""
    seen: list[tuple[str, int]] = []
    flags = [*data_flags, *SHORT, *folder_flags(tmp_path), "--run_name", "mine"]

    def note(_: Run, config: Config, *others: Any) -> int:
        seen.append((config.strategy, config.logical_devices))
        return 0

    monkeypatch.setattr(launch, "train", note)
    run(DIGITS, *flags, "--strategy", "mirrored", "--logical_devices", 2)
    run(DIGITS, "--resume", tmp_path / "logs" / BELOW)
    run(DIGITS, "--resume", tmp_path / "logs" / BELOW, "--strategy", "default")
    for config in tmp_path.rglob(CONFIG_FILE):
        text = config.read_text().replace('"mirrored"', '"multi_worker"')
        config.write_text(text.replace('"logical_devices": 2', '"logical_devices": 0'))
    run(DIGITS, "--resume", tmp_path / "logs" / BELOW)
    assert seen == [("mirrored", 2), ("mirrored", 2), ("default", 0), ("default", 0)]


def test_a_run_whose_folders_are_links_goes_on(
    halted: Path, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """logs leads to another disk; the command comes from another folder."""
    home, disk = tmp_path / "home", tmp_path / "disk"
    shutil.copytree(halted, home)
    shutil.move(home / "logs", disk)
    (home / "logs").symlink_to(disk)
    monkeypatch.chdir("/")
    run(DIGITS, "--resume", home / "logs" / BELOW)
    assert_same_weights(final_weights(home, "mine"), final_weights(undisturbed, "mine"))


def test_a_run_of_another_script_is_told_with_its_name(tmp_path: Path) -> None:
    CustomConfig(source=("a",), target=("b",)).save(tmp_path / CONFIG_FILE)
    done = run(DIGITS, "--resume", tmp_path, code=2)
    assert "is of a run of train_custom.py; call that script" in the_error(done)


def test_a_finished_run_without_its_table_says_so(undisturbed: Path, tmp_path: Path) -> None:
    shutil.copytree(undisturbed, tmp_path, dirs_exist_ok=True)
    (tmp_path / "logs" / BELOW / "log.csv").unlink()
    done = run(DIGITS, "--resume", tmp_path / "logs" / BELOW, code=2)
    assert "log.csv: is gone; put it back; the models are there" in the_error(done)


def test_edited_defaults_do_not_change_a_preset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", [DIGITS])
    fields = [("method", str, "source_only"), ("network", Network, "wide")]
    edited: Any = dataclasses.make_dataclass("Edited", fields, bases=(Config,), frozen=True)
    settings = make_settings(edited, Start(preset="recipe"), {})
    assert (settings.method, settings.network) == ("dann", "paper")


def test_a_run_whose_folder_is_gone_keeps_the_others(tmp_path: Path, monkeypatch: Any) -> None:
    """Nobody can tell whether it has trained."""
    monkeypatch.chdir(tmp_path)
    run_of, config = start_run(Config(run_name="mine"), {})
    run_of.checkpoints.rename(tmp_path / "away")
    run_of.discard(config)
    assert run_of.logs.is_dir()
    assert run_of.config.is_dir()


def test_the_name_of_a_run_whose_folder_cannot_be_made_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("checkpoints").touch()
    with pytest.raises(UserError, match="checkpoints"):
        start_run(Config(run_name="mine"), {})
    Path("checkpoints").unlink()
    start_run(Config(run_name="mine"), {})


def test_a_second_stage_that_cannot_begin_starts_anew_from_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To resume it would fail again."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", [DIGITS])
    run_of, config = start_run(Config(method="adda", run_name="mine"), {})

    class Fails:
        def trainer(self, *_: Any, **__: Any) -> Any:
            raise UserError("shared_layers: 100 must be in 0..1")

    _, second = make_stages(run_of, config, Domains([]), lambda *_: Fails())
    with pytest.raises(UserError, match=r"0\.\.1$"):  # the first stage's model is not there
        second()
    model = run_of.below("source").checkpoints / "source_model.keras"
    model.parent.mkdir(parents=True)
    model.touch()
    words = r"0\.\.1; to begin .* anew, add what you mend to: .*--pre_model_path .*/source_model"
    with pytest.raises(FailsAgain, match=words):
        second()


def test_a_run_that_was_started_elsewhere_is_told_so(tmp_path: Path, monkeypatch: Any) -> None:
    """Its folders are absolute, so they do not tell from where it was started."""
    monkeypatch.chdir(tmp_path)
    config = Config(logs_dir=str(tmp_path / "logs"), source_dataset_path="data.pkl")
    with pytest.raises(UserError, match=r"data\.pkl: no such .* from the folder where the run was"):
        go_home(tmp_path / "logs", config)


def test_a_file_is_no_folder_of_a_run(tmp_path: Path) -> None:
    file = tmp_path / CONFIG_FILE
    file.touch()
    with pytest.raises(UserError, match=rf"is a file; --resume takes its folder, {tmp_path}"):
        find_run(file, Config)


@pytest.mark.parametrize("call", [["x", "evaluate.py"], ["0", "evaluate.py"], ["2"], ["2", "n.py"]])
def test_workers_tell_what_they_need(call: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("sys.argv", ["workers.py", *call])
    with pytest.raises(UserError, match="name how many workers, 1 or more, and a script"):
        workers.main()
