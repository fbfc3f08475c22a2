"""The hyperparameters of train_custom.py: edit the defaults here, or give them as flags."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import Annotated, Literal

from config.base import SCALE_THEMSELVES, RecipeConfig, check_images
from config.methods import METHODS, WITHOUT_LAMBDA
from config.settings import MOST_IMAGES, PIXELS, SIDES, UNITS, Limit, at_least, between, not_by
from utils.errors import UserError, existing_file


@dataclasses.dataclass(frozen=True)
class CustomConfig(RecipeConfig):
    """Settings of your own pictures."""

    # what to train
    source: tuple[str, ...] = ()
    """Folders of the labelled domains: in each, one folder of pictures for each class. An epoch is
    a pass over the first one."""
    target: tuple[str, ...] = ()
    """Folders of the domains to adapt to. Class folders, if there are any, serve for measuring."""

    # training
    batch_size: Annotated[int, between(0, MOST_IMAGES)] = 0
    """Pictures of a batch, of all domains together. 0: 32 of the source."""
    alternating: Annotated[bool, not_by(*WITHOUT_LAMBDA, "adda")] = False
    """Two-step updates as in a GAN: the domain classifier first, then the rest against it."""

    # images and networks
    image_size: Annotated[tuple[int, int], SIDES] = (28, 28)
    """Height and width that every picture is resized to."""
    channels: Annotated[int, Limit(lambda value: value in (1, 3), "1 (grey) or 3 (RGB)")] = 3
    """3: RGB, 1: grey; pictures of the other kind are converted."""
    pixel_mean: Annotated[tuple[float, ...] | None, PIXELS] = None
    """Mean subtracted per channel, in [0, 255]. By default it is measured on some pictures of each
    domain. Not for a backbone that has a scaling of its own."""
    validation_share: Annotated[float, Limit(lambda value: 0 < value < 1, "in (0, 1)")] = 0.1
    """Share of each domain's pictures that is kept back for measuring. The seed chooses them."""
    backbone: str = "paper"
    """paper: the paper's MNIST network; or the name of a keras.applications model."""
    weights: str | None = None
    """File of trained weights for that model without its top, such as ImageNet's .h5. They are for
    RGB pictures. None: untrained."""
    frozen: bool = False
    """The backbone keeps its weights. Then --bottleneck, or --features hidden, is what adapts."""
    bottleneck: Annotated[int, at_least(0)] = 0
    """Units of a dense layer between the backbone and the heads. 0: none."""
    feature_layer: str | None = None
    """Inner layer of the backbone whose output is the feature. By default it is the last one."""
    pooling: Literal["flatten", "average"] = "flatten"
    """What makes a vector of the feature."""
    label_hidden: Annotated[tuple[int, ...], UNITS] = (100, 100)
    """Units of the label predictor's hidden layers; ICML 2015, figure 4 (a)."""
    domain_hidden: Annotated[tuple[int, ...], UNITS, not_by("source_model")] = (100,)
    """Units of the domain classifier's hidden layers; ICML 2015, figure 4 (a)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.batch_size:
            object.__setattr__(self, "batch_size", 32 * self.smallest_batch)
        adapts = self.bottleneck or self.features != "convolutional"
        if self.frozen and not adapts and METHODS[self.method].uses_lambda:
            raise UserError("frozen: no feature would adapt; add a layer: --bottleneck 256")
        if self.features == "hidden" and not self.label_hidden:
            raise UserError("features: there is no hidden layer; name one: --label_hidden 100")
        if len(self.source) > 1 and self.target_ratio > 1:
            raise UserError("target_ratio: is of one source, but several are named; leave it at 1")
        if self.alternating and self.domain_weight != 1:
            raise UserError("domain_weight: is of one step for all; leave it at 1 with alternating")
        if self.weights and self.backbone == "paper":
            raise UserError("weights: belong to a model of keras.applications; name it: --backbone")
        if self.weights and self.channels == 1:
            raise UserError("weights: are for RGB pictures; take --channels 3")
        if self.pixel_mean is not None and self.has_own_scaling:
            raise UserError("pixel_mean: this backbone has a scaling of its own; leave it out")
        check_images((*self.image_size, self.channels), self.pixel_mean, self.cutout)

    @property
    def has_own_scaling(self) -> bool:
        """Whether the backbone scales pixel values, so that no mean is subtracted."""
        return self.weights is not None or self.backbone.startswith(SCALE_THEMSELVES)

    @property
    def num_domains(self) -> int:
        return max(1, len(self.source)) + len(self.target)

    @property
    def run_path(self) -> str:
        # TensorFlow writes below this folder, and takes UTF-8 alone.
        sources, targets = (
            "+".join(Path(each).resolve().name for each in folders)
            .encode(errors="replace")
            .decode()
            for folders in (self.source, self.target)
        )
        return (
            f"custom/{sources}2{targets}"
            f"/SGD-lr={self.init_learning_rate}-momentum={self.momentum_rate}"
            f"/batch_size={self.batch_size}"
        )

    def check_paths(self) -> None:
        super().check_paths()
        if not self.source or not self.target:
            raise UserError("name the folders: --source DIR [DIR …] --target DIR [DIR …]")
        folders = (*self.source, *self.target)
        for folder in folders:
            if not Path(folder).is_dir():
                raise UserError(f"{folder}: no such folder; --source and --target take folders")
        places = [Path(each).resolve() for each in folders]
        for one, other in itertools.permutations(places, 2):
            if one.is_relative_to(other):
                fault = "is named twice" if one == other else f"lies in {other}"
                raise UserError(f"source, target: {one} {fault}; name others")
        if self.weights:
            existing_file(self.weights, "weights", "check it")
