from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from model.augmentation import RandomAugmentation

STILL: dict[str, Any] = {"rotation": 0.0, "stretch": 0.0, "shear": 0.0, "shift": 0.0}


def pictures(count: int = 8, side: int = 15) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 3)).astype(np.uint8)


def fixed(monkeypatch: pytest.MonkeyPatch, layer: RandomAugmentation, *chances: float) -> None:
    """Makes every image's random numbers `chances`."""
    monkeypatch.setattr(
        layer, "chances", lambda step, size, count: tf.constant([chances] * int(size), tf.float32)
    )


def test_nothing_to_change_changes_nothing() -> None:
    images = pictures()
    np.testing.assert_allclose(RandomAugmentation(0, **STILL)(images, step=3), images, atol=1e-3)


def test_mixed_precision_rounds_no_pixel() -> None:
    images = np.full((2, 15, 15, 3), 200.3, np.float32)
    layer = RandomAugmentation(0, **STILL, dtype="mixed_bfloat16")
    np.testing.assert_allclose(layer(images, step=0), images, atol=1e-3)


def test_a_quarter_turn_is_numpys(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = RandomAugmentation(0, **{**STILL, "rotation": 90.0})
    fixed(monkeypatch, layer, 1.0, *[0.0] * 11)
    images = pictures()
    np.testing.assert_allclose(layer(images, step=0), np.rot90(images, 1, axes=(1, 2)), atol=0.05)


def test_a_shift_is_numpys(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = RandomAugmentation(0, **{**STILL, "shift": 2 / 15})
    fixed(monkeypatch, layer, 0.0, 0.0, 0.0, 0.0, 1.0, -0.5, *[0.0] * 6)  # 2 right, 1 up
    images = pictures()
    moved = np.asarray(layer(images, step=0))
    np.testing.assert_allclose(moved[:, 1:, :-2], images[:, :-1, 2:], atol=0.05)


def test_colours_are_the_formulas(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = RandomAugmentation(0, **STILL, contrast=0.5, brightness=40.0)
    fixed(monkeypatch, layer, *[0.0] * 6, 1.0, -1.0, 0.0, 0.5, 0.0, -1.0)
    images = pictures().astype(np.float64)
    mean = images.mean(axis=(1, 2), keepdims=True)
    expected = mean + (images - mean) * [1.5, 0.5, 1.0] + [20.0, 0.0, -40.0]
    np.testing.assert_allclose(layer(images, step=0), np.clip(expected, 0, 255), atol=0.05)


def test_half_are_mirrored_and_corners_may_be_black(monkeypatch: pytest.MonkeyPatch) -> None:
    images = pictures(200)
    mirrored = np.asarray(RandomAugmentation(0, **STILL, flip=True)(images, step=0))
    same = np.abs(mirrored - images).max(axis=(1, 2, 3)) < 0.05
    turned = np.abs(mirrored - images[:, :, ::-1]).max(axis=(1, 2, 3)) < 0.05
    assert (same ^ turned).all()
    assert 60 < turned.sum() < 140
    layer = RandomAugmentation(0, **{**STILL, "shift": 2 / 15}, edges="black")
    fixed(monkeypatch, layer, 0.0, 0.0, 0.0, 0.0, 1.0, *[0.0] * 7)
    assert np.abs(layer(images, step=0)[:, :, -2:]).max() < 0.05


def test_half_of_the_channels_are_inverted() -> None:
    images = pictures(200)
    changed = np.asarray(RandomAugmentation(0, **STILL, invert=True)(images, step=0))
    same = np.abs(changed - images).max(axis=(1, 2)) < 0.05  # (200, 3)
    inverted = np.abs(changed - (255.0 - images)).max(axis=(1, 2)) < 0.05
    assert (same ^ inverted).all()
    assert 240 < inverted.sum() < 360
    assert len({tuple(row) for row in inverted}) == 8  # each channel by its own chance


def test_chances_follow_seed_step_and_place() -> None:
    images = np.repeat(pictures(1), 8, axis=0)
    layer = RandomAugmentation(4)
    once = layer(images, step=7)
    np.testing.assert_array_equal(once, RandomAugmentation(4)(images, step=7))
    assert np.abs(once - layer(images, step=8)).max() > 1
    assert np.abs(once - RandomAugmentation(5)(images, step=7)).max() > 1
    assert np.abs(once[0] - once[1]).max() > 1
    assert 0 <= np.min(once) <= np.max(once) <= 255


def test_cutout_is_a_square_of_the_mean_colour() -> None:
    images = pictures(40)
    layer = RandomAugmentation(0, **STILL, cutout=7)
    found = layer(images, step=3).numpy()
    mean = images.mean(axis=(1, 2), keepdims=True)
    sizes = []
    for image, plain, colour in zip(found, images, mean, strict=True):
        changed = np.abs(image - plain).max(axis=-1) > 1e-3
        np.testing.assert_allclose(
            image[changed], np.broadcast_to(colour[0], image.shape)[changed], rtol=1e-4
        )
        rows, columns = (np.flatnonzero(changed.any(axis=axis)) for axis in (1, 0))
        assert changed[np.ix_(rows, columns)].mean() > 0.95  # a rectangle, cut at the edges
        sizes.append((len(rows), len(columns)))
    assert max(max(pair) for pair in sizes) <= 7
    assert np.median(sizes) >= 6
    assert len(set(sizes)) > 3  # some reach over the edge


@pytest.mark.parametrize(
    ("ratio", "shares"),
    [
        (1, [[0, 1, 4, 5], [2, 3, 6, 7]]),
        (3, [[0, 2, 3, 4], [1, 5, 6, 7]]),
        (1, [[0, 1, 2, 6, 7, 8, 12], [3, 4, 5, 9, 10, 11, 13]]),  # 7 of two domains, mixed
    ],
)
def test_replicas_see_their_shares_of_the_same_images(
    two_replicas: tf.distribute.Strategy, ratio: int, shares: list[list[int]]
) -> None:
    images = pictures(sum(map(len, shares)))
    layer = RandomAugmentation(1, num_domains=2, target_ratio=ratio, cutout=3)
    whole = np.asarray(layer(images, step=5))

    def share(context: Any) -> tf.Tensor:
        return tf.constant(images[shares[context.replica_id_in_sync_group]])

    batch = two_replicas.experimental_distribute_values_from_function(share)
    results = two_replicas.experimental_local_results(
        two_replicas.run(layer, (batch,), {"step": 5})
    )
    for result, rows in zip(results, shares, strict=True):
        np.testing.assert_allclose(result, whole[rows], atol=1e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"edges": "repat"}, "edges must be repeat or black, got repat"),
        ({"cutout": -3}, "cutout must be 0 or more, got -3"),
        ({"contrast": float("nan")}, "contrast must be 0 or more, got nan"),
    ],
)
def test_impossible_changes_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RandomAugmentation(0, **options)


def test_config_round_trip() -> None:
    layer = RandomAugmentation(3, rotation=5.0, contrast=0.2)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    np.testing.assert_array_equal(layer(pictures(), step=1), again(pictures(), step=1))
