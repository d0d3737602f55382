"""Keeps a flood of like events cheap: so many a minute are let through, the others are counted."""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass

WINDOW = 60.0
# More than a rack of a thousand nodes has: whose window is dropped is counted from nothing again.
MOST_KEYS = 16 * 1024


@dataclass(slots=True)
class _Window:
    began: float
    passed: int = 0
    held_back: int = 0


class FloodGate:
    """Lets `each` events per key, and `all_together` of all keys, pass in a minute.

    None is for keys that nobody can make up: so many nodes, so much of each.
    """

    def __init__(self, each: int, all_together: int | None = None) -> None:
        self._each, self._all = each, math.inf if all_together is None else all_together
        self._windows: OrderedDict[str, _Window] = OrderedDict()
        self._total = _Window(began=0.0)

    def admit(self, key: str, now: float) -> int | None:
        """None: hold this one back. A number: let it pass; so many of its key were held back before it."""
        window = self._window(key, now)
        if now - self._total.began >= WINDOW:
            self._total = _Window(began=now)
        if window.passed >= self._each or self._total.passed >= self._all:
            window.held_back += 1
            return None
        window.passed += 1
        self._total.passed += 1
        held_back, window.held_back = window.held_back, 0
        return held_back

    def _window(self, key: str, now: float) -> _Window:
        window = self._windows.setdefault(key, _Window(began=now))
        if now - window.began >= WINDOW:
            window.began, window.passed = now, 0
        self._windows.move_to_end(key)
        if len(self._windows) > MOST_KEYS:
            self._windows.popitem(last=False)
        return window
