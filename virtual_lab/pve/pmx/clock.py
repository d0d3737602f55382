"""The one place in the played node that lets time pass."""

from __future__ import annotations

import time
from collections.abc import Callable


def pause(seconds: float) -> None:
    """Let the time pass that the played part takes, or that lies between two looks at something."""
    time.sleep(seconds)


def wait_until(reached: Callable[[], bool], seconds: float, *, every: float = 0.1) -> bool:
    """Look until `reached` or until `seconds` have passed; whether it was reached."""
    ends = time.monotonic() + seconds
    while not reached():
        if time.monotonic() >= ends:
            return False
        pause(every)
    return True
