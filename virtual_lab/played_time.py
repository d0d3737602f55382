"""The time that a played part takes: bounded, and never a wait for something else to happen."""

from __future__ import annotations

import time

LONGEST = 30.0


def take(seconds: float) -> None:
    """Let a played part take its time, at most `LONGEST` seconds."""
    time.sleep(max(0.0, min(seconds, LONGEST)))
