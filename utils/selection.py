"""Criteria that pick a model without target labels: the higher, the better."""

from __future__ import annotations

import numpy as np


def information_maximisation(probabilities: np.ndarray) -> float:
    """Entropy of the mean prediction minus the mean entropy of the predictions.

    High where each image is classified with confidence and all classes are used. In nats: 0 if
    every image gets the same prediction, ln(num_labels) at best.

    Args:
        probabilities: `[N, num_labels]` class probabilities of unlabelled target images.

    Reference: Shi & Sha, "Information-Theoretical Learning of Discriminative Clusters for
    Unsupervised Domain Adaptation", ICML 2012, equation 5; as a selection criterion: Musgrave et
    al., arXiv 2208.07360.
    """
    return float(entropy(probabilities.mean(axis=0)) - entropy(probabilities).mean())


def entropy(probabilities: np.ndarray) -> np.ndarray:
    """Returns -Σ p·ln p over the last axis, in nats; 0·ln 0 counts as 0."""
    logs = np.log(probabilities, out=np.zeros_like(probabilities), where=probabilities > 0)
    return -(probabilities * logs).sum(axis=-1)
