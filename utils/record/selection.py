"""Criteria that pick a model without target labels: the higher, the better.

Musgrave et al., "Three New Validators and a Large-Scale Benchmark Ranking for Unsupervised Domain
Adaptation", arXiv 2208.07360, compares them.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.random_projection import SparseRandomProjection

LONGEST = 1024  # numbers of a feature that is kept
COMPARED = 2000  # target images, at most, for the two criteria that take longest


@dataclass(frozen=True)
class Outputs:
    """What a model makes of N images of one domain."""

    features: np.ndarray
    """float32 `[N, F]`."""
    probabilities: np.ndarray
    """Of the classes: float32 `[N, num_labels]`, or `[N, n, num_labels]` for n positions."""
    labels: np.ndarray
    """int32 `[N]` or `[N, n]`, -1 = unlabelled."""


def confusion(outputs: Outputs) -> np.ndarray:
    """Returns how often each class is taken for each: int `[K, K]`, true × predicted class."""
    matrix = np.zeros(2 * outputs.probabilities.shape[-1:], np.int64)
    known = outputs.labels >= 0
    predicted = outputs.probabilities.argmax(axis=-1)
    np.add.at(matrix, (outputs.labels[known], predicted[known]), 1)
    return matrix


def outputs_of(
    examine: Callable[[tuple[Any, Any, Any]], tuple[Any, Any]],
    batches: Iterable[tuple[Any, Any, Any]],
) -> Outputs:
    """Returns what a model makes of all images of some batches.

    Args:
        examine: returns features `[B, ...]` and class probabilities of a batch.
        batches: of images, labels and domains.
    """
    features, probabilities, labels = [], [], []
    for batch in batches:
        some_features, some_probabilities = examine(batch)
        rows = np.asarray(some_features, np.float32)
        features.append(shortened(rows.reshape(len(rows), -1)))
        probabilities.append(np.asarray(some_probabilities))
        labels.append(np.asarray(batch[1]))
    return Outputs(*map(np.concatenate, (features, probabilities, labels)))


Score = Callable[[Outputs, Outputs], float]  # of source and target


def entropy(source: Outputs, target: Outputs) -> float:
    """Minus the mean entropy of the target predictions, in nats: 0 at best, -ln(num_labels) worst.

    It does not see whether a confident prediction is wrong.

    Reference: Morerio et al., "Minimal-Entropy Correlation Alignment for Unsupervised Deep Domain
    Adaptation", ICLR 2018, section 3.3.
    """
    return -float(entropies(target.probabilities).mean())


def information_maximisation(source: Outputs, target: Outputs) -> float:
    """Entropy of the mean target prediction minus the mean entropy of the predictions.

    High where each image is classified with confidence and all classes are used. In nats: 0 if
    every image gets the same prediction, ln(num_labels) at best.

    Reference: Shi & Sha, "Information-Theoretical Learning of Discriminative Clusters for
    Unsupervised Domain Adaptation", ICML 2012, equation 5.
    """
    # In float32 the rounding error of the sum is 1e-4, even where all predictions are the same.
    mean_prediction = target.probabilities.mean(axis=0, dtype=np.float64)
    return float(entropies(mean_prediction).mean() - entropies(target.probabilities).mean())


def soft_neighbourhood_density(source: Outputs, target: Outputs) -> float:
    """Mean entropy of each target prediction's soft neighbours, in nats, at most ln(N - 1).

    Each image's neighbours are all others, weighted by softmax(cosine similarity of the class
    probabilities / temperature): high where predictions lie in large dense clusters.

    Reference: Saito et al., "Tune it the Right Way: Unsupervised Validation of Domain Adaptation
    via Soft Neighborhood Density", ICCV 2021, equations 1 to 3; temperature 0.05.
    """
    some = evenly(target.probabilities, COMPARED)
    if len(some) < 2:
        return math.nan
    vectors = some.reshape(len(some), -1)
    vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    similarity = vectors @ vectors.T / 0.05  # (N, N)
    similarity -= similarity.max(axis=1, keepdims=True)
    np.fill_diagonal(similarity, -1e4)  # nobody is their own neighbour: a weight of exp(-1e4) = 0
    weights = np.exp(similarity)
    sums = weights.sum(axis=1)
    # -Σ p·ln p with p = w / Σw and ln w = similarity: one logarithm a row instead of N.
    return float((np.log(sums) - (weights * similarity).sum(axis=1) / sums).mean())


def nuclear_norm(source: Outputs, target: Outputs) -> float:
    """Sum of the singular values of the target predictions, over √(N·num_labels): at most 1.

    High where predictions are confident and differ.

    Reference: Cui et al., "Towards Discriminability and Diversity: Batch Nuclear-norm
    Maximization under Label Insufficient Situations", CVPR 2020, section 3.3.
    """
    matrix = target.probabilities.reshape(-1, target.probabilities.shape[-1])
    return float(np.linalg.norm(matrix, "nuc") / np.sqrt(matrix.size))


def deep_embedded_validation(source: Outputs, target: Outputs) -> float:
    """Minus the error on the target, estimated from source images that resemble target images.

    Each held-out source image counts with the density ratio w(x) = p_target(x) / p_source(x) of
    its features, told by a logistic regression between the domains; a control variate takes out
    most of the variance: R = mean(w·l) + η·mean(w) - η with η = -cov(w·l, w) / var(w).

    Reference: You et al., "Towards Accurate Model Selection in Deep Unsupervised Domain
    Adaptation", ICML 2019, algorithm 2 with the 0-1 loss. There the regression is fitted on
    training images; here on the held-out ones, and shrunk. Source images without a label do not
    count. It is nan if none has one.
    """
    known = (source.labels >= 0).reshape(len(source.labels), -1).all(axis=1)
    if not known.any():
        return math.nan
    ratio = density_ratio(source.features[known], target.features)
    wrong = source.probabilities[known].argmax(axis=-1) != source.labels[known]
    losses = wrong.reshape(len(wrong), -1).mean(axis=1, dtype=np.float64)
    return -controlled_risk(ratio, losses)


def density_ratio(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Returns p_target(x) / p_source(x) at each source feature: float64 `[N_s]`."""
    some = evenly(target, COMPARED)
    both = np.concatenate([source, some])
    both = (both - both.mean(axis=0)) / (both.std(axis=0) + 1e-6)
    is_target = np.repeat([0, 1], [len(source), len(some)])
    # Shrunk: what separates the domains perfectly would give weights of 0 and infinity.
    classifier = LogisticRegression(C=0.01, max_iter=200).fit(both, is_target)
    logits = classifier.decision_function(both[: len(source)]).astype(np.float64)
    return np.exp(logits) * len(source) / len(some)


def controlled_risk(weights: np.ndarray, losses: np.ndarray) -> float:
    """Returns mean(w·l) + η·mean(w) - η with η = -cov(w·l, w) / var(w)."""
    weighted = weights * losses
    variance = weights.var()
    covariance = ((weighted - weighted.mean()) * (weights - weights.mean())).mean()
    eta = -covariance / variance if variance > 0 else 0.0
    return float(weighted.mean() + eta * weights.mean() - eta)


def evenly(array: np.ndarray, most: int) -> np.ndarray:
    """Returns at most so many rows, spread evenly over all, which may be sorted by class."""
    return array[:: -(-len(array) // most)]


def shortened(features: np.ndarray) -> np.ndarray:
    """Returns features of at most `LONGEST` numbers; longer ones by a fixed random projection.

    It keeps distances within a few percent (Johnson & Lindenstrauss), and the memory bounded.
    """
    if features.shape[1] <= LONGEST:
        return features
    return projection(features.shape[1]).transform(features).astype(np.float32)


@functools.cache
def projection(size: int) -> SparseRandomProjection:
    """Returns the projection of features of `size` numbers.

    Each of its numbers is a weighted sum of about √size features: Li et al., "Very Sparse Random
    Projections", KDD 2006. A dense one for large pictures takes a gigabyte.
    """
    model = SparseRandomProjection(LONGEST, dense_output=True, random_state=0)
    return model.fit(np.zeros((1, size), np.float32))


def entropies(probabilities: np.ndarray) -> np.ndarray:
    """Returns -Σ p·ln p over the last axis, in nats; 0·ln 0 counts as 0."""
    logs = np.log(probabilities, out=np.zeros_like(probabilities), where=probabilities > 0)
    return -(probabilities * logs).sum(axis=-1)


CRITERIA: dict[str, Score] = {
    score.__name__: score
    for score in (entropy, information_maximisation, soft_neighbourhood_density, nuclear_norm,
                  deep_embedded_validation)
}  # fmt: skip
