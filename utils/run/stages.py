"""The stages of a run: one training, or a first stage and the one that starts from its model."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Protocol

from config.base import AnyConfig, TrainingConfig
from config.methods import METHODS
from utils.data.domains import AnyDomains
from utils.errors import FailsAgain, UserError
from utils.run.command_line import command_of
from utils.run.runs import CONFIG_FILE, Run, saved_first_stage

if TYPE_CHECKING:
    from utils.run.trainer import Trainer


class Trainable(Protocol):
    """What a script makes of settings and data: a `model.experiment.Experiment`."""

    def trainer(
        self, run: Run, settings: TrainingConfig, start: str | None, name: str | None = None
    ) -> Trainer: ...


def make_stages(
    run: Run,
    settings: AnyConfig,
    data: AnyDomains,
    make_experiment: Callable[[AnyConfig, AnyDomains], Trainable],
) -> list[Callable[[], Trainer]]:
    """Returns a function for each stage of a run. It makes the Trainer when the one before ended.

    Args:
        run: where it is recorded.
        settings: of the run.
        data: of the run.
        make_experiment: returns what a stage with these settings is given.

    Raises:
        UserError: several machines, of which only the first would have the first stage's model.
    """

    def stage(run: Run, settings: AnyConfig, start: str | None, name: str | None = None) -> Trainer:
        return make_experiment(settings, data).trainer(run, settings, start, name)

    before = saved_first_stage(run.logs, settings)
    if before is None:
        return [partial(stage, run, settings, settings.pre_model_path)]
    method, first = METHODS[settings.method], before.method
    below = run.below(method.folder)
    start = below.checkpoints / method.start
    trained = below.checkpoints / f"{first}.keras"  # the first stage's final model
    if settings.strategy == "multi_worker" and not trained.exists():
        raise UserError(
            f"pre_model_path: with several workers train {first} first, on one, and name "
            "its .keras here"
        )

    def second() -> Trainer:
        try:
            return stage(run, settings, str(start))
        except UserError as error:
            if not start.exists() or str(error).startswith(str(start)):  # it is what is wrong
                raise
            again = command_of(None, "--config", run.logs / CONFIG_FILE, "--pre_model_path", start)
            raise FailsAgain(
                f"{error}; to begin the second stage anew, add what you mend to: {again}"
            ) from error

    return [partial(stage, below, before, None, name=first), second]
