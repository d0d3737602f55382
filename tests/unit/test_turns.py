"""Whose turn it is: the link never idle while a node waits, never more under way than allowed, nobody forgotten."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provision.pace import Pace
from provision.turns import Booking

SMALL = 1e-6
MANY = st.integers(1, 24)
SECONDS = st.floats(0.5, 60)


@dataclass
class Rack:
    """Nodes of one kind behind one link, played on a clock of their own.

    From its turn a node needs `post` seconds to its first byte, shares the link with all others that load, and
    asks for its answer `kernel` seconds after its last byte. The `dead` are never heard of.
    """

    booking: Booking
    post: float
    kernel: float
    speed: float = 1.0
    dead: frozenset[str] = frozenset()
    now: float = 0.0
    most: int = 0
    begun: dict[str, float] = field(default_factory=dict)
    posting: dict[str, float] = field(default_factory=dict)
    left: dict[str, float] = field(default_factory=dict)
    starting: dict[str, float] = field(default_factory=dict)
    loaded: dict[str, float] = field(default_factory=dict)
    answers: dict[str, float] = field(default_factory=dict)

    def run(self) -> Rack:
        waiting = list(self.booking.pace.loads)
        while waiting or self.posting or self.left or self.starting:
            if waiting and self.booking.due(self.now) <= SMALL:
                self._reset(waiting.pop(0))
            else:
                self._pass(self.booking.due(self.now) if waiting else math.inf)
        return self

    def _reset(self, name: str) -> None:
        self.booking.begin(name, self.now)
        self.begun[name] = self.now
        if name not in self.dead:
            self.posting[name] = self.now + self.post
        self.most = max(self.most, len(self.posting) + len(self.left) + len(self.starting))

    def _pass(self, due: float) -> None:
        """Time goes on to the next thing that happens."""
        rate = self.speed / max(len(self.left), 1)
        ends = [self.now + due, *self.posting.values(), *self.starting.values()]
        then = min([*ends, *(self.now + left / rate for left in self.left.values())])
        assert math.isfinite(then), "somebody waits for ever"
        self.left = {name: left - rate * (then - self.now) for name, left in self.left.items()}
        self.now = then
        for name in [name for name, at in self.posting.items() if at <= then]:
            del self.posting[name]
            self.left[name] = self.booking.pace.loads[name]
            self.booking.hear(name, then)
        for name in [name for name, left in self.left.items() if left <= SMALL]:
            del self.left[name]
            self.loaded[name], self.starting[name] = then, then + self.kernel
        for name in [name for name, at in self.starting.items() if at <= then]:
            del self.starting[name]
            self.answers[name] = then
            self.booking.end(name)


def loads(count: int, seconds: float) -> dict[str, float]:
    return {f"node{number}": seconds for number in range(count)}


@given(MANY, SECONDS, st.floats(0, 400), st.floats(0, 30))
def test_the_last_node_is_no_slower_than_the_link_allows(
    count: int, load: float, post: float, kernel: float
) -> None:
    """All bytes over a link that is never idle from the first byte on, and no more: a lower bound is met."""
    rack = Rack(Booking(Pace(loads(count, load))), post, kernel).run()
    assert max(rack.loaded.values()) == pytest.approx(post + count * load, rel=1e-3)
    # Each has the link for itself, so none takes longer than alone.
    assert all(
        at - rack.begun[name] == pytest.approx(post + load, abs=0.1) for name, at in rack.loaded.items()
    )


@given(MANY, SECONDS, st.floats(0, 400), st.floats(0, 30), st.integers(1, 8), st.floats(0.2, 1.5))
def test_never_more_are_under_way_than_allowed_and_all_have_their_turn(
    count: int, load: float, post: float, kernel: float, at_once: int, speed: float
) -> None:
    """Also where the link is slower, or faster, than was said."""
    rack = Rack(Booking(Pace(loads(count, load), at_once=at_once)), post, kernel, speed).run()
    assert rack.most <= at_once
    assert set(rack.answers) == set(rack.booking.pace.loads)


@given(MANY, SECONDS, st.floats(0, 30), st.integers(2, 4), st.floats(0.1, 0.5))
def test_a_slower_link_than_was_said_puts_resets_off(
    count: int, load: float, kernel: float, fed: int, speed: float
) -> None:
    rack = Rack(Booking(Pace(loads(count, load), fed=fed)), SMALL, kernel, speed).run()
    assert rack.most <= fed + 1
    assert set(rack.answers) == set(rack.booking.pace.loads)


@given(MANY, st.sets(st.integers(0, 23)), st.integers(1, 4))
def test_the_dead_lose_their_place_in_time(count: int, dead: set[int], at_once: int) -> None:
    names = frozenset(f"node{number}" for number in dead if number < count)
    booking = Booking(Pace(loads(count, 10.0), at_once=at_once, silent=100.0, loading=100.0))
    rack = Rack(booking, post=20.0, kernel=5.0, dead=names).run()
    assert set(rack.answers) == set(loads(count, 0)) - names
    assert rack.most <= at_once
    alive = (count - len(names)) * 35.0
    assert max(rack.begun.values()) <= alive + len(names) * 100.0 + SMALL


@given(MANY, st.floats(0.5, 30))
def test_resets_are_apart_even_where_nothing_else_holds_them(count: int, apart: float) -> None:
    rack = Rack(Booking(Pace(loads(count, 0.0), apart=apart)), 5.0, 0.0).run()
    begun = sorted(rack.begun.values())
    assert all(later - earlier >= apart - 2 * SMALL for earlier, later in pairwise(begun))
    assert begun[-1] == pytest.approx((count - 1) * apart, abs=0.01)


def test_a_reset_that_failed_frees_the_link_that_was_booked_for_it() -> None:
    booking = Booking(Pace(loads(3, 10.0)))
    booking.begin("node0", 0.0)
    booking.begin("node1", 10.0)
    assert booking.due(10.0) == 10.0
    booking.end("node1")
    assert booking.due(10.0) == 0.0


def test_a_link_that_is_faster_than_was_said_is_not_waited_for() -> None:
    booking = Booking(Pace(loads(2, 1000.0)))
    booking.begin("node0", 0.0)
    booking.hear("node0", 1.0)
    assert booking.due(1.0) == 999.0
    booking.end("node0")
    assert booking.due(1.0) == 0.0
