"""This process's place in a cluster, read from TF_CONFIG without importing TensorFlow."""

from __future__ import annotations

import json
import os

from config.base import TrainingConfig
from utils.errors import UserError


def is_chief(config: TrainingConfig) -> bool:
    """Tells whether this process writes logs, checkpoints and figures: worker 0, or the only one.

    Raises:
        UserError: `strategy` is multi_worker and TF_CONFIG is not as TensorFlow documents it.
    """
    if config.strategy != "multi_worker":
        return True
    try:
        settings = json.loads(os.environ["TF_CONFIG"])
        workers = settings["cluster"]["worker"]
        kind, index = settings["task"]["type"], settings["task"]["index"]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"TF_CONFIG: missing or not as TensorFlow documents it ({error!r}); "
            "`make workers N=2` sets it for local processes"
        ) from error
    if kind != "worker" or not isinstance(index, int) or not 0 <= index < len(workers):
        raise UserError(f"TF_CONFIG: the task {kind} {index} is none of the {len(workers)} workers")
    return index == 0
