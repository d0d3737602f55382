"""Spans: overlapping work counts once."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provision import session
from provision.ledger import Ledger
from provision.run import Run
from provision.spans import Span, at_work, covered, recorded, uncovered


def test_overlapping_spans_count_once_and_gaps_not_at_all() -> None:
    spans = [Span("a", 0, 2), Span("b", 1, 3), Span("a", 1.5, 1.6), Span("c", 5, 6)]
    assert covered(spans) == 4


def test_nothing_covers_nothing() -> None:
    assert covered([]) == 0


def test_a_run_tells_in_which_steps_and_checks_no_machine_was_at_work(ledger: Ledger) -> None:
    run = Run("virtual", "run-1", ledger, acting=frozenset())
    for kind, step in (("run-started", None), ("step-started", "power"), ("step-done", "power"),
                       ("step-started", "install"), ("step-failed", "install")):  # fmt: skip
        run.say(kind, kind, step=step)
    for event in run.events:
        run._taken[event.seq] -= 10 * (6 - event.seq)  # ten seconds from each to the next
    own = session._own(run)
    assert list(own) == ["before", "power", "checks of power", "install", "after install"]
    assert all(seconds == pytest.approx(10, abs=1) for seconds in own.values())


def test_work_is_recorded_also_when_it_fails() -> None:
    before = len(recorded())
    try:
        with at_work("node1"):
            raise ValueError
    except ValueError:
        pass
    assert [span.machine for span in recorded()[before:]] == ["node1"]


def test_what_is_uncovered_between_two_moments() -> None:
    spans = [Span("a", 0, 2), Span("b", 1, 3), Span("c", 5, 6)]
    assert uncovered(spans, 2.5, 5.5) == 2
    assert uncovered(spans, 3, 5) == 2
    assert uncovered(spans, 0, 3) == 0


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0, 100))), st.floats(0, 100))
def test_the_parts_of_a_run_are_its_whole(pairs: list[tuple[float, float]], middle: float) -> None:
    spans = [Span("a", min(pair), max(pair)) for pair in pairs]
    parts = uncovered(spans, 0, middle) + uncovered(spans, middle, 100)
    assert parts == pytest.approx(100 - covered(spans), abs=1e-6)
