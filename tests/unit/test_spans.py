"""Spans: overlapping work counts once."""

from __future__ import annotations

from provision.spans import Span, at_work, covered, recorded


def test_overlapping_spans_count_once_and_gaps_not_at_all() -> None:
    spans = [Span("a", 0, 2), Span("b", 1, 3), Span("a", 1.5, 1.6), Span("c", 5, 6)]
    assert covered(spans) == 4


def test_nothing_covers_nothing() -> None:
    assert covered([]) == 0


def test_work_is_recorded_also_when_it_fails() -> None:
    before = len(recorded())
    try:
        with at_work("node1"):
            raise ValueError
    except ValueError:
        pass
    assert [span.machine for span in recorded()[before:]] == ["node1"]
