from __future__ import annotations

import numpy as np

from utils.data.mnist_m import blend


def test_every_image_is_the_rule_applied_to_some_crop() -> None:
    """An independent reader: undo the digit, then look for the crop in every photograph."""
    random = np.random.default_rng(0)
    photos = [
        random.integers(0, 256, (*shape, 3)).astype(np.uint8) for shape in ((30, 40), (33, 29))
    ]
    digits = random.integers(0, 256, (40, 28, 28)).astype(np.uint8)
    digits[random.random(digits.shape) < 0.5] = 0
    for digit, image in zip(digits, blend(digits, photos, np.random.RandomState(0)), strict=True):
        found = 0
        for photo in photos:
            for row in range(photo.shape[0] - 27):
                for column in range(photo.shape[1] - 27):
                    crop = photo[row : row + 28, column : column + 28].astype(int)
                    rule = np.abs(crop - 255 * (digit > 0)[..., None].astype(int))
                    found += bool((rule == image).all())
        assert found == 1


def test_photos_and_positions_are_uniform_to_the_last_row_and_column() -> None:
    # Pixels spell where they are, so the top left corner of a crop tells its place.
    photos = []
    for number in range(2):
        photo = np.zeros((31, 30, 3), np.uint8)
        photo[..., 0] = np.arange(31)[:, None]
        photo[..., 1] = np.arange(30)
        photo[..., 2] = number
        photos.append(photo)
    images = blend(np.zeros((12_000, 28, 28), np.uint8), photos, np.random.RandomState(1))
    places = images[:, 0, 0].astype(int)  # row, column, photo
    counts = np.zeros((4, 3, 2))
    np.add.at(counts, tuple(places.T), 1)
    expected = 12_000 / 24
    chi_squared = ((counts - expected) ** 2 / expected).sum()
    assert chi_squared < 49.7  # 23 degrees of freedom, one chance in a thousand


def test_same_seed_same_bytes_another_seed_others() -> None:
    photos = [np.random.default_rng(2).integers(0, 256, (60, 50, 3)).astype(np.uint8)]
    digits = np.zeros((50, 28, 28), np.uint8)
    one, same, other = (blend(digits, photos, np.random.RandomState(s)) for s in (7, 7, 8))
    assert (one == same).all()
    assert (one != other).any()
