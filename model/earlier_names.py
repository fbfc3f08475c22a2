"""Loads files of ADDA from before its parts had the names that they have now."""

from __future__ import annotations

from typing import Any

import keras

from model.adaptation import Adaptation
from model.schedules import Constant

NAMES = {
    "encoder": "feature_extractor",
    "classifier": "label_predictor",
    "discriminator": "domain_classifier",
}
# Where Keras looks for the weights in such a file; the rest has the name that it has today.
PLACES = {
    "classifier": "label_predictor",
    "discriminator": "domain_classifier",
    "source_encoder": "source_extractor",
}

keras.saving.get_custom_objects()["dann>Delayed"] = Constant


class EarlierNames(Adaptation):
    """An `Adaptation` that may come from such a file, and is then saved as it came."""

    is_earlier = False

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        if self.is_earlier:
            for old, new in NAMES.items():
                config |= {old: config.pop(new)} if new in config else {}
        return config

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Adaptation:
        renamed = {NAMES.get(name, name): value for name, value in config.items()}
        model = super().from_config(renamed, custom_objects)
        if renamed.keys() != config.keys():
            model.is_earlier = True
            for old, new in PLACES.items():
                if hasattr(model, new):
                    setattr(model, old, getattr(model, new))
        return model
