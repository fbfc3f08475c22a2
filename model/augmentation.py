"""Random changes of training images that keep their class and know nothing of the target."""

from __future__ import annotations

import math
from typing import Any, Literal

import keras
import tensorflow as tf

from config.base import RecipeConfig
from model.losses import own_rows


@keras.saving.register_keras_serializable("dann")
class RandomAugmentation(keras.layers.Layer):
    """Turns, stretches, shears and shifts each image by chance, and changes its colours.

    What happens to an image depends on `seed`, the step, and its place in the batch alone, so a
    resumed run and a run on several replicas see the same images.

    Args:
        seed: of the chances.
        num_domains: blocks of which a batch consists, one for each domain.
        target_ratio: images of each target for one of the source.
        rotation: largest angle, degrees.
        stretch: largest change of width and of height, as a share of them.
        shear: largest shear, pixels a row.
        shift: largest shift along each axis, as a share of the image.
        contrast: largest change of each channel's contrast, as a share of it.
        brightness: largest change of each channel's brightness, in pixel values of [0, 255].
        cutout: side of the square, in pixels, that is painted over with the image's mean colour; 0:
            none. DeVries & Taylor, arXiv 1708.04552.
        flip: whether half of the images are mirrored, left to right.
        invert: whether half of the channels are inverted, v to 255 - v, each by its own chance.
        edges: what fills the corners that come in: `"repeat"` the edge pixels, or `"black"`.

    Call arguments:
        images: `[B, H, W, C]`, pixel values in [0, 255]; one block a domain.
        step: the training step.

    Output shape: that of `images`, float32, pixel values in [0, 255].

    Raises:
        ValueError: a negative size of a change, or `edges` of another name.
    """

    # The default sizes are this repository's own.
    def __init__(
        self,
        seed: int,
        num_domains: int = 2,
        target_ratio: int = 1,
        rotation: float = 15.0,
        stretch: float = 0.1,
        shear: float = 0.15,
        shift: float = 0.09,
        contrast: float = 0.0,
        brightness: float = 0.0,
        cutout: int = 0,
        flip: bool = False,
        invert: bool = False,
        edges: Literal["repeat", "black"] = "repeat",
        **layer_options: Any,
    ):
        super().__init__(autocast=False, **layer_options)
        if edges not in ("repeat", "black"):
            raise ValueError(f"edges must be repeat or black, got {edges}")
        for name, value in (("rotation", rotation), ("stretch", stretch), ("shear", shear),
                            ("shift", shift), ("contrast", contrast), ("brightness", brightness),
                            ("cutout", cutout)):  # fmt: skip
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} must be 0 or more, got {value}")
        self.seed = seed
        self.num_domains = num_domains
        self.target_ratio = target_ratio
        self.rotation = rotation
        self.stretch = stretch
        self.shear = shear
        self.shift = shift
        self.contrast = contrast
        self.brightness = brightness
        self.cutout = cutout
        self.flip = flip
        self.invert = invert
        self.edges = edges

    def call(self, images: tf.Tensor, step: tf.Tensor) -> tf.Tensor:
        images = tf.cast(images, tf.float32)
        channels = images.shape[-1]
        chances = self.chances(step, tf.shape(images)[0], 6 + 2 * channels)
        images = self.move(images, chances[:, :6])
        if self.flip:
            sides = self.chances(step, tf.shape(images)[0], 1, stream=1)
            images = tf.where(sides[:, None, None] < 0, images[:, :, ::-1], images)
        if self.contrast or self.brightness:
            images = self.recolour(images, *tf.split(chances[:, None, None, 6:], 2, axis=-1))
        if self.invert:
            sides = self.chances(step, tf.shape(images)[0], channels, stream=3)
            images = tf.where(sides[:, None, None] < 0, 255.0 - images, images)
        if self.cutout:
            images = self.cut(images, self.chances(step, tf.shape(images)[0], 2, stream=2))
        return images

    def chances(self, step: tf.Tensor, size: tf.Tensor, count: int, stream: int = 0) -> tf.Tensor:
        """Returns this replica's rows of the batch's random numbers in [-1, 1): `[size, count]`."""
        seed = tf.stack(
            [tf.constant(self.seed + (stream << 32), tf.int64), tf.cast(step, tf.int64)]
        )

        def numbers(rows: tf.Tensor) -> tf.Tensor:
            return tf.random.stateless_uniform([rows, count], seed, -1.0, 1.0)

        return own_rows(numbers, size, self.num_domains, self.target_ratio)

    def move(self, images: tf.Tensor, chances: tf.Tensor) -> tf.Tensor:
        """Applies a random affine map about the centre."""
        height, width = images.shape[1:3]
        turn, wide, high, shear, right, down = tf.unstack(chances, axis=-1)
        angle = turn * self.rotation * (math.pi / 180.0)
        x_x = tf.cos(angle) * (1.0 + self.stretch * wide)
        x_y = -tf.sin(angle) * (1.0 + self.stretch * wide) + self.shear * shear
        y_x = tf.sin(angle) * (1.0 + self.stretch * high)
        y_y = tf.cos(angle) * (1.0 + self.stretch * high)
        middle_x, middle_y = (width - 1) / 2.0, (height - 1) / 2.0
        x_0 = middle_x * (1.0 - x_x) - x_y * middle_y + right * self.shift * width
        y_0 = middle_y * (1.0 - y_y) - y_x * middle_x + down * self.shift * height
        zero = tf.zeros_like(x_0)
        # The map from output to input, row by row: the form that the op wants.
        return tf.raw_ops.ImageProjectiveTransformV3(
            images=images,
            transforms=tf.stack([x_x, x_y, x_0, y_x, y_y, y_0, zero, zero], axis=-1),
            output_shape=[height, width],
            fill_value=0.0,
            interpolation="BILINEAR",
            fill_mode="NEAREST" if self.edges == "repeat" else "CONSTANT",
        )

    def recolour(self, images: tf.Tensor, contrast: tf.Tensor, brightness: tf.Tensor) -> tf.Tensor:
        """Changes the contrast about each channel's mean, and the brightness."""
        mean = tf.reduce_mean(images, axis=[1, 2], keepdims=True)
        images = mean + (images - mean) * (1.0 + self.contrast * contrast)
        return tf.clip_by_value(images + self.brightness * brightness, 0.0, 255.0)

    def cut(self, images: tf.Tensor, chances: tf.Tensor) -> tf.Tensor:
        """Paints a square over each image; its centre may lie anywhere in it."""
        inside = [
            tf.abs(tf.range(size, dtype=tf.float32) - (chance[:, None] + 1.0) / 2.0 * size)
            < self.cutout / 2.0
            for size, chance in zip(images.shape[1:3], tf.unstack(chances, axis=-1), strict=True)
        ]  # of rows `[B, H]` and of columns `[B, W]`
        square = inside[0][:, :, None, None] & inside[1][:, None, :, None]
        return tf.where(square, tf.reduce_mean(images, axis=[1, 2], keepdims=True), images)

    def get_config(self) -> dict[str, Any]:
        names = ("seed", "num_domains", "target_ratio", "rotation", "stretch", "shear", "shift",
                 "contrast", "brightness", "cutout", "flip", "invert", "edges")  # fmt: skip
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


def chosen_augmentation(settings: RecipeConfig, num_domains: int) -> RandomAugmentation | None:
    """Returns what a run's settings name, for batches of so many domains."""
    still, coloured = settings.augmentation == "none", settings.augmentation == "affine_colour"
    if still and not (settings.cutout or settings.invert):
        return None
    chosen = RandomAugmentation(
        settings.seed, num_domains, settings.target_ratio,
        contrast=0.5 if coloured else 0.0, brightness=64.0 if coloured else 0.0,  # our own sizes
        cutout=settings.cutout, invert=settings.invert,
    )  # fmt: skip
    if still:
        chosen.rotation = chosen.stretch = chosen.shear = chosen.shift = 0.0
    return chosen
