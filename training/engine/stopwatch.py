"""Seconds of training, without those of evaluations and of writing checkpoints."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Stopwatch:
    """Runs from the moment that it is made."""

    def __init__(self) -> None:
        self.start()

    def start(self, seconds: float = 0.0) -> None:
        """Start anew with so many seconds gone."""
        self._since = time.perf_counter() - seconds

    def seconds(self) -> float:
        """Return the seconds since the last lap."""
        return time.perf_counter() - self._since

    def lap(self) -> float:
        """Return the seconds since the last lap, and begin another."""
        seconds = self.seconds()
        self.start()
        return seconds

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave out the seconds that the block takes."""
        seconds = self.seconds()
        try:
            yield
        finally:
            self.start(seconds)
