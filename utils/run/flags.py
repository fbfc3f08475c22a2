"""From a command line to the settings of a run."""

from __future__ import annotations

import dataclasses
import inspect
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from config.base import HYPERPARAMETERS, AnyConfig, TrainingConfig, unused_by
from config.methods import METHODS
from config.presets import FOLDER as PRESETS
from config.presets import presets_of, read_preset
from config.settings import fields_of
from utils.errors import EXIT_CODES, UserError
from utils.run.command_line import command_of, flag_in_sight, parse
from utils.run.runs import CONFIG_FILE, load_config, saved_first_stage


@dataclass(frozen=True)
class Start:
    """The flags that are no settings."""

    # start
    preset: str | None = None
    """Settings by name; the names are listed below. Other flags override them. --preset NAME --help
    shows its values in brackets."""
    config: Path | None = None
    """Repeat the run whose config.json this is; other flags override its settings."""
    resume: Path | None = None
    """Go on with an interrupted run, given one of its folders; its settings are its own."""


def read_flags(kind: type[TrainingConfig], description: str | None) -> tuple[Start, dict[str, Any]]:
    """Returns the command line's flags: those of `Start`, and the settings that were given."""
    script, preset = Path(sys.argv[0]).name, flag_in_sight("preset")
    shown = read_preset(preset, "preset", script).settings if preset else {}
    values = parse([Start, kind], description, epilog_of(script), shown)
    flags = {name: field.checked(values.pop(name))
             for name, field in fields_of(Start).items() if name in values}  # fmt: skip
    return Start(**flags), values


def epilog_of(script: str) -> str:
    """Returns what stands below the flags in --help: methods, presets, exit codes."""
    lines = ["methods:"]
    lines += [f"  {name:<14} {method.about}" for name, method in METHODS.items()]
    presets = presets_of(script)
    if presets:
        lines += ["", "presets, with their target accuracy and minutes on two cores:"]
        lines += [f"  {name:<16} {preset.accuracy:>5} {preset.minutes:>4}  {preset.about}"
                  for name, preset in presets.items()]  # fmt: skip
    return "\n".join([*lines, "", EXIT_CODES])


def make_settings(kind: type[AnyConfig], start: Start, given: dict[str, Any]) -> AnyConfig:
    """Returns the settings of a new run: defaults, below preset or config, below flags.

    Raises:
        UserError: an impossible value, or a flag that the method does not use.
    """
    values: dict[str, Any] = {}
    defaults = checked_defaults(kind)
    if start.preset and start.config:
        raise UserError("--preset and --config: both are whole sets of settings; give one of them")
    if start.preset:
        values = checked_preset("preset", start.preset, kind)
    if start.config:
        values = dataclasses.asdict(load_config(kind, start.config)) | {"run_name": None}
        for name in unused_by(values["method"], kind):  # it says nothing of another method
            del values[name]
        if values.get("pixel_mean") and "pixel_mean" not in given:  # its user gave it
            print(f"pixel_mean: is that of {start.config}; --pixel_mean sets another")
    if given.get("quick", getattr(defaults, "quick", False)):
        values = values | kind.QUICK
    elif values.get("quick") and "quick" in given:  # of the run that is repeated
        values = {name: value for name, value in values.items() if kind.QUICK.get(name) != value}
    method = given.get("method", values.get("method", defaults.method))
    unused = unused_by(fields_of(kind)["method"].checked(method), kind)
    for name in unused:
        if name in given:
            raise UserError(f"--{name}: is not used by {method}; leave it out")
    settings = kind.of({**values, **unused, **given})
    check_stages(settings, given)
    check_schedules(settings, given)
    if settings.first_stage:
        checked_preset("first_stage", settings.first_stage, kind)
        if start.config and "first_stage" not in given:
            check_first_stage(start.config.parent, settings)
    return settings


def checked_defaults(kind: type[AnyConfig]) -> AnyConfig:
    """Returns the defaults of a script, or raises `UserError` that names the file they are in."""
    try:
        defaults = kind()
        kind.of(kind.QUICK, "QUICK: ")
        return defaults
    except UserError as error:  # one that was edited
        raise UserError(f"{inspect.getsourcefile(kind)}: {error}") from error


def check_stages(settings: TrainingConfig, given: dict[str, Any]) -> None:
    """Raises `UserError` for a flag of a first stage that is not trained, or not with this flag."""
    if settings.pre_model_path:
        method = METHODS[settings.method]
        of_student = ("teacher",) if method.first else ()
        for name in ("first_stage", "source_epoch", *of_student, *method.first_alone):
            if name in given:
                raise UserError(
                    f"--{name}: --pre_model_path replaces the first stage; leave it out"
                )
    elif preset := settings.first_stage:
        for name in METHODS[settings.method].first_alone:
            if name in given:
                raise UserError(
                    f"--{name}: only the first stage uses it, and that has the settings of the "
                    f"preset {preset}; train {preset} with it, and name its model: "
                    "--pre_model_path FILE"
                )


def check_schedules(settings: TrainingConfig, given: dict[str, Any]) -> None:
    """Raises `UserError` for a flag of a schedule that is not followed."""
    cosine = settings.lr_schedule == "cosine"
    for name, unused, why, remedy in (
        ("lr_alpha", cosine, "a cosine", "add --lr_schedule annealed"),
        ("lr_beta", cosine, "a cosine", "add --lr_schedule annealed"),
        ("lr_beta", settings.lr_alpha == 0, "a constant rate", "give --lr_alpha above 0"),
        ("gamma", not settings.ramp, "a constant λ", "add --ramp"),
    ):
        if name in given and unused:
            raise UserError(f"--{name}: {why} does not use it; leave it out, or {remedy}")


def check_first_stage(folder: Path, settings: TrainingConfig) -> None:
    """Raises `UserError` if a run that is repeated began with another preset of its first stage."""
    if settings.first_method is None:
        return
    before = saved_first_stage(folder, settings)
    now = settings.of_first_stage(settings.first_method)
    unused = unused_by(settings.first_method, type(settings))
    changed = [name for name in ("method", *HYPERPARAMETERS) if name not in unused
               and getattr(before, name, None) != getattr(now, name, None)]  # fmt: skip
    if changed:
        raise UserError(
            f"first_stage: {settings.first_stage} has changed since this run began "
            f"({', '.join(changed)}); to repeat it as it was, name the model of its first stage: "
            "--pre_model_path FILE; or add --first_stage to take the preset as it is now"
        )


def checked_preset(asked_by: str, name: str, kind: type[TrainingConfig]) -> dict[str, Any]:
    """Returns a preset's settings, or raises `UserError`, too, if one of them cannot be.

    One that names its method has no setting that this method does not use.
    """
    settings = read_preset(name, asked_by, Path(sys.argv[0]).name).settings
    place = f"{PRESETS / name}.json"
    unused = unused_by(settings["method"], kind) if "method" in settings else {}
    kind.of({**unused, **settings}, f"{place}: ")
    for setting in settings:
        if setting in unused:
            raise UserError(f"{place}: {setting}: is not used by {settings['method']}; take it out")
    return settings


def only_its_own(folder: Path, values: dict[str, Any], presets: list[str]) -> str:
    """Returns why a resumed run takes no settings, and what to do instead."""
    others = [*values, *presets]
    if others == ["epoch"]:
        repeat = command_of(None, "--config", folder / CONFIG_FILE, "--epoch", values["epoch"])
        return (
            "--resume: --epoch would be another run, because its learning rate and λ follow the "
            f"length of the run from the first step; start that run: {repeat}"
        )
    return (
        f"--{others[0]}: --resume goes on with the run's own settings, so it takes only --strategy "
        f"and --logical_devices beside it; leave --{others[0]} out"
    )
