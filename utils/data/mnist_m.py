"""The MNIST-M rule: a digit turns the part of a photograph that lies under it into its negative."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

SIDE = 28
RULE = "MNIST-M = |crop - 255 * (digit > 0)| per channel, crop uniform over photos and positions"


def blend(
    digits: np.ndarray, photos: Sequence[np.ndarray], random: np.random.RandomState
) -> np.ndarray:
    """Lays each digit over a random crop of a random photograph.

    For digit x and crop c the result is `|c - 255·[x > 0]|` per channel (Ganin & Lempitsky 2015,
    section 4.1). The photograph is uniform over `photos`, the crop over all its positions, the
    last row and column too.

    Args:
        digits: uint8 `[N, 28, 28]`, 0 = background.
        photos: each uint8 `[H, W, 3]` with H, W ≥ 28, pixel values in [0, 255].
        random: a `RandomState`, the one NumPy generator whose numbers are promised never to
            change with NumPy's version (NEP 19).

    Returns:
        uint8 `[N, 28, 28, 3]`, pixel values in [0, 255].
    """
    heights, widths = np.array([photo.shape[:2] for photo in photos]).T
    chosen = random.randint(0, len(photos), size=len(digits), dtype=np.int64)
    rows = random.randint(0, heights[chosen] - SIDE + 1, dtype=np.int64)
    columns = random.randint(0, widths[chosen] - SIDE + 1, dtype=np.int64)
    crops = np.empty((len(digits), SIDE, SIDE, 3), np.uint8)
    for index, photo in enumerate(photos):
        mine = np.flatnonzero(chosen == index)
        windows = np.lib.stride_tricks.sliding_window_view(photo, (SIDE, SIDE), axis=(0, 1))
        crops[mine] = windows[rows[mine], columns[mine]].transpose(0, 2, 3, 1)  # (n, 28, 28, 3)
    # |c - 255| is c with every bit flipped, and |c - 0| is c, so the rule is one exclusive or.
    crops ^= (digits > 0).astype(np.uint8)[..., None] * np.uint8(255)
    return crops
