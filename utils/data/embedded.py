"""A small real data set with no download: scikit-learn's digits over photographs that ship with
scikit-image and scikit-learn."""

from __future__ import annotations

import cv2
import numpy as np
import skimage.data
import sklearn.datasets

from utils.data.domains import Domain

VAL_SCANS = 397  # of 1,797; 1,400 are left for training
COPIES = 4  # augmented versions of each scan: 5,600 for training, 1,588 for validation


def embedded_digits(random: np.random.RandomState) -> Domain:
    """Makes MNIST-like digits from scikit-learn's 1,797 handwritten 8×8 scans.

    The scans are split into train and val first and augmented (turned, scaled, shifted) after,
    so that no scan is on both sides.

    Returns:
        5,600 training and 1,588 validation digits, uint8 `[N, 28, 28]`, background exactly 0.
    """
    scans = sklearn.datasets.load_digits()
    order = random.permutation(len(scans.images))
    arrays = {}
    for split, scans_of_split in (("val", order[:VAL_SCANS]), ("train", order[VAL_SCANS:])):
        members = random.permutation(np.repeat(scans_of_split, COPIES))
        arrays[split] = np.stack([enlarge(scans.images[scan], random) for scan in members])
        arrays[f"{split}_label"] = scans.target[members].astype(np.uint8)
    return Domain(**arrays)


def enlarge(scan: np.ndarray, random: np.random.RandomState) -> np.ndarray:
    """Enlarges one 8×8 scan with values in [0, 16] to uint8 `[28, 28]`, a little off its place."""
    angle = random.uniform(-12, 12)  # degrees
    scale = random.uniform(2.4, 3.0)  # pixels per scan pixel: 19 to 24 of 28, as in MNIST
    shift = random.uniform(-2, 2, size=2)  # pixels
    matrix = cv2.getRotationMatrix2D((3.5, 3.5), angle, scale)
    matrix[:, 2] = matrix[:, 2] + 13.5 - 3.5 + shift
    large = cv2.warpAffine(scan.astype(np.float32), matrix, (28, 28), flags=cv2.INTER_CUBIC)
    # A quarter of the ink's range is taken off, so that blur does not thicken the strokes.
    return np.clip((large - 4) * (255 / 12), 0, 255).astype(np.uint8)


def embedded_photos() -> list[np.ndarray]:
    """Returns eight colour photographs that come with the packages, uint8 `[H, W, 3]` RGB."""
    pictures = skimage.data
    return [
        pictures.astronaut(),
        pictures.coffee(),
        pictures.chelsea(),
        pictures.rocket(),
        pictures.stereo_motorcycle()[0],
        pictures.hubble_deep_field(),
        *sklearn.datasets.load_sample_images().images,
    ]
