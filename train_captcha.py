"""Trains ADDA from one website's captchas to another's: the source labelled, the target not.

The captchas are drawn at the first run and kept. First an encoder and a classifier learn from the
source's labels; then a copy of the encoder learns to make target encodings that a discriminator
cannot tell from the source's. Every setting of config/config.py is a flag here. Exit codes: 0 done,
2 a mistake in the call or the data, 3 the network collapsed, 75 stopped by SIGTERM and 130 by
Ctrl-C, both saved: go on with --resume.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from config.config import CaptchaConfig
from utils.captchas import ALPHABET, CHARACTERS, SIZE, load_captchas
from utils.errors import run_script
from utils.runs import Run
from utils.training import train_from_command_line

if TYPE_CHECKING:
    from model.trainer import EvaluationData, Trainer
    from utils.adda_stages import Networks

SOURCE_STYLE, TARGET_STYLE = "plain", "busy"
MEASURED = 2000  # captchas of each style, at most, beyond those to train with
Arrays = dict[str, np.ndarray]


def main() -> int:
    return train_from_command_line(
        CaptchaConfig, __doc__, read_data, [build_source_trainer, build_trainer], write_samples
    )


def read_data(config: CaptchaConfig) -> tuple[CaptchaConfig, tuple[Arrays, Arrays]]:
    """Returns the settings, and the source and target captchas."""
    config.check_paths()
    if config.quick:
        config = dataclasses.replace(config, captchas=3000, source_epoch=3, epoch=2)
    root, measured = Path(config.captcha_root), min(MEASURED, config.captchas // 4)
    source, target = (
        load_captchas(root, style, config.captchas, measured, config.captcha_seed)
        for style in (SOURCE_STYLE, TARGET_STYLE)
    )
    return config, (source, target)


def build_source_trainer(
    run: Run, config: CaptchaConfig, data: tuple[Arrays, Arrays]
) -> Trainer | None:
    """Puts the first stage together; None where it is not needed."""
    import keras

    from utils.adda_stages import needs_first_stage, source_stage

    if not needs_first_stage(run, config):
        return None
    return source_stage(
        run, config, networks(), data[0], measured(*data), keras.optimizers.Adam,
        class_names=ALPHABET,
    )  # fmt: skip


def build_trainer(run: Run, config: CaptchaConfig, data: tuple[Arrays, Arrays]) -> Trainer | None:
    """Puts the second stage together; None if the first was all that was asked for."""
    from utils.adda_stages import adaptation_stage

    if config.method == "source_only":
        return None
    return adaptation_stage(
        run, config, networks(), *data, measured(*data), "trained_adda_captcha",
        class_names=ALPHABET,
    )  # fmt: skip


def networks() -> Networks:
    """Returns the three networks."""
    from model.networks import captcha_classifier, captcha_discriminator, captcha_encoder
    from utils.adda_stages import Networks

    encoder = captcha_encoder((SIZE, SIZE, 3))
    features = encoder.output_shape[1:]
    return Networks(
        encoder,
        captcha_classifier(features, CHARACTERS, len(ALPHABET)),
        captcha_discriminator(),
    )


def measured(source: Arrays, target: Arrays) -> EvaluationData:
    """Returns what is measured after each epoch."""
    from model.trainer import EvaluationData
    from utils.batches import evaluation_batches

    some = target["train"][: len(target["val"])]
    return EvaluationData(
        target=evaluation_batches(target["val"], target["val_label"], domain=1),
        labelled=evaluation_batches(source["val"][:1000], source["val_label"][:1000], domain=0),
        unlabelled=evaluation_batches(some, np.full((len(some), CHARACTERS), -1), domain=1),
    )


def write_samples(
    run: Run, config: CaptchaConfig, data: tuple[Arrays, Arrays], trainer: Trainer
) -> None:
    """Writes a picture of both styles, and one of the target captchas as they are read."""
    from utils.atomic import whole_file
    from utils.figures import prediction_picture, save_samples

    source, target = data
    with whole_file(run.logs / "samples.png") as path:
        save_samples(path, source["val"][:20], target["val"][:20])
    images, labels = target["val"][:40], target["val_label"][:40]
    with trainer.model.averaged():
        probabilities = trainer.model.predict_on_batch(images)
    picture = prediction_picture(images, labels, probabilities, ALPHABET)
    with whole_file(run.logs / "predictions.png") as path:
        cv2.imwrite(str(path), picture[..., ::-1])


if __name__ == "__main__":
    run_script(main)
