"""Waiting: deadlines, last seen, and no real sleep."""

from __future__ import annotations

import time
from threading import Thread

import pytest

from provision.errors import GaveUp
from provision.wait import NOTICE, Deadline, NotYet, Patience, Signal


class Clock:
    def __init__(self) -> None:
        self.time, self.naps = 0.0, list[float]()

    def now(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.naps.append(seconds)
        self.time += seconds


def patience(clock: Clock, seconds: float) -> Patience:
    return Patience(seconds, first=1, most=4, now=clock.now, sleep=clock.sleep)


def test_answers_at_once_without_a_nap() -> None:
    clock = Clock()
    assert patience(clock, 10).until("power", lambda: "On") == "On"
    assert clock.naps == []


def test_naps_grow_to_their_most_and_end_with_the_deadline() -> None:
    clock = Clock()
    with pytest.raises(GaveUp):
        patience(clock, 12).until("power", lambda: NotYet("Off"))
    assert clock.naps == [1, 1.5, 2.25, 3.375, 3.875]


def test_gives_up_with_goal_node_and_last_seen() -> None:
    clock = Clock()
    answers = iter(["Off", "PoweringOn", "PoweringOn", "still PoweringOn"])
    with pytest.raises(GaveUp, match="power: not reached within 3 s") as caught:
        patience(clock, 3).until("power", lambda: NotYet(next(answers)), node="node1")
    assert (caught.value.node, caught.value.last_seen) == ("node1", "still PoweringOn")


def test_another_error_of_the_probe_ends_the_wait() -> None:
    clock = Clock()

    def probe() -> NotYet:
        raise PermissionError("no")

    with pytest.raises(PermissionError):
        patience(clock, 60).until("file", probe)
    assert clock.naps == []


def test_the_answer_after_the_last_nap_counts() -> None:
    clock = Clock()
    assert patience(clock, 2).until("late", lambda: "there" if clock.time >= 2 else NotYet("no")) == "there"


def test_signal_wakes_the_waiter() -> None:
    signal, seen = Signal(), list[str]()

    def speak() -> None:
        seen.append("hello")
        signal.notify()

    Thread(target=speak).start()
    assert signal.until("word", lambda: seen[0] if seen else NotYet("silence"), Deadline(10)) == "hello"


def test_signal_gives_up_with_last_seen() -> None:
    with pytest.raises(GaveUp) as caught:
        Signal().until("word", lambda: NotYet("silence"), Deadline(0.01), node="node2")
    assert (caught.value.node, caught.value.last_seen) == ("node2", "silence")


def test_a_probe_may_be_asked_again_before_there_is_news() -> None:
    started, looks = time.monotonic(), list[int]()

    def probe() -> int | NotYet:
        looks.append(1)
        return len(looks) if len(looks) > 3 else NotYet("not yet", again=0.01)

    assert Signal().until("its time", probe, Deadline(10)) == 4
    assert time.monotonic() - started < NOTICE


def test_no_news_between_the_look_and_the_wait_is_lost() -> None:
    signal, looks = Signal(), list[int]()

    def probe() -> str | NotYet:
        looks.append(1)
        if len(looks) == 1:
            signal.notify()  # arrives after the look, before the wait
            return NotYet("nothing")
        return "seen"

    assert signal.until("news", probe, Deadline(10)) == "seen"
