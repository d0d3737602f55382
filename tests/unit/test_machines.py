"""Connections to the lab's machines: one each, opened at the same time, closed in the end."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from provision import inventory, machines
from provision.errors import Unreachable
from provision.inventory import Lab
from provision.ledger import Ledger
from provision.machines import Machines
from provision.remote import LocalRemote, Target


@pytest.fixture
def lab() -> Lab:
    return inventory.load(inventory.default_lab_file({}))


class Connection(LocalRemote):
    closed = False

    def close(self) -> None:
        self.closed = True


class Network:
    """Where connections are opened to; `open` may be replaced by what then happens instead."""

    def __init__(self) -> None:
        self.opened: list[Connection] = []
        self.open: Callable[[str], Connection] = Connection

    def reach(self, name: str, target: Target | None) -> Connection:
        connection = self.open(name)
        self.opened.append(connection)
        return connection

    def names(self) -> list[str]:
        return [connection.name for connection in self.opened]


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> Network:
    network = Network()
    monkeypatch.setattr(machines, "_reached", network.reach)
    return network


def unreachable(name: str) -> Connection:
    raise Unreachable("no route to host", node=name)


def test_a_machine_has_one_connection_whoever_asks_for_it(lab: Lab, ledger: Ledger, network: Network) -> None:
    with Machines(lab, ledger) as here, ThreadPoolExecutor(8) as pool:
        found = set(pool.map(here.node, ["node1"] * 24))
    assert (network.names(), len(found)) == (["node1"], 1)


def test_machines_are_connected_to_at_the_same_time(lab: Lab, ledger: Ledger, network: Network) -> None:
    together = Barrier(4, timeout=10)

    def open_together(name: str) -> Connection:
        together.wait()
        return Connection(name)

    network.open = open_together
    with Machines(lab, ledger) as here, ThreadPoolExecutor(4) as pool:
        list(pool.map(here.node, lab.nodes))
    assert sorted(network.names()) == sorted(lab.nodes)


def test_one_that_cannot_be_reached_is_tried_again(lab: Lab, ledger: Ledger, network: Network) -> None:
    with Machines(lab, ledger) as here:
        network.open = unreachable
        with pytest.raises(Unreachable):
            here.node("node1")
        network.open = Connection
        assert here.node("node1").name == "node1"


def test_unless_the_session_only_verifies(lab: Lab, ledger: Ledger, network: Network) -> None:
    with Machines(lab, ledger, again=False) as here:
        network.open = unreachable
        with pytest.raises(Unreachable):
            here.node("node1")
        network.open = Connection
        for _ in range(9):
            with pytest.raises(Unreachable, match="node1: no route to host") as told:
                here.node("node1")
        assert len(told.traceback) < 9
        assert here.node("node2").name == "node2"


def test_one_that_is_forgotten_is_connected_to_anew(lab: Lab, ledger: Ledger, network: Network) -> None:
    with Machines(lab, ledger) as here:
        here.node("node1")
        here.forget("node1")
        assert network.opened[0].closed
        here.node("node1")
        here.forget("node2")
    assert network.names() == ["node1", "node1"]


def test_all_are_closed_in_the_end(lab: Lab, ledger: Ledger, network: Network) -> None:
    with Machines(lab, ledger, again=False) as here:
        list(here.nodes.values())
        network.open = unreachable
        with pytest.raises(Unreachable):
            here.forget("node1")
            here.node("node1")
    assert [connection.closed for connection in network.opened] == [True] * 4
