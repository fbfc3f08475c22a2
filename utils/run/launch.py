"""What every training script does between its command line and its Trainers."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import shlex
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from config.base import HYPERPARAMETERS, AnyConfig, TrainingConfig, unused_by
from config.methods import METHODS
from config.presets import FOLDER as PRESETS
from config.presets import presets_of, read_preset
from config.settings import fields_of
from utils.atomic import digest_of
from utils.data.domains import AnyDomains, Domains
from utils.errors import COLLAPSED, CTRL_C, EXIT_CODES, TRY_AGAIN, FailsAgain, Terminated, UserError
from utils.record.log_csv import pick_of, read_rows
from utils.run.cluster import is_chief
from utils.run.command_line import command_of, flag_in_sight, parse
from utils.run.quiet import quiet_start
from utils.run.runs import (
    CONFIG_FILE,
    FINAL,
    Run,
    check_data,
    claim,
    find_run,
    go_home,
    load_config,
    saved_first_stage,
    size_of,
    start_run,
)
from utils.run.stages import Trainable, make_stages

if TYPE_CHECKING:
    from utils.run.trainer import Trainer

WHERE = ("strategy", "logical_devices")  # a run may be started here and go on elsewhere


@dataclass(frozen=True)
class Start:
    """The flags that are no settings."""

    # start
    preset: str | None = None
    """Settings by name, as listed below; other flags override them. With --help, too, it shows them
    in brackets."""
    config: Path | None = None
    """Repeat the run whose config.json this is; other flags override its settings."""
    resume: Path | None = None
    """Go on with an interrupted run, given one of its folders; its settings are its own."""


def launch(
    kind: type[AnyConfig],
    description: str | None,
    read: Callable[[AnyConfig], AnyDomains],
    make_experiment: Callable[[AnyConfig, AnyDomains], Trainable],
    at_end: Callable[[Run, AnyConfig, AnyDomains, Trainer], None] | None = None,
) -> int:
    """Starts or resumes the run that the command line asks for and trains it to its end.

    Args:
        kind: the class of the settings.
        description: of the script, for --help.
        read: reads the data, before anything is written.
        make_experiment: returns what a stage with these settings is given.
        at_end: writes what this experiment has beyond the others, when a run is at its end.

    Returns:
        the exit code.
    """
    start, values = read_flags(kind, description)
    if start.resume:
        where = {name: values.pop(name) for name in WHERE if name in values}
        if values or start.preset or start.config:
            presets = [name for name in ("preset", "config") if getattr(start, name)]
            raise UserError(only_its_own(start.resume, values, presets))
        run, config = find_run(start.resume, kind)
        if final_model(run):
            print(f"this run is finished: {run.logs}\n{summary(run, config)}")
            return 0
        if config.strategy == "multi_worker":  # what starts the workers names it each time
            where.setdefault("strategy", "default")
        if where.get("strategy", "mirrored") != "mirrored":
            where.setdefault("logical_devices", 0)
        go_home(run.logs, load_config(kind, start.resume / CONFIG_FILE))
        config = dataclasses.replace(config, **where)
        data = read(config)
        check_data(run, digests_of(config, data))
    else:
        config = make_settings(kind, start, values)
        try:
            data = read(config)
        except UserError as error:
            if start.config is None:
                raise
            raise UserError(
                f"{error}; what {start.config} names is looked for from this folder, but that run "
                "may have been started in another one"
            ) from error
        run, config = start_run(config, digests_of(config, data))
    # Before the try, because a run that another process has is not this one's to discard.
    lock = claim(run) if is_chief(config) else contextlib.nullcontext()
    try:
        with lock:
            return train(run, config, data, make_experiment, at_end)
    except BaseException as error:
        if not start.resume and is_chief(config):
            run.discard(config)
            stopped = isinstance(error, (UserError, BrokenPipeError))  # of `| head`
            if stopped and not isinstance(error, FailsAgain) and run.logs.exists():
                raise UserError(f"{error}; to go on with this run: {run.resume_command}") from error
        if not isinstance(error, KeyboardInterrupt) or not run.logs.exists():
            raise
        print(f"\ninterrupted; go on with\n  {run.resume_command}")
        return TRY_AGAIN if isinstance(error, Terminated) else CTRL_C


def digests_of(config: TrainingConfig, data: Domains) -> dict[str, str]:
    """Returns the digest of each thing that a run learns from, by its name."""
    digests = data.digests()
    if config.teacher:
        digests["teacher"] = digest_of(Path(config.teacher))
    return digests


def read_flags(kind: type[TrainingConfig], description: str | None) -> tuple[Start, dict[str, Any]]:
    """Returns the command line's flags: those of `Start`, and the settings that were given."""
    script, preset = Path(sys.argv[0]).name, flag_in_sight("preset")
    shown = read_preset(preset, "preset", script).settings if preset else {}
    values = parse([Start, kind], description, epilog_of(script), shown)
    return Start(**{name: values.pop(name) for name in fields_of(Start) if name in values}), values


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
    try:
        defaults = kind()
    except UserError as error:  # a default that was edited
        raise UserError(f"{inspect.getsourcefile(kind)}: {error}") from error
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


def check_stages(settings: TrainingConfig, given: dict[str, Any]) -> None:
    """Raises `UserError` for a flag of a first stage that is not trained, or not with this flag."""
    if settings.pre_model_path:
        for name in ("first_stage", "source_epoch", *METHODS[settings.method].first_alone):
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


def train(
    run: Run,
    config: AnyConfig,
    data: AnyDomains,
    make_experiment: Callable[[AnyConfig, AnyDomains], Trainable],
    at_end: Callable[[Run, AnyConfig, AnyDomains, Trainer], None] | None,
) -> int:
    """Trains a run to its end, or on from where it stopped; returns the exit code."""
    print("starting TensorFlow …", flush=True)
    with quiet_start():
        # Imported here because it takes seconds, and --help should not.
        from utils.run.devices import describe, prepare_devices

        strategy = prepare_devices(config)
    print(
        f"run:      {run.logs}\ndevice:   {describe(strategy)}\n"
        f"watch:    {shlex.join(['tensorboard', '--logdir', config.logs_dir])}",
        flush=True,
    )
    # A Trainer is made under the strategy that it trains with, when the stage before has ended.
    makers = make_stages(run, config, data, make_experiment)
    for number, make in enumerate(makers, 1):
        with strategy.scope(), memory_faults_named():
            trainer = make()
        if number < len(makers) and trainer.final_model.exists():
            continue  # made all the same, so that the next begins with the same random numbers
        is_last = number == len(makers)
        at_its_end = partial(at_end, run, config, data, trainer) if at_end and is_last else None
        remedy = METHODS[trainer.model.name].remedy
        if config.first_stage and number < len(makers):
            remedy = (
                f"train {config.first_stage} by itself and {remedy}; then name its model by "
                "--pre_model_path"
            )
        code = train_stage(run, trainer, at_its_end, remedy)
        if code:
            return code
    if trainer.chief:
        print(summary(run, config))
    return 0


@contextlib.contextmanager
def memory_faults_named() -> Iterator[None]:
    """Turns a lack of memory inside the block into a `UserError`."""
    import tensorflow as tf

    try:
        yield
    except (MemoryError, tf.errors.ResourceExhaustedError) as error:
        raise FailsAgain(
            "there is not enough memory; start a run with a smaller batch_size, smaller images or "
            "smaller layers"
        ) from error


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


def final_model(run: Run) -> Path | None:
    """Returns the model that a run has ended with, if it has."""
    return next(iter(sorted(run.checkpoints.glob(FINAL))), None)


def summary(run: Run, config: TrainingConfig) -> str:
    """Returns what a finished run tells: accuracies, and where everything is."""
    rows = read_rows(run.logs / "log.csv")
    if not rows:
        raise UserError(f"{run.logs / 'log.csv'}: is gone; put it back; the models are there")
    pick = pick_of(rows, config.select_by)
    last, picked = (row["val_image_cls_acc"] for row in (rows[-1], pick))
    lines = [
        f"target accuracy: {float(last):.4f} after the last epoch, {float(picked):.4f} at epoch "
        f"{int(pick['epoch'])}, which {config.select_by} picks"
        if last else "target accuracy: not known, because the target has no labels",
        f"models:   {run.checkpoints} ({size_of(run.checkpoints) / 1e6:.0f} MB)",
        f"figures:  {run.logs}",
    ]  # fmt: skip
    command = command_of("predict.py", "--images", "FOLDER", "--model", final_model(run))
    return "\n".join([*lines, f"next:     {command}"])


def train_stage(run: Run, trainer: Trainer, at_end: Callable[[], None] | None, remedy: str) -> int:
    """Trains one stage of a run to its end; returns the exit code, 0 if it came there."""
    from utils.run.collapse import CollapseError
    from utils.run.signals import Interrupted

    step = trainer.checkpoints.restore()
    told = max((int(row["epoch"]) for row in read_rows(trainer.log.csv)), default=0)
    if told and not trainer.checkpoints.restored:
        raise UserError(
            f"{trainer.checkpoints_dir}: holds no checkpoint, but {trainer.log.csv} tells of "
            "epochs; put the checkpoints back, or start a new run"
        )
    if step > trainer.total_steps:
        raise UserError(
            f"{run.logs / CONFIG_FILE}: has {trainer.settings.epoch} epochs, but {step} steps are "
            f"trained, {trainer.epoch_steps} an epoch; put it back, or start a new run"
        )
    done, best = step // trainer.epoch_steps, trainer.checkpoints_dir / "best.keras"
    if trainer.chief and told < done:
        raise UserError(
            f"{trainer.log.csv}: tells of {told} epochs, but {done} are trained; put it back, or "
            "start a new run"
        )
    if trainer.chief and done and not best.exists():
        raise UserError(f"{best}: is gone; put it back, or start a new run")
    print(
        f"training: {trainer.model.name}, steps {step} to {trainer.total_steps}, "
        f"{trainer.epoch_steps} an epoch, {trainer.batches.batch_size} images each",
        flush=True,
    )
    try:
        with memory_faults_named():
            trainer.train(at_end)
    except Interrupted as interrupted:
        print(f"\n{interrupted}: saved at step {trainer.step}; go on with\n  {run.resume_command}")
        return CTRL_C if interrupted.signal_number == signal.SIGINT else TRY_AGAIN
    except CollapseError as error:
        print(
            f"\nThe network has collapsed: {error}.\nMore steps will hardly bring it back. "
            + (
                f"The epoch that {trainer.settings.select_by} likes best: {best}"
                if best.exists()
                else "No model was saved."
            )
            + f"\nStart a new run, and {remedy}; another --seed may pass by luck."
        )
        return COLLAPSED
    return 0
