"""What every training script does between its command line and its Trainer."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Generic, TypeVar

import numpy as np
import tyro

from config.config import AnyConfig, TrainingConfig
from utils.cluster import is_chief
from utils.errors import UserError
from utils.runs import Run, claim, find_run, start_run

if TYPE_CHECKING:
    import keras

    from model.trainer import EvaluationData, Trainer
    from utils.batches import DomainBatches

COLLAPSED, TRY_AGAIN, CTRL_C = 3, 75, 130
Data = TypeVar("Data")


@dataclasses.dataclass(frozen=True)
class Arguments(Generic[AnyConfig]):
    settings: tyro.conf.OmitArgPrefixes[AnyConfig]
    """Settings of the run."""
    config: Annotated[Path | None, tyro.conf.arg(metavar="JSON")] = None
    """Repeat the run whose config.json this is; other flags override its settings."""
    resume: Annotated[Path | None, tyro.conf.arg(metavar="RUN")] = None
    """Go on with an interrupted run, given its folder below logs/; its settings are its own."""


def parse(defaults: AnyConfig, description: str | None) -> Arguments[AnyConfig]:
    """Returns the command line's arguments; what it does not name is as in `defaults`."""
    kind: Any = Arguments[type(defaults)]
    return tyro.cli(
        kind, description=description, use_underscores=True, default=Arguments(defaults),
        config=(tyro.conf.FlagCreatePairsOff,),
    )  # fmt: skip


def train_from_command_line(
    kind: type[AnyConfig],
    description: str | None,
    read: Callable[[AnyConfig], tuple[AnyConfig, Data]],
    stages: Sequence[Callable[[Run, AnyConfig, Data], Trainer | None]],
    finish: Callable[[Run, AnyConfig, Data, Trainer], None] | None = None,
) -> int:
    """Starts or resumes the run that the command line asks for and trains it to its end.

    Args:
        kind: the class of the settings.
        description: of the script, for --help.
        read: reads the data, before anything is written; returns it with the settings, in which
            what depends on the data is filled in.
        stages: each puts one stage of the experiment together, under the strategy it trains with;
            None if it is not needed. The second is put together when the first has ended.
        finish: writes what this experiment has beyond the others, when a run is at its end.

    Returns:
        the exit code.
    """
    args = parse(kind(), description)
    if args.config:
        args = parse(dataclasses.replace(kind.load(args.config), run_name=None), description)
    if args.resume:
        # Where a run computes is not part of it: one may be started here and go on elsewhere.
        where = {name: getattr(args.settings, name) for name in ("strategy", "logical_devices")}
        if args != Arguments(dataclasses.replace(kind(), **where), resume=args.resume):
            raise UserError(
                "--resume: goes on with the run's own settings; of the other flags it takes only "
                "--strategy and --logical_devices"
            )
        run, config = find_run(args.resume, kind)
        config, data = read(dataclasses.replace(config, **where))
    else:
        config, data = read(args.settings)
        run, config = start_run(config)
    with claim(run) if is_chief(config) else contextlib.nullcontext():
        return train(run, config, data, stages, finish)


def make_trainer(
    run: Run,
    config: TrainingConfig,
    model: keras.Model,
    batches: DomainBatches,
    evaluation: EvaluationData,
    schedules: Mapping[str, Callable[[np.ndarray], np.ndarray]],
    final_name: str = "trained_dann_mnist2mnist_m",
    epochs: int | None = None,
) -> Trainer:
    """Returns the Trainer of a run: `model.trainer.Trainer` tells what each argument is.

    `epochs` are those of `config`, if not given.
    """
    from model.trainer import Trainer
    from utils.summaries import RunLog

    return Trainer(
        model,
        batches,
        epochs or config.epoch,
        RunLog(run.logs, dataclasses.asdict(config)),
        run.checkpoints,
        evaluation,
        schedules,
        select_by=config.select_by,
        checkpoint_steps=config.checkpoint_steps,
        jit_compile=config.jit_compile,
        allow_collapse=config.allow_collapse,
        chief=is_chief(config),
        final_name=final_name,
    )


def train(
    run: Run,
    config: AnyConfig,
    data: Data,
    stages: Sequence[Callable[[Run, AnyConfig, Data], Trainer | None]],
    finish: Callable[[Run, AnyConfig, Data, Trainer], None] | None,
) -> int:
    """Trains a run to its end, or on from where it stopped; returns the exit code."""
    print("starting TensorFlow …", flush=True)
    # Imported here and not above: it takes seconds, and --help should not.
    from utils.devices import describe, prepare_devices

    strategy = prepare_devices(config)
    print(
        f"run:      {run.logs}\ndevice:   {describe(strategy)}\n"
        f"watch:    tensorboard --logdir {config.logs_dir}",
        flush=True,
    )
    trainer: Trainer | None = None
    for build in stages:
        with strategy.scope():
            stage = build(run, config, data)
        if stage is not None:
            trainer = stage
            code = train_stage(run, config, trainer)
            if code:
                return code
    if trainer is None or not trainer.chief:
        return 0
    if finish:
        finish(run, config, data, trainer)
    rows = trainer.log.rows
    pick = max(rows, key=lambda row: float(row[config.select_by]))
    print(
        f"target accuracy: {float(rows[-1]['val_image_cls_acc']):.4f} after the last epoch, "
        f"{float(pick['val_image_cls_acc']):.4f} at epoch {int(pick['epoch'])}, picked without "
        f"target labels\nmodels:   {run.checkpoints}\nfigures:  {run.logs}\n"
        f"next:     python predict.py --images FOLDER --model {trainer.final_model}"
    )
    return 0


def train_stage(run: Run, config: TrainingConfig, trainer: Trainer) -> int:
    """Trains one stage of a run to its end; returns the exit code, 0 if it came there."""
    from model.trainer import CollapseError, Interrupted

    step = trainer.restore()
    print(
        f"training: {trainer.model.name}, steps {step} to {trainer.total_steps}, "
        f"{trainer.epoch_steps} an epoch, {trainer.batches.batch_size} images each",
        flush=True,
    )
    try:
        trainer.train()
    except Interrupted as interrupted:
        print(
            f"\n{interrupted}: saved at step {int(trainer.step.numpy())}; go on with\n"
            f"  python {Path(sys.argv[0]).name} --resume {run.logs}"
        )
        return CTRL_C if interrupted.signal_number == signal.SIGINT else TRY_AGAIN
    except CollapseError as error:
        print(
            f"\nThe network has collapsed: {error}.\nIts features no longer depend on the image, "
            "so no gradient can bring it back.\nUsual cause: the learning rate is too high for "
            "this network under the adversarial gradient.\nTry --clip_norm 1, --init_learning_rate "
            f"{config.init_learning_rate / 2:g} or a smaller --grl_lambda; another --seed may "
            "pass by luck.\nTo go on all the same: --allow_collapse."
        )
        return COLLAPSED
    return 0
