"""The hyperparameters of train_real2drawing.py: edit the defaults here, or give them as flags.

The defaults are the homework's.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

from config.base import TrainingConfig
from config.settings import at_least
from utils.errors import UserError


@dataclasses.dataclass(frozen=True)
class DrawingsConfig(TrainingConfig):
    """Settings of photos → drawings."""

    # what to train
    data_root: str = "model_data/dataset/real_or_drawing"
    """The unpacked folder: train_data/0 … 9 and test_data/0."""
    embedded: bool = False
    """Make and use a stand-in of digits in the same layout, from what the libraries ship. It is
    embedded_drawings, beside data_root."""

    # training
    epoch: int = 200
    """Epochs; one is a pass over the photos."""
    batch_size: int = 64
    """Pictures of a batch, half photos, half drawings."""
    init_learning_rate: float = 0.001
    """Learning rate of both Adam optimizers."""
    lr_alpha: float = 0.0
    """α of μ_p = μ_0 / (1 + α·p)^β; 0 keeps the rate constant."""
    grl_lambda: float = 0.1
    """λ of the second step."""
    ramp: bool = False
    """Let λ rise as in ICML 2015, equation 14, with slope gamma, instead of being constant."""

    # pictures
    canny: bool = True
    """The photos become their Canny edges (thresholds 170 and 300), and not grey."""
    flip: bool = True
    """Half of the training pictures are mirrored, but none with --embedded, because mirrored digits
    are no digits."""
    rotation: Annotated[float, at_least(0)] = 15.0
    """Largest rotation of a training picture, degrees; the empty corners are 0."""

    @property
    def root(self) -> Path:
        """Where the pictures are."""
        root = Path(self.data_root)
        return root.parent / "embedded_drawings" if self.embedded else root

    @property
    def run_path(self) -> str:
        return f"real2drawing/Adam-lr={self.init_learning_rate}/batch_size={self.batch_size}"

    def check_paths(self) -> None:
        super().check_paths()
        if not self.embedded and not self.root.is_dir():
            raise UserError(
                f"data_root: {self.root}: no such folder; unpack the homework's "
                "real_or_drawing there, or try --embedded"
            )
