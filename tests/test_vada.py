"""VADA against its formulas, by hand, with a tape and NumPy."""

from __future__ import annotations

import functools
from typing import Any, Literal

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import share
from keras import layers
from test_dann import LAMBDA, RATE, small_batch

from model.dann import DANN
from model.networks import dense_head
from model.normalisation import DomainNormalization
from model.vada import VADA

SEED, RADIUS = 4, 0.3


def small(kind: type[DANN], **options: Any) -> Any:
    """A model without units that die: the changes need gradients."""
    keras.utils.set_random_seed(3)
    extractor = keras.Sequential(
        [keras.Input((8, 8, 3)), layers.Rescaling(1 / 128), layers.Flatten(),
         layers.Dense(12, activation="tanh")]
    )  # fmt: skip
    heads = (
        dense_head(name, (12,), (), outputs)
        for name, outputs in (("label_predictor", 5), ("domain_classifier", 2))
    )
    model = kind(extractor, *heads, grl_lambda=LAMBDA, **options)
    model.compile(keras.optimizers.SGD(RATE))
    return model


def small_vada(**options: Any) -> VADA:
    return small(VADA, radius=RADIUS, seed=SEED, **options)


def log_probabilities(model: VADA, images: Any) -> tf.Tensor:
    logits = model.label_predictor(model.feature_extractor(images))
    return logits - tf.reduce_logsumexp(logits, axis=1, keepdims=True)


def divergences(model: VADA, images: np.ndarray, moved: np.ndarray) -> np.ndarray:
    one, two = (log_probabilities(model, some).numpy() for some in (images, moved))
    return (np.exp(one) * (one - two)).sum(axis=1)


def unit(changes: np.ndarray) -> np.ndarray:
    return changes / np.sqrt((changes**2).sum(axis=(1, 2, 3), keepdims=True))


def worst_images(model: VADA, images: np.ndarray, step: int) -> np.ndarray:
    """The images, each changed to where one step of power iteration leads."""
    seed = tf.constant([SEED + (4 << 32), step], tf.int64)  # augmentation has the streams below 4
    random = unit(tf.random.stateless_normal(images.shape, seed).numpy())
    probed = tf.constant(images + 127.5 * random)
    p = tf.exp(log_probabilities(model, images))
    with tf.GradientTape() as tape:
        tape.watch(probed)
        total = -tf.reduce_sum(p * log_probabilities(model, probed))  # KL less a constant
    return images + 127.5 * RADIUS * unit(tape.gradient(total, probed).numpy())


def by_hand(model: VADA, batch: Any, step: int, source: float, target: float) -> list[np.ndarray]:
    """The weights after one step; 6 images of each domain, the first labelled."""
    images, labels, domains = (part.numpy() for part in batch)
    images = images.astype(np.float32)
    moved = worst_images(model, images, step)
    p = np.exp(log_probabilities(model, images).numpy())
    parts = (model.feature_extractor, model.label_predictor, model.domain_classifier)
    extractor, predictor, classifier = (part.trainable_variables for part in parts)
    with tf.GradientTape(persistent=True) as tape:
        logs = log_probabilities(model, images)
        kept = -tf.reduce_mean(tf.gather(logs[:6], labels[:6], batch_dims=1))
        rough = tf.reduce_sum(p * (np.log(p) - log_probabilities(model, moved)), axis=1)
        unsure = -tf.reduce_mean(tf.reduce_sum(tf.exp(logs[6:]) * logs[6:], axis=1))
        kept += source * tf.reduce_mean(rough[:6])
        kept += target * (tf.reduce_mean(rough[6:]) + unsure)
        domain_logs = tf.nn.log_softmax(model.domain_classifier(model.feature_extractor(images)))
        domain_loss = -tf.reduce_mean(tf.gather(domain_logs, domains, batch_dims=1))
    gradients = [
        *(a - LAMBDA * b for a, b in zip(tape.gradient(kept, extractor),
                                         tape.gradient(domain_loss, extractor), strict=True)),
        *tape.gradient(kept, predictor), *tape.gradient(domain_loss, classifier),
    ]  # fmt: skip
    weights = [*extractor, *predictor, *classifier]
    return [w.numpy() - RATE * g.numpy() for w, g in zip(weights, gradients, strict=True)]


@pytest.mark.parametrize(("source", "target"), [(1.0, 0.0), (0.0, 0.7), (0.5, 2.0)])
def test_step_is_the_formulas(source: float, target: float) -> None:
    model = small_vada(source_smoothness=source, target_smoothness=target)
    batch = small_batch()
    for step in range(3):
        expected = by_hand(model, batch, step, source, target)
        model.train_step(batch)
        for weight, value in zip(model.trainable_variables, expected, strict=True):
            np.testing.assert_allclose(weight, value, rtol=3e-4, atol=3e-6, err_msg=weight.path)


def test_the_change_is_worse_than_chance() -> None:
    model, images = small_vada(), small_batch()[0].numpy().astype(np.float32)
    found = model.roughness(tf.constant(images)).numpy()
    rng = np.random.default_rng(1)
    for _ in range(20):
        random = images + 127.5 * RADIUS * unit(rng.normal(size=images.shape).astype(np.float32))
        assert (found > divergences(model, images, random)).all()


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_half_precision_finds_the_change(policy: str) -> None:
    """In float16 the gradient of so small a change would be rounded to 0."""
    model, images = small_vada(), tf.cast(small_batch()[0], tf.float32)
    model.label_predictor.set_weights([0.03 * w for w in model.label_predictor.get_weights()])
    keras.mixed_precision.set_global_policy(policy)
    try:
        half = small_vada()
    finally:
        keras.mixed_precision.set_global_policy("float32")
    half.set_weights(model.get_weights())
    np.testing.assert_allclose(half.roughness(images), model.roughness(images), rtol=0.2)


def with_layers(*inner: layers.Layer, **options: Any) -> VADA:
    extractor = keras.Sequential([keras.Input((8, 8, 3)), layers.Flatten(), *inner])
    model = VADA(extractor, num_labels=5, radius=RADIUS, seed=SEED, **options)
    model.compile(keras.optimizers.SGD(RATE))
    return model


@pytest.mark.parametrize(
    ("kind", "calls"), [(DomainNormalization, "per_domain"), (layers.BatchNormalization, "joint")]
)
def test_moving_statistics_count_for_nothing_and_stay(
    kind: type[layers.Layer], calls: Literal["per_domain", "joint"]
) -> None:
    """With them the loss fell where they did not fit, and a run ended at .215."""
    images = tf.cast(small_batch()[0], tf.float32)
    normalisation = kind()
    model = with_layers(normalisation, extractor_calls=calls)
    before = model.roughness(images).numpy()
    for statistic in normalisation.non_trainable_variables:
        statistic.assign(tf.fill(statistic.shape, 1e4))
    np.testing.assert_array_equal(model.roughness(images), before)
    for statistic in normalisation.non_trainable_variables:
        np.testing.assert_array_equal(statistic, np.full(statistic.shape, 1e4, np.float32))


def test_dropout_is_no_change_of_the_image() -> None:
    images = tf.cast(small_batch()[0], tf.float32)
    model = with_layers(layers.Dropout(0.5, seed=1))
    kept = with_layers(layers.Dropout(0.0))
    kept.set_weights(model.get_weights())
    model.radius = 0.0
    np.testing.assert_allclose(model.roughness(images), 0.0, atol=1e-6)
    model.radius = RADIUS
    assert not np.allclose(model.roughness(images), kept.roughness(images), rtol=0.01)


def test_without_its_weights_it_is_dann() -> None:
    """The control."""
    batch, plain = small_batch(), small(DANN)
    model = small_vada(source_smoothness=0.0, target_smoothness=0.0)
    for _ in range(3):
        plain.train_step(batch)
        model.train_step(batch)
    for one, two in zip(plain.trainable_variables, model.trainable_variables, strict=True):
        np.testing.assert_array_equal(one, two)


def test_it_needs_what_can_be_changed_a_little() -> None:
    words = keras.Sequential([keras.Input((5,), dtype="int32"), layers.Embedding(9, 4)])
    with pytest.raises(ValueError, match=r"one input of floats, got \['int32'\]"):
        VADA(words, num_labels=3)
    with pytest.raises(ValueError, match="radius must be 0 or more, got -1"):
        small_vada().from_config({**small_vada().get_config(), "radius": -1.0})


def test_two_replicas_do_what_one_does(two_replicas: tf.distribute.Strategy) -> None:
    batch = small_batch()
    ends = []
    for strategy in (tf.distribute.get_strategy(), two_replicas):
        with strategy.scope():
            model = small_vada(source_smoothness=0.5, target_smoothness=2.0,
                               extractor_calls="per_domain")  # fmt: skip
        shares = functools.partial(share, batch, (6, 6))
        values = strategy.experimental_distribute_values_from_function(shares)
        step = tf.function(functools.partial(strategy.run, model.train_step))
        for _ in range(3):
            step((values,))
        ends.append(model.get_weights())
    for one, two in zip(*ends, strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-5)
