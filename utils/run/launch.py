"""What every training script does between its command line and its Trainers."""

from __future__ import annotations

import contextlib
import dataclasses
import shlex
import signal
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from config.base import AnyConfig, TrainingConfig
from config.methods import METHODS
from utils.data.domains import AnyDomains, Domains
from utils.errors import COLLAPSED, CTRL_C, TRY_AGAIN, FailsAgain, Terminated, UserError
from utils.ownership import digest_of
from utils.record.log_csv import LOG_FILE, pick_of, read_rows
from utils.run.cluster import is_chief
from utils.run.command_line import command_of
from utils.run.flags import checked_defaults, make_settings, only_its_own, read_flags
from utils.run.quiet import quiet_start
from utils.run.runs import (
    CONFIG_FILE,
    Run,
    check_data,
    claim,
    find_run,
    go_home,
    load_config,
    size_of,
    start_run,
)
from utils.run.stages import Trainable, make_stages

if TYPE_CHECKING:
    from utils.run.trainer import Trainer

WHERE = ("strategy", "logical_devices")  # a run may be started here and go on elsewhere


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
        checked_defaults(kind)  # first, because find_run would blame the run's config.json
        run, config = find_run(start.resume, kind)
        if run.final_model:
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
            if stopped and not isinstance(error, FailsAgain) and run.whole:
                raise UserError(f"{error}; to go on with this run: {run.resume_command}") from error
        interrupted = isinstance(error, KeyboardInterrupt)
        if not (interrupted and is_chief(config) and run.whole):  # it may have been discarded
            raise
        print(f"\ninterrupted; go on with\n  {run.resume_command}")
        return TRY_AGAIN if isinstance(error, Terminated) else CTRL_C


def digests_of(config: TrainingConfig, data: Domains) -> dict[str, str]:
    """Returns the digest of each thing that a run learns from, by its name."""
    digests = data.digests()
    if config.teacher:
        digests["teacher"] = digest_of(Path(config.teacher))
    return digests


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
    print(f"device:   {describe(strategy)}", flush=True)
    if is_chief(config):
        print(
            f"run:      {run.logs}\n"
            f"watch:    {shlex.join(['tensorboard', '--logdir', config.logs_dir])}",
            flush=True,
        )
    # A Trainer is made under the strategy that it trains with, when the stage before has ended.
    makers = make_stages(run, config, data, make_experiment)
    for number, make in enumerate(makers, 1):
        with strategy.scope(), memory_faults_named():
            trainer = make()
        if number < len(makers) and trainer.final_model.exists():
            if trainer.chief:
                trainer.checkpoints.remove()  # a kill may have left some
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


def summary(run: Run, config: TrainingConfig) -> str:
    """Returns what a finished run tells: accuracies, and where everything is."""
    rows = read_rows(run.logs / LOG_FILE)
    if not rows:
        raise UserError(f"{run.logs / LOG_FILE}: is gone; put it back; the models are there")
    pick = pick_of(rows, config.select_by)
    last, picked = (row["val_image_cls_acc"] for row in (rows[-1], pick))
    lines = [
        f"target accuracy: {float(last):.4f} after the last epoch, {float(picked):.4f} at epoch "
        f"{int(pick['epoch'])}, which {config.select_by} picks"
        if last else "target accuracy: not known, because the target has no labels",
        f"models:   {run.checkpoints} ({size_of(run.checkpoints) / 1e6:.0f} MB)",
        f"figures:  {run.logs}",
    ]  # fmt: skip
    command = command_of("predict.py", "--images", "FOLDER", "--model", run.final_model)
    return "\n".join([*lines, f"next:     {command}"])


def train_stage(run: Run, trainer: Trainer, at_end: Callable[[], None] | None, remedy: str) -> int:
    """Trains one stage of a run to its end; returns the exit code, 0 if it came there."""
    from utils.run.collapse import CollapseError
    from utils.run.signals import Interrupted

    if trainer.chief and not run.whole:
        raise UserError(f"{run.logs}: is not whole any more; put its folders back, or start anew")
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
        if trainer.chief:
            print(f"\n{interrupted}: saved at step {trainer.step}; go on with\n  "
                  f"{run.resume_command}")  # fmt: skip
        return CTRL_C if interrupted.signal_number == signal.SIGINT else TRY_AGAIN
    except CollapseError as error:
        if trainer.chief:
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
