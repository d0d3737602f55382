"""The power step: identity before anything is written, all nodes at once, exactly one reset of each."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import pytest

from provision import power
from provision.errors import GaveUp, IdentityMismatch, LabError, NodesFailed
from provision.inventory import Bmc as Console
from provision.inventory import Disk, Lab, Network, Node, Secret, Server
from provision.journal import Event
from provision.ledger import Ledger
from provision.pace import Pace
from provision.redfish import Board, Identity, Timing
from provision.run import Run
from provision.turns import Unheard
from provision.wait import Patience
from tests.unit import redfish_bmc as fake
from tests.unit.redfish_bmc import ROOT, Bmc

NAMES = ("node1", "node2", "node3")


def _mac(name: str) -> str:
    return f"02:00:00:00:0{name[-1]}:01"


def _node(name: str) -> Node:
    console = Console(
        name=f"console-{name}", address="127.0.0.1", trust="pinned", fingerprint=fake.FINGERPRINT,
        user=Secret.known(fake.USER), password=Secret.known(fake.PASSWORD),
    )  # fmt: skip
    return Node(
        name=name, domain="lab.local", mac=_mac(name), addresses={"management": f"10.10.1.2{name[-1]}"},
        nics={"management": "eno1"}, bmc=console, os="proxmox-9", disk=Disk(),
        root_password=Secret.known("root"),
    )  # fmt: skip


@pytest.fixture
def lab() -> Lab:
    management = Network(name="management", cidr=IPv4Network("10.10.1.0/24"), bridge="vmbr0")
    return Lab(
        name="lab", domain="lab.local", server=Server(address="10.10.1.1"),
        networks={"management": management}, nodes={name: _node(name) for name in NAMES},
    )  # fmt: skip


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    ledger = Ledger(tmp_path / "ledger.db")
    yield Run("lab", "run-1", ledger, acting=frozenset({"power"}))
    ledger.close()


class Rack:
    """Three machines, each behind its own BMC, and boards that find them."""

    def __init__(self) -> None:
        self.bmcs = {name: Bmc(self._tree(name)) for name in NAMES}
        self.time = 0.0

    def _tree(self, name: str) -> dict[str, Any]:
        tree = fake.written(SerialNumber=f"S-{name}")
        fake.add_nics(tree, f"{ROOT}/Systems/1", _mac(name))
        return tree

    def board(self, node: Node) -> Board:
        def patience(seconds: float) -> Patience:
            return Patience(seconds, first=1.0, most=8.0, now=lambda: self.time, sleep=self._sleep)

        timing = Timing(connect=2, read=2, busy=patience(200), kept=patience(50), reset=patience(200))
        return Board(node, port=self.bmcs[node.name].port, timing=timing)

    def _sleep(self, seconds: float) -> None:
        self.time += seconds

    def resets(self) -> dict[str, int]:
        return {name: len(bmc.resets) for name, bmc in self.bmcs.items()}


@pytest.fixture
def rack() -> Iterator[Rack]:
    rack = Rack()
    with ExitStack() as stack:
        for bmc in rack.bmcs.values():
            stack.enter_context(fake.serving(bmc))
        yield rack
    assert not any(bmc.sessions for bmc in rack.bmcs.values())


def permits(granted: list[str]) -> Callable[[list[Node]], None]:
    return lambda nodes: granted.extend(node.name for node in nodes)


def kinds(run: Run, node: str) -> list[str]:
    return [event.kind for event in run.events if event.node == node]


def test_every_node_is_proved_permitted_set_and_reset_once(lab: Lab, run: Run, rack: Rack) -> None:
    granted: list[str] = []
    done = power.reboot(lab, run, permits(granted), board=rack.board)
    assert sorted(granted) == list(NAMES)
    assert rack.resets() == dict.fromkeys(NAMES, 1)
    assert all(bmc.boots == ["Pxe"] for bmc in rack.bmcs.values())
    assert [kinds(run, name) for name in NAMES] == [["identified", "network-boot-set", "reset"]] * 3
    assert done.nodes["node2"] == {
        "serial": "S-node2",
        "manufacturer": "Maker",
        "model": "Plain 1",
        "bios": "1.0",
        "bmc_firmware": "7.1",
        "uuid": None,
        "macs": ["02:00:00:00:02:01"],
        "identity": "MAC 02:00:00:00:02:01",
        "auth": "session",
        "boot_mode": "UEFI",
        "reset": "ForceRestart",
        "reset_seen_by": "the boot override was used up",
    }
    assert done.changed == [f"{name}: ForceRestart into network boot" for name in NAMES]
    run.unwind()
    assert all(len(bmc.patches) == 1 for bmc in rack.bmcs.values()), "an undo outlived its reset"


def test_another_machine_stops_its_node_alone_before_anything_is_written(
    lab: Lab, run: Run, rack: Rack
) -> None:
    fake.add_nics(rack.bmcs["node2"].tree, f"{ROOT}/Systems/1", "02:00:00:00:09:01")
    granted: list[str] = []
    with pytest.raises(IdentityMismatch, match=r"^node2: ") as error:
        power.reboot(lab, run, permits(granted), board=rack.board)
    assert error.value.node == "node2"
    assert sorted(granted) == ["node1", "node3"]
    assert rack.resets() == {"node1": 1, "node2": 0, "node3": 1}
    assert not rack.bmcs["node2"].patches and kinds(run, "node2") == []


def test_several_failing_nodes_are_all_named(lab: Lab, run: Run, rack: Rack) -> None:
    fake.add_nics(rack.bmcs["node1"].tree, f"{ROOT}/Systems/1", "02:00:00:00:09:01")
    rack.bmcs["node3"].faults.drop_override = True
    with pytest.raises(NodesFailed) as error:
        power.reboot(lab, run, permits([]), board=rack.board)
    assert {name: type(one) for name, one in error.value.errors.items()} == {
        "node1": IdentityMismatch,
        "node3": GaveUp,
    }
    assert rack.resets() == {"node1": 0, "node2": 1, "node3": 0}


def test_without_a_proved_node_nobody_is_permitted(lab: Lab, run: Run, rack: Rack) -> None:
    for bmc in rack.bmcs.values():
        fake.add_nics(bmc.tree, f"{ROOT}/Systems/1", "02:00:00:00:09:01")
    granted: list[str] = []
    with pytest.raises(NodesFailed):
        power.reboot(lab, run, lambda nodes: granted.append("called"), board=rack.board)
    assert not granted


def test_nothing_is_written_when_the_permits_fail(lab: Lab, run: Run, rack: Rack) -> None:
    def refuse(nodes: list[Node]) -> None:
        raise LabError("the boot service is away")

    with pytest.raises(LabError, match="boot service"):
        power.reboot(lab, run, refuse, board=rack.board)
    assert not any(bmc.patches or bmc.resets for bmc in rack.bmcs.values())


def test_a_node_that_was_set_but_not_reset_has_its_override_cleared(lab: Lab, run: Run, rack: Rack) -> None:
    rack.bmcs["node1"].faults.ignore_reset = True
    with pytest.raises(GaveUp, match="console-node1"):
        power.reboot(lab, run, permits([]), board=rack.board)
    assert rack.bmcs["node1"].boot[fake.TARGET] == "Pxe"
    run.unwind()
    assert rack.bmcs["node1"].boot[fake.TARGET] == "None"
    assert [event.text for event in run.events if event.kind == "undone"] == ["node1: network boot cleared"]
    assert len(rack.bmcs["node2"].patches) == 1


def test_an_undo_stands_before_the_override_is_set(lab: Lab, run: Run, rack: Rack) -> None:
    rack.bmcs["node1"].faults.drop_override = True
    with pytest.raises(GaveUp):
        power.reboot(lab, run, permits([]), board=rack.board)
    run.unwind()
    assert rack.bmcs["node1"].patches[-1][1]["Boot"][fake.ENABLED] == "Disabled"


def test_all_nodes_are_asked_at_the_same_time(lab: Lab, run: Run, rack: Rack) -> None:
    together = threading.Barrier(len(NAMES), timeout=10)

    class Meeting(Board):
        def set_boot_once_pxe(self) -> Any:
            together.wait()
            return super().set_boot_once_pxe()

    def board(node: Node) -> Board:
        plain = rack.board(node)
        return Meeting(node, port=rack.bmcs[node.name].port, timing=plain.timing)

    power.reboot(lab, run, permits([]), board=board)
    assert rack.resets() == dict.fromkeys(NAMES, 1)


class Heard(Unheard):
    """A boot service that has heard of every node that was reset."""

    def __init__(self, rack: Rack) -> None:
        self._rack = rack

    def heard_of(self, name: str) -> bool:
        return bool(self._rack.bmcs[name].resets)


def test_the_first_sign_of_a_node_is_enough(lab: Lab, run: Run, rack: Rack) -> None:
    for bmc in rack.bmcs.values():
        bmc.faults.ignore_reset = True
    done = power.reboot(lab, run, permits([]), board=rack.board, signs=Heard(rack))
    assert {facts["reset_seen_by"] for facts in done.nodes.values()} == {
        "the node was heard of by the boot service"
    }


def test_a_slow_bmc_holds_no_other_node_up(lab: Lab, run: Run, rack: Rack) -> None:
    """node1's BMC tells who it is only when the others were reset; with a barrier, it never would."""
    others_reset = threading.Event()
    run.subscribe(lambda event: others_reset.set() if kinds_of(run, "reset") >= {"node2", "node3"} else None)

    class Slow(Board):
        def identity(self) -> Identity:
            assert self.node.name != "node1" or others_reset.wait(10), "the others waited for node1's BMC"
            return super().identity()

    def board(node: Node) -> Board:
        return Slow(node, port=rack.bmcs[node.name].port, timing=rack.board(node).timing)

    power.reboot(lab, run, permits([]), board=board)
    assert rack.resets() == dict.fromkeys(NAMES, 1)


def kinds_of(run: Run, kind: str) -> set[str | None]:
    return {event.node for event in run.events if event.kind == kind}


class Loading(Unheard):
    """Nodes that load as soon as they are reset, and are done when the test says so."""

    def __init__(self, run: Run) -> None:
        self.done: set[str] = set()
        self._run = run

    def loaded(self, name: str) -> bool:
        return name in self.done

    def load(self, name: str) -> None:
        self.done.add(name)
        self._run.news.notify()


ONE = Pace(dict.fromkeys(NAMES, 0.0), at_once=1)


def test_a_node_is_reset_when_the_one_before_it_has_its_installer(lab: Lab, run: Run, rack: Rack) -> None:
    signs = Loading(run)
    under_way: list[list[str]] = []

    def tell(event: Event) -> None:
        if event.kind == "reset":
            under_way.append(
                [name for name, count in rack.resets().items() if count and name not in signs.done]
            )
            signs.load(str(event.node))

    run.subscribe(tell)
    done = power.reboot(lab, run, permits([]), board=rack.board, signs=signs, pace=ONE)
    assert sorted(under_way) == [[name] for name in NAMES]
    assert [event.text for event in run.events if event.kind == "stagger"] == [done.facts["stagger"]]
    assert done.facts["stagger"] == "3 nodes: at most 1 at once"


def test_a_node_that_had_to_wait_has_logged_out_and_is_proved_again(lab: Lab, run: Run, rack: Rack) -> None:
    signs, asked = Loading(run), {name: list[str]() for name in NAMES}
    run.subscribe(lambda event: signs.load(str(event.node)) if event.kind == "reset" else None)

    class Recorded(Board):
        def identity(self) -> Identity:
            asked[self.node.name].append("identity")
            return super().identity()

        def close(self) -> None:
            asked[self.node.name].append("log out")
            super().close()

    def board(node: Node) -> Board:
        return Recorded(node, port=rack.bmcs[node.name].port, timing=rack.board(node).timing)

    power.reboot(lab, run, permits([]), board=board, signs=signs, pace=Pace(ONE.loads, apart=0.05))
    once = ["identity", "log out"]
    assert sorted(asked.values()) == [once, once * 2, once * 2]
    assert [kinds(run, name).count("identified") for name in NAMES] == [1, 1, 1]


def test_a_failed_reset_gives_its_place_to_the_next(lab: Lab, run: Run, rack: Rack) -> None:
    for bmc in rack.bmcs.values():
        bmc.faults.drop_override = True
    with pytest.raises(NodesFailed) as error:
        power.reboot(lab, run, permits([]), board=rack.board, pace=ONE)
    assert set(error.value.errors) == set(NAMES)


def test_deadlines_of_the_lab_bound_the_default_board(lab: Lab) -> None:
    assert Timing.within(lab.deadlines.power).reset.seconds == lab.deadlines.power
    assert Timing.within(2).busy.seconds == 2 and Timing.within(2).read == 2
