from __future__ import annotations

import numpy as np
import pytest

from utils.data.domains import Domain

IMAGES, LABELS = np.zeros((4, 28, 28, 3), np.uint8), np.arange(4, dtype=np.int32)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (IMAGES / 255, LABELS, "images must be uint8"),
        (IMAGES, LABELS[:3], r"4 images need as many whole numbers as classes, got int32\[3\]"),
        (IMAGES, LABELS.astype(np.float32), r"got float32\[4\]"),
    ],
)
def test_what_no_batch_can_have_is_refused(
    images: np.ndarray, labels: np.ndarray, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Domain(IMAGES, LABELS, images, labels)
    Domain(IMAGES, LABELS, IMAGES, LABELS.astype(np.uint8))
