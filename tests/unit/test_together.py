"""One action on many nodes: all are let finish, and every failure has its node's name."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from threading import Barrier, main_thread

import pytest

from provision.errors import LabError, NodesFailed, Unreachable
from provision.together import Gathered, together
from provision.wait import Deadline, NotYet, Patience, Signal

NODES = {"node1": 1, "node2": 2, "node3": 3}


def test_all_at_once() -> None:
    barrier = Barrier(3, timeout=5)
    assert together(NODES, lambda n: (barrier.wait(), n * 10)[1]) == {"node1": 10, "node2": 20, "node3": 30}


def test_one_failure_is_raised_as_it_is_after_the_others_finished() -> None:
    done = []

    def act(n: int) -> None:
        if n == 1:
            raise Unreachable("no answer", node="node1")
        done.append(n)

    with pytest.raises(Unreachable, match="no answer"):
        together(NODES, act)
    assert sorted(done) == [2, 3]


def test_several_failures_are_all_named() -> None:
    def act(n: int) -> None:
        if n != 2:
            raise LabError(f"trouble {n}", node=f"node{n}")

    with pytest.raises(NodesFailed) as caught:
        together(NODES, act)
    assert set(caught.value.errors) == {"node1", "node3"}
    assert "trouble 1" in str(caught.value)
    assert "trouble 3" in str(caught.value)


def test_no_nodes_no_work() -> None:
    assert together({}, lambda _: 1) == {}


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Whatever started these tests may have had Ctrl-C ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def interrupt() -> None:
    ident = main_thread().ident
    assert ident is not None
    signal.pthread_kill(ident, signal.SIGINT)


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.parametrize("nested", [False, True])
def test_an_interruption_ends_the_waits_and_every_action(nested: bool) -> None:
    ended, all_begun = [], Barrier(3, timeout=5)

    def act(n: int) -> None:
        if all_begun.wait() == 0:
            interrupt()
        try:
            Signal().until("what never comes", lambda: NotYet("nothing"), Deadline(60))
        finally:
            ended.append(n)

    def outer(n: int) -> None:
        together({"inner": n}, act)

    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        together(NODES, outer if nested else act)
    assert sorted(ended) == [1, 2, 3]
    assert time.monotonic() - started < 50  # and not the whole deadline


@pytest.mark.usefixtures("ctrl_c")
def test_what_is_undone_after_an_interruption_may_wait_again() -> None:
    with pytest.raises(KeyboardInterrupt):
        together({"node1": 1}, lambda _: interrupt())
    seen = iter([NotYet("not yet"), "done"])
    patience = Patience(5, first=0.001)
    assert together({"node1": 1}, lambda _: patience.until("it", lambda: next(seen))) == {"node1": "done"}


def test_who_asks_while_an_action_is_at_work_is_in_the_next_with_all_others() -> None:
    done: list[list[int]] = []

    def act(nodes: list[int]) -> None:
        if not done:
            Patience(5).until("others", lambda: len(gathered._asked) == 3 - len(nodes) or NotYet("nobody"))
        done.append(nodes)

    gathered = Gathered(act)
    together(NODES, gathered)
    assert len(done) == (1 if len(done[0]) == 3 else 2)
    assert sorted(n for nodes in done for n in nodes) == [1, 2, 3]


def test_each_who_asked_is_told_that_it_failed() -> None:
    def fail(nodes: list[int]) -> None:
        raise LabError(f"not for {len(nodes)}")

    with pytest.raises(NodesFailed) as error:
        together(NODES, Gathered(fail))
    assert set(error.value.errors) == set(NODES)
