"""Normalisation per domain against NumPy, alone and on two replicas, in and out of training."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import assert_same_weights, share
from keras import layers

from model.adda import ADDA, SourceModel
from model.augmentation import RandomAugmentation
from model.dann import DANN
from model.mean_teacher import MeanTeacher
from model.networks import dense_head
from model.normalisation import DomainNormalization, as_domain, domain_normalizations

RANDOM = np.random.default_rng(0)
SOURCE = RANDOM.normal(2.0, 3.0, (8, 5, 5, 4)).astype(np.float32)
TARGET = RANDOM.normal(-1.0, 0.5, (8, 5, 5, 4)).astype(np.float32)


def statistics(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return values.mean(axis=(0, 1, 2)), values.var(axis=(0, 1, 2))


def test_each_domain_is_normalised_by_itself() -> None:
    layer = DomainNormalization(momentum=0.75, epsilon=1e-3)
    layer.build(SOURCE.shape)
    gamma, beta = np.arange(1, 5, dtype=np.float32), np.array([0, 1, 0, -1], np.float32)
    layer.gamma.assign(gamma)
    layer.beta.assign(beta)
    moving: dict[int, Any] = {
        0: statistics(SOURCE),
        1: statistics(TARGET),
    }  # the first that are measured
    np.testing.assert_allclose(layer(SOURCE), gamma * SOURCE / np.sqrt(1.001) + beta, rtol=1e-5)
    for _ in range(3):
        for domain, values in ((0, SOURCE), (1, TARGET), (2, TARGET + 1)):
            mean, variance = statistics(values)
            with as_domain([layer], domain):
                found = layer(values, training=True)
            expected = gamma * (values - mean) / np.sqrt(variance + 1e-3) + beta
            np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)
            kept = moving[min(domain, 1)]
            pairs = zip(kept, (mean, variance), strict=True)
            moving[min(domain, 1)] = tuple(0.75 * old + 0.25 * now for old, now in pairs)
    for domain in (0, 1):
        mean, variance = moving[domain]
        with as_domain([layer], domain):
            found = layer(SOURCE)
        expected = gamma * (SOURCE - mean) / np.sqrt(variance + 1e-3) + beta
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)
    found_alone = layer(TARGET)
    with as_domain([layer], 1):  # without a word it is a target
        np.testing.assert_array_equal(layer(TARGET), found_alone)


def network(**options: Any) -> Any:
    keras.utils.set_random_seed(1)
    extractor = keras.Sequential(
        [keras.Input((5, 5, 4)), layers.Conv2D(3, 3), DomainNormalization(), layers.ReLU(),
         layers.Flatten()]
    )  # fmt: skip
    kind = options.pop("kind", DANN)
    model = kind(
        extractor, dense_head("labels", (27,), (6,), 3), dense_head("domains", (27,), (), 2),
        extractor_calls="per_domain", **options,
    )  # fmt: skip
    model.compile(keras.optimizers.SGD(0.1))
    return model


def batch(size: int = 8, ratio: int = 1) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    targets = np.concatenate([TARGET + shift for shift in range(ratio)])
    labels = np.concatenate([np.arange(size) % 3, np.full(size * ratio, -1)]).astype(np.int32)
    domains = np.repeat([0, 1], [size, size * ratio]).astype(np.int32)
    return tf.constant(np.concatenate([SOURCE, targets])), tf.constant(labels), tf.constant(domains)


def test_source_and_target_are_measured_with_their_own() -> None:
    model = network()
    for _ in range(30):
        model.train_step(batch())
    images, labels, domains = batch()
    order = np.random.default_rng(3).permutation(16)
    mixed = tuple(tf.gather(part, order) for part in (images, labels, domains))
    features, probabilities = tf.function(model.examine)(mixed)
    norms = domain_normalizations(model.feature_extractor)
    for domain, side in ((0, SOURCE), (1, TARGET)):
        with as_domain(norms, domain):
            expected = model.feature_extractor(side)
        found = tf.gather(features, np.flatnonzero(np.array(domains)[order] == domain))
        wanted = tf.gather(expected, [row % 8 for row in order if domains[row] == domain])
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
    # Predictions are for the target.
    np.testing.assert_allclose(
        model.predict(TARGET, verbose=0), tf.nn.softmax(model.label_predictor(expected)), rtol=1e-4
    )
    assert probabilities.shape == (16, 3)


@pytest.mark.parametrize("ratio", [1, 3])
def test_two_replicas_do_what_one_does(two_replicas: tf.distribute.Strategy, ratio: int) -> None:
    ends = []
    for strategy in (tf.distribute.get_strategy(), two_replicas):
        with strategy.scope():
            model = network(
                kind=MeanTeacher, average_decay=0.5, confidence=0.4, relative_confidence=True,
                target_ratio=ratio,
            )  # fmt: skip
        shares = functools.partial(share, batch(8, ratio), (8, 8 * ratio))
        values = strategy.experimental_distribute_values_from_function(shares)
        step = tf.function(functools.partial(strategy.run, model.train_step))
        for _ in range(4):
            step((values,))
        ends.append([*model.get_weights(), *(value.numpy() for value in model.average.values)])
    for one, two in zip(*ends, strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-5)


def test_a_teachers_images_make_the_statistics() -> None:
    """Augmented images have other statistics than those of prediction."""
    model = network(
        kind=MeanTeacher, average_decay=0.9,
        augmentation=RandomAugmentation(0, brightness=64.0, contrast=0.9),
    )  # fmt: skip
    model.compile(keras.optimizers.SGD(0.0))
    images, labels, domains = batch()
    for _ in range(20):
        model.train_step((images, labels, domains))
    (norm,) = model.norms()
    convolution = model.feature_extractor.layers[0]
    for moving, side in zip(norm.moving, (SOURCE, TARGET), strict=True):
        for statistic, value in zip(moving, statistics(convolution(side).numpy()), strict=True):
            np.testing.assert_allclose(statistic, value, rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(model.average.of(statistic), value, rtol=1e-4, atol=1e-5)


def test_statistics_are_averaged_with_the_weights(tmp_path: Path) -> None:
    model = network(average_decay=0.9)
    for _ in range(20):
        model.train_step(batch())
    norm = domain_normalizations(model.feature_extractor)[0]
    before = [variable.numpy() for variable in norm.moving[1]]
    with model.averaged():
        inside = [variable.numpy() for variable in norm.moving[1]]
        model.save(tmp_path / "m.keras")
        expected = model.predict(TARGET, verbose=0)
    for one, two, now in zip(before, inside, norm.moving[1], strict=True):
        assert np.abs(one - two).max() > 1e-3
        np.testing.assert_array_equal(one, now)
    again = keras.saving.load_model(tmp_path / "m.keras")
    np.testing.assert_allclose(again.predict(TARGET, verbose=0), expected, rtol=1e-5)


def test_each_encoder_of_adda_has_statistics_of_its_own() -> None:
    extractor = keras.Sequential(
        [keras.Input((5, 5, 4)), DomainNormalization(momentum=0.5, sides=1), layers.Flatten()]
    )
    labels = dense_head("labels", (100,), (), 3)
    first = SourceModel(extractor, labels)
    first.compile(keras.optimizers.SGD(0.0))
    images, classes, domains = batch()
    first.train_step((images[:8], classes[:8], domains[:8]))
    heads = labels, dense_head("domains", (100,), (), 2)
    second = ADDA(extractor, *heads, average_decay=0.9)
    second.compile(keras.optimizers.SGD(0.0))
    second.train_step((images, classes, domains))
    source = statistics(SOURCE)
    # The target's begin with the source's. Each of the two steps of the encoder moves them.
    target = [0.75 * now + 0.25 * before
              for now, before in zip(statistics(TARGET), source, strict=True)]  # fmt: skip
    for encoder, expected in (
        (second.source_extractor, source),
        (second.feature_extractor, target),
    ):
        (norm,) = domain_normalizations(encoder)
        (moving,) = norm.moving
        for statistic, value in zip(moving, expected, strict=True):
            np.testing.assert_allclose(statistic, value, rtol=1e-4, atol=1e-5)
            if encoder is second.feature_extractor:
                assert second.average
                assert second.average.of(statistic) is not statistic
    mean, variance = source
    (norm,) = domain_normalizations(extractor)
    found = second.encode(images, domains)[:8]
    wanted = (SOURCE - mean) / np.sqrt(variance + norm.epsilon)
    np.testing.assert_allclose(found, wanted.reshape(8, -1), rtol=1e-3, atol=1e-4)


def test_a_frozen_layer_normalises_by_what_it_knows() -> None:
    """As Keras' own: the layers that ADDA's encoders share stay as they are."""
    layer = DomainNormalization(sides=1)
    layer(SOURCE, training=True)
    layer.trainable = False
    before = layer.get_weights()
    expected = layer(TARGET)
    np.testing.assert_array_equal(layer(TARGET, training=True), expected)
    with as_domain([layer], 1, follows=True):
        np.testing.assert_array_equal(layer(TARGET), expected)
    assert_same_weights(before, layer.get_weights())


def test_an_encoder_of_adda_has_one_domain() -> None:
    extractor, labels = network().feature_extractor, dense_head("labels", (27,), (), 3)
    with pytest.raises(ValueError, match="must have sides=1"):
        ADDA(extractor, labels, dense_head("domains", (27,), (), 2))
    first = SourceModel(extractor, labels)  # one of DANN may predict
    with pytest.raises(ValueError, match="must have sides=1"):
        first.train_step(batch())


def test_training_must_name_the_domain() -> None:
    """Else a method of one's own would give the source the target's statistics."""
    layer = DomainNormalization()
    layer(SOURCE)
    with pytest.raises(ValueError, match="whose images are these"):
        layer(SOURCE, training=True)
    with as_domain([layer], 0):
        layer(SOURCE, training=True)
    alone = DomainNormalization(sides=1)
    alone(SOURCE, training=True)


def test_all_domains_at_once_are_refused() -> None:
    with pytest.raises(ValueError, match="needs extractor_calls"):
        DANN(network().feature_extractor, num_labels=3)
