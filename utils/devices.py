"""Sets up the device that a run computes on."""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before TensorFlow is imported
import keras
import tensorflow as tf


def prepare_device(seed: int, mixed_precision: bool, jit_compile: bool = False) -> str:
    """Makes runs repeatable, lets a GPU's memory grow, and returns the device in words.

    Args:
        seed: of Python's, NumPy's and TensorFlow's random numbers.
        mixed_precision: compute in bfloat16 with float32 weights. It has float32's range, so
            unlike float16 it needs no loss scaling.
        jit_compile: whether XLA compiles the step. It has no deterministic gradient of pooling, so
            then a resumed run is repeated only as exactly as the device itself repeats things.
    """
    keras.utils.set_random_seed(seed)
    if not jit_compile:
        tf.config.experimental.enable_op_determinism()
    keras.mixed_precision.set_global_policy("mixed_bfloat16" if mixed_precision else "float32")
    gpus = tf.config.list_physical_devices("GPU")
    for gpu in gpus:
        tf.config.experimental.set_memory_growth(gpu, True)
    names = [tf.config.experimental.get_device_details(gpu).get("device_name", "GPU")
             for gpu in gpus]  # fmt: skip
    return ", ".join(names) or f"CPU ({os.cpu_count()} cores)"
