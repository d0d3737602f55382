"""How often a BMC is asked: one that is slow to answer is given as long to do its own work."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

SLOW, MOST = 1.0, 5.0
"""Seconds: answers that take longer are followed by a pause of as long, and of no longer than that."""


class Pace:
    """The pace of requests to one BMC, on the clock of whoever waits for it."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self.not_before = 0.0

    @contextmanager
    def request(self) -> Iterator[None]:
        """Time one request, and say when the next may follow."""
        begun = self._now()
        try:
            yield
        finally:
            ended = self._now()
            if ended - begun > SLOW:
                self.not_before = ended + min(ended - begun, MOST)
