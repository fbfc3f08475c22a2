"""Losses of a batch, and the share of them that one of several replicas has."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from utils.data import UNLABELLED
from utils.data.batches import block_sizes


def cross_entropy(classes: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Returns -log softmax(logits)[class] of each example: float32, of the shape of `classes`."""
    return tf.nn.sparse_softmax_cross_entropy_with_logits(classes, logits)


def entropy(logits: tf.Tensor) -> tf.Tensor:
    """Returns -Σ p·ln p of each prediction, in nats: float32 `[B]`, or `[B, n]` for n positions."""
    logs = tf.nn.log_softmax(logits)
    return -tf.reduce_sum(tf.exp(logs) * logs, -1)


def label_losses(logits: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the loss of each image, and 1 where it is labelled, else 0.

    Both are float32 `[B]`, or `[B, n]` for n positions. The loss of an image without a label has no
    meaning.
    """
    known = tf.maximum(labels, 0)  # any class will do
    return cross_entropy(known, logits), tf.cast(labels > UNLABELLED, tf.float32)


def is_correct(classes: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Returns 1 where the largest logit is the class's, else 0: float32, shaped as `classes`."""
    right = tf.equal(tf.argmax(logits, -1, tf.int32), tf.cast(classes, tf.int32))
    return tf.cast(right, tf.float32)


def mean_share(values: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
    """Returns this replica's share of the weighted mean over all replicas; 0 without weight."""
    context = tf.distribute.get_replica_context()
    total = context.all_reduce(tf.distribute.ReduceOp.SUM, tf.reduce_sum(weights))
    return tf.math.divide_no_nan(tf.reduce_sum(values * weights), total)


def own_rows(
    make: Callable[[tf.Tensor], tf.Tensor], size: tf.Tensor, num_domains: int, target_ratio: int
) -> tf.Tensor:
    """Returns this replica's rows of what is made for the batches of all replicas together.

    A replica has the same part of each domain's block; alone it has all of them.

    Args:
        make: makes so many rows, `[rows, ...]`.
        size: of this replica's batch.
        num_domains, target_ratio: as in `block_sizes`.
    """
    context = tf.distribute.get_replica_context()
    replicas = context.num_replicas_in_sync
    values = make(size * replicas)
    if replicas == 1:
        return values
    rows, start = [], 0
    blocks = block_sizes(size, num_domains, target_ratio)
    for mine in [*blocks, size - sum(blocks)]:  # a batch without blocks may have some rows more
        rows.append(start + context.replica_id_in_sync_group * mine + tf.range(mine))
        start += mine * replicas
    return tf.gather(values, tf.concat(rows, 0))


def clip_together(
    gradients: list[tf.Tensor | None], norm: tf.Tensor | float
) -> list[tf.Tensor | None]:
    """Returns this replica's shares of the gradient, shortened to `norm` where it is longer.

    The length is that of the sum over replicas, so that it does not depend on their number. What
    has no gradient, because the loss does not depend on it, stays None.
    """
    # Those of embeddings have rows, of which several may be of the same word.
    gradients = [tf.convert_to_tensor(gradient) if isinstance(gradient, tf.IndexedSlices)
                 else gradient for gradient in gradients]  # fmt: skip
    known = [gradient for gradient in gradients if gradient is not None]
    if not known:
        return gradients
    context = tf.distribute.get_replica_context()
    length = tf.linalg.global_norm(context.all_reduce(tf.distribute.ReduceOp.SUM, known))
    scale = tf.math.divide_no_nan(norm, tf.maximum(length, norm))
    return [None if gradient is None else gradient * scale for gradient in gradients]


def assert_below(values: tf.Tensor, lowest: int, end: int, name: str) -> list[Any]:
    """Raises `tf.errors.InvalidArgumentError` unless values are in lowest..end - 1.

    Returns:
        in a graph, the operations that do so; else Nones.
    """
    message = f"{name} must be in {lowest}..{end - 1}"
    return [
        tf.debugging.assert_greater_equal(values, tf.cast(lowest, values.dtype), message),
        tf.debugging.assert_less(values, tf.cast(end, values.dtype), message),
    ]


def assert_blocks(domains: tf.Tensor, num_domains: int, target_ratio: int = 1) -> list[Any]:
    """Raises `tf.errors.InvalidArgumentError` unless a batch is a block of each domain, in order.

    Args:
        domains: int `[B]`, of the batch.
        num_domains, target_ratio: as in `block_sizes`.

    Returns:
        in a graph, the operations that do so; else Nones.
    """
    message = (
        f"a batch must be one block of each of {num_domains} domains, the source first, each "
        f"target's {target_ratio} times as large; with a last batch that is smaller use "
        "drop_remainder=True"
    )
    size = tf.shape(domains)[0]
    sizes = block_sizes(size, num_domains, target_ratio)
    whole = tf.debugging.assert_equal(tf.add_n(sizes), size, message)
    with tf.control_dependencies([whole]):
        wanted = tf.repeat(tf.range(num_domains), tf.stack(sizes))
    ordered = tf.debugging.assert_equal(tf.cast(domains, tf.int32), wanted, message)
    return [whole, ordered]


def split_batch(images: Any, sizes: Sequence[tf.Tensor | int]) -> list[Any]:
    """Returns blocks of a batch; of several inputs, each block has its part of all of them."""
    parts = [tf.split(one, sizes) for one in tf.nest.flatten(images)]
    return [tf.nest.pack_sequence_as(images, block) for block in zip(*parts, strict=True)]


def steps_taken(optimizer: keras.Optimizer) -> tf.Tensor:
    """Returns how many steps an optimizer has taken; one that scales losses counts inside."""
    return getattr(optimizer, "inner_optimizer", optimizer).iterations
