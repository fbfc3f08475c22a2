from __future__ import annotations

import dataclasses
import inspect
import json
import re
import signal
import subprocess
import sys
import typing
from pathlib import Path
from typing import Annotated, Any

import pytest
from helpers import ROOT, folders_below

from config import EDITED, presets
from config.base import HYPERPARAMETERS, Criterion, RecipeConfig, TrainingConfig
from config.captcha import CaptchaConfig
from config.config import Config
from config.custom import CustomConfig
from config.drawings import DrawingsConfig
from config.scripts import SCRIPTS
from config.settings import Settings, at_least, fields_of
from utils.errors import UserError
from utils.record.selection import CRITERIA
from utils.run import flags, runs
from utils.run.command_line import documented
from utils.run.flags import Start, make_settings, read_flags
from utils.run.runs import find_run, start_run


def test_save_and_load_is_the_same(tmp_path: Path) -> None:
    config = Config(epoch=3, pixel_mean=(1.5, 2.0, 3.0), run_name="a", method="source_only")
    config.save(tmp_path / "config.json")
    assert Config.load(tmp_path / "config.json") == config


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("batch_size", 0), ("epoch", 0), ("gamma", -1.0),
        ("gamma", float("nan")),
        ("grl_lambda", -0.1), ("init_learning_rate", 0.0), ("init_learning_rate", float("inf")),
        ("momentum_rate", 1.0), ("method", "magic"), ("seed", -1), ("pixel_mean", (1.0,)),
        ("pixel_mean", (0.0, 0.0, 256.0)), ("image_input_shape", (8, 28, 3)), ("run_name", "a/b"),
        ("run_name", ".."), ("lr_alpha", -1.0), ("checkpoint_steps", 0),
        ("clip_norm", -1.0), ("average_decay", 1.0), ("dropout", 1.0), ("confidence", 1.1),
        ("held_out", -1), ("augmentation", "all"), ("select_by", "luck"), ("run_name", "x" * 300),
        ("domain_hidden", (0,)), ("run_name", "a\nb"), ("run_name", "a\udcff"),
    ],
)  # fmt: skip
def test_impossible_values_name_field_and_value(field: str, value: Any) -> None:
    with pytest.raises(UserError) as caught:
        Config(**{field: value})
    shown = " ".join(map(str, value)) if isinstance(value, tuple) else repr(value)
    assert str(caught.value).startswith(f"{field}: {shown} must be ")
    assert "\n" not in str(caught.value)


def test_an_empty_default_is_refused_as_an_empty_flag_is() -> None:
    with pytest.raises(UserError, match="logs_dir: is empty; name something"):
        Config(logs_dir="")
    with pytest.raises(UserError, match="source: is empty"):
        CustomConfig(source=("",))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "cannot be read as JSON"),
        ("{", "cannot be read as JSON"),
        ('{"epoch": 60, "epoch": 3}', "cannot be read as JSON ('epoch' is there twice)"),
        ("[" * 100_000, "cannot be read as JSON"),
        ("[1]", "holds a list"),
        ('{"epochs": 3}', "unknown key 'epochs'; did you mean epoch"),
        ('{"epoch": "3"}', "epoch: '3' is not of type int"),
        ('{"epoch": true}', "epoch: True is not of type int"),
        ('{"epoch": 2.5}', "epoch: 2.5 is not of type int"),
        ('{"pixel_mean": [1, "a", 3]}', "pixel_mean: 'a' is not of type float"),
        ('{"method": "magic"}', "method: 'magic' must be one of dann, cdan"),
        ('{"image_input_shape": []}', "image_input_shape: [] must have 3 values of type int"),
        (
            '{"image_input_shape": [28, 28]}',
            "image_input_shape: [28, 28] must have 3 values of type int",
        ),
        ('{"epoch": 4294967296}', "epoch: 4294967296 must be below 2³² in size"),
        ('{"domain_hidden": [1, 99999999999999999999]}', "must be below 2³² in size"),
        ('{"grl_lambda": 1e300}', "grl_lambda: 1e+300 must be a number that float32 can hold"),
        (
            '{"init_learning_rate": 1e-300}',
            "init_learning_rate: 1e-300 must be a number that float32 can hold",
        ),
        ('{"batch_size": 7}', "batch_size: 7 must be a multiple of 2, for the 2 domains; try 6"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        Config.load(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)


def test_whole_numbers_are_floats_where_floats_are_meant(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"gamma": 5}')
    assert Config.load(tmp_path / "config.json").gamma == 5.0


def test_the_criteria_are_those_of_selection() -> None:
    assert set(typing.get_args(Criterion)) == set(CRITERIA)


def test_missing_data_says_what_makes_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"source_dataset_path: .*no such file; .*create_mnistm"):
        Config(source_dataset_path=str(tmp_path / "x.pkl")).check_paths()
    with pytest.raises(UserError, match="is a folder"):
        Config(source_dataset_path=str(tmp_path)).check_paths()


@pytest.mark.parametrize("kind", SCRIPTS.values())
def test_every_field_has_a_line_of_documentation(kind: type[TrainingConfig]) -> None:
    helps = [name for group in documented(kind).values() for name in group]
    assert sorted(helps) == sorted(fields_of(kind))


def test_the_digits_class_has_every_default_that_its_user_may_edit() -> None:
    assert set(Config.__annotations__) == set(fields_of(Config))


@pytest.mark.parametrize(
    ("name", "kind", "default", "rule"),
    [
        ("epoch", int, 0, "epoch: 0 must be 1 or more"),
        ("gamma", float, -3.0, "gamma: -3.0 must be 0 or more"),
        ("method", str, "magic", "method: 'magic' must be one of dann, "),
    ],
)
def test_an_edited_default_keeps_its_limit(name: str, kind: type, default: Any, rule: str) -> None:
    edited = dataclasses.make_dataclass(
        "Edited", [(name, kind, default)], bases=(Config,), frozen=True
    )
    with pytest.raises(UserError, match=re.escape(rule)):
        edited()
    assert fields_of(edited)[name].used_by == fields_of(Config)[name].used_by


def test_runs_of_the_same_second_do_not_collide(tmp_path: Path) -> None:
    config = Config(**folders_below(tmp_path))
    runs = [start_run(config, {})[0] for _ in range(5)]
    assert len({run.logs for run in runs}) == 5
    assert runs[0].logs.parent == (
        tmp_path / "logs/MNIST2MNIST_M/SGD-lr=0.01-momentum=0.9/batch_size=256"
    )


def test_a_run_is_found_by_any_of_its_folders(tmp_path: Path) -> None:
    run, config = start_run(Config(run_name="mine", **folders_below(tmp_path)), {})
    for folder in run.folders:
        assert find_run(folder, Config) == (run, config)
        assert json.loads((folder / "config.json").read_text())["run_name"] == "mine"


def test_a_run_that_cannot_be_written_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, values: Any) -> None:
        raise UserError(f"{path}: cannot be written")

    monkeypatch.setattr(runs, "write_json", full)
    with pytest.raises(UserError, match=r"mine/data\.json: cannot be written"):
        start_run(Config(run_name="mine", **folders_below(tmp_path)), {})
    assert not list(tmp_path.glob("logs/*"))


def test_a_taken_name_is_refused(tmp_path: Path) -> None:
    config = Config(run_name="mine", **folders_below(tmp_path))
    start_run(config, {})
    with pytest.raises(
        UserError, match=r"mine: exists; choose another --run_name, or go on with it: python"
    ):
        start_run(config, {})


def test_no_run_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no config\.json"):
        find_run(tmp_path, Config)


def test_a_default_may_be_written_as_a_list() -> None:
    """A dataclass itself would end with a traceback."""

    @dataclasses.dataclass(frozen=True)
    class Edited(Settings):
        shape: tuple[int, int] = [3, 4]  # type: ignore[assignment]
        names: tuple[str, ...] = "one"  # type: ignore[assignment]

    assert Edited() == Edited((3, 4), ("one",))
    with pytest.raises(UserError, match="shape"):
        Edited.of({"shape": [1, "x"]})


@pytest.mark.parametrize(
    ("default", "message"),
    [
        ({"epoch": 1.5}, "epoch: 1.5 is not of type int"),
        ({"mixed_precision": "no"}, "mixed_precision: 'no' is not of type bool"),
        ({"batch_size": (128,)}, r"batch_size: \(128,\) is not of type int"),
        ({"init_learning_rate": "0.01"}, "init_learning_rate: '0.01' is not of type float"),
    ],
)
def test_a_default_of_another_type_names_its_file(
    default: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """README invites to edit the defaults."""
    monkeypatch.setattr("sys.argv", ["train_MNIST2MNIST_M.py"])
    fields = [(name, fields_of(Config)[name].kind, value) for name, value in default.items()]
    edited = dataclasses.make_dataclass("Edited", fields, bases=(Config,), frozen=True)
    monkeypatch.setattr("inspect.getsourcefile", lambda _: "config/config.py")
    with pytest.raises(UserError, match=f"^config/config.py: {message}"):
        make_settings(edited, Start(), {})


def test_a_whole_number_may_be_the_default_of_a_fraction() -> None:
    fields = [("momentum_rate", float, 0)]
    edited = dataclasses.make_dataclass("Edited", fields, bases=(Config,), frozen=True)
    assert isinstance(edited().momentum_rate, float)


def test_devices_that_no_strategy_would_use_are_refused() -> None:
    with pytest.raises(UserError, match=r"logical_devices: .*; add --strategy mirrored"):
        Config(logical_devices=2)


def test_a_default_that_lost_its_type_is_refused() -> None:
    """Python would take it for no field, and the default above it would hold."""

    @dataclasses.dataclass(frozen=True)
    class Edited(Config):
        epoch = 3

    with pytest.raises(UserError, match="epoch: write its type, too"):
        Edited()


def test_a_setting_of_another_script_is_refused(tmp_path: Path) -> None:
    """It would be recorded, but nothing would read it."""

    @dataclasses.dataclass(frozen=True)
    class Edited(DrawingsConfig):
        dropout: float = 0.5

    with pytest.raises(UserError, match="dropout: this script does not use it; remove it"):
        Edited()
    DrawingsConfig().save(tmp_path / "config.json")
    with pytest.raises(UserError, match=r"test_config\.py: dropout: this"):  # no fault of the run
        make_settings(Edited, Start(config=tmp_path / "config.json"), {})


def test_a_tilde_is_the_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert CustomConfig(source=("~/a b",), target=("x~/b",)).source == ("/home/me/a b",)
    assert CustomConfig(weights="~/w.h5", backbone="ResNet50").weights == "/home/me/w.h5"
    assert CustomConfig(run_name="a~").run_name == "a~"
    monkeypatch.setattr("sys.argv", ["train_captcha.py", "--resume=~/run"])
    assert read_flags(CaptchaConfig, None)[0].resume == Path("/home/me/run")


def test_a_default_of_another_type_is_refused() -> None:
    @dataclasses.dataclass(frozen=True)
    class Edited(Config):
        epoch: float = 1.5  # type: ignore[assignment]

    with pytest.raises(UserError, match="epoch: its type must stay int; change the value alone"):
        Edited()


def test_cutout_leaves_something_of_an_image(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cutout: 28 would paint over whole images"):
        Config(cutout=28)
    (tmp_path / "x.pkl").touch()
    with pytest.raises(UserError, match="target_dataset_path: is the source's"):
        Config(
            source_dataset_path=str(tmp_path / "x.pkl"), target_dataset_path=str(tmp_path / "x.pkl")
        ).check_paths()


@pytest.mark.parametrize(
    ("written", "meant"),
    [("batchsize", "batch_size"), ("epcoh", "epoch"), ("Epoch", "epoch"), ("sede", "seed"),
     ("learning_rate", "init_learning_rate"), ("gmama", "gamma"), ("methdo", "method")],
)  # fmt: skip
def test_a_setting_that_is_misspelt_in_the_file_is_named(written: str, meant: str) -> None:
    """It would be a new setting, and the one that is meant would keep its default."""
    misspelt = dataclasses.make_dataclass(
        "Misspelt", [(written, int, 64)], bases=(TrainingConfig,), frozen=True
    )
    with pytest.raises(UserError, match=f"{written}: no such setting; did you mean {meant}"):
        misspelt()


@pytest.mark.parametrize(("text", "told"), [
    ("epoch: int = (100", ", line 1: '(' was never closed"),
    ("x = hundred", ", line 1: name 'hundred' is not defined"),
    ("import dataclasses\n@dataclasses.dataclass\nclass Config:\n    epoch: int = {100}",
     ", line 2: mutable default <class 'set'> for field epoch is not allowed: use default_factory"),
])  # fmt: skip
def test_pythons_errors_in_a_file_of_defaults_are_told_in_a_line(text: str, told: str) -> None:
    """Without a traceback: README tells students to edit this file."""
    file = str(ROOT / "config" / "config.py")
    program = f"import config; exec(compile({text!r}, {file!r}, 'exec'))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True,
                          cwd=ROOT, check=False)  # fmt: skip
    assert done.returncode == 2
    assert done.stderr == f"error: {file}{told}; mend it\n"


def test_all_files_of_defaults_are_known_to_be_edited() -> None:
    files = [Path(inspect.getfile(kind)).name for kind in SCRIPTS.values()]
    assert sorted(files) == sorted(EDITED)


def test_errors_of_other_programs_are_told_as_they_wish() -> None:
    program = "import sys; sys.excepthook = lambda *_: print('mine'); import config; raise KeyError"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True,
                          cwd=ROOT, check=False)  # fmt: skip
    assert (done.stdout, done.stderr) == ("mine\n", "")


def test_an_own_program_keeps_its_hook() -> None:
    program = (
        "import sys; sys.argv[0] = '/home/me/own.py'; hook = sys.excepthook; import config; "
        "print(sys.excepthook is hook)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True,
                          cwd=ROOT, check=False)  # fmt: skip
    assert done.stdout == "True\n", done.stderr


def test_ctrl_c_while_python_still_imports_is_no_traceback() -> None:
    told = "\ninterrupted; no file is incomplete\n"
    for script, ours in ((str(ROOT / "predict.py"), True), ("/home/me/own.py", False)):
        program = f"import sys; sys.argv[0] = {script!r}; import config; raise KeyboardInterrupt"
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True,
                              cwd=ROOT, check=False)  # fmt: skip
        assert done.returncode == -signal.SIGINT  # a shell says 130
        assert (done.stderr == told) is ours


def test_quick_may_be_a_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["train_captcha.py"])

    @dataclasses.dataclass(frozen=True)
    class Edited(CaptchaConfig):
        quick: bool = True

    assert make_settings(Edited, Start(), {}).captchas == CaptchaConfig.QUICK["captchas"]
    assert make_settings(Edited, Start(), {"quick": False}).captchas == CaptchaConfig.captchas
    assert make_settings(Edited, Start(), {"captchas": 200}).captchas == 200
    monkeypatch.setattr(Edited, "QUICK", {"captchas": "3000"})
    with pytest.raises(
        UserError, match=r"test_config\.py: QUICK: captchas: '3000' is not of type int"
    ):
        make_settings(Edited, Start(), {})


def test_a_damaged_preset_harms_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "mine.json").write_text('{"about": "a", "script": "s", "settings": {}}')
    monkeypatch.setattr(presets, "FOLDER", tmp_path)
    assert list(presets.presets_of("s")) == ["mine"]


def test_what_pre_model_path_replaces_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["train_MNIST2MNIST_M.py"])
    start, given = Start(preset="mean_teacher"), {"pre_model_path": "m.keras"}
    assert make_settings(Config, start, given).first_method is None
    for name, value in (("first_stage", "recipe"), ("source_epoch", 3), ("teacher", "t.keras")):
        with pytest.raises(UserError, match=f"--{name}: --pre_model_path replaces"):
            make_settings(Config, start, {**given, name: value})


def test_what_adda_takes_from_the_preset_of_its_first_stage_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It would do nothing. Without the preset it is the first stage's own."""
    monkeypatch.setattr("sys.argv", ["train_MNIST2MNIST_M.py"])
    for name, value in (("init_learning_rate", 0.5), ("momentum_rate", 0.5), ("dropout", 0.5)):
        with pytest.raises(UserError, match=f"--{name}: only the first stage uses it"):
            make_settings(Config, Start(preset="adda"), {name: value})
        with pytest.raises(UserError, match=f"--{name}: --pre_model_path replaces"):
            make_settings(Config, Start(preset="adda"), {"pre_model_path": "m.keras", name: value})
        settings = make_settings(Config, Start(), {"method": "adda", name: value})
        assert getattr(settings.of_first_stage("source_model"), name) == value


def test_a_new_setting_may_be_like_another() -> None:
    """Control: with its limit beside it, it is meant as a new one."""

    @dataclasses.dataclass(frozen=True)
    class New(TrainingConfig):
        epochs: Annotated[int, at_least(1)] = 3

    assert New().epochs == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"epoch": 3}', "x.json: 'epoch' is unknown, 'about' is missing"),
        (
            '{"about": "", "script": "s", "settings": ["epoch"]}',
            "x.json: 'settings' must be an object",
        ),
        ('{"about": "",', "x.json: cannot be read as JSON"),
        ('{"about": "", "script": "s", "settings": {"epochs": 3}}', "x.json: unknown key"),
        (
            '{"about": "", "script": "s", "settings": {"method": "dann", "k_d": 3}}',
            "x.json: k_d: is not used by dann",
        ),
    ],
)
def test_presets_that_are_none_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, message: str
) -> None:
    (tmp_path / "x.json").write_text(text)
    for module in (presets, flags):
        monkeypatch.setattr(module, "FOLDER" if module is presets else "PRESETS", tmp_path)
    monkeypatch.setattr("sys.argv", ["s"])
    with pytest.raises(UserError, match=message):
        make_settings(Config, Start(preset="x"), {})
    with pytest.raises(UserError, match=f".*{message}"):
        make_settings(Config, Start(), {"method": "mean_teacher", "average_decay": 0.9,
                                        "first_stage": "x"})  # fmt: skip


def test_a_first_stage_takes_all_that_sets_a_training() -> None:
    """What is added to the settings of the training or the recipe is its preset's, too."""
    of_training = documented(RecipeConfig)
    names = {*of_training["training"], *of_training["recipe: what the paper does not have"]}
    assert {*HYPERPARAMETERS} == names - {"epoch"} | {"target_ratio"}


def test_a_config_of_windows_notepad_is_read(tmp_path: Path) -> None:
    """It begins with a byte order mark."""
    (tmp_path / "c.json").write_text('{"epoch": 3}', encoding="utf-8-sig")
    assert Config.load(tmp_path / "c.json").epoch == 3


def test_frozen_pictures_need_features_that_adapt() -> None:
    with pytest.raises(UserError, match="no feature would adapt"):
        CustomConfig(frozen=True)
    CustomConfig(frozen=True, bottleneck=8)
    CustomConfig(frozen=True, features="hidden")
    with pytest.raises(UserError, match="there is no hidden layer; name one: --label_hidden 100"):
        CustomConfig(features="hidden", label_hidden=())


def test_trained_weights_have_a_scaling_of_their_own() -> None:
    CustomConfig(backbone="ResNet50", pixel_mean=(1.0, 2.0, 3.0))
    with pytest.raises(UserError, match="are for RGB pictures"):
        CustomConfig(backbone="ResNet50", channels=1, weights="w.h5")
    with pytest.raises(UserError, match="pixel_mean: this backbone has a scaling of its own"):
        CustomConfig(backbone="ResNet50", pixel_mean=(1.0, 2.0, 3.0), weights="w.h5")
    with pytest.raises(UserError, match=r"pixel_mean: .*leave it out"):
        CustomConfig(backbone="MobileNetV3Small", pixel_mean=(1.0, 2.0, 3.0))


@dataclasses.dataclass(frozen=True)
class WithAnOldLine(Settings):
    # training
    epoch: int = 1
    """How often."""
    # rate: float = 0.1
    rate: float = 0.2
    """How fast."""


def test_a_default_that_is_commented_out_is_no_heading() -> None:
    assert [*documented(WithAnOldLine)] == ["training"]
