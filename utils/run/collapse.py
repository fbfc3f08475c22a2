"""Tells whether a network has stopped to tell anything apart."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

CHANCE_MARGIN = 0.01
LN_MARGIN = 0.01


class CollapseError(Exception):
    """The network has stopped to tell anything apart."""


def check_finite(train: Mapping[str, float], epoch: int) -> None:
    """Raises `CollapseError` if the loss of training batches is not a number."""
    if not math.isfinite(train["loss"]):
        raise CollapseError(f"epoch {epoch + 1}: the loss is {train['loss']}")


def check_alive(
    labelled: Mapping[str, float], labels: np.ndarray, num_domains: int, epoch: int
) -> None:
    """Raises `CollapseError` if held-out images of the labelled domain look all the same.

    Then the label predictor gives every image the same class, and the domain classifier gives
    every domain the same probability: accuracy at chance, domain loss at ln(domains).

    Args:
        labelled: the metrics over these images.
        labels: their classes.
        num_domains: of the training batches.
        epoch: number of the epoch, from 0.
    """
    chance = int(np.max(np.bincount(labels.ravel()))) / labels.size
    undecided = math.log(num_domains)
    if (
        "domain_cls_loss" in labelled
        and labelled["image_cls_acc"] <= chance + CHANCE_MARGIN
        and abs(labelled["domain_cls_loss"] - undecided) < LN_MARGIN
    ):
        raise CollapseError(
            f"epoch {epoch + 1}: accuracy on held-out labelled images is "
            f"{labelled['image_cls_acc']:.4f} (chance: {chance:.4f}) and the domain loss is "
            f"{labelled['domain_cls_loss']:.4f} (undecided: ln {num_domains} = {undecided:.4f})"
        )
