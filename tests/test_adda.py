"""ADDA against a tape by hand: which weights move, which stay, and in which direction."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import assert_same_weights
from keras import layers
from test_dann import small_batch

from config.config import Config
from model.adda import ADDA, SourceModel
from model.networks import captcha_classifier, captcha_encoder, dense_head
from model.schedules import Constant
from utils.errors import UserError

RATE, D_RATE = 0.2, 0.3
LOSSES = ["gan", "minimax", "confusion"]


def small_encoder(nervous: bool = False) -> keras.Model:
    """Two layers; a nervous one has batch normalisation and dropout, too."""
    extra = [layers.BatchNormalization(momentum=0.5), layers.Dropout(0.5)] if nervous else []
    return keras.Sequential(
        [keras.Input((8, 8, 3)), layers.Rescaling(1 / 255), layers.Conv2D(4, 3, activation="relu"),
         *extra, layers.Flatten()],
        name="encoder",
    )  # fmt: skip


def small_adda(
    nervous: bool = False, compiled: bool = True, seed: int = 3, classes: int = 5, **options: Any
) -> ADDA:
    keras.utils.set_random_seed(seed)
    model = ADDA(
        small_encoder(nervous),
        dense_head("classifier", (144,), (6,), classes),
        dense_head("discriminator", (144,), (7,), 2),
        **options,
    )
    if compiled:
        model.compile(keras.optimizers.SGD(RATE), keras.optimizers.SGD(D_RATE))
    return model


def formula(loss: str, logits: tf.Tensor) -> tf.Tensor:
    """The mean adversarial loss, from the probabilities of the two domains and not their logs."""
    p_source, p_target = tf.unstack(
        tf.exp(logits) / tf.reduce_sum(tf.exp(logits), 1)[:, None], 2, 1
    )
    values = {
        "gan": -tf.math.log(p_source),
        "minimax": tf.math.log(1 - p_source),
        "confusion": -0.5 * tf.math.log(p_source) - 0.5 * tf.math.log(p_target),
    }
    return tf.reduce_mean(values[loss])


def step_by_hand(
    model: ADDA, batch: Any, loss: str, k_d: int, k_g: int, weight: float = 1.0
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The weights of the target encoder and of the discriminator after one training step."""
    encoder = keras.models.clone_model(model.feature_extractor)
    encoder.set_weights(model.feature_extractor.get_weights())
    judge = keras.models.clone_model(model.domain_classifier)
    judge.set_weights(model.domain_classifier.get_weights())
    source, target = np.split(batch[0].numpy(), 2)
    for _ in range(k_d):
        with tf.GradientTape() as tape:
            p_source = tf.nn.softmax(judge(model.source_extractor(source)))[:, 0]
            p_target = tf.nn.softmax(judge(encoder(target)))[:, 1]
            both = tf.concat([p_source, p_target], 0)
            value = -tf.reduce_mean(tf.math.log(both))
        for w, g in zip(judge.variables, tape.gradient(value, judge.variables), strict=True):
            w.assign_sub(D_RATE * g)
    for _ in range(k_g):
        with tf.GradientTape() as tape:
            value = weight * formula(loss, judge(encoder(target)))
        for w, g in zip(encoder.variables, tape.gradient(value, encoder.variables), strict=True):
            w.assign_sub(RATE * g)
    return encoder.get_weights(), judge.get_weights()


def test_shared_layers_stay_the_source_encoders(tmp_path: Path) -> None:
    def deep_adda(shared_layers: int) -> ADDA:
        keras.utils.set_random_seed(3)
        encoder = keras.Sequential(
            [keras.Input((8, 8, 3)), layers.Rescaling(1 / 255),
             keras.Sequential([layers.Conv2D(4, 3), layers.ReLU()]), layers.BatchNormalization(),
             layers.Conv2D(3, 3), layers.Flatten()]
        )  # fmt: skip
        heads = dense_head("classifier", (48,), (), 5), dense_head("discriminator", (48,), (), 2)
        model = ADDA(encoder, *heads, shared_layers=shared_layers)
        model.compile(keras.optimizers.SGD(RATE), keras.optimizers.SGD(D_RATE))
        return model

    model = deep_adda(2)
    before = model.feature_extractor.get_weights()  # 2 of the convolution, 4 of the statistics, 2
    model.train_step(small_batch())
    after = model.feature_extractor.get_weights()
    moved = [bool(np.any(old != new)) for old, new in zip(before, after, strict=True)]
    assert moved == [False] * 6 + [True] * 2
    model.save(tmp_path / "shared.keras")
    again = keras.saving.load_model(tmp_path / "shared.keras")
    assert again.shared_layers == 2
    assert len(again.predictor_variables) == len(model.predictor_variables) == 2
    with pytest.raises(UserError, match=r"shared_layers: 3 must be in 0\.\.2"):
        deep_adda(3)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(("k_d", "k_g"), [(1, 1), (1, 2), (3, 1), (2, 3)])
def test_steps_are_the_papers(loss: Any, k_d: int, k_g: int) -> None:
    model = small_adda(adversarial_loss=loss, k_d=k_d, k_g=k_g, grl_lambda=0.7)
    batch = small_batch()
    frozen = [*model.source_extractor.get_weights(), *model.label_predictor.get_weights()]
    for _ in range(3):
        before = [*model.feature_extractor.get_weights(), *model.domain_classifier.get_weights()]
        encoder, judge = step_by_hand(model, batch, loss, k_d, k_g, 0.7)
        model.train_step(batch)
        after = [*model.feature_extractor.get_weights(), *model.domain_classifier.get_weights()]
        for old, new, expected in zip(before, after, [*encoder, *judge], strict=True):
            np.testing.assert_allclose(new, expected, rtol=2e-5, atol=2e-6)
            assert np.abs(new - old).max() > 1e-6, "did not move: proves nothing"
    still = [*model.source_extractor.get_weights(), *model.label_predictor.get_weights()]
    for old, new in zip(frozen, still, strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize("loss", LOSSES)
def test_the_encoder_goes_where_the_loss_says(loss: Any) -> None:
    """Against a judge that stands still: towards source, or towards undecided."""
    model = small_adda(compiled=False, adversarial_loss=loss, k_g=1)
    model.compile(keras.optimizers.SGD(0.5), keras.optimizers.SGD(0.0))
    batch = small_batch()
    last = model.domain_classifier.layers[-1]
    last.bias.assign([-2.0, 2.0])  # says "target" of everything, as it does when it wins
    targets = batch[0][6:]

    def p_source() -> float:
        logits = model.domain_classifier(model.feature_extractor(targets))
        return float(tf.reduce_mean(tf.nn.softmax(logits)[:, 0]))

    seen = [p_source()]
    step = tf.function(model.train_step)
    for _ in range(200):
        step(batch)
        seen.append(p_source())
    assert seen[0] < 0.2
    assert seen[1] > seen[0]
    if loss == "confusion":
        assert seen[-1] == pytest.approx(0.5, abs=0.1)
    else:
        assert seen[-1] > 0.7


def test_the_source_half_never_leaves_inference_mode() -> None:
    """Batch normalisation and dropout of source encoder and classifier stay as they were."""
    model = small_adda(nervous=True)
    batch = small_batch()
    frozen = model.source_extractor.get_weights()
    moved = model.feature_extractor.non_trainable_variables[0].numpy()
    seen: list[np.ndarray] = []
    model.domain_classifier = Spy(model.domain_classifier, seen)
    for _ in range(2):
        model.train_step(batch)
    for old, new in zip(frozen, model.source_extractor.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    expected = model.source_extractor(batch[0][:6], training=False)
    for features in seen:
        np.testing.assert_array_equal(features[:6], expected)
    assert np.abs(model.feature_extractor.non_trainable_variables[0] - moved).max() > 0


def test_the_discriminator_cannot_see_dropout() -> None:
    """Of two equal domains the encodings are equal, but for batch normalisation's own noise."""
    keras.utils.set_random_seed(0)
    encoder = keras.Sequential([keras.Input((8, 8, 3)), layers.Flatten(), layers.Dropout(0.5)])
    seen: list[np.ndarray] = []
    model = ADDA(
        keras.Sequential([encoder, layers.Dense(20)]),
        dense_head("classifier", (20,), (), 5),
        dense_head("discriminator", (20,), (), 2),
    )
    model.compile(keras.optimizers.SGD(0.0), keras.optimizers.SGD(0.0))
    model.domain_classifier = Spy(model.domain_classifier, seen)
    images, labels, domains = small_batch()
    model.train_step((tf.concat([images[:6], images[:6]], 0), labels, domains))
    np.testing.assert_array_equal(seen[0][:6], seen[0][6:])


class Spy:
    """A discriminator that keeps the encodings of both domains that it is shown."""

    def __init__(self, judge: keras.Model, seen: list[np.ndarray]):
        self.judge, self.seen = judge, seen
        self.trainable_variables = judge.trainable_variables

    def __call__(self, features: tf.Tensor, training: bool) -> tf.Tensor:
        if len(features) == 12:
            self.seen.append(features.numpy())
        return self.judge(features, training=training)


def test_weight_zero_trains_the_discriminator_alone() -> None:
    """The control, before λ rises."""
    model = small_adda(compiled=False, grl_lambda=Constant(10, 1.0, delay=3), k_g=2)
    model.compile(keras.optimizers.Adam(0.01), keras.optimizers.Adam(0.01))
    batch = small_batch()
    start = model.feature_extractor.get_weights()
    for step in range(4):
        judge = model.domain_classifier.get_weights()
        model.train_step(batch)
        still = all(
            np.array_equal(old, new)
            for old, new in zip(start, model.feature_extractor.get_weights(), strict=True)
        )
        assert still is (step < 3)
        assert np.abs(model.domain_classifier.get_weights()[0] - judge[0]).max() > 0


def test_the_encoder_sets_off_after_the_discriminators_steps_as_at_any_time() -> None:
    """Its rate was 0, so Adam knows the gradient. After zeros it would make a step that is
    (1 - β₁) / √(1 - β₂) = 16 times as long as its rate."""
    settings = Config(
        method="adda", discriminator_steps=50, adda_learning_rate=0.001, lr_alpha=0.0, k_g=1
    )
    assert ADDA.schedules(settings, 100)["grl_lambda"](tf.range(3)).numpy().tolist() == [1, 1, 1]
    model = small_adda(compiled=False, k_g=1)
    model.compile(**ADDA.optimizers_for(settings, 100, keras.optimizers.SGD))
    batch = small_batch()
    start = model.feature_extractor.get_weights()
    step = tf.function(model.train_step)
    for _ in range(50):
        step(batch)
    assert_same_weights(start, model.feature_extractor.get_weights())
    step(batch)
    moved = [np.abs(new - old).max() for old, new in
             zip(start, model.feature_extractor.get_weights(), strict=True)]  # fmt: skip
    assert 1e-4 < max(moved) < 3e-3


def test_delay_is_counted_in_whole_steps() -> None:
    for delay in (0, 1, 7, 333, 999):
        values = Constant(1000, 0.3, delay=delay)(tf.range(1000)).numpy()
        np.testing.assert_array_equal(values, np.where(np.arange(1000) < delay, 0, np.float32(0.3)))


def test_it_predicts_with_the_target_encoder_and_the_source_classifier() -> None:
    model = small_adda()
    batch = small_batch()
    images = batch[0].numpy()
    before = model.predict(images, verbose=0)
    np.testing.assert_allclose(
        before, tf.nn.softmax(model.label_predictor(model.source_extractor(images))), rtol=1e-5
    )
    for _ in range(3):
        model.train_step(batch)
    after = model.predict(images, verbose=0)
    np.testing.assert_allclose(
        after, tf.nn.softmax(model.label_predictor(model.feature_extractor(images))), rtol=1e-5
    )
    assert np.abs(after - before).max() > 1e-3


@pytest.mark.parametrize("domains", [[0, 1, 1, 0, 1], [0, 0], [1]])
def test_each_domain_is_measured_with_its_own_encoder(domains: list[int]) -> None:
    model = small_adda()
    for _ in range(3):
        model.train_step(small_batch())
    images = small_batch()[0][: len(domains)]
    expected = [
        (model.feature_extractor if domain else model.source_extractor)(images[row : row + 1])[0]
        for row, domain in enumerate(domains)
    ]
    labels = tf.constant([row % 5 for row in range(len(domains))])
    batch = (images, labels, tf.constant(domains))
    features, probabilities = tf.function(model.examine)(batch)
    np.testing.assert_allclose(features, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        probabilities, tf.nn.softmax(model.label_predictor(tf.stack(expected))), rtol=1e-5
    )
    model.reset_metrics()
    results = model.test_step(batch)
    p_domain = tf.nn.softmax(model.domain_classifier(tf.stack(expected))).numpy()
    losses = -np.log(p_domain[np.arange(len(domains)), domains])
    assert float(results["domain_cls_loss"]) == pytest.approx(losses.mean(), rel=1e-4)
    fooled = -np.log(p_domain[np.array(domains) == 1, 0])
    if len(fooled):
        assert float(results["adversarial_loss"]) == pytest.approx(fooled.mean(), rel=1e-4)


def strings() -> tuple[SourceModel, tuple[tf.Tensor, tf.Tensor, tf.Tensor]]:
    keras.utils.set_random_seed(5)
    model = SourceModel(small_encoder(), captcha_classifier((144,), 3, 5), class_names="abcde")
    model.compile(keras.optimizers.SGD(RATE))
    random = np.random.default_rng(1)
    images = random.integers(0, 256, (40, 8, 8, 3)).astype(np.uint8)
    labels = random.integers(0, 5, (40, 3)).astype(np.int32)
    return model, (tf.constant(images), tf.constant(labels), tf.zeros(40, tf.int32))


def test_strings_are_measured_by_position_and_as_a_whole() -> None:
    model, batch = strings()
    labels = batch[1].numpy()
    probabilities = model.predict(batch[0].numpy(), verbose=0)
    labels[:, 1] = probabilities[:, 1].argmax(-1)  # the second is always right
    labels[:9] = probabilities[:9].argmax(-1)  # and nine strings are
    results = model.test_step((batch[0], tf.constant(labels), batch[2]))
    right = probabilities.argmax(-1) == labels
    losses = -np.log(np.take_along_axis(probabilities, labels[..., None], -1))
    expected = {
        "loss": losses.mean(),
        "image_cls_loss": losses.mean(),
        "image_cls_acc": right.mean(),
        "position1_acc": right[:, 0].mean(),
        "position2_acc": 1.0,
        "position3_acc": right[:, 2].mean(),
        "whole_string_acc": right.all(axis=1).mean(),
    }
    assert {name: float(value) for name, value in results.items()} == pytest.approx(expected, 1e-4)
    assert 9 / 40 <= expected["whole_string_acc"] < 1


def test_the_source_model_descends_the_mean_label_loss() -> None:
    model, batch = strings()
    with tf.GradientTape() as tape:
        logits = model.label_predictor(model.feature_extractor(batch[0]))
        picked = tf.gather(tf.nn.log_softmax(logits), batch[1], batch_dims=2)
        loss = -tf.reduce_mean(picked)
    gradients = tape.gradient(loss, model.predictor_variables)
    expected = [w - RATE * g for w, g in zip(model.predictor_variables, gradients, strict=True)]
    model.train_step(batch)
    for weight, value in zip(model.predictor_variables, expected, strict=True):
        np.testing.assert_allclose(weight, value, rtol=2e-5, atol=2e-6)


def test_unlabelled_strings_do_not_count() -> None:
    model, (images, labels, domains) = strings()
    half = tf.concat([labels[:20], -tf.ones_like(labels[20:])], 0)
    some = model.test_step((images[:20], labels[:20], domains[:20]))
    some = {name: float(value) for name, value in some.items()}
    model.reset_metrics()
    both = model.test_step((images, half, domains))
    assert {name: float(value) for name, value in both.items()} == pytest.approx(some, 1e-5)


def test_captcha_networks_have_the_tutorials_sizes() -> None:
    encoder = captcha_encoder((100, 100, 3))
    filters = [each.filters for each in encoder.layers if isinstance(each, layers.Conv2D)]
    assert filters == [32, 32, 64, 64]
    classifier = captcha_classifier(encoder.output_shape[1:], 3, 10)
    units = [each.units for each in classifier.layers if isinstance(each, layers.Dense)]
    assert sorted(units) == [10, 10, 10, 128, 128, 128]
    assert classifier.output_shape == (None, 3, 10)
    # Each character has its own: changing one head changes one position.
    features = np.random.default_rng(0).random((2, *encoder.output_shape[1:])).astype(np.float32)
    before = classifier(features).numpy()
    head = classifier.get_layer("logits2")
    head.set_weights([weight + 1.0 for weight in head.get_weights()])
    changed = np.abs(classifier(features) - before).max(axis=(0, 2)) > 0
    np.testing.assert_array_equal(changed, [False, True, False])


@pytest.mark.filterwarnings("ignore:.*shuffle=True.*:UserWarning")
def test_keras_does_all_it_does(tmp_path: Path) -> None:
    model = small_adda(adversarial_loss="confusion", k_d=2, class_names="abcde", average_decay=0.9)
    dataset = tf.data.Dataset.from_tensors(small_batch()).repeat(3)
    model.fit(dataset, epochs=2, verbose=0)
    names = {"loss", "image_cls_loss", "image_cls_acc", "domain_cls_loss", "domain_cls_acc",
             "adversarial_loss"}  # fmt: skip
    assert set(model.evaluate(dataset, verbose=0, return_dict=True)) == names
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert (again.adversarial_loss, again.k_d, again.k_g) == ("confusion", 2, 2)
    assert again.class_names == list("abcde")
    images = small_batch()[0].numpy()
    np.testing.assert_array_equal(
        again.predict(images, verbose=0), model.predict(images, verbose=0)
    )
    for one in (model, again):
        one.train_step(small_batch())
    for one, two in zip(model.weights, again.weights, strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-6, atol=1e-7)


def test_two_replicas_are_one(two_replicas: tf.distribute.Strategy) -> None:
    batch = small_batch()
    alone = small_adda(clip_norm=0.05, average_decay=0.9)
    with two_replicas.scope():
        shared = small_adda(clip_norm=0.05, average_decay=0.9)
    rows = [[0, 1, 2, 6, 7, 8], [3, 4, 5, 9, 10, 11]]

    @tf.function
    def step() -> None:
        parts = [tuple(tf.gather(part, half) for part in batch) for half in rows]
        values = two_replicas.experimental_distribute_values_from_function(
            lambda context: parts[context.replica_id_in_sync_group]
        )
        two_replicas.run(shared.train_step, (values,))

    for _ in range(4):
        alone.train_step(batch)
        step()
    for one, two in zip(alone.weights, shared.weights, strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-6, err_msg=one.path)


def test_it_brings_a_shifted_domain_home() -> None:
    """Four classes at the corners of a square; the target is the same, moved aside.

    The control with λ = 0 stays as wrong as the source model is.
    """
    random = np.random.default_rng(0)
    labels = random.integers(0, 4, 800).astype(np.int32)
    corners = np.array([[-1, -1], [-1, 1], [1, -1], [1, 1]], np.float32)
    points = corners[labels] + random.normal(size=(800, 2), scale=0.15).astype(np.float32)
    moved = points[::-1] + np.array([1.3, 1.2], np.float32)
    accuracy = {}
    for weight in (0.0, 1.0):
        keras.utils.set_random_seed(0)
        inputs = keras.Input((2,))
        encoder = keras.Model(inputs, layers.Dense(2, kernel_initializer="identity")(inputs))
        source = SourceModel(encoder, dense_head("classifier", (2,), (16,), 4))
        source.compile(keras.optimizers.Adam(0.02))
        train = tf.function(source.train_step)
        batch = (tf.constant(points), tf.constant(labels), tf.zeros(800, tf.int32))
        for _ in range(200):
            train(batch)
        judge = dense_head("discriminator", (2,), (32, 32), 2)
        model = ADDA(
            source.feature_extractor, source.label_predictor, judge, k_g=1, grl_lambda=weight
        )
        model.compile(
            keras.optimizers.Adam(0.005, beta_1=0.5), keras.optimizers.Adam(0.005, beta_1=0.5)
        )
        adapt = tf.function(model.train_step)
        both = (
            tf.constant(np.concatenate([points, moved])),
            tf.constant(np.concatenate([labels, np.full(800, -1, np.int32)])),
            tf.constant(np.repeat([0, 1], 800)),
        )
        for _ in range(400):
            adapt(both)
        accuracy[weight] = np.mean(model(moved).numpy().argmax(1) == labels[::-1])
    assert accuracy[0.0] < 0.6
    assert accuracy[1.0] > 0.95


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"adversarial_loss": "wgan"}, "gan, minimax, confusion, got 'wgan'"),
        ({"k_d": 0}, "k_d and k_g must be 1 or more, got 0 and 2"),
        ({"domain_classifier": dense_head("d", (144,), (), 3)}, "2 logits, got output shape"),
        ({"num_domains": 3, "domain_classifier": dense_head("d", (144,), (), 3)}, "got 3 domains"),
    ],
)
def test_bad_arguments(options: dict[str, Any], message: str) -> None:
    parts = {"domain_classifier": dense_head("d", (144,), (), 2), **options}
    with pytest.raises(ValueError, match=message):
        ADDA(small_encoder(), dense_head("classifier", (144,), (), 5), **parts)


def test_the_networks_that_are_given_go_on_training() -> None:
    """ADDA freezes copies: a notebook may train the source model further, and adapt again."""
    encoder, classifier = small_encoder(), dense_head("classifier", (144,), (), 5)
    model = ADDA(encoder, classifier, dense_head("discriminator", (144,), (), 2))
    assert encoder.trainable
    assert classifier.trainable
    assert not model.source_extractor.trainable
    assert not model.label_predictor.trainable
    for given, own in ((encoder, model.source_extractor), (classifier, model.label_predictor)):
        for one, two in zip(given.weights, own.weights, strict=True):
            assert one is not two
            np.testing.assert_array_equal(one, two)


def test_weight_decay_reaches_the_target_encoder_and_the_discriminator() -> None:
    moved = []
    for decay in (None, "l2"):
        keras.utils.set_random_seed(1)
        encoder = keras.Sequential(
            [keras.Input((4,)), keras.layers.Dense(6, kernel_regularizer=decay)]
        )
        judge = keras.Sequential(
            [keras.Input((6,)), keras.layers.Dense(2, kernel_regularizer=decay)]
        )
        model = ADDA(encoder, dense_head("classifier", (6,), (), 3), judge, k_g=1)
        model.compile(keras.optimizers.SGD(RATE), keras.optimizers.SGD(RATE))
        kernels = [model.feature_extractor.trainable_variables[0], judge.trainable_variables[0]]
        before = [kernel.numpy() for kernel in kernels]
        points = tf.random.stateless_normal((6, 4), (1, 2))
        model.train_step((points, tf.constant([0, 1, 2, -1, -1, -1]), tf.repeat([0, 1], 3)))
        moved.append([kernel - old for kernel, old in zip(kernels, before, strict=True)])
    # Keras' l2 adds 0.01·w². The discriminator, which moves first, changes the encoder's step.
    np.testing.assert_allclose(moved[1][1] - moved[0][1], -RATE * 0.02 * before[1], atol=1e-6)
    np.testing.assert_allclose(moved[1][0] - moved[0][0], -RATE * 0.02 * before[0], atol=3e-4)


def test_a_batch_in_another_order_is_refused() -> None:
    images, labels, domains = small_batch()
    with pytest.raises(tf.errors.InvalidArgumentError, match="one block of each of 2 domains"):
        small_adda().train_step((images, labels, domains[::-1]))
