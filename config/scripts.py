"""The training scripts: a new one is a file beside README and a line here."""

from __future__ import annotations

from config.base import TrainingConfig
from config.captcha import CaptchaConfig
from config.config import Config
from config.custom import CustomConfig
from config.drawings import DrawingsConfig

SCRIPTS: dict[str, type[TrainingConfig]] = {
    "train_MNIST2MNIST_M.py": Config,
    "train_custom.py": CustomConfig,
    "train_real2drawing.py": DrawingsConfig,
    "train_captcha.py": CaptchaConfig,
}
