"""Whose turn it is to be reset, so that the link over which all load their installers is full and not choked.

Firmware takes minutes before it loads anything. So the link is booked for each node's bytes ahead, one node
after the other, and the next is reset when the booking before it is over: every node is as late as the one
before it, and the link stays full. What nodes show brings it forward, when none is under way any more, or
puts it off, when too many load.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Lock
from typing import Protocol

from provision.errors import LabError
from provision.pace import Pace
from provision.run import Run
from provision.spans import at_work
from provision.wait import NOTICE, Deadline, NotYet


class Signs(Protocol):
    """What nodes show of themselves since they were given leave."""

    def heard_of(self, name: str) -> bool:
        """Whether the node was heard of at all."""

    def loaded(self, name: str) -> bool:
        """Whether it has its installer, or has failed: it loads nothing any more."""


class Unheard:
    """Signs of nodes that nobody listens to."""

    def heard_of(self, name: str) -> bool:
        """Never."""
        return False

    def loaded(self, name: str) -> bool:
        """Never."""
        return False


@dataclass(slots=True)
class Booking:
    """Which nodes are under way, and for how long the link is booked; times are seconds of one clock."""

    pace: Pace
    begun: dict[str, float] = field(default_factory=dict)
    heard: dict[str, float] = field(default_factory=dict)
    booked: float = 0.0
    last: float = -math.inf

    def due(self, now: float) -> float:
        """Seconds until the next node may be reset, by what is known now."""
        self._drop_late(now)
        wait = self.last + self.pace.apart - now
        if len(self.begun) >= self.pace.at_once or len(self.heard) >= self.pace.fed:
            wait = max(wait, min(map(self._late, self.begun)) - now)
        elif self.begun:
            wait = max(wait, self.booked - now)
        return max(0.0, wait)

    def begin(self, name: str, now: float) -> None:
        """A node is reset."""
        self.booked = (max(self.booked, now) if self.begun else now) + self.pace.loads[name]
        self.begun[name] = self.last = now

    def hear(self, name: str, now: float) -> None:
        """A node that is under way was heard of."""
        if name in self.begun:
            self.heard.setdefault(name, now)

    def end(self, name: str) -> None:
        """A node loads nothing any more; what it was booked for and never began to load is free."""
        if self.begun.pop(name, None) is not None and self.heard.pop(name, None) is None:
            self.booked -= self.pace.loads[name]

    def _late(self, name: str) -> float:
        """When a node that shows nothing more has lost its place."""
        if name in self.heard:
            return self.heard[name] + self.pace.loading
        return self.begun[name] + self.pace.silent

    def _drop_late(self, now: float) -> None:
        for name in [name for name in self.begun if self._late(name) <= now]:
            self.begun.pop(name)
            self.heard.pop(name, None)


class Turns:
    """The queue of nodes that wait to be reset, first come first served. Of many threads, one a node."""

    def __init__(
        self, pace: Pace, run: Run, signs: Signs, *, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._booking, self._run, self._signs, self._now = Booking(pace), run, signs, now
        self._queue: deque[str] = deque()
        self._lock = Lock()

    def join(self, name: str) -> bool:
        """Stand in the queue; whether the node has to wait there."""
        with self._lock:
            self._queue.append(name)
        return isinstance(self._look(name), NotYet)

    def wait(self, name: str) -> None:
        """Return when it is the node's turn."""
        # Every place is given back in time, so the queue moves on however long it is.
        with at_work("server"):
            self._run.news.until("its turn", lambda: self._look(name), Deadline(math.inf), node=name)

    @contextmanager
    def under_way(self, name: str) -> Iterator[None]:
        """Give the place back when the reset inside fails."""
        try:
            yield
        except LabError:
            with self._lock:
                self._booking.end(name)
            self._run.news.notify()
            raise

    def _look(self, name: str) -> bool | NotYet:
        with self._lock:
            if name in self._booking.begun or name not in self._queue:
                return True
            now = self._now()
            self._take_in(now)
            place, due = self._queue.index(name), self._booking.due(now)
            if place or due:
                return NotYet(f"place {place + 1} in the queue", min(due, NOTICE) if place == 0 else NOTICE)
            self._queue.popleft()
            self._booking.begin(name, now)
        self._run.news.notify()
        return True

    def _take_in(self, now: float) -> None:
        """What the nodes that are under way have shown meanwhile."""
        for name in list(self._booking.begun):
            if self._signs.loaded(name):
                self._booking.hear(name, now)
                self._booking.end(name)
            elif self._signs.heard_of(name):
                self._booking.hear(name, now)
