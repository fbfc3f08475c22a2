"""Trains DANN on MNIST → MNIST-M and records it for TensorBoard.

First: python create_mnistm.py. Every setting of config/config.py is a flag here. Exit codes: 0
done, 2 a mistake in the call or the data, 3 the network collapsed, 75 stopped by SIGTERM and 130
by Ctrl-C, both saved: go on with --resume.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import signal
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import tyro

from config.config import Config
from utils.cluster import is_chief
from utils.errors import UserError, run_script
from utils.pickles import pixel_mean, read_pickle
from utils.runs import Run, claim, find_run, start_run

if TYPE_CHECKING:
    from model.trainer import Trainer

COLLAPSED, TRY_AGAIN, CTRL_C = 3, 75, 130
Arrays = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Arguments:
    settings: tyro.conf.OmitArgPrefixes[Config] = dataclasses.field(default_factory=Config)
    """Settings of the run."""
    config: Annotated[Path | None, tyro.conf.arg(metavar="JSON")] = None
    """Repeat the run whose config.json this is; other flags override its settings."""
    resume: Annotated[Path | None, tyro.conf.arg(metavar="RUN")] = None
    """Go on with an interrupted run, given its folder below logs/; its settings are its own."""


def parse(defaults: Config) -> Arguments:
    """Returns the command line's arguments; what it does not name is as in `defaults`."""
    return tyro.cli(
        Arguments, description=__doc__, use_underscores=True, default=Arguments(defaults),
        config=(tyro.conf.FlagCreatePairsOff,),
    )  # fmt: skip


def main() -> int:
    args = parse(Config())
    if args.config:
        args = parse(dataclasses.replace(Config.load(args.config), run_name=None))
    if args.resume:
        # Where a run computes is not part of it: one may be started here and go on elsewhere.
        where = {name: getattr(args.settings, name) for name in ("strategy", "logical_devices")}
        if args != Arguments(Config(**where), resume=args.resume):
            raise UserError(
                "--resume: goes on with the run's own settings; of the other flags it takes only "
                "--strategy and --logical_devices"
            )
        run, config = find_run(args.resume)
        config = dataclasses.replace(config, **where)
        source, target = read_data(config)
    else:
        source, target = read_data(args.settings)
        mean = args.settings.pixel_mean or pixel_mean(source["train"], target["train"])
        run, config = start_run(dataclasses.replace(args.settings, pixel_mean=mean))
    with claim(run) if is_chief(config) else contextlib.nullcontext():
        return train(run, config, source, target)


def read_data(config: Config) -> tuple[Arrays, Arrays]:
    """Returns the source and target data sets, each `train`, `train_label`, `val`, `val_label`."""
    config.check_paths()
    source = read_pickle(config.source_dataset_path, config.image_input_shape)
    target = read_pickle(config.target_dataset_path, config.image_input_shape)
    return source, target


def train(run: Run, config: Config, source: Arrays, target: Arrays) -> int:
    """Trains a run to its end, or on from where it stopped; returns the exit code."""
    print("starting TensorFlow …", flush=True)
    # Imported here and not above: it takes seconds, and --help should not.
    from model.trainer import CollapseError, Interrupted
    from utils.devices import describe, prepare_devices

    strategy = prepare_devices(config)
    with strategy.scope():
        trainer = build_trainer(run, config, source, target)
    step = trainer.restore()
    print(
        f"run:      {run.logs}\ndevice:   {describe(strategy)}\n"
        f"training: {config.method}, steps {step} to {trainer.total_steps}, "
        f"{trainer.epoch_steps} an epoch, {config.batch_size} images each\n"
        f"watch:    tensorboard --logdir {config.logs_dir}",
        flush=True,
    )
    try:
        trainer.train()
    except Interrupted as interrupted:
        print(
            f"\n{interrupted}: saved at step {int(trainer.step.numpy())}; go on with\n"
            f"  python {Path(__file__).name} --resume {run.logs}"
        )
        return CTRL_C if interrupted.signal_number == signal.SIGINT else TRY_AGAIN
    except CollapseError as error:
        print(
            f"\nThe network has collapsed: {error}.\nIts features no longer depend on the image, "
            "so no gradient can bring it back.\nUsual cause: the learning rate is too high for "
            "this network under the adversarial gradient.\nTry --init_learning_rate "
            f"{config.init_learning_rate / 2:g} or a smaller --grl_lambda; another --seed may "
            "pass by luck.\nTo go on all the same: --allow_collapse."
        )
        return COLLAPSED
    if not trainer.chief:
        return 0
    rows = trainer.log.rows
    pick = max(rows, key=lambda row: float(row[config.select_by]))
    print(
        f"target accuracy: {float(rows[-1]['val_image_cls_acc']):.4f} after the last epoch, "
        f"{float(pick['val_image_cls_acc']):.4f} at epoch {int(pick['epoch'])}, picked without "
        f"target labels\nmodels:   {run.checkpoints}\nfigures:  {run.logs}\n"
        "next:     python predict.py --images FOLDER --model "
        f"{run.checkpoints / 'trained_dann_mnist2mnist_m.keras'}"
    )
    return 0


def build_trainer(run: Run, config: Config, source: Arrays, target: Arrays) -> Trainer:
    """Puts the experiment together: batches, network, schedules, optimizer, what is measured."""
    import keras

    from model.augmentation import RandomAugmentation
    from model.dann import DANN
    from model.mean_teacher import MeanTeacher
    from model.networks import dense_head, mnist_feature_extractor
    from model.trainer import EvaluationData, Trainer
    from utils.batches import DomainBatches, evaluation_batches
    from utils.pretrained import load_pretrained
    from utils.schedules import AnnealedLearningRate, GRLLambda
    from utils.summaries import RunLog

    if config.held_out:
        target = hold_out(target, config.held_out)
    # The controls are DANN at λ = 0: the domain classifier is then a probe that teaches nothing.
    on_target = config.method == "target_only"
    batches = DomainBatches(
        images=[source["train"], target["train"]],
        labels=[None, target["train_label"]] if on_target else [source["train_label"], None],
        batch_size=config.batch_size,
        seed=config.seed,
    )
    labelled = target if on_target else source
    unlabelled = evenly(target["train"], 5000)
    evaluation = EvaluationData(
        target=evaluation_batches(target["val"], target["val_label"], domain=1),
        labelled=evaluation_batches(
            labelled["val"][:2000], labelled["val_label"][:2000], domain=int(on_target)
        ),
        unlabelled=evaluation_batches(unlabelled, np.full(len(unlabelled), -1), domain=1),
    )
    source.pop("train"), target.pop("train")  # the batches have copies
    total_steps = config.epoch * batches.steps_per_epoch
    ceiling = 0.0 if config.method in ("source_only", "target_only") else config.grl_lambda
    grl_lambda = GRLLambda(total_steps, config.gamma, ceiling)
    learning_rate = AnnealedLearningRate(
        total_steps, config.init_learning_rate, config.lr_alpha, config.lr_beta
    )
    extractor = mnist_feature_extractor(config.image_input_shape, config.pixel_mean or ())
    features = extractor.output_shape[1:]
    augmentation = None
    if config.augmentation != "none":
        colour = config.augmentation == "affine_colour"
        augmentation = RandomAugmentation(
            config.seed, contrast=0.5 * colour, brightness=64.0 * colour
        )
    method: Callable[..., DANN] = DANN
    if config.method == "mean_teacher":
        method = functools.partial(MeanTeacher, confidence=config.confidence)
    model = method(
        extractor,
        dense_head("label_predictor", features, (100, 100), outputs=10, dropout=config.dropout),
        dense_head("domain_classifier", features, (100,), outputs=2),
        grl_lambda=grl_lambda,
        extractor_calls="per_domain",
        clip_norm=config.clip_norm,
        augmentation=augmentation,
        average_decay=config.average_decay,
    )
    if config.pre_model_path:
        load_pretrained(model, Path(config.pre_model_path))
    model.compile(optimizer=keras.optimizers.SGD(learning_rate, config.momentum_rate))
    return Trainer(
        model,
        batches,
        config.epoch,
        RunLog(run.logs, dataclasses.asdict(config)),
        run.checkpoints,
        evaluation,
        schedules={"learning_rate": learning_rate, "grl_lambda": grl_lambda},
        select_by=config.select_by,
        checkpoint_steps=config.checkpoint_steps,
        jit_compile=config.jit_compile,
        allow_collapse=config.allow_collapse,
        chief=is_chief(config),
    )


def hold_out(target: Arrays, count: int) -> Arrays:
    """Puts the last `count` training images in the place of the test set, which stays unseen."""
    if count >= len(target["train"]):
        raise UserError(f"held_out: {count} leaves no training images of {len(target['train'])}")
    return {
        "train": target["train"][:-count],
        "train_label": target["train_label"][:-count],
        "val": target["train"][-count:],
        "val_label": target["train_label"][-count:],
    }


def evenly(images: np.ndarray, count: int) -> np.ndarray:
    """Returns at most `count` images, spread evenly over all."""
    return images[:: max(1, len(images) // count)][:count].copy()


if __name__ == "__main__":
    run_script(main)
