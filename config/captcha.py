"""The hyperparameters of train_captcha.py: edit the defaults here, or give them as flags."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, ClassVar, Literal

from config.base import TrainingConfig
from config.settings import SEED, at_least


@dataclasses.dataclass(frozen=True)
class CaptchaConfig(TrainingConfig):
    """Settings of the captchas."""

    QUICK: ClassVar[dict[str, Any]] = {"captchas": 3000, "source_epoch": 3, "epoch": 2}

    # what to train
    method: str = "adda"
    """What adapts the model, or a control."""
    network: Literal["placewise", "tutorial"] = "placewise"
    """placewise: the discriminator sees each place of the image alone. tutorial: batch
    normalisation after each convolution, and a dense discriminator of all 30,976 features."""
    captchas: Annotated[int, at_least(100)] = 15000
    """Captchas of each style to train with; they are drawn once and kept."""
    captcha_seed: Annotated[int, SEED] = 42
    """Seed of the captchas."""
    captcha_root: str = "model_data/dataset/captcha"
    """Where the captchas are kept."""
    quick: bool = False
    """A look at everything in a few minutes: 3000 captchas, 3 + 2 epochs; learns little."""

    # training
    epoch: int = 2
    """Epochs of the adaptation; one is a pass over the source captchas."""
    source_epoch: int = 2
    """Epochs of the first stage."""
    batch_size: int = 64
    """Captchas of a batch, half source, half target. adda's first stage has the source half."""
    init_learning_rate: float = 0.0003
    """Learning rate of Adam; with adda of the first stage. At 0.001 the classifier may collapse in
    the first steps."""
    lr_alpha: float = 0.0
    """α of μ_p = μ_0 / (1 + α·p)^β; 0 keeps the rate constant."""
    grl_lambda: float = 1.0
    """Weight of the adversarial loss. With adda 0 is the control: the target's statistics alone.
    With Adam every value above 0 does the same."""

    # recipe: what the paper does not have
    average_decay: float = 0.99
    """Models are measured and kept with their weights averaged at this decay; 0: as they are."""

    # settings of single methods
    adda_learning_rate: float = 0.00002
    """Learning rate of the target encoder. With a larger one it forgets what the source
    model knows."""
    discriminator_learning_rate: float = 0.001
    """Learning rate of the discriminator."""

    @property
    def run_path(self) -> str:
        adda = self.method == "adda"
        name = "SGD" if adda and self.adda_optimizer == "sgd" else "Adam"
        rate = self.adda_learning_rate if adda else self.init_learning_rate
        return f"captcha/{name}-lr={rate}/batch_size={self.batch_size}"
