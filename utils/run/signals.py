"""Signals that ask a run to stop: noted, and obeyed when everything is saved."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import tensorflow as tf


class Interrupted(Exception):
    """A signal asked the run to stop; everything is saved. `signal_number` is which."""

    def __init__(self, signal_number: int):
        super().__init__(signal.Signals(signal_number).name)
        self.signal_number = signal_number


class Signals:
    """Notes SIGINT and SIGTERM instead of dying of them.

    Args:
        strategy: of the run; a signal to one of its workers is one to all.
    """

    def __init__(self, strategy: tf.distribute.Strategy):
        self.strategy = strategy
        self.number = 0

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Inside, a signal only leaves a note; a second one of the same kind acts at once."""

        def note(number: int, _: Any) -> None:
            self.number = number
            signal.signal(number, signal.SIG_DFL)

        before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def seen(self) -> int:
        """Returns the number of the signal that came to any worker, or 0: the same for all."""
        number = self.number  # one may come while this is told to the others
        if self.strategy.cluster_resolver is None:
            return number
        mine = self.strategy.run(lambda: tf.constant(number))
        anyone = self.strategy.reduce(tf.distribute.ReduceOp.SUM, mine, axis=None)
        return number or (signal.SIGTERM if int(anyone) else 0)

    def obey(self, number: int) -> None:
        """Raises `Interrupted` if there was a signal."""
        if number:
            raise Interrupted(number)
