"""Tells whether a network no longer tells images apart."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

# Shares of ln(classes): what the predictions tell about an image.
DEAD = 1e-5  # nothing but rounding: a network whose ReLUs are off gives every image the same output
LOST = 1e-3  # next to nothing, for a network that has told much: an untrained one may begin so
MUCH = 0.05
MEASUREMENTS = 2  # in a row
IMAGES = 20  # of fewer the predictions may well be the same
STEPS = 200  # before them batch normalisation may not know the images yet


class CollapseError(Exception):
    """The network no longer tells anything apart."""


def check_finite(train: Mapping[str, float], epoch: int) -> None:
    """Raises `CollapseError` if the loss of training batches is not a number.

    Batches without a label have neither a loss nor an accuracy, which is no fault.
    """
    if not math.isfinite(train["loss"]) and math.isfinite(train["image_cls_acc"]):
        raise CollapseError(f"epoch {epoch}: the loss is {train['loss']}")


def check_numbers(name: str, arrays: Iterable[np.ndarray], epoch: int) -> None:
    """Raises `CollapseError` if weights or predictions are no numbers.

    A ReLU may hide weights that are no numbers: the loss and the predictions then look healthy.
    """
    if not all(np.isfinite(array).all() for array in arrays):
        raise CollapseError(f"epoch {epoch}: the {name} are no numbers")


def check_alive(told: Sequence[float], images: int, classes: int, epoch: int, steps: int) -> None:
    """Raises `CollapseError` if predictions no longer depend on the image, whatever the method.

    The evidence is the information that predictions have of the image: entropy of the mean
    prediction minus mean entropy. It is 0 if all images get the same prediction. It needs no
    labels. It is reliable with few images, and an accuracy is not.

    Args:
        told: this information after each epoch so far, in nats.
        images: how many it was measured on.
        classes: how many.
        epoch: number of the epoch, from 1.
        steps: of training, so far.
    """
    most = math.log(classes)
    limit = (LOST if max(told) > MUCH * most else DEAD) * most
    enough = len(told) >= MEASUREMENTS and images >= IMAGES and steps >= STEPS
    if enough and max(told[-MEASUREMENTS:]) <= limit:
        raise CollapseError(
            f"epoch {epoch}: every target image gets the same prediction, as {MEASUREMENTS} "
            f"measurements say (they tell {told[-1]:.1e} nats about an image; ln {classes} = "
            f"{most:.2f} at best); --allow_collapse goes on"
        )
