"""Captchas of three digits in two styles, as two websites have them; made once, then cached."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import random
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from unittest import mock

import captcha.image
import matplotlib as mpl
import numpy as np
from captcha.image import ImageCaptcha
from PIL.ImageFilter import SMOOTH
from tqdm import tqdm

from utils.atomic import whole_file, write_json
from utils.data.domains import DIGIT_NAMES, Domain
from utils.data.pickles import KEYS
from utils.errors import UserError, damage_named

CHARACTERS = 3
SIZE = 100  # pixels a side
MATPLOTLIB_FONTS = Path(mpl.get_data_path()) / "fonts" / "ttf"


@dataclass(frozen=True)
class Style:
    """How a website draws its captchas. Colours are ranges of each channel, in [0, 255]."""

    font: Path | None
    """A TrueType file; None: the captcha package's own, Droid Sans Mono."""
    font_sizes: tuple[int, ...]
    rotation: int
    """Largest angle of a character, degrees."""
    background: tuple[int, int]
    ink: tuple[int, int]
    dots: int
    dot_width: int
    curves: int
    smooth: bool

    @property
    def rules(self) -> str:
        """All of it in words, the same on every machine."""
        values = dataclasses.asdict(self) | {"font": self.font.name if self.font else "own"}
        return json.dumps(values)


STYLES = {
    "plain": Style(None, (46,), 10, (225, 255), (0, 110), 15, 2, 0, False),
    "busy": Style(
        MATPLOTLIB_FONTS / "DejaVuSansMono.ttf", (46,), 10, (150, 220), (0, 110), 20, 3, 1,
        True,
    ),
}  # fmt: skip


class Chances(random.Random):
    """The functions of `secrets` that the captcha package draws with, from a seed.

    The package draws random numbers from the operating system. Nobody can repeat them.
    """

    randbelow, randbits = random.Random.randrange, random.Random.getrandbits


class Artist:
    """Draws the captchas of one style."""

    def __init__(self, style: Style):
        self.style = style
        fonts = [str(style.font)] if style.font else None
        self.captcha = ImageCaptcha(SIZE, SIZE, fonts, style.font_sizes)
        self.captcha.character_rotate = (-style.rotation, style.rotation)
        self.captcha.word_space_probability = 1.0  # no gaps: three characters fill the width

    def draw(self, seed: str) -> tuple[np.ndarray, list[int]]:
        """Returns captcha number `seed`, uint8 `[100, 100, 3]`, and its characters' numbers."""
        ours = Chances(seed)
        # One random stream, so that colours do not depend on the numbers of the characters.
        label = [ours.randbelow(len(DIGIT_NAMES)) for _ in range(CHARACTERS)]
        background, ink = (
            (ours.randint(*limits), ours.randint(*limits), ours.randint(*limits))
            for limits in (self.style.background, self.style.ink)
        )
        with mock.patch.object(captcha.image, "secrets", ours):
            text = "".join(DIGIT_NAMES[number] for number in label)
            image = self.captcha.create_captcha_image(text, ink, background)
            for _ in range(self.style.curves):
                self.captcha.create_noise_curve(image, ink)
            self.captcha.create_noise_dots(image, ink, self.style.dot_width, self.style.dots)
        return np.asarray(image.filter(SMOOTH) if self.style.smooth else image), label


def load_captchas(root: Path, style: str, train: int, val: int, seed: int) -> dict[str, np.ndarray]:
    """Returns a style's captchas from `root`, where they are made if they are not there yet.

    Captcha i depends on (seed, style, i) alone, and those to measure have numbers of their own. So
    a run with more captchas never trains on those that another run measures.

    Args:
        root: where the files are kept.
        style: a key of `STYLES`.
        train, val: how many to train with, and to measure with.
        seed: of the chances.

    Returns:
        `train` and `val`: uint8 `[N, 100, 100, 3]`; `train_label` and `val_label`: int32 `[N, 3]`.

    Raises:
        UserError: the file that is there is not what was written.
    """
    # The name tells how they are drawn: a style that is changed is drawn anew.
    rules = hashlib.sha256(f"{DIGIT_NAMES} {KEYS} {STYLES[style].rules}".encode()).hexdigest()[:8]
    path = root / f"{style}-{rules}-{train}+{val}-seed{seed}.npz"
    note = path.with_suffix(".json")
    if not path.exists() or not note.exists():
        with whole_file(path) as temporary, temporary.open("wb") as file:
            arrays = make_captchas(style, train, val, seed)
            np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
        facts = {
            "sha256": Domain(**arrays).digest,
            "alphabet": DIGIT_NAMES,
            "style": STYLES[style].rules,
            **{name: version(name) for name in ("captcha", "pillow", "matplotlib")},
        }
        write_json(note, facts)
        return arrays
    remedy = "delete it, the next run makes it again"
    with damage_named(path, remedy), path.open("rb") as drawn, np.load(drawn) as stored:
        arrays = {part: stored[part] for part in KEYS}
    with damage_named(note, remedy):
        expected = json.loads(note.read_text("utf-8"))["sha256"]
    if Domain(**arrays).digest != expected:
        raise UserError(f"{path}: is not what {note.name} tells of; {remedy}")
    return arrays


def make_captchas(style: str, train: int, val: int, seed: int) -> dict[str, np.ndarray]:
    """Draws a style's captchas; `load_captchas` tells the rest."""
    artist = Artist(STYLES[style])
    arrays: dict[str, np.ndarray] = {}
    for part, count in (("train", train), ("val", val)):
        images = arrays[part] = np.empty((count, SIZE, SIZE, 3), np.uint8)
        labels = arrays[f"{part}_label"] = np.empty((count, CHARACTERS), np.int32)
        what = f"{style} captchas, {part}"
        for index in tqdm(range(count), desc=what, unit="captcha", disable=None):
            images[index], labels[index] = artist.draw(f"{seed} {style} {part} {index}")
    return arrays
