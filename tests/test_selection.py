"""Each criterion against a case worked out by hand or in plain loops."""

from __future__ import annotations

import math

import numpy as np
import pytest

from utils.record.log_csv import pick_of
from utils.record.selection import CRITERIA, Outputs, controlled_risk, density_ratio, evenly

PAIR = np.array([[0.9, 0.1], [0.1, 0.9]])
H_PAIR = 0.3250829733914482  # H(.9, .1) in nats


def outputs(probabilities: np.ndarray, features: np.ndarray | None = None) -> Outputs:
    count = len(probabilities)
    features = np.zeros((count, 1)) if features is None else features
    return Outputs(features, np.asarray(probabilities, np.float64), np.zeros(count, np.int32))


def score(name: str, probabilities: np.ndarray) -> float:
    return CRITERIA[name](outputs(PAIR), outputs(probabilities))


@pytest.mark.parametrize(
    ("probabilities", "expected"),
    [
        (np.eye(10), math.log(10)),  # sure of everything, all classes used
        (np.tile(np.eye(10)[3], (6, 1)), 0.0),  # sure, but always the same class
        (np.full((5, 10), 0.1), 0.0),  # never sure
        (PAIR, math.log(2) - H_PAIR),  # the mean is (.5, .5), whose entropy is ln 2
    ],
)
def test_information_maximisation(probabilities: np.ndarray, expected: float) -> None:
    assert score("information_maximisation", probabilities) == pytest.approx(expected, abs=1e-12)


def test_entropy_is_blind_to_the_class() -> None:
    assert score("entropy", PAIR) == pytest.approx(-H_PAIR)
    assert score("entropy", np.tile(np.eye(10)[3], (6, 1))) == 0.0
    assert score("entropy", np.full((5, 10), 0.1)) == pytest.approx(-math.log(10))


def test_soft_neighbourhood_density() -> None:
    """Three predictions, two of them alike: cosines 1 and 0 over 0.05, in plain loops."""
    probabilities = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    near = 1 / (1 + math.exp(-20.0))  # the weight of the twin beside the stranger
    twin = -near * math.log(near) - (1 - near) * math.log(1 - near)
    expected = (2 * twin + math.log(2)) / 3  # the stranger's two neighbours are equally far
    assert score("soft_neighbourhood_density", probabilities) == pytest.approx(expected, rel=1e-6)


def test_one_image_has_no_neighbours() -> None:
    assert math.isnan(score("soft_neighbourhood_density", np.eye(3)[:1]))


def test_soft_neighbourhood_density_prefers_large_clusters() -> None:
    clusters = np.eye(2)[np.arange(40) % 2]
    shattered = np.eye(20)[np.arange(40) % 20]
    name = "soft_neighbourhood_density"
    assert score(name, clusters) == pytest.approx(math.log(19), rel=1e-4)
    assert score(name, clusters) > score(name, shattered)


def test_nuclear_norm() -> None:
    assert score("nuclear_norm", np.eye(4)) == pytest.approx(1.0)  # 4 singular values of 1, over 4
    # All alike: one singular value, √(N·Σp²) = √N, over √(N·10).
    assert score("nuclear_norm", np.tile(np.eye(10)[3], (6, 1))) == pytest.approx(10**-0.5)


def test_controlled_risk_by_hand() -> None:
    # w = 1, 3 and l = 0, 1: w·l = 0, 3; mean 1.5; cov = 1.5; var = 1; η = -1.5; mean(w) = 2.
    assert controlled_risk(np.array([1.0, 3.0]), np.array([0.0, 1.0])) == pytest.approx(
        1.5 - 1.5 * 2 + 1.5
    )
    assert controlled_risk(np.ones(4), np.array([0.0, 1.0, 1.0, 0.0])) == 0.5


def test_density_ratio_of_shifted_normals() -> None:
    """N(0, 1) against N(1, 1): the ratio is exp(x - 1/2)."""
    random = np.random.default_rng(0)
    source, target = random.normal(0, 1, (8000, 1)), random.normal(1, 1, (4000, 1))
    expected = np.exp(source[:, 0] - 0.5)
    found = density_ratio(source, target)
    assert np.corrcoef(np.log(found), np.log(expected))[0, 1] > 0.999
    assert np.median(found / expected) == pytest.approx(1, abs=0.15)


def test_deep_embedded_validation_looks_where_the_target_is() -> None:
    """Two models, each wrong on a quarter of the source: one where the target lies, one not."""
    features = np.linspace(-1, 1, 400)[:, None]
    target = outputs(np.tile(PAIR, (200, 1)), features[200:].repeat(2, axis=0))
    right = np.tile([1.0, 0.0], (400, 1))
    scores = []
    for wrong in (slice(0, 100), slice(300, 400)):
        probabilities = right.copy()
        probabilities[wrong] = [0.0, 1.0]
        scores.append(
            CRITERIA["deep_embedded_validation"](outputs(probabilities, features), target)
        )
    assert scores[0] > scores[1]
    assert CRITERIA["deep_embedded_validation"](outputs(right, features), target) == 0.0


def test_source_images_without_a_label_are_no_errors() -> None:
    random = np.random.default_rng(0)
    features = random.normal(size=(60, 3))
    labels = random.integers(0, 2, 60).astype(np.int32)
    source = Outputs(features, np.eye(2)[random.integers(0, 2, 60)], labels)
    target = outputs(PAIR, features[:2] + 1)
    risk = CRITERIA["deep_embedded_validation"]
    some = Outputs(source.features, source.probabilities, np.where(np.arange(60) < 40, labels, -1))
    first = Outputs(features[:40], source.probabilities[:40], labels[:40])
    assert risk(some, target) == pytest.approx(risk(first, target))
    none = Outputs(source.features, source.probabilities, np.full(60, -1, np.int32))
    assert math.isnan(risk(none, target))


def test_what_is_never_known_picks_the_last_epoch() -> None:
    """As best.keras does, which is written anew after each epoch then."""
    rows = [{"epoch": "1", "a": "nan", "b": "0.5"}, {"epoch": "2", "a": "", "b": "nan"}]
    assert pick_of(rows, "a")["epoch"] == "2"
    assert pick_of(rows, "b")["epoch"] == "1"
    assert pick_of([{"a": 0.0, "epoch": 1.0}, {"a": -0.1, "epoch": 2.0}], "a")["epoch"] == 1.0


def test_evenly_sees_every_class_of_a_sorted_set() -> None:
    for count in (1, 5_000, 5_001, 7_291, 9_999, 60_000):
        some = evenly(np.arange(count), 5_000)
        assert len(some) <= 5_000
        assert count - some[-1] <= len(some) + 1
        assert some[0] == 0
