"""Shares out tests among the workers of pytest-xdist by units: all that is of one unit goes to one worker.

Of a verification, a unit is what concerns one machine, so that a worker logs in to each of its nodes
once, and to no other's. None of xdist's own schedulers does that: they know a test by its file alone, and
--dist loadgroup groups nothing under pytest 9.2 (pytest-xdist 3.8).
"""

from __future__ import annotations

import inspect
import os
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import pytest

SERVER, WHOLE = "the server", "the lab"
"""The units of checks that concern no node; no node is named like that."""
AHEAD = 4
"""Tests that a worker has before it. It begins one only when it knows the next, and must not wait for that;
what it has been sent it runs, whatever happens meanwhile."""


def unit_of(item: pytest.Item) -> str:
    """The machine that a check concerns: a node, or the server; or the lab, if several.

    Of a pair of nodes it is the first: the check asks that one about the other.
    """
    fixtures: Sequence[str] = getattr(item, "fixturenames", ())
    params: dict[str, Any] = item.callspec.params if hasattr(item, "callspec") else {}
    # `host` itself is made of `host_named` and `machines`: only who asks for these wants other nodes too.
    if {"host_named", "machines"} & _asked_for_by(item) or {"ceph", "template"} & set(fixtures):
        return WHOLE
    if "server_host" in fixtures:
        return WHOLE if "host" in fixtures else SERVER
    return str(params.get("node", params.get("asked_node", WHOLE)))


def _asked_for_by(item: pytest.Item) -> set[str]:
    """The fixtures that a check asks for itself, or that fixtures of its own file ask for."""
    if not isinstance(item, pytest.Function):
        return set()
    known = item._fixtureinfo.name2fixturedefs.values()
    own = [fixtures[-1] for fixtures in known if fixtures[-1].baseid.endswith(".py")]
    return {*inspect.signature(item.function).parameters}.union(*(fixture.argnames for fixture in own))


def workers_asked(config: pytest.Config) -> list[str]:
    """The workers that the command line asks for, as execnet's specifications; none for one process."""
    if not getattr(config.option, "tx", None) or config.option.dist == "no":
        return []
    from xdist.workermanage import parse_tx_spec_config  # type: ignore[import-untyped]  # noqa: PLC0415

    return list(parse_tx_spec_config(config))


def refuse_paths(config: pytest.Config) -> None:
    """Raise UsageError where pytest-xdist would copy an option's path to a worker elsewhere, as tests."""
    elsewhere = [spec for spec in workers_asked(config) if not spec.startswith("popen") or "chdir=" in spec]
    # Many nodes in a row are longer than any path may be: os.path says of that, too, that there is none.
    paths = [word for word in map(str, config.invocation_params.args) if os.path.exists(word)]  # noqa: PTH110
    if elsewhere and paths:
        raise pytest.UsageError(
            f"{paths[0]}: pytest-xdist takes this for tests that it is to copy to the worker {elsewhere[0]}: "
            f"write an option's path behind =, as in --lab={paths[0]}"
        )


class Worker(Protocol):
    """A worker as pytest-xdist's controller knows it (xdist.workermanage.WorkerController)."""

    gateway: Any

    @property
    def shutting_down(self) -> bool:
        """Whether it was told to end after what it has been sent."""

    def send_runtest_some(self, indices: Sequence[int]) -> None:
        """Let it run these tests of its collection, after those that it was sent before."""

    def shutdown(self) -> None:
        """Let it end after what it has been sent."""


@dataclass
class Share:
    """What a worker has yet to do: the tests that it was sent, the one it runs first; those yet
    to be sent. It is ready once it has collected."""

    sent: deque[str] = field(default_factory=deque)
    rest: deque[str] = field(default_factory=deque)
    ready: bool = False


class Distribution:
    """A scheduler of pytest-xdist (xdist.scheduler.protocol.Scheduling) that never divides a unit.

    The largest units go first. A worker that has run out of tests takes over a whole unit that waits; what
    one that died had not begun waits again.
    """

    def __init__(self, config: pytest.Config, unit_of: Callable[[str], str]) -> None:
        self._config, self._unit_of = config, unit_of
        self._asked, self._heard_of = len(workers_asked(config)), 0
        self._places: dict[str, int] = {}
        self._shares: dict[Worker, Share] = {}
        self._waiting: deque[deque[str]] = deque()
        self._begun = False

    @property
    def nodes(self) -> list[Worker]:
        """The workers."""
        return list(self._shares)

    @property
    def collection_is_completed(self) -> bool:
        """Whether as many workers as were asked for have said what they collected."""
        return self._heard_of >= self._asked

    @property
    def tests_finished(self) -> bool:
        """Whether nothing waits and each worker has at most its last test, which it runs when told to end."""
        left = (len(share.sent) + len(share.rest) for share in self._shares.values())
        return self.collection_is_completed and not self._waiting and all(count < 2 for count in left)

    @property
    def has_pending(self) -> bool:
        """Whether a test has not ended."""
        return bool(self._waiting) or any(share.sent or share.rest for share in self._shares.values())

    def add_node(self, node: Worker) -> None:
        """A worker has started."""
        self._shares[node] = Share()

    def add_node_collection(self, node: Worker, collection: Sequence[str]) -> None:
        """A worker says what it collected."""
        self._heard_of += 1
        self._places = self._places or {test: place for place, test in enumerate(collection)}
        if list(self._places) == list(collection):
            self._shares[node].ready = True
        else:
            self._leave_out(node, collection)

    def schedule(self) -> None:
        """Begin, or let a worker that came later take its part."""
        if not self._begun:
            self._begun = True
            units: dict[str, deque[str]] = {}
            for test in self._places:
                units.setdefault(self._unit_of(test), deque()).append(test)
            self._waiting.extend(sorted(units.values(), key=len, reverse=True))
        self._fill_all()

    def mark_test_complete(self, node: Worker, item_index: int, duration: float = 0) -> None:
        """A worker has ended its first test."""
        self._shares[node].sent.popleft()
        self._fill(node)

    def remove_node(self, node: Worker) -> str | None:
        """A worker has ended, or died: returns the test that it died in. Raises KeyError for a stranger."""
        share = self._shares.pop(node)
        died_in = share.sent.popleft() if share.sent else None
        if left := share.sent + share.rest:
            self._waiting.appendleft(left)
            self._fill_all()
        return died_in

    def mark_test_pending(self, item: str) -> None:
        """No test is run again."""
        raise NotImplementedError

    def remove_pending_tests_from_node(self, node: Worker, indices: Sequence[int]) -> None:
        """No test is taken from a worker."""
        raise NotImplementedError

    def _leave_out(self, node: Worker, collection: Sequence[str]) -> None:
        """A worker that sees other tests, as of another lab file, does no part of it."""
        del self._shares[node]
        node.shutdown()
        missing, more = self._places.keys() - set(collection), set(collection) - self._places.keys()
        differences = [f"no {min(missing)}"] if missing else []
        differences += [f"a {min(more)}"] if more else []
        said = (
            f"worker {node.gateway.id} took no part: its tests are not those of the first worker, "
            f"it has {' and '.join(differences) or 'another order of them'}"
        )
        report = pytest.CollectReport(f"worker {node.gateway.id}", "failed", said, [])
        self._config.hook.pytest_collectreport(report=report)

    def _fill_all(self) -> None:
        for node in self.nodes:
            self._fill(node)

    def _fill(self, node: Worker) -> None:
        """Send a worker what it is to have before it; with nothing left for it, let it end."""
        share = self._shares[node]
        if node.shutting_down or not share.ready:
            return
        sent: list[str] = []
        while len(share.sent) < AHEAD and (share.rest or self._waiting):
            share.rest = share.rest or self._waiting.popleft()
            sent.append(share.rest.popleft())
            share.sent.append(sent[-1])
        if sent:
            node.send_runtest_some([self._places[test] for test in sent])
        if not share.rest and not self._waiting:
            node.shutdown()
