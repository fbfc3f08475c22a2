"""Tells whether a network no longer tells images apart."""

from __future__ import annotations

import math
from collections.abc import Mapping

from utils.record.selection import Outputs, information_maximisation

# Shares of ln(classes): what the predictions tell about an image.
DEAD = 1e-6  # nothing: a network whose ReLUs are off gives every image the same output
LOST = 1e-3  # next to nothing, for a network that has told much: an untrained one may begin so
MUCH = 0.05
MEASUREMENTS = 2  # in a row
STEPS = 200  # before them batch normalisation may not know the images yet


class CollapseError(Exception):
    """The network no longer tells anything apart."""


def check_finite(train: Mapping[str, float], epoch: int) -> None:
    """Raises `CollapseError` if the loss of training batches is not a number."""
    if not math.isfinite(train["loss"]):
        raise CollapseError(f"epoch {epoch}: the loss is {train['loss']}")


class CollapseWatch:
    """Looks for predictions that no longer depend on the image, whatever the method.

    The evidence is the information that predictions have of the image, in nats: entropy of the
    mean prediction minus mean entropy. It is 0 if all images get the same prediction. It needs no
    labels, and few images cannot fake it, as they can an accuracy at chance.
    """

    def __init__(self) -> None:
        self.highest = 0.0
        self.in_a_row = 0

    def check(self, target: Outputs, epoch: int, steps: int) -> None:
        """Raises `CollapseError` if so in several measurements, one after the other.

        Args:
            target: what the model makes of target images.
            epoch: number of the epoch, from 1; 0 = before the first.
            steps: of training, so far.
        """
        classes = target.probabilities.shape[-1]
        information = information_maximisation(target, target)
        self.highest = max(self.highest, information)
        told_much = self.highest > MUCH * math.log(classes)
        nothing = information <= (LOST if told_much else DEAD) * math.log(classes)
        self.in_a_row = self.in_a_row + 1 if nothing else 0
        if self.in_a_row >= MEASUREMENTS and steps >= STEPS:
            raise CollapseError(
                f"epoch {epoch}: every target image gets the same prediction, for "
                f"{self.in_a_row} measurements now (they tell {information:.1e} nats about an "
                f"image; ln {classes} = {math.log(classes):.2f} at best); --allow_collapse goes on"
            )
