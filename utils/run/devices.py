"""Sets up what a run computes on: one device, several, or several machines."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from config.base import TrainingConfig
from utils.errors import UserError

BFLOAT16_GPU = (8, 0)


def prepare_devices(config: TrainingConfig) -> tf.distribute.Strategy:
    """Makes runs repeatable, lets GPU memory grow, and returns the strategy to build under.

    XLA's gradient of pooling is not deterministic. So a resumed run with XLA may differ in
    rounding.

    Raises:
        UserError: the devices that `config` asks for are not there.
    """
    gpus = tf.config.list_physical_devices("GPU")
    policy = mixed_policy(gpus) if config.mixed_precision else "float32"
    keras.mixed_precision.set_global_policy(policy)
    keras.config.set_image_data_format("channels_last")  # ~/.keras/keras.json may say otherwise
    for gpu in gpus:
        tf.config.experimental.set_memory_growth(gpu, True)
    if not config.jit_compile:
        tf.config.experimental.enable_op_determinism()
    strategy = make_strategy(config)
    replicas = strategy.num_replicas_in_sync
    multiple = config.smallest_batch * replicas
    if config.batch_size % multiple:
        raise UserError(
            f"batch_size: {config.batch_size} cannot be shared by {replicas} replicas, each with "
            f"as many images of every domain; choose a multiple of {multiple}"
        )
    keras.utils.set_random_seed(config.seed)
    tf.get_logger().addFilter(is_news)
    return strategy


def is_news(record: logging.LogRecord) -> bool:
    """Returns False for warnings about retracing: each stage of a run has graphs of its own."""
    return "retracing" not in record.getMessage()


def mixed_policy(gpus: Sequence[Any]) -> str:
    """Returns the Keras policy of mixed precision that all devices compute with.

    bfloat16 has float32's range. float16 has not, so the losses are scaled. GPUs compute with
    bfloat16 from compute capability 8.0 on: NVIDIA's Ampere of 2020.
    """
    details = [tf.config.experimental.get_device_details(gpu) for gpu in gpus]
    old = [one for one in details if one.get("compute_capability", BFLOAT16_GPU) < BFLOAT16_GPU]
    return "mixed_float16" if old else "mixed_bfloat16"


def make_strategy(config: TrainingConfig) -> tf.distribute.Strategy:
    """Returns the `tf.distribute.Strategy` that `config.strategy` names."""
    if config.strategy == "multi_worker":
        return tf.distribute.MultiWorkerMirroredStrategy()
    if config.strategy == "default":
        return tf.distribute.get_strategy()
    if config.logical_devices:
        cpu = tf.config.list_physical_devices("CPU")[0]
        parts = [tf.config.LogicalDeviceConfiguration()] * config.logical_devices
        tf.config.set_logical_device_configuration(cpu, parts)
        return tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(config.logical_devices)])
    if not tf.config.list_physical_devices("GPU"):
        raise UserError(
            "strategy: mirrored finds no GPU; --logical_devices 2 tries it out on the CPU"
        )
    return tf.distribute.MirroredStrategy()


def describe(strategy: tf.distribute.Strategy) -> str:
    """Returns what a run computes on, in words."""
    names = [
        tf.config.experimental.get_device_details(gpu).get("device_name", "GPU")
        for gpu in tf.config.list_physical_devices("GPU")
    ]
    device = ", ".join(names) or f"CPU ({os.cpu_count()} cores)"
    replicas = strategy.num_replicas_in_sync
    return device if replicas == 1 else f"{device}, {replicas} replicas"
