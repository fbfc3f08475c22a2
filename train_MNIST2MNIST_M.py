"""Trains on digits, MNIST → MNIST-M by default, and records it for TensorBoard.

First: python create_mnistm.py. The settings below are those of config/config.py, where their
defaults can be edited.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from config.config import Config
from config.methods import METHODS
from utils.data import UNLABELLED
from utils.data.domains import Domain, Domains
from utils.data.pickles import pixel_mean, read_pickle
from utils.errors import UserError, run_script
from utils.run.launch import launch

if TYPE_CHECKING:
    from model.experiment import Experiment
    from utils.run.trainer import EvaluationData


def main() -> int:
    return launch(Config, __doc__, read_data, make_experiment)


def read_data(config: Config) -> Domains:
    """Returns source and target, with the pixel mean of their training images."""
    config.check_paths()
    source, target = (
        Domain(**read_pickle(path, config.image_input_shape))
        for path in (config.source_dataset_path, config.target_dataset_path)
    )
    source = drawn("source_images", source, config.source_images, config.seed)
    target = drawn("target_images", target, config.target_images, config.seed)
    if config.method != "target_only" and len(np.unique(source.train_label)) < 2:
        raise UserError(
            f"{config.source_dataset_path}: the images to train with are of one class alone; add "
            "others, or take more by --source_images"
        )
    if config.held_out:
        target = hold_out(target, config.held_out)
    mean = config.pixel_mean or pixel_mean(source.train, target.train)
    return Domains([source, target], pixel_mean=mean)


def make_experiment(config: Config, data: Domains) -> Experiment:
    """Returns what the chosen method is given: networks, optimizer, what is measured."""
    import keras

    from model.augmentation import chosen_augmentation
    from model.experiment import Experiment
    from model.networks import deepened, dense_head, mnist_feature_extractor

    def networks() -> tuple[keras.Model, keras.Model]:
        extractor = mnist_feature_extractor(
            config.image_input_shape, data.pixel_mean, config.network,
            normalised=METHODS[config.method].sides if config.normalisation == "per_domain" else 0,
        )  # fmt: skip
        features = extractor.output_shape[1:]
        predictor = dense_head("label_predictor", features, (100, 100), 10, config.dropout)
        return deepened(extractor, predictor, config.features)

    hidden = config.domain_hidden
    if hidden is None:
        hidden = METHODS[config.method].domain_hidden
    source, target = data.domains
    return Experiment(
        data,
        networks,
        lambda seen: dense_head("domain_classifier", seen, hidden, outputs=2),
        lambda rate: keras.optimizers.SGD(rate, config.momentum_rate),
        partial(chosen_augmentation, config),
        evaluation_data(source, target),
        name=config.pair.lower(),
        extractor_calls="per_domain",
    )


def evaluation_data(source: Domain, target: Domain) -> EvaluationData:
    """Returns what is measured after each epoch."""
    from utils.data.batches import evaluation_batches
    from utils.record.selection import evenly
    from utils.run.trainer import EvaluationData

    images, labels = evenly(source.val, 2000), evenly(source.val_label, 2000)
    some = evenly(target.train, 5000)
    return EvaluationData(
        target=evaluation_batches(target.val, target.val_label, domain=1),
        labelled=evaluation_batches(images, labels, domain=0),
        unlabelled=evaluation_batches(some, np.full(len(some), UNLABELLED), domain=1),
    )


def drawn(name: str, domain: Domain, count: int, seed: int) -> Domain:
    """Returns a domain with `count` of its training images, drawn by chance; 0: with all."""
    if count > len(domain.train):
        raise UserError(f"{name}: {count} is more than the {len(domain.train)} that there are")
    if not count:
        return domain
    rows = np.random.default_rng(seed).permutation(len(domain.train))[:count]
    return dataclasses.replace(
        domain, train=domain.train[rows], train_label=domain.train_label[rows]
    )


def hold_out(target: Domain, count: int) -> Domain:
    """Puts the last `count` training images in the place of the test set, which stays unseen."""
    images, labels = target.train, target.train_label
    if count >= len(images):
        raise UserError(f"held_out: {count} leaves no training images of {len(images)}")
    return Domain(images[:-count], labels[:-count], images[-count:], labels[-count:])


if __name__ == "__main__":
    run_script(main)
