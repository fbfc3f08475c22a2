"""The second stage against a tape by hand, with NumPy's own teacher."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from test_dann import LAMBDA, RATE, small_batch, small_dann

from model.dann import DANN
from model.mean_teacher import MeanTeacher
from model.schedules import HalfCosine


def of(dann: DANN, **options: Any) -> MeanTeacher:
    model = MeanTeacher(
        dann.feature_extractor, dann.label_predictor, dann.domain_classifier,
        grl_lambda=LAMBDA, **options,
    )  # fmt: skip
    model.compile(optimizer=keras.optimizers.SGD(RATE))
    return model


def step_by_hand(
    model: MeanTeacher, batch: Any, teacher: DANN, mean: np.ndarray, threshold: float, weight: float
) -> tuple[list[np.ndarray], int]:
    """The weights after a step, and how many target images had a confident teacher."""
    images, labels, domains = batch
    probabilities = teacher.predict(images[6:], verbose=0)
    probabilities = probabilities / mean / (probabilities / mean).sum(axis=1, keepdims=True)
    sure = np.flatnonzero(probabilities.max(axis=1) > threshold)
    extractor, predictor, classifier = (
        part.trainable_variables
        for part in (model.feature_extractor, model.label_predictor, model.domain_classifier)
    )
    with tf.GradientTape(persistent=True) as tape:
        features = model.feature_extractor(images)
        logs = tf.nn.log_softmax(model.label_predictor(features))
        class_loss = -tf.reduce_mean(tf.gather(logs[:6], labels[:6], batch_dims=1))
        for row in sure:
            class_loss -= weight * logs[6 + row, int(probabilities[row].argmax())] / 6
        domain_logs = tf.nn.log_softmax(model.domain_classifier(features))
        domain_loss = -tf.reduce_mean(tf.gather(domain_logs, domains, batch_dims=1))
    gradients = [
        *(a - LAMBDA * b for a, b in zip(tape.gradient(class_loss, extractor),
                                         tape.gradient(domain_loss, extractor), strict=True)),
        *tape.gradient(class_loss, predictor),
        *tape.gradient(domain_loss, classifier),
    ]  # fmt: skip
    weights = [*extractor, *predictor, *classifier]
    return [w.numpy() - RATE * g.numpy() for w, g in zip(weights, gradients, strict=True)], len(
        sure
    )


@pytest.mark.parametrize(
    ("confidence", "relative", "ramp"),
    [(0.0, False, 0.0), (0.24, False, 0.0), (1.0, False, 0.0), (0.4, True, 1.0)],
)
def test_step_is_the_formulas(confidence: float, relative: bool, ramp: float) -> None:
    model = of(
        small_dann(), confidence=confidence, relative_confidence=relative, average_decay=0.5,
        pseudo_weight=HalfCosine(4, ramp),
    )  # fmt: skip
    teacher = keras.models.clone_model(small_dann())
    batch = small_batch()
    shown: list[Any] = []
    used = []
    mean, source_confidence = np.full(5, 0.2), 1.0
    for step in range(4):
        weights = [
            w.numpy()
            for part in (model.feature_extractor, model.label_predictor)
            for w in part.weights
        ]
        # The teacher, by NumPy: d = t / (10 + t) stays under its ceiling of 0.5 here.
        decay = step / (10 + step)
        shown = [
            w if step == 0 else decay * old + (1 - decay) * w
            for w, old in zip(weights, shown or weights, strict=True)
        ]
        teacher.set_weights([*shown, *teacher.domain_classifier.get_weights()])
        if relative:
            largest = teacher.predict(batch[0][:6], verbose=0).max(axis=1).mean()
            source_confidence = 0.995 * source_confidence + 0.005 * largest
        threshold = confidence * source_confidence
        weight = (1 - np.cos(np.pi * step / 4)) / 2 if ramp else 1.0
        expected, count = step_by_hand(model, batch, teacher, mean, threshold, weight)
        mean = 0.995 * mean + 0.005 * teacher.predict(batch[0][6:], verbose=0).mean(axis=0)
        used.append(count)
        model.train_step(batch)
        for weight, value in zip(model.trainable_variables, expected, strict=True):
            np.testing.assert_allclose(weight, value, rtol=2e-4, atol=2e-6, err_msg=weight.path)
    np.testing.assert_allclose(model.mean_prediction, mean, rtol=1e-4)
    found = {0.0: used == [6] * 4, 0.24: 0 < sum(used) < 24, 1.0: used == [0] * 4}
    assert found.get(confidence, True), used
    if relative:
        assert float(model.source_confidence) == pytest.approx(source_confidence, rel=1e-5)


def test_without_confidence_it_is_dann() -> None:
    """The control: a teacher that is never sure teaches nothing."""
    batch = small_batch()
    plain = small_dann()
    plain.compile(optimizer=keras.optimizers.SGD(RATE))
    model = of(small_dann(), confidence=1.0)
    for _ in range(3):
        plain.train_step(batch)
        model.train_step(batch)
    for one, two in zip(plain.trainable_variables, model.trainable_variables, strict=True):
        np.testing.assert_array_equal(one, two)


def test_a_teacher_needs_an_average() -> None:
    with pytest.raises(ValueError, match="average_decay must be above 0"):
        of(small_dann(), average_decay=0.0)


def test_keras_round_trip(tmp_path: Any) -> None:
    model = of(small_dann(), confidence=0.8, average_decay=0.9)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert isinstance(again, MeanTeacher)
    assert (again.confidence, again.average_decay) == (0.8, 0.9)
    images = small_batch()[0].numpy()
    np.testing.assert_array_equal(
        again.predict(images, verbose=0), model.predict(images, verbose=0)
    )
