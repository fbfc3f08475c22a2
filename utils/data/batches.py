"""Training batches as a pure function of (seed, step): what an exact resume needs."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import tensorflow as tf

from utils.data import UNLABELLED
from utils.data.folders import PictureFolder
from utils.errors import UserError

MEASURED_AT_ONCE = 500 * 28 * 28 * 3  # numbers in a batch to measure, for images of any size
ALIGNMENT = 64  # bytes; TensorFlow's kernels abort on memory that is not so aligned


class DomainBatches:
    """Batches of one block from each domain, in the order of the domains.

    Block `d` of batch `t` holds positions `t·n … t·n + n-1` of domain d's endless stream, which
    is one pass over its images after another, each in an order of its own. The order comes from
    a seeded stateless permutation, so there is nothing to shuffle, keep or restore.

    Args:
        images: per domain, uint8 `[N_d, H, W, C]`, pixel values in [0, 255], or pictures on disk;
            the source first.
        labels: per domain, int32 `[N_d]`, or `[N_d, n]` for n positions; -1 = unlabelled; None =
            no labels at all.
        batch_size: images of all domains together.
        seed: of the permutations.
        target_ratio: images of each target for one of the source.

    Example:
        ```
        batches = DomainBatches([mnist, mnist_m], [mnist_labels, None], batch_size=256)
        images, labels, domains = batches.batch(0)
        ```
    """

    def __init__(
        self,
        images: Sequence[np.ndarray | PictureFolder],
        labels: Sequence[np.ndarray | None],
        batch_size: int,
        seed: int = 0,
        target_ratio: int = 1,
    ):
        self.blocks: list[int] = block_sizes(batch_size, len(images), target_ratio)
        if batch_size < 1 or sum(self.blocks) != batch_size:
            raise ValueError(
                f"batch_size {batch_size} cannot be shared by {len(images)} domains at "
                f"target_ratio {target_ratio}"
            )
        self.batch_size = batch_size
        self.seed = seed
        self.images = [held(domain) for domain in images]
        positions = next((label.shape[1:] for label in labels if label is not None), ())
        with tf.device("CPU:0"):  # the gather happens there, beside tf.data
            self.labels = [
                tf.fill([len(image), *positions], UNLABELLED)
                if label is None
                else tf.constant(label, tf.int32)
                for image, label in zip(images, labels, strict=True)
            ]

    @property
    def num_domains(self) -> int:
        return len(self.images)

    @property
    def steps_per_epoch(self) -> int:
        """Steps of a pass over the first source; the last batch goes on into the next pass."""
        return math.ceil(len(self.images[0]) / self.blocks[0])

    def batch(
        self, step: tf.Tensor | int, replica: tf.Tensor | int = 0, num_replicas: int = 1
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Returns batch `step`, or the share of it that one of several replicas works on.

        Every share has images of every domain; together the shares are the batch.

        Returns:
            images uint8 `[B, H, W, C]`, labels int32 `[B]` or `[B, n]`, domains int32 `[B]`.
        """
        shares = [block // num_replicas for block in self.blocks]
        chosen = []
        for domain, (block, share) in enumerate(zip(self.blocks, shares, strict=True)):
            first = tf.cast(step, tf.int64) * block + tf.cast(replica, tf.int64) * share
            chosen.append(self.permute(domain, first + tf.range(share, dtype=tf.int64)))
        images = [gather(array, rows) for array, rows in zip(self.images, chosen, strict=True)]
        labels = [tf.gather(array, rows) for array, rows in zip(self.labels, chosen, strict=True)]
        domains = np.repeat(np.arange(len(images), dtype=np.int32), shares)
        return tf.concat(images, 0), tf.concat(labels, 0), tf.constant(domains)

    def permute(self, domain: int, positions: tf.Tensor) -> tf.Tensor:
        """Returns the image that stands at each position of a domain's stream: int64 `[n]`."""
        size = len(self.images[domain])
        passes = positions // size
        constants = [
            tf.fill(tf.shape(positions), tf.constant(x, tf.int64)) for x in (self.seed, domain)
        ]
        # The raw op, since tf.random.experimental.index_shuffle takes one seed for all positions,
        # and a batch may lie across two passes. Its four rounds leave passes and domains of 60,000
        # images with nearly the same order.
        return tf.raw_ops.RandomIndexShuffle(
            index=positions % size,
            seed=tf.stack([*constants, passes], axis=1),
            max_index=tf.constant(size - 1, tf.int64),
            rounds=16,
        )

    def dataset(
        self, start: int, stop: int, context: tf.distribute.InputContext | None = None
    ) -> tf.data.Dataset:
        """Returns batches `start` to `stop - 1`, or one worker's shares of them.

        Args:
            start, stop: the range of steps.
            context: this worker's place among several; None = alone.

        Raises:
            UserError: the replicas cannot share a domain's block.
        """
        context = context or tf.distribute.InputContext()
        if any(block % context.num_replicas_in_sync for block in self.blocks):
            raise UserError(
                f"batch_size: {self.batch_size} cannot be shared by {context.num_replicas_in_sync} "
                f"replicas; each domain's images of a batch, here {self.blocks}, must be a "
                "multiple of that"
            )
        mine = context.num_replicas_in_sync // context.num_input_pipelines
        first = context.input_pipeline_id * mine

        def share(number: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            return self.batch(number // mine, first + number % mine, context.num_replicas_in_sync)

        numbers = tf.data.Dataset.range(start * mine, stop * mine)
        return numbers.map(share).prefetch(2 * mine).with_options(quiet_options())


def block_sizes(
    size: tf.Tensor | int, num_domains: int, target_ratio: int
) -> list[tf.Tensor | int]:
    """Returns the sizes of the blocks of which a batch of `size` images consists.

    Args:
        size: of the batch, or of a replica's share of it.
        num_domains: one block each, the source's first.
        target_ratio: images of each target for one of the source.
    """
    source = size // (1 + (num_domains - 1) * target_ratio)
    return [source] + [source * target_ratio] * (num_domains - 1)


def gather(images: tf.Tensor | PictureFolder, rows: tf.Tensor) -> tf.Tensor:
    """Returns some of a domain's images, decoded from disk if they lie there."""
    if isinstance(images, PictureFolder):
        return tf.ensure_shape(
            tf.numpy_function(images.read, [rows], tf.uint8), [*rows.shape, *images.shape]
        )
    return tf.gather(images, rows)


@contextmanager
def reading_faults_named() -> Iterator[None]:
    """Inside, a picture that went or changed since it was checked is a `UserError`."""
    try:
        yield
    except tf.errors.OpError as error:
        found = re.search(r"UserError: (.*)", error.message)
        if found is None:
            raise
        reason = found[1].rpartition("; ")[0]  # without the remedy, which is that of a check
        raise UserError(f"{reason}; put it back as it was") from error


def evaluation_batches(
    images: np.ndarray | PictureFolder, labels: np.ndarray, domain: int
) -> tf.data.Dataset:
    """Returns one domain's images in their order, each once, with labels and domain.

    Args:
        images: uint8 `[N, H, W, C]`, pixel values in [0, 255], or pictures on disk.
        labels: int32 `[N]` or `[N, n]`.
        domain: number of the domain, 0 = source.
    """
    kept = held(images)
    with tf.device("CPU:0"):
        classes = tf.constant(labels, tf.int32)

    def batch(rows: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        return gather(kept, rows), tf.gather(classes, rows), tf.fill(tf.shape(rows), domain)

    shape = images.shape if isinstance(images, PictureFolder) else images.shape[1:]
    rows = tf.data.Dataset.range(len(images)).batch(measured_at_once(shape))
    return rows.map(batch).prefetch(1).with_options(quiet_options())


def measured_at_once(shape: tuple[int, ...]) -> int:
    """Returns how many images of a shape a batch to measure has, so that memory is bounded."""
    return min(500, max(1, MEASURED_AT_ONCE // math.prod(shape)))


def held(images: np.ndarray | PictureFolder) -> tf.Tensor | PictureFolder:
    """Returns pictures on disk as they are, and arrays as CPU tensors.

    An array is copied once; tf.constant would hold a second copy for a while.
    """
    if isinstance(images, PictureFolder):
        return images
    memory = np.empty(images.nbytes + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    aligned = memory[start : start + images.nbytes].view(images.dtype).reshape(images.shape)
    aligned[...] = images
    return tf.experimental.dlpack.from_dlpack(aligned.__dlpack__())


def quiet_options() -> tf.data.Options:
    """Options that keep the order, and no autotuning, because its thread delays the end."""
    options = tf.data.Options()
    options.deterministic = True
    options.autotune.enabled = False
    return options
