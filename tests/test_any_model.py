"""DANN around other people's models: any rank, inner layers, N domains, two-step updates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import blocks
from keras import layers
from test_dann import LAMBDA, RATE, small_batch, small_dann

from model.adda import ADDA
from model.augmentation import RandomAugmentation
from model.dann import DANN
from model.networks import dense_head

quiet = pytest.mark.filterwarnings("ignore:.*shuffle=True.*:UserWarning")


def batches(images: np.ndarray, num_labels: int, num_domains: int, copies: int = 2) -> Any:
    """Domain 0 labelled, the others not, in one batch; class 1 is missing."""
    domains = np.arange(len(images)) % num_domains
    labels = np.where(domains == 0, np.arange(len(images)) % num_labels, -1)
    labels[labels == 1] = 2
    parts = (images, labels.astype(np.int32), domains.astype(np.int32))
    return tf.data.Dataset.from_tensors(parts).repeat(copies)


@pytest.mark.long
@quiet
def test_the_readmes_snippet_runs() -> None:
    backbone = keras.applications.ResNet50(include_top=False, weights=None, input_shape=(64, 64, 3))
    images = np.random.default_rng(0).integers(0, 256, (6, 64, 64, 3)).astype(np.uint8)
    names: dict[str, Any] = {"backbone": backbone, "dataset": batches(images, 4, 3, copies=1)}
    (snippet,) = blocks("README.md", "python")
    exec(snippet, names)
    model = names["model"]
    assert np.isfinite(model.history.history["loss"][0])
    assert model.predict(images, verbose=0).shape == (6, 4)
    assert model.feature_extractor.output_shape == (None, 2 * 2 * 2048)


def signals() -> keras.Model:
    inputs = keras.Input((32, 2))
    x = layers.Conv1D(4, 5, activation="relu", name="early")(inputs)
    x = layers.Conv1D(6, 5, activation="relu", name="late")(x)
    return keras.Model(inputs, x)


@pytest.mark.parametrize(
    ("options", "size"),
    [
        ({}, 24 * 6),
        ({"pooling": "average"}, 6),
        ({"feature_layer": "early"}, 28 * 4),
        ({"feature_layer": "early", "pooling": "average"}, 4),
    ],
)
@quiet
def test_signals_of_one_dimension(options: dict[str, Any], size: int, tmp_path: Path) -> None:
    backbone = signals()
    model = DANN(backbone, num_labels=3, num_domains=3, **options)
    model.compile(optimizer=keras.optimizers.SGD(0.05))
    values = np.random.default_rng(0).normal(size=(12, 32, 2)).astype(np.float32)
    assert model.feature_extractor.output_shape == (None, size)
    first = backbone.get_layer("early").get_weights()[0]
    dataset = batches(values, 3, 3, copies=10)
    history = model.fit(dataset, epochs=3, verbose=0, callbacks=[keras.callbacks.TerminateOnNaN()])
    assert history.history["loss"][-1] < history.history["loss"][0]
    assert np.abs(backbone.get_layer("early").get_weights()[0] - first).max() > 0
    assert set(model.evaluate(dataset, verbose=0, return_dict=True)) == set(history.history)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(
        again.predict(values, verbose=0), model.predict(values, verbose=0)
    )
    again.fit(dataset, verbose=0)


def test_pooling_is_the_mean_over_places() -> None:
    backbone = signals()
    values = np.random.default_rng(0).normal(size=(3, 32, 2)).astype(np.float32)
    pooled = DANN(backbone, num_labels=2, pooling="average").feature_extractor(values)
    np.testing.assert_allclose(pooled, backbone(values).numpy().mean(axis=1), rtol=1e-5, atol=1e-6)


def test_own_heads_may_take_the_feature_as_it_is() -> None:
    heads = [
        keras.Sequential([keras.Input((24, 6)), layers.GlobalMaxPooling1D(), layers.Dense(units)])
        for units in (3, 2)
    ]
    model = DANN(signals(), *heads, pooling="none")
    assert model(np.zeros((2, 32, 2), np.float32)).shape == (2, 3)


def test_summary_names_the_parts(capsys: pytest.CaptureFixture[str]) -> None:
    small_dann().summary()
    shown = capsys.readouterr().out
    for part in ("label_predictor", "domain_classifier", "gradient_reversal"):
        assert part in shown


def test_the_reversal_reaches_a_wrapped_backbone_with_the_right_sign_and_size() -> None:
    """With no labels at all, the backbone's step is +λ·dL_d: away from telling domains apart."""
    values = np.random.default_rng(1).normal(size=(9, 32, 2)).astype(np.float32)
    domains = (np.arange(9) % 3).astype(np.int32)
    backbone = signals()
    model = DANN(backbone, num_labels=2, num_domains=3, grl_lambda=LAMBDA, feature_layer="late")
    model.compile(optimizer=keras.optimizers.SGD(RATE))
    weights = backbone.trainable_variables
    with tf.GradientTape() as tape:
        logits = model.domain_classifier(layers.Flatten()(backbone(values)))
        logs = tf.gather(tf.nn.log_softmax(logits), domains, batch_dims=1)
        loss = -tf.reduce_mean(logs)
    expected = [w.numpy() + RATE * LAMBDA * g.numpy()
                for w, g in zip(weights, tape.gradient(loss, weights), strict=True)]  # fmt: skip
    before = [w.numpy() for w in weights]
    model.train_step((tf.constant(values), tf.fill([9], -1), tf.constant(domains)))
    for weight, value, old in zip(weights, expected, before, strict=True):
        np.testing.assert_allclose(weight, value, rtol=1e-4, atol=1e-6)
        assert np.abs(value - old).max() > 1e-5


def two_steps_by_hand(
    model: DANN, batch: Any, rates: tuple[float, float]
) -> tuple[list[np.ndarray], float]:
    """First the domain classifier on fixed features, then the rest against the new classifier.

    The domain loss beside the weights is that of the old classifier.
    """
    images, labels, domains = batch
    extractor, predictor, classifier = (
        part.trainable_variables
        for part in (model.feature_extractor, model.label_predictor, model.domain_classifier)
    )

    def domain_loss(features: tf.Tensor) -> tf.Tensor:
        logits = model.domain_classifier(features)
        if logits.shape[-1] == 1:  # the sigmoid's cross-entropy
            signs = 2.0 * tf.cast(domains, tf.float32)[:, None] - 1.0
            return tf.reduce_mean(tf.nn.softplus(-signs * logits))
        return -tf.reduce_mean(tf.gather(tf.nn.log_softmax(logits), domains, batch_dims=1))

    features = model.feature_extractor(images)
    with tf.GradientTape() as tape:
        first = domain_loss(tf.constant(features.numpy()))
    old = [w.numpy() for w in classifier]
    new = [w - rates[1] * g.numpy()
           for w, g in zip(old, tape.gradient(first, classifier), strict=True)]  # fmt: skip
    for weight, value in zip(classifier, new, strict=True):
        weight.assign(value)
    known = np.flatnonzero(labels >= 0)
    with tf.GradientTape() as tape:
        features = model.feature_extractor(images)
        logs = tf.nn.log_softmax(tf.gather(model.label_predictor(features), known))
        total = -tf.reduce_mean(tf.gather(logs, tf.gather(labels, known), batch_dims=1))
        total -= LAMBDA * domain_loss(features)
    gradients = tape.gradient(total, [*extractor, *predictor])
    for weight, value in zip(classifier, old, strict=True):
        weight.assign(value)
    moved = [w.numpy() - rates[0] * g.numpy()
             for w, g in zip([*extractor, *predictor], gradients, strict=True)]  # fmt: skip
    return [*moved, *new], float(first)


@pytest.mark.parametrize(("num_domains", "outputs"), [(2, 2), (3, 3), (2, 1)])
def test_alternating_steps_are_the_formulas(num_domains: int, outputs: int) -> None:
    parts = small_dann()
    model = DANN(
        parts.feature_extractor, parts.label_predictor,
        dense_head("domain_classifier", (144,), (6,), outputs),
        num_domains=num_domains, grl_lambda=LAMBDA, alternating=True,
    )  # fmt: skip
    model.compile(keras.optimizers.SGD(RATE), keras.optimizers.SGD(0.3))
    batch = small_batch(num_domains)
    for _ in range(2):
        expected, loss = two_steps_by_hand(model, batch, (RATE, 0.3))
        model.reset_metrics()
        told = model.train_step(batch)
        assert float(told["domain_cls_loss"]) == pytest.approx(loss, rel=1e-5)
        weights = [*model.predictor_variables, *model.domain_classifier.trainable_variables]
        for weight, value in zip(weights, expected, strict=True):
            np.testing.assert_allclose(weight, value, rtol=2e-5, atol=2e-6, err_msg=weight.path)


@quiet
def test_alternating_round_trip_keeps_both_optimizers(tmp_path: Path) -> None:
    model = small_dann(alternating=True)
    model.compile(keras.optimizers.Adam(0.01), keras.optimizers.SGD(0.1, 0.9))
    images, labels, domains = small_batch()
    dataset = tf.data.Dataset.from_tensors((images, labels, domains)).repeat(4)
    model.fit(dataset, verbose=0)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    for one in (model, again):
        one.fit(dataset, verbose=0)
    for one, two in zip(model.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-7)
    assert isinstance(again.domain_optimizer, keras.optimizers.SGD)


@quiet
@pytest.mark.parametrize("alternating", [False, True])
def test_fit_on_two_replicas(two_replicas: tf.distribute.Strategy, alternating: bool) -> None:
    values = np.random.default_rng(0).normal(size=(12, 32, 2)).astype(np.float32)
    ends = []
    for strategy in (tf.distribute.get_strategy(), two_replicas):
        keras.utils.set_random_seed(5)
        with strategy.scope():
            model = DANN(signals(), num_labels=3, num_domains=3, alternating=alternating)
            model.compile(optimizer=keras.optimizers.SGD(0.05))
        model.fit(batches(values, 3, 3, copies=1).unbatch().batch(12), epochs=2, verbose=0)
        ends.append(model.get_weights())
    for one, two in zip(*ends, strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"feature_layer": "lat"}, "no layer 'lat'; there are late"),
        ({"feature_layer": "zzz"}, "no layer 'zzz'; there are .*early, late"),
        ({"pooling": "max"}, "pooling must be flatten, average or none, got 'max'"),
    ],
)
def test_features_that_cannot_be_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DANN(signals(), **({"num_labels": 3} | options))


def test_what_is_no_model_and_a_model_inside_are_refused() -> None:
    with pytest.raises(TypeError, match=r"feature_extractor must be a keras\.Model, got 'Res"):
        DANN("ResNet50", num_labels=2)
    inner = keras.Sequential([keras.Input((32, 2)), layers.Flatten(), layers.Dense(4)], name="base")
    inputs = keras.Input((32, 2))
    outer = keras.Model(inputs, layers.Dense(3)(inner(inputs)))
    with pytest.raises(ValueError, match="feature_layer: 'base' is a model itself"):
        DANN(outer, num_labels=2, feature_layer="base")


def test_a_feature_of_unknown_size_is_refused_unless_pooled() -> None:
    inputs = keras.Input((None, 2))
    backbone = keras.Model(inputs, layers.Conv1D(4, 3)(inputs))
    with pytest.raises(ValueError, match=r'unknown size; .*pooling="average"'):
        DANN(backbone, num_labels=2)
    model = DANN(backbone, num_labels=2, pooling="average")
    assert model(np.zeros((2, 17, 2), np.float32)).shape == (2, 2)


def test_a_model_without_fixed_inputs_is_told_how_to_wrap() -> None:
    class Own(keras.Model):
        def call(self, inputs: tf.Tensor) -> tf.Tensor:
            return inputs

    with pytest.raises(ValueError, match=r"wrap it: .*keras\.Model\(inputs, model\(inputs\)\)"):
        DANN(Own(), num_labels=2)


@pytest.mark.parametrize(
    ("labels", "domains", "message"),
    [
        ([5, 0, -1, -1], [0, 0, 1, 1], r"labels must be in -1\.\.4"),
        ([-2, 0, -1, -1], [0, 0, 1, 1], r"labels must be in -1\.\.4"),
        ([0, 0, -1, -1], [0, 0, 1, 2], r"domains must be in 0\.\.1"),
        ([0, 0, -1, -1], [0, 0, 1, -1], r"domains must be in 0\.\.1"),
    ],
)
def test_classes_and_domains_that_do_not_exist(
    labels: list[int], domains: list[int], message: str
) -> None:
    model = small_dann()
    model.compile(optimizer="sgd")
    before = model.get_weights()
    images = np.zeros((4, 8, 8, 3), np.uint8)
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        model.train_step((tf.constant(images), tf.constant(labels), tf.constant(domains)))
    for one, two in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)


def two_inputs() -> tuple[keras.Model, tuple[tf.Tensor, tf.Tensor]]:
    """A network of an image and of numbers beside it, and a batch of them."""
    image, beside = keras.Input((4, 4, 1)), keras.Input((3,))
    both = layers.Concatenate()([layers.Flatten()(image), beside])
    random = np.random.default_rng(0)
    values = (random.normal(size=(12, 4, 4, 1)), random.normal(size=(12, 3)))
    return keras.Model((image, beside), layers.Dense(5)(both)), tuple(
        tf.constant(value, tf.float32) for value in values
    )


@pytest.mark.filterwarnings("ignore:.*shuffle=True.*:UserWarning")
@pytest.mark.parametrize("kind", ["joint", "per_domain", "adda"])
def test_several_inputs_go_through_every_method(kind: Any) -> None:
    """In one call or in blocks; features of a half are those of that half by itself."""
    network, values = two_inputs()
    if kind == "adda":
        model: Any = ADDA(network, dense_head("l", (5,), (), 3), dense_head("d", (5,), (), 2))
    else:
        model = DANN(network, num_labels=3, extractor_calls=kind)
    model.compile("sgd")
    labels, domains = tf.constant([0, 1, 2] * 2 + [-1] * 6), tf.constant([0] * 6 + [1] * 6)
    before = model.get_weights()
    data = tf.data.Dataset.from_tensors((values, labels, domains))
    model.fit(data, verbose=0)
    assert any(np.any(old != new) for old, new in zip(before, model.get_weights(), strict=True))
    features, _ = model.examine((values, labels, domains))
    source = tuple(value[:6] for value in values)
    np.testing.assert_allclose(features[:6], model.encode_as(source, 0), rtol=1e-6)
    with pytest.raises(ValueError, match=r"with one input, .* it takes \[.*, .*\]"):
        DANN(two_inputs()[0], num_labels=3, augmentation=RandomAugmentation(0))
