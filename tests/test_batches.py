from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from utils.data.batches import DomainBatches, evaluation_batches, measured_at_once
from utils.errors import UserError


def numbered(count: int, offset: int) -> np.ndarray:
    """Images whose first two pixels spell their number."""
    images = np.zeros((count, 2, 2, 1), np.uint8)
    numbers = np.arange(count) + offset
    images[:, 0, 0, 0], images[:, 0, 1, 0] = numbers % 256, numbers // 256
    return images


def numbers(images: tf.Tensor) -> np.ndarray:
    return images[:, 0, 0, 0].numpy().astype(int) + 256 * images[:, 0, 1, 0].numpy().astype(int)


@pytest.fixture
def batches() -> DomainBatches:
    labels = (np.arange(300) % 7).astype(np.int32)
    return DomainBatches([numbered(300, 0), numbered(130, 1000)], [labels, None], 32, seed=5)


def test_format(batches: DomainBatches) -> None:
    images, labels, domains = batches.batch(0)
    assert (images.dtype, labels.dtype, domains.dtype) == (tf.uint8, tf.int32, tf.int32)
    assert images.shape == (32, 2, 2, 1)
    np.testing.assert_array_equal(domains, [0] * 16 + [1] * 16)
    np.testing.assert_array_equal(labels[:16], numbers(images)[:16] % 7)
    np.testing.assert_array_equal(labels[16:], -1)
    assert (numbers(images)[16:] >= 1000).all()


def test_more_target_than_source() -> None:
    labels = np.arange(300, dtype=np.int32) % 7
    sets = [numbered(300, 0), numbered(130, 1000), numbered(90, 2000)]
    batches = DomainBatches(sets, [labels, None, None], 28, seed=5, target_ratio=3)
    assert batches.steps_per_epoch == 75
    plain = DomainBatches(sets, [labels, None, None], 12, seed=5)
    source = np.concatenate([numbers(plain.batch(step)[0])[:4] for step in range(9)])
    target = np.concatenate([numbers(plain.batch(step)[0])[4:8] for step in range(9)])
    for step in range(3):
        images, _, domains = batches.batch(step)
        np.testing.assert_array_equal(domains, np.repeat([0, 1, 2], [4, 12, 12]))
        # The same streams as ever, in other portions.
        np.testing.assert_array_equal(numbers(images)[:4], source[4 * step : 4 * step + 4])
        np.testing.assert_array_equal(numbers(images)[4:16], target[12 * step : 12 * step + 12])
        shares = [batches.batch(step, replica, 4) for replica in range(4)]
        rebuilt = [np.concatenate([numbers(share[0])[rows] for share in shares])
                   for rows in (slice(0, 1), slice(1, 4), slice(4, 7))]  # fmt: skip
        np.testing.assert_array_equal(np.concatenate(rebuilt), numbers(images))


def test_each_pass_sees_each_image_once_in_a_new_order(batches: DomainBatches) -> None:
    steps = [numbers(batches.batch(step)[0]) for step in range(75)]
    source = np.concatenate([step[:16] for step in steps])  # 1200 = four passes of 300
    target = np.concatenate([step[16:] for step in steps])[: 9 * 130]
    for stream, size, offset in ((source, 300, 0), (target, 130, 1000)):
        passes = stream.reshape(-1, size)
        for one in passes:
            np.testing.assert_array_equal(np.sort(one), np.arange(size) + offset)
        assert not (passes[0] == passes[1]).all()
        assert not (passes[0] == np.arange(size) + offset).all()


def test_order_looks_random(batches: DomainBatches) -> None:
    order = np.concatenate([numbers(batches.batch(step)[0])[:16] for step in range(18)])
    correlation = np.corrcoef(np.arange(288), order)[0, 1]
    assert abs(correlation) < 4 / np.sqrt(288)  # four standard deviations of chance


def test_passes_and_domains_have_orders_of_their_own() -> None:
    """With the four rounds of TensorFlow's own function these orders correlate by 0.9."""
    pictures = np.zeros((60_000, 1, 1, 1), np.uint8)
    batches = DomainBatches([pictures, pictures], [None, None], 2)
    positions = tf.range(3 * 60_000, dtype=tf.int64)
    orders = [batches.permute(domain, positions).numpy().reshape(3, 60_000) for domain in (0, 1)]
    correlations = np.corrcoef(np.concatenate(orders)) - np.eye(6)
    assert np.abs(correlations).max() < 5 / np.sqrt(60_000)  # five standard deviations of chance


def test_depends_on_seed_and_step_alone(batches: DomainBatches) -> None:
    again = DomainBatches([numbered(300, 0), numbered(130, 1000)], [None, None], 32, seed=5)
    other = DomainBatches([numbered(300, 0), numbered(130, 1000)], [None, None], 32, seed=6)
    np.testing.assert_array_equal(batches.batch(40)[0], again.batch(40)[0])
    assert (batches.batch(40)[0].numpy() != other.batch(40)[0].numpy()).any()


def test_shares_of_replicas_are_the_batch_and_hold_all_domains(batches: DomainBatches) -> None:
    whole = numbers(batches.batch(9)[0])
    shares = [batches.batch(9, replica, 4) for replica in range(4)]
    for images, _, domains in shares:
        assert images.shape[0] == 8
        np.testing.assert_array_equal(domains, [0] * 4 + [1] * 4)
    rebuilt = [np.concatenate([numbers(share[0])[half] for share in shares])
               for half in (slice(0, 4), slice(4, 8))]  # fmt: skip
    np.testing.assert_array_equal(np.concatenate(rebuilt), whole)


def test_dataset_is_the_batches_in_order(batches: DomainBatches) -> None:
    read = list(batches.dataset(17, 22))
    assert len(read) == 5
    for step, batch in enumerate(read, 17):
        for part, expected in zip(batch, batches.batch(step), strict=True):
            np.testing.assert_array_equal(part, expected)


def test_dataset_of_a_worker_holds_its_shares(batches: DomainBatches) -> None:
    context = tf.distribute.InputContext(2, input_pipeline_id=1, num_replicas_in_sync=4)
    read = [numbers(images) for images, _, _ in batches.dataset(3, 5, context)]
    expected = [numbers(batches.batch(step, replica, 4)[0])
                for step in (3, 4) for replica in (2, 3)]  # fmt: skip
    np.testing.assert_array_equal(read, expected)


def test_steps_per_epoch_cover_the_source(batches: DomainBatches) -> None:
    assert batches.steps_per_epoch == 19  # 300 / 16, rounded up


def test_refuses_a_batch_that_does_not_divide() -> None:
    with pytest.raises(
        ValueError, match="batch_size 31 cannot be shared by 2 domains at target_ratio 1"
    ):
        DomainBatches([numbered(4, 0), numbered(4, 0)], [None, None], 31)


def test_evaluation_sees_each_image_once(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = np.arange(7, dtype=np.int32)
    monkeypatch.setattr("utils.data.batches.MEASURED_AT_ONCE", 3 * numbered(1, 0).size)
    seen = list(evaluation_batches(numbered(7, 0), labels, domain=1))
    assert [len(images) for images, _, _ in seen] == [3, 3, 1]
    np.testing.assert_array_equal(
        np.concatenate([numbers(images) for images, _, _ in seen]), labels
    )
    np.testing.assert_array_equal(np.concatenate([domains for _, _, domains in seen]), 1)


@pytest.mark.parametrize(("side", "size"), [(28, 500), (16, 500), (224, 7), (1024, 1)])
def test_large_images_are_measured_in_small_batches(side: int, size: int) -> None:
    assert measured_at_once((side, side, 3)) == size


def test_replicas_that_cannot_share_a_block_are_refused() -> None:
    """As of a first stage, whose batch is another one: images would be left out in silence."""
    batches = DomainBatches([numbered(40, 0), numbered(40, 0)], [None, None], 32)
    context = tf.distribute.InputContext(num_replicas_in_sync=3)
    with pytest.raises(UserError, match="batch_size: 32 cannot be shared by 3 replicas"):
        batches.dataset(0, 1, context)
