"""Who was at work when: the spans in which a machine, and not the harness, was busy with the run."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Span:
    """A machine at work, from `start` to `end` in seconds on the monotonic clock."""

    machine: str
    start: float
    end: float


_spans: list[Span] = []


@contextmanager
def at_work(machine: str) -> Iterator[None]:
    """Mark the time inside as work of `machine`: a command on it, a request to it, a wait for its report."""
    start = time.monotonic()
    try:
        yield
    finally:
        _spans.append(Span(machine, start, time.monotonic()))


def recorded() -> tuple[Span, ...]:
    """All spans of this process so far."""
    return tuple(_spans)


def forget() -> None:
    """Drop all spans so far: a process that lives for months would only collect them."""
    _spans.clear()


def covered(spans: Iterable[Span]) -> float:
    """Seconds in which at least one machine was at work."""
    total, until = 0.0, float("-inf")
    for span in sorted(spans, key=lambda span: span.start):
        total += max(0.0, span.end - max(span.start, until))
        until = max(until, span.end)
    return total


def uncovered(spans: Iterable[Span], start: float, end: float) -> float:
    """Seconds between two moments in which no machine was at work."""
    within = [Span(each.machine, max(each.start, start), min(each.end, end)) for each in spans]
    return end - start - covered(span for span in within if span.start < span.end)
