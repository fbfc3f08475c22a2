"""Trains from one website's captchas to another's: the source labelled, the target not.

The captchas are drawn at the first run and kept. The default method is ADDA: an encoder and a
classifier learn from the source's labels; then a copy of the encoder learns to make target
encodings that a discriminator cannot tell from the source's. The settings below are those of
config/captcha.py, where their defaults can be edited.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from config.captcha import CaptchaConfig
from utils.data import UNLABELLED
from utils.data.captchas import CHARACTERS, SIZE, load_captchas
from utils.data.domains import DIGIT_NAMES, Domain, Domains
from utils.errors import run_script
from utils.run.launch import launch
from utils.run.runs import Run

if TYPE_CHECKING:
    from model.experiment import Experiment
    from utils.run.trainer import EvaluationData, Trainer

SOURCE_STYLE, TARGET_STYLE = "plain", "busy"
MEASURED = 2000  # captchas of each style, at most, beyond those to train with


def main() -> int:
    return launch(CaptchaConfig, __doc__, read_data, make_experiment, write_samples)


def read_data(config: CaptchaConfig) -> Domains:
    """Returns the source and target captchas."""
    config.check_paths()
    root, val = Path(config.captcha_root), min(MEASURED, config.captchas // 4)
    domains = [
        Domain(**load_captchas(root, style, config.captchas, val, config.captcha_seed))
        for style in (SOURCE_STYLE, TARGET_STYLE)
    ]
    return Domains(domains)


def make_experiment(config: CaptchaConfig, data: Domains) -> Experiment:
    """Returns what the chosen method is given: networks, optimizer, what is measured."""
    import keras

    from model.experiment import Experiment
    from model.networks import captcha_classifier, captcha_discriminator, captcha_encoder

    tutorial = config.network == "tutorial"

    def networks() -> tuple[keras.Model, keras.Model]:
        encoder = captcha_encoder((SIZE, SIZE, 3), tutorial)
        return encoder, captcha_classifier(encoder.output_shape[1:], CHARACTERS, len(DIGIT_NAMES))

    return Experiment(
        data.without_targets() if config.method == "source_only" else data,
        networks,
        lambda seen: captcha_discriminator(seen, not tutorial),
        keras.optimizers.Adam,
        lambda num_domains: None,
        evaluation_data(*data.domains),
        name="captcha",
        extractor_calls="per_domain",
    )


def evaluation_data(source: Domain, target: Domain) -> EvaluationData:
    """Returns what is measured after each epoch."""
    from utils.data.batches import evaluation_batches
    from utils.run.trainer import EvaluationData

    some = target.train[: len(target.val)]
    unknown = np.full((len(some), CHARACTERS), UNLABELLED)
    return EvaluationData(
        target=evaluation_batches(target.val, target.val_label, domain=1),
        labelled=evaluation_batches(source.val[:1000], source.val_label[:1000], domain=0),
        unlabelled=evaluation_batches(some, unknown, domain=1),
    )


def write_samples(run: Run, config: CaptchaConfig, data: Domains, trainer: Trainer) -> None:
    """Writes a picture of both styles, and one of the target captchas as they are read."""
    from utils.data.batches import evaluation_batches
    from utils.record.figures import prediction_picture, save_picture, save_samples

    source, target = data.domains
    save_samples(run.logs / "samples.png", source.val[:20], target.val[:20])
    images, labels = target.val[:40], target.val_label[:40]
    with trainer.model.averaged():
        outputs = trainer.outputs(evaluation_batches(images, labels, domain=1))
    picture = prediction_picture(images, labels, outputs.probabilities, DIGIT_NAMES)
    save_picture(run.logs / "predictions.png", picture)


if __name__ == "__main__":
    run_script(main)
