"""Photos and drawings in the layout of the homework, and a stand-in that is made here.

real_or_drawing/train_data/<class 0 … 9>/*.bmp: RGB photos of 32×32 pixels.
real_or_drawing/test_data/0/*.bmp: grey drawings of 28×28 pixels, without labels.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import cv2
import numpy as np
import sklearn.datasets
from tqdm import tqdm

from utils.atomic import cannot_write
from utils.data import UNLABELLED
from utils.data.embedded import embedded_photos
from utils.data.pictures import find_pictures, is_hidden, read_picture, write_picture
from utils.errors import UserError, damage_named, refuse_device

SIDE = 32
CANNY = (170, 300)  # the homework's thresholds
LABELS_FILE = "target_labels.csv"  # of a stand-in: for measuring alone


def read_photos(root: Path) -> tuple[np.ndarray, np.ndarray]:
    """Returns the photos uint8 `[N, 32, 32, 3]` RGB and their classes int32 `[N]`.

    Raises:
        UserError: the class folders are not 0 to 9, one is empty, or a picture does not decode.
    """
    folder = root / "train_data"
    found = sorted(path.name for path in folder.iterdir() if not is_hidden(path.name)) \
        if folder.is_dir() else []  # fmt: skip
    if found != [str(number) for number in range(10)]:
        raise UserError(
            f"{folder}: must have the class folders 0 … 9; it has {', '.join(found) or 'none'}"
        )
    paths = [(path, number) for number in range(10) for path in find_pictures(folder / str(number))]
    images = [read_picture(path, (SIDE, SIDE, 3)) for path, _ in progress(paths, "photos")]
    return np.stack(images), np.array([number for _, number in paths], np.int32)


def read_drawings(root: Path) -> tuple[np.ndarray, np.ndarray]:
    """Returns the drawings uint8 `[M, 32, 32, 1]`, resized, in the order of the files' names, or of
    their numbers if all are numbers; and their classes int32 `[M]`, -1 = unknown, as they are
    without `target_labels.csv`.

    Raises:
        UserError: there are none, one does not decode, or the labels do not fit.
    """
    paths = find_pictures(root / "test_data" / "0")
    if all(path.stem.isdecimal() for path in paths):
        paths.sort(key=lambda path: int(path.stem))  # 10 comes after 9
    # Bilinear, because the drawings grow from 28 to 32 pixels.
    images = np.stack([
        cv2.resize(read_picture(path, (28, 28, 1)), (SIDE, SIDE))[..., None]
        for path in progress(paths, "drawings")
    ])  # fmt: skip
    labels = root / LABELS_FILE
    if not labels.exists():
        return images, np.full(len(images), UNLABELLED, np.int32)
    remedy = f"write a class 0 … 9, or {UNLABELLED} = unknown, for each of {len(images)} drawings"
    refuse_device(labels)
    with damage_named(labels, remedy):
        lines = [line.partition("#")[0] for line in labels.read_text("utf-8-sig").splitlines()]
        known = np.array([int(line) for line in lines if line.strip()], np.int32)
    if len(known) != len(images):
        raise UserError(f"{labels}: has {len(known)} classes; {remedy}")
    if wrong := [number for number in known if not UNLABELLED <= number <= 9]:
        raise UserError(f"{labels}: has the class {wrong[0]}; {remedy}")
    return images, known


def progress(items: list, name: str) -> tqdm:
    """Shows how far the reading is."""
    return tqdm(items, desc=f"reading {name}", unit="picture", leave=False, disable=None)


def grey(images: np.ndarray) -> np.ndarray:
    """Returns RGB images as grey ones: uint8 `[N, H, W, 1]`."""
    return np.stack([cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None] for image in images])


def canny(images: np.ndarray, low: int = CANNY[0], high: int = CANNY[1]) -> np.ndarray:
    """Returns the edges of grey images: uint8 `[N, H, W, 1]`, 255 on an edge, else 0."""
    return np.stack([cv2.Canny(image[..., 0], low, high)[..., None] for image in images])


def make_standin(root: Path, seed: int = 42, size: int = 2000) -> None:
    """Makes digits blended over photographs as "photos", outlines of other digits as "drawings".

    From scikit-learn's 1,797 scans of digits, one half for each domain, and photographs that ship
    with scikit-image. The drawings' classes go to a file of their own.

    Args:
        root: the folder.
        seed: of the chances.
        size: how many photos, and how many drawings.
    """
    random = np.random.default_rng(seed)
    scans = sklearn.datasets.load_digits()
    halves = np.array_split(random.permutation(len(scans.images)), 2)
    photographs = embedded_photos()
    labels = []
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
            prefix=f".{root.name}.", dir=root.parent, ignore_cleanup_errors=True
        ) as place:
            unfinished = Path(place) / root.name
            for name in (*(f"train_data/{number}" for number in range(10)), "test_data/0"):
                (unfinished / name).mkdir(parents=True)
            for index in tqdm(range(size), desc="making the stand-in", leave=False, disable=None):
                name = f"{index:05d}.bmp"
                scan = random.choice(halves[0])
                photo = blend(digit(scans.images[scan], SIDE, random), photographs, random)
                folder = unfinished / "train_data" / str(scans.target[scan])
                write_picture(folder / name, photo[..., ::-1])
                scan = random.choice(halves[1])
                labels.append(scans.target[scan])
                drawing = outline(digit(scans.images[scan], 28, random), random)
                write_picture(unfinished / "test_data" / "0" / name, drawing)
            np.savetxt(unfinished / LABELS_FILE, labels, fmt="%d")
            if not root.exists():  # another run may have made the same meanwhile
                unfinished.rename(root)
    except OSError as error:
        raise cannot_write(root, error) from error


def digit(scan: np.ndarray, side: int, random: np.random.Generator) -> np.ndarray:
    """Enlarges an 8×8 scan with values in [0, 16] to float32 `[side, side]` in [0, 1]."""
    matrix = cv2.getRotationMatrix2D(
        (3.5, 3.5), random.uniform(-8, 8), side / random.uniform(9, 11)
    )
    matrix[:, 2] = matrix[:, 2] + side / 2 - 4 + random.uniform(-1.5, 1.5, 2)
    large = cv2.warpAffine(scan.astype(np.float32), matrix, (side, side), flags=cv2.INTER_CUBIC)
    return np.clip((large - 5) / 5, 0, 1)


def blend(
    mask: np.ndarray, photographs: list[np.ndarray], random: np.random.Generator
) -> np.ndarray:
    """Paints a digit in one colour over a piece of a photograph: uint8 `[32, 32, 3]`."""
    photo = photographs[random.integers(len(photographs))]
    row, column = (random.integers(size - SIDE + 1) for size in photo.shape[:2])
    ground = photo[row : row + SIDE, column : column + SIDE].astype(np.float32)
    colour = random.uniform(0, 255, 3)
    mean = ground.mean()
    colour += (
        mean + (170 if mean < 128 else -170)
    ) - colour.mean()  # it stands out from the ground
    mixed = ground + mask[..., None] * (np.clip(colour, 0, 255) - ground)
    return np.clip(mixed, 0, 255).astype(np.uint8)


def outline(mask: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Draws a digit's contour as a trembling hand would: uint8 `[28, 28]`, white on black."""
    contours = cv2.findContours(
        (mask > 0.5).astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE
    )[0]
    drawing = np.zeros(mask.shape, np.uint8)
    for contour in contours:
        corners = contour[::2].astype(np.float64) + random.normal(0, 0.4, contour[::2].shape)
        points = np.round(corners * 8).astype(np.int32)  # in eighths of a pixel
        cv2.polylines(drawing, [points], True, 255, 1, cv2.LINE_AA, shift=3)
    return drawing
