"""The one module that waits: every wait has a goal, a deadline and what was last seen."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from threading import Condition
from threading import Event as Flag
from typing import TypeVar

from provision.errors import GaveUp

T = TypeVar("T")

NOTICE = 1.0
"""Seconds within which a wait in a thread of its own notices that it was called off."""

called_off: ContextVar[Flag | None] = ContextVar("called_off", default=None)
"""Set when nobody waits for the outcome of this thread any more (provision/together.py)."""


def _go_on() -> None:
    # Signals reach the main thread alone; a wait elsewhere ends in the same way when that has ended.
    flag = called_off.get()
    if flag is not None and flag.is_set():
        raise KeyboardInterrupt


@dataclass(frozen=True, slots=True)
class NotYet:
    """A probe's answer while its goal is not reached; `seen` goes into the error if it never is.

    Whoever waits for news asks again after `again` seconds without any.
    """

    seen: str
    again: float = NOTICE


class Deadline:
    """A moment, on the monotonic clock, at which patience of `seconds` ends; `over` of them are gone."""

    def __init__(
        self, seconds: float, *, over: float = 0.0, now: Callable[[], float] = time.monotonic
    ) -> None:
        self.seconds = seconds
        self._now = now
        self._ends = now() + seconds - over

    @property
    def remaining(self) -> float:
        """Seconds left, never below zero."""
        return max(0.0, self._ends - self._now())

    @property
    def expired(self) -> bool:
        """Whether the moment has passed."""
        return self.remaining == 0.0


@dataclass(frozen=True, slots=True)
class Patience:
    """How to ask something that cannot call back: for how long, and how often.

    The pause grows from `first` to `most` seconds by half each time.
    """

    seconds: float
    first: float = 0.05
    most: float = 2.0
    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep

    def until(self, goal: str, probe: Callable[[], T | NotYet], *, node: str | None = None) -> T:
        """Ask `probe` until it answers something other than NotYet.

        Raises GaveUp, with the last NotYet's `seen`, when the deadline passes first. Any other
        exception of the probe ends the wait at once.
        """
        deadline, pause = Deadline(self.seconds, now=self.now), self.first
        while True:
            _go_on()
            answer = probe()
            if not isinstance(answer, NotYet):
                return answer
            if deadline.expired:
                message = f"{goal}: not reached within {self.seconds:g} s"
                raise GaveUp(message, node=node, last_seen=answer.seen)
            self.sleep(min(pause, deadline.remaining))
            pause = min(pause * 1.5, self.most)


def until_then(deadline: Deadline, sleep: Callable[[float], None] = time.sleep) -> None:
    """Wait for a moment itself: nothing is asked meanwhile, and nobody is late."""
    while not deadline.expired:
        _go_on()
        sleep(min(deadline.remaining, NOTICE))


class Signal:
    """Wakes whoever waits for a change of something that several threads look at."""

    def __init__(self) -> None:
        self._condition = Condition()
        self._count = 0

    def notify(self) -> None:
        """Say that something changed."""
        with self._condition:
            self._count += 1
            self._condition.notify_all()

    def until(
        self, goal: str, probe: Callable[[], T | NotYet], deadline: Deadline, *, node: str | None = None
    ) -> T:
        """Ask `probe` now and after every change; raises GaveUp when `deadline` passes first."""
        while True:
            _go_on()
            before = self._count
            answer = probe()
            if not isinstance(answer, NotYet):
                return answer
            if deadline.expired:
                message = f"{goal}: not reached within {deadline.seconds:g} s"
                raise GaveUp(message, node=node, last_seen=answer.seen)
            self._wait_for_news(before, min(deadline.remaining, NOTICE, answer.again))

    def _wait_for_news(self, before: int, seconds: float) -> None:
        with self._condition:
            self._condition.wait_for(lambda: self._count != before, seconds)
