"""CDAN against its formulas, by hand, in NumPy and with a tape."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from test_dann import LAMBDA, RATE, small_batch

from model.cdan import CDAN
from model.networks import captcha_classifier, dense_head
from model.pretrained import start_from


def small_cdan(features: int = 12, classes: int = 5, domains: int = 2, **options: Any) -> CDAN:
    keras.utils.set_random_seed(3)
    extractor = keras.Sequential(
        [keras.Input((8, 8, 3)), layers.Rescaling(1 / 255), layers.Flatten(),
         layers.Dense(features, activation="tanh")]
    )  # fmt: skip
    seen = CDAN.domain_input_shape((features,), (classes,))
    model = CDAN(
        extractor,
        dense_head("label_predictor", (features,), (6,), classes),
        dense_head("domain_classifier", seen, (7,), domains),
        num_domains=domains,
        grl_lambda=LAMBDA,
        **options,
    )
    model.compile(keras.optimizers.SGD(RATE))
    return model


def product(f: np.ndarray, g: np.ndarray, maps: list[np.ndarray]) -> np.ndarray:
    """What the domain classifier sees, one image at a time."""
    if maps:
        return np.stack([(one @ maps[0]) * (two @ maps[1]) / 32
                         for one, two in zip(f, g, strict=True)])  # fmt: skip
    return np.stack([np.outer(one, two).ravel() for one, two in zip(f, g, strict=True)])


def by_hand(model: CDAN, batch: Any, conditioned: bool, loss: str) -> list[np.ndarray]:
    """The weights after one step: two losses, two gradients, no reversal layer."""
    images, labels, domains = (part.numpy() for part in batch)
    labelled = np.flatnonzero(labels >= 0)
    parts = (model.feature_extractor, model.label_predictor, model.domain_classifier)
    extractor, predictor, classifier = (part.trainable_variables for part in parts)
    g = tf.nn.softmax(model.label_predictor(model.feature_extractor(images))).numpy()
    entropies = -(g * np.log(g)).sum(axis=1)
    weights = 1 + np.exp(-entropies) if conditioned else np.ones(len(g))
    maps = [variable.numpy() for variable in model.random_maps]
    with tf.GradientTape(persistent=True) as tape:
        features = model.feature_extractor(images)
        logs = tf.nn.log_softmax(model.label_predictor(tf.gather(features, labelled)))
        label_loss = -tf.reduce_mean(tf.gather(logs, labels[labelled], batch_dims=1))
        if maps:
            seen = (features @ maps[0]) * (g @ maps[1]) / np.sqrt(1024)
        else:
            seen = tf.reshape(features[:, :, None] * g[:, None, :], (len(g), -1))
        np.testing.assert_allclose(seen, product(features.numpy(), g, maps), rtol=2e-4, atol=1e-5)
        logs = tf.nn.log_softmax(model.domain_classifier(seen))
        losses = -tf.gather(logs, domains, batch_dims=1)
        domain_loss = 0.0
        for domain in range(model.num_domains):
            share = np.where(domains == domain, weights, 0).astype(np.float32)
            domain_loss += tf.reduce_sum(losses * share / share.sum())
        if loss == "mean":
            domain_loss /= model.num_domains
    gradients = [
        *(a - LAMBDA * b for a, b in zip(tape.gradient(label_loss, extractor),
                                         tape.gradient(domain_loss, extractor), strict=True)),
        *tape.gradient(label_loss, predictor), *tape.gradient(domain_loss, classifier),
    ]  # fmt: skip
    moved = zip([*extractor, *predictor, *classifier], gradients, strict=True)
    return [weight.numpy() - RATE * gradient.numpy() for weight, gradient in moved]


@pytest.mark.parametrize("features", [12, 900])  # 60 and 4,500 products: the full and the random
@pytest.mark.parametrize("conditioned", [True, False])
@pytest.mark.parametrize(("domains", "loss"), [(2, "mean"), (2, "sum"), (3, "sum")])
def test_step_is_the_papers(features: int, conditioned: bool, domains: int, loss: Any) -> None:
    model = small_cdan(
        features, domains=domains, domain_loss=loss, entropy_conditioning=conditioned
    )
    assert len(model.random_maps) == (2 if features == 900 else 0)
    batch = small_batch(domains)
    for _ in range(2):
        expected = by_hand(model, batch, conditioned, loss)
        model.train_step(batch)
        for weight, value in zip(model.trainable_variables, expected, strict=True):
            np.testing.assert_allclose(weight, value, rtol=2e-4, atol=2e-5, err_msg=weight.path)


@pytest.mark.parametrize("conditioned", [True, False])
def test_each_domain_counts_the_same(conditioned: bool) -> None:
    """Whatever its share of the batch is; all predictions are as certain."""
    model = small_cdan(entropy_conditioning=conditioned)
    domains = tf.constant([0, 0, 1, 1, 1, 1])
    logits = tf.where(domains[:, None] == 0, [[0.0, 0.0]], [[0.0, 30.0]])  # right on the target
    for predictions in (tf.zeros((6, 5)), tf.zeros((6, 3, 5))):  # of strings, too
        share = model.domain_share(logits, domains, predictions)
        assert float(share) == pytest.approx(np.log(2) / 2)


def test_the_random_maps_are_standard_normal_and_fixed() -> None:
    for variable in small_cdan(900).random_maps:
        assert np.std(variable) == pytest.approx(1, abs=0.05)
        assert not variable.trainable


def test_strings_have_a_product_with_every_position(tmp_path: Path) -> None:
    keras.utils.set_random_seed(1)
    extractor = keras.Sequential([keras.Input((4,)), layers.Dense(6)])
    model = CDAN(extractor, captcha_classifier((6,), 3, 5))
    assert model.domain_classifier.input_shape == (None, 6 * 15)
    model.compile("sgd")
    labels = np.array([[0, 1, 2], [-1, -1, -1]], np.int32)
    inputs = np.random.default_rng(0).normal(size=(2, 4)).astype(np.float32)
    results = model.train_step((inputs, tf.constant(labels), tf.constant([0, 1])))
    assert np.isfinite(results["loss"])
    assert "whole_string_acc" in results


def test_a_saved_model_keeps_its_random_maps(tmp_path: Path) -> None:
    model = small_cdan(900, entropy_conditioning=False)
    model.save(tmp_path / "m.keras")
    again = keras.saving.load_model(tmp_path / "m.keras")
    assert isinstance(again, CDAN)
    assert not again.entropy_conditioning
    for one, two in zip(model.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)


def test_a_run_that_starts_from_it_has_its_random_maps(tmp_path: Path) -> None:
    """Its domain classifier would see other numbers without them."""
    one = small_cdan(900)
    one.save(tmp_path / "one.keras")
    keras.utils.set_random_seed(99)
    other = small_cdan(900)
    for variable in other.random_maps:
        variable.assign(variable + 1.0)
    start_from(other, tmp_path / "one.keras")
    for mine, theirs in zip(other.adversary(), one.adversary(), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert len(one.adversary()) == len(one.domain_classifier.weights) + 2
