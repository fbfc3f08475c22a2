from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import share
from keras import layers

from model.augmentation import RandomAugmentation
from model.dann import DANN
from model.networks import dense_head, mnist_feature_extractor
from model.schedules import GRLLambda

RATE, LAMBDA = 0.1, 0.7


def small_dann(num_domains: int = 2, **options: Any) -> DANN:
    keras.utils.set_random_seed(3)
    extractor = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Rescaling(1 / 255),
            layers.Conv2D(4, 3, activation="relu"),
            layers.Flatten(),
        ]
    )
    return DANN(
        extractor,
        dense_head("label_predictor", (144,), (6,), 5),
        dense_head("domain_classifier", (144,), (6,), num_domains),
        num_domains=num_domains,
        grl_lambda=options.pop("grl_lambda", LAMBDA),
        **options,
    )


def small_batch(num_domains: int = 2, block: int = 6) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    random = np.random.default_rng(0)
    domains = np.repeat(np.arange(num_domains, dtype=np.int32), block)
    images = random.integers(0, 256, (len(domains), 8, 8, 3)).astype(np.uint8)
    labels = np.where(domains == 0, random.integers(0, 5, len(domains)), -1).astype(np.int32)
    return tf.constant(images), tf.constant(labels), tf.constant(domains)


def by_hand(model: DANN, batch: Any, grl_lambda: float) -> list[np.ndarray]:
    """The step of the paper, without a reversal layer: equations 4 to 6 with two gradients.

    Extractor: dL_y - λ·dL_d; label predictor: dL_y; domain classifier: dL_d at full rate.
    """
    images, labels, domains = (part.numpy() for part in batch)
    labelled = np.flatnonzero(labels >= 0)
    extractor, predictor, classifier = (
        part.trainable_variables
        for part in (model.feature_extractor, model.label_predictor, model.domain_classifier)
    )
    with tf.GradientTape() as tape:
        logits = model.label_predictor(model.feature_extractor(images[labelled]))
        picked = tf.gather(tf.nn.log_softmax(logits), labels[labelled], batch_dims=1)
        label_loss = -tf.reduce_mean(picked)
    label_gradients = tape.gradient(label_loss, [*extractor, *predictor])
    with tf.GradientTape() as tape:
        logits = model.domain_classifier(model.feature_extractor(images))
        domain_loss = -tf.reduce_mean(tf.gather(tf.nn.log_softmax(logits), domains, batch_dims=1))
    domain_gradients = tape.gradient(domain_loss, [*extractor, *classifier])
    size = len(extractor)
    gradients = [
        *(a - grl_lambda * b
          for a, b in zip(label_gradients[:size], domain_gradients[:size], strict=True)),
        *label_gradients[size:],
        *domain_gradients[size:],
    ]  # fmt: skip
    weights = [*extractor, *predictor, *classifier]
    return [w.numpy() - RATE * g.numpy() for w, g in zip(weights, gradients, strict=True)]


@pytest.mark.parametrize("num_domains", [2, 3])
@pytest.mark.parametrize("extractor_calls", ["joint", "per_domain"])
@pytest.mark.parametrize("grl_lambda", [0.0, LAMBDA])
def test_step_is_the_papers(num_domains: int, extractor_calls: Any, grl_lambda: float) -> None:
    model = small_dann(num_domains, extractor_calls=extractor_calls, grl_lambda=grl_lambda)
    model.compile(optimizer=keras.optimizers.SGD(RATE))
    batch = small_batch(num_domains)
    expected = by_hand(model, batch, grl_lambda)
    before = [weight.numpy() for weight in model.trainable_variables]
    model.train_step(batch)
    for weight, value, old in zip(model.trainable_variables, expected, before, strict=True):
        np.testing.assert_allclose(weight, value, rtol=2e-5, atol=2e-6, err_msg=weight.path)
        assert np.abs(value - old).max() > 1e-4, f"{weight.path} did not move: proves nothing"


def test_the_domain_weight_moves_the_domain_classifier_alone() -> None:
    model = small_dann(domain_weight=3.0)
    model.compile(optimizer=keras.optimizers.SGD(RATE))
    batch = small_batch()
    expected = by_hand(model, batch, LAMBDA)
    before = [weight.numpy() for weight in model.trainable_variables]
    model.train_step(batch)
    judges = {id(weight) for weight in model.domain_classifier.trainable_variables}
    for weight, value, old in zip(model.trainable_variables, expected, before, strict=True):
        weighted = old + (3.0 if id(weight) in judges else 1.0) * (value - old)
        np.testing.assert_allclose(weight, weighted, rtol=2e-5, atol=2e-6, err_msg=weight.path)
    for wrong in (0.0, -1.0, np.inf):
        with pytest.raises(ValueError, match="domain_weight must be above 0"):
            small_dann(domain_weight=wrong)
    with pytest.raises(ValueError, match="domain_optimizer another rate"):
        small_dann(domain_weight=2.0, alternating=True)


def test_weight_decay_reaches_the_domain_classifier_in_two_step_updates() -> None:
    moved = []
    for decay in (None, "l2"):
        keras.utils.set_random_seed(1)
        classifier = keras.Sequential(
            [keras.Input((12,)), keras.layers.Dense(2, kernel_regularizer=decay)]
        )
        extractor = keras.Sequential([keras.Input((4,)), keras.layers.Dense(12)])
        model = DANN(extractor, domain_classifier=classifier, num_labels=3, alternating=True)
        model.compile(keras.optimizers.SGD(RATE))
        before = classifier.get_weights()[0]
        images = tf.random.stateless_normal((6, 4), (1, 2))
        model.train_step((images, tf.constant([0, 1, 2, -1, -1, -1]), tf.repeat([0, 1], 3)))
        moved.append(classifier.get_weights()[0] - before)
    # Keras' l2 adds 0.01·w².
    np.testing.assert_allclose(moved[1] - moved[0], -RATE * 0.02 * before, rtol=1e-3, atol=1e-6)


def test_activity_losses_need_joint_calls() -> None:
    extractor = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(12, activity_regularizer="l2")]
    )
    with pytest.raises(ValueError, match="activity_regularizer: of dense"):
        DANN(extractor, num_labels=3, extractor_calls="per_domain")


def test_lambda_zero_is_source_only_training() -> None:
    """The control: with λ = 0 and no clipping, target images change the domain classifier alone."""
    images, labels, domains = small_batch()
    other = tf.concat([images[:6], 255 - images[6:]], 0)
    results = []
    for pictures in (images, other):
        model = small_dann(grl_lambda=0.0)
        model.compile(optimizer=keras.optimizers.SGD(RATE))
        model.train_step((pictures, labels, domains))
        results.append(
            [*model.feature_extractor.get_weights(), *model.label_predictor.get_weights()]
        )
    for one, two in zip(*results, strict=True):
        np.testing.assert_array_equal(one, two)


def test_schedule_of_lambda_follows_the_optimizers_steps() -> None:
    schedule = GRLLambda(total_steps=4, gamma=3.0)
    model = small_dann(grl_lambda=schedule)
    model.compile(optimizer=keras.optimizers.SGD(RATE))
    batch = small_batch()
    for step in range(3):
        expected = by_hand(model, batch, 2 / (1 + np.exp(-3 * step / 4)) - 1)
        model.train_step(batch)
        for weight, value in zip(model.trainable_variables, expected, strict=True):
            np.testing.assert_allclose(weight, value, rtol=2e-5, atol=2e-6)


def test_metrics_are_means_since_the_reset() -> None:
    model = small_dann()
    model.compile(optimizer="sgd")
    images, labels, domains = small_batch()
    results = model.test_step((images, labels, domains))
    label_p = model.predict(images, verbose=0)[:6]
    features = model.feature_extractor(images)
    domain_p = tf.nn.softmax(model.domain_classifier(features)).numpy()
    label_loss = -np.log(label_p[np.arange(6), labels[:6]]).mean()
    domain_loss = -np.log(domain_p[np.arange(12), domains]).mean()
    assert float(results["image_cls_loss"]) == pytest.approx(label_loss, rel=1e-5)
    assert float(results["domain_cls_loss"]) == pytest.approx(domain_loss, rel=1e-5)
    assert float(results["loss"]) == pytest.approx(label_loss + domain_loss, rel=1e-5)
    correct = (label_p.argmax(1) == labels[:6].numpy()).mean()
    assert float(results["image_cls_acc"]) == pytest.approx(correct)
    assert float(results["domain_cls_acc"]) == pytest.approx(
        (domain_p.argmax(1) == domains.numpy()).mean()
    )
    model.reset_metrics()
    results = model.get_metrics_result()
    assert np.isnan(float(results["domain_cls_loss"]))  # nothing was measured
    assert np.isnan(float(results["image_cls_loss"]))


def test_a_batch_without_labels_has_no_label_loss() -> None:
    images, labels, domains = small_batch()
    model = small_dann()
    model.compile(optimizer="sgd")
    before = model.label_predictor.get_weights()
    results = model.train_step((images, tf.fill(labels.shape, -1), domains))
    assert np.isnan(float(results["image_cls_loss"]))
    assert np.isfinite(float(results["domain_cls_loss"]))
    assert all(np.isfinite(weight).all() for weight in model.get_weights())
    for one, two in zip(before, model.label_predictor.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.mark.filterwarnings("ignore:.*shuffle=True.*:UserWarning")  # Keras', for any tf.data set
def test_fit_evaluate_predict_and_round_trip(tmp_path: Path) -> None:
    model = small_dann(grl_lambda=GRLLambda(total_steps=20))
    model.compile(optimizer=keras.optimizers.SGD(0.05))
    images, labels, domains = small_batch()
    dataset = tf.data.Dataset.from_tensors((images, labels, domains)).repeat(20)
    history = model.fit(dataset, epochs=3, verbose=0).history
    assert history["image_cls_loss"][-1] < history["image_cls_loss"][0]
    results = model.evaluate(dataset.take(1), verbose=0, return_dict=True)
    measured = {name: float(value) for name, value in results.items()}  # Keras 3.12: tensors
    assert measured["loss"] == pytest.approx(
        measured["image_cls_loss"] + measured["domain_cls_loss"], rel=1e-6
    )
    probabilities = model.predict(images, verbose=0)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    model.save(tmp_path / "dann.keras")
    loaded = keras.saving.load_model(tmp_path / "dann.keras")
    np.testing.assert_array_equal(loaded.predict(images, verbose=0), probabilities)
    assert loaded.grl_lambda.total_steps == 20
    loaded.fit(dataset.take(1), verbose=0)  # compiled as it was, with nothing passed by hand


def test_default_heads_are_one_dense_layer() -> None:
    model = DANN(small_dann().feature_extractor, num_labels=4, num_domains=3)
    assert [layer.units for layer in model.label_predictor.layers] == [4]
    assert [layer.units for layer in model.domain_classifier.layers] == [3]


def test_two_replicas_do_what_one_does(two_replicas: tf.distribute.Strategy) -> None:
    """Each replica gets its share with both domains; the sum of the shares is the batch."""
    batch = small_batch(block=8)
    alone = small_dann()
    alone.compile(optimizer=keras.optimizers.SGD(RATE))
    for _ in range(3):
        expected = alone.train_step(batch)
    with two_replicas.scope():
        model = small_dann()
        model.compile(optimizer=keras.optimizers.SGD(RATE))
        model.optimizer.build(model.trainable_variables)

    @tf.function
    def step(values: Any) -> Any:
        two_replicas.run(model.train_step, (values,))
        return model.get_metrics_result()

    for _ in range(3):
        shares = functools.partial(share, batch, (8, 8))
        results = step(two_replicas.experimental_distribute_values_from_function(shares))
    for one, two in zip(alone.trainable_variables, model.trainable_variables, strict=True):
        np.testing.assert_allclose(two.numpy(), one.numpy(), rtol=1e-5, atol=1e-6)
    for name, value in expected.items():
        assert float(results[name]) == pytest.approx(float(value), rel=1e-5)


def test_mixed_precision_computes_in_bfloat16_and_keeps_float32() -> None:
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        extractor = mnist_feature_extractor((28, 28, 3), (75.0, 76.0, 70.0))
        model = DANN(extractor, num_labels=10)
    finally:
        keras.mixed_precision.set_global_policy("float32")
    model.compile(optimizer="sgd")
    images = np.zeros((4, 28, 28, 3), np.uint8)
    assert model.feature_extractor(images).dtype == tf.bfloat16
    assert {weight.dtype for weight in model.trainable_variables} == {"float32"}
    assert model(images).dtype == tf.float32
    labels = tf.constant([1, 2, -1, -1])
    results = model.train_step((tf.constant(images), labels, tf.constant([0, 0, 1, 1])))
    assert np.isfinite(results["loss"])


def test_network_is_figure_4a() -> None:
    model = mnist_feature_extractor((28, 28, 3), (75.0, 76.0, 70.0))
    shapes = [tuple(weight.shape) for weight in model.weights]
    assert shapes == [(5, 5, 3, 32), (32,), (5, 5, 32, 48), (48,)]
    assert model.output_shape == (None, 768)


def test_pooling_before_relu_changes_nothing() -> None:
    """The same weights in the paper's order, ReLU then pooling: the same features."""
    model = mnist_feature_extractor((28, 28, 3), (10.0, 20.0, 30.0))
    images = np.random.default_rng(0).integers(0, 256, (3, 28, 28, 3)).astype(np.uint8)
    x = (images.astype(np.float32) - (10.0, 20.0, 30.0)) / 255
    for name in ("conv1", "conv2"):
        kernel, bias = model.get_layer(name).get_weights()
        x = tf.nn.relu(tf.nn.conv2d(x, kernel, 1, "VALID") + bias)
        x = tf.nn.max_pool2d(x, 2, 2, "VALID")
    np.testing.assert_allclose(model(images), tf.reshape(x, (3, 768)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("clip_norm", [0.05, 1e6])
def test_clipping_shortens_all_gradients_together(clip_norm: float) -> None:
    model = small_dann(clip_norm=clip_norm)
    model.compile(optimizer=keras.optimizers.SGD(RATE))
    batch = small_batch()
    before = [weight.numpy() for weight in model.trainable_variables]
    steps = [value - old for value, old in zip(by_hand(model, batch, LAMBDA), before, strict=True)]
    length = np.sqrt(sum((step**2).sum() for step in steps)) / RATE
    assert 0.05 < length < 1e6
    scale = min(1.0, clip_norm / length)
    model.train_step(batch)
    for weight, old, step in zip(model.trainable_variables, before, steps, strict=True):
        np.testing.assert_allclose(weight, old + scale * step, rtol=2e-5, atol=2e-6)


def test_two_replicas_clip_augment_and_average_as_one(two_replicas: tf.distribute.Strategy) -> None:
    batch = small_batch()
    options: dict[str, Any] = {"clip_norm": 0.05, "average_decay": 0.9}
    ends = []
    for strategy in (tf.distribute.get_strategy(), two_replicas):
        with strategy.scope():
            model = small_dann(augmentation=RandomAugmentation(2), **options)
            model.compile(optimizer=keras.optimizers.SGD(RATE, 0.9))
            model.optimizer.build(model.trainable_variables)
        shares = functools.partial(share, batch, (6, 6))
        values = strategy.experimental_distribute_values_from_function(shares)
        step = tf.function(functools.partial(strategy.run, model.train_step))
        for _ in range(3):
            step((values,))
        assert model.average is not None
        ends.append([*model.get_weights(), *(value.numpy() for value in model.average.values)])
    for one, two in zip(*ends, strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-6)


def test_the_average_predicts_inside_averaged() -> None:
    model = small_dann(average_decay=0.9)
    model.compile(optimizer=keras.optimizers.SGD(RATE))
    images = small_batch()[0]
    for _ in range(5):
        model.train_step(small_batch())
    plain = model(images)
    with model.averaged():
        averaged = model(images)
    assert np.abs(plain - averaged).max() > 1e-3
    np.testing.assert_array_equal(model(images), plain)
