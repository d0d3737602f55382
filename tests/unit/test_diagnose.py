"""What is fetched of a blamed machine, and that a machine which tells nothing costs little."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, cast

import pytest

from labs.large import written
from provision import diagnose
from provision.errors import LabError, NodesFailed, Unreachable
from provision.inventory import Lab, load
from provision.ledger import Ledger
from provision.redfish.event_log import Entry, Log
from provision.remote import LocalRemote, Remote
from provision.run import Run
from provision.session import Request, Session

ROOT = Path(__file__).parents[2]


class Here:
    """Every machine is this one; those that are away do not answer."""

    def __init__(self) -> None:
        self.away = set[str]()
        self.asked: list[str] = []

    def __enter__(self) -> Here:
        return self

    def __exit__(self, *_: object) -> None: ...

    def node(self, name: str) -> Remote:
        self.asked.append(name)
        if name in self.away:
            raise Unreachable("ssh: Connection timed out", node=name)
        return LocalRemote(name)

    @property
    def server(self) -> Remote:
        return LocalRemote("server")


class Board:
    """A BMC that answers one question and not the other."""

    def __init__(self, *_: object, **__: object) -> None: ...

    def __enter__(self) -> Board:
        return self

    def __exit__(self, *_: object) -> None: ...

    def power_state(self) -> str:
        raise Unreachable("gives no answer", node="node1")


@pytest.fixture
def virtual(monkeypatch: pytest.MonkeyPatch) -> Lab:
    monkeypatch.setattr(diagnose, "Board", Board)
    return load(ROOT / "labs" / "virtual.yaml")


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> Here:
    here = Here()
    monkeypatch.setattr(diagnose, "Machines", lambda lab, ledger: here)
    return here


@pytest.fixture
def run(ledger: Ledger) -> Iterator[Run]:
    yield Run("virtual", "run-1", ledger, acting=frozenset())


def files(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*.txt")}


def test_a_blamed_node_tells_of_network_journal_cluster_ceph_dhcp_and_board(
    tmp_path: Path, virtual: Lab, here: Here, run: Run
) -> None:
    diagnose.fetch(virtual, run, ["node1"], tmp_path)
    told = files(tmp_path)
    assert set(told) == {f"node1/{name}.txt" for name in
                         ("network", "journal", "cluster", "ceph", "dhcp", "bmc")}  # fmt: skip
    assert "$ ip -br address\n" in told["node1/network.txt"]
    assert "127.0.0.1/8" in told["node1/network.txt"]
    assert "52:54:00:a1:01:21" in told["node1/dhcp.txt"]
    assert told["node1/bmc.txt"].startswith("not to be had: node1: gives no answer")
    (said,) = [event for event in run.events if event.kind == "diagnosed"]
    assert (said.node, "ceph.txt" in said.text) == ("node1", True)


def test_a_command_that_is_not_there_or_hangs_is_said_and_the_next_goes_on(
    tmp_path: Path, virtual: Lab, here: Here, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(diagnose, "COMMAND_SECONDS", 0.2)
    commands = ("no-such-command", "sleep 60", "echo still here; exit 3")
    monkeypatch.setattr(diagnose, "ON_NODE", {"network.txt": commands})
    diagnose.fetch(virtual, run, ["node1"], tmp_path)
    told = files(tmp_path)["node1/network.txt"]
    assert "$ no-such-command" in told
    assert "(ended with 127)" in told
    assert "(ended with 124)" in told
    assert told.endswith("still here\n(ended with 3)\n")


def test_a_node_that_is_away_is_waited_for_once(tmp_path: Path, virtual: Lab, here: Here, run: Run) -> None:
    here.away.add("node2")
    diagnose.fetch(virtual, run, ["node2"], tmp_path)
    assert here.asked == ["node2"]
    told = files(tmp_path)
    assert told["node2/network.txt"] == "not to be had: node2: ssh: Connection timed out\n"
    assert "journalctl -u dnsmasq" in told["node2/dhcp.txt"]


def test_a_light_node_has_no_bmc_and_was_installed_by_nobody(tmp_path: Path, here: Here, run: Run) -> None:
    path = tmp_path / "light.yaml"
    path.write_text(written(2, "light"))
    diagnose.fetch(load(path), run, ["node1"], tmp_path)
    assert set(files(tmp_path)) == {"node1/network.txt", "node1/journal.txt"}


def test_the_server_and_unknown_names(tmp_path: Path, virtual: Lab, here: Here, run: Run) -> None:
    diagnose.fetch(virtual, run, ["server", "node9", "../../etc"], tmp_path)
    assert set(files(tmp_path)) == {"server/journal.txt"}


def test_a_file_keeps_its_end(
    tmp_path: Path, virtual: Lab, here: Here, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(diagnose, "ON_NODE", {"network.txt": ("seq 1 30000",)})
    diagnose.fetch(virtual, run, ["node1"], tmp_path)
    kept = (tmp_path / "node1" / "network.txt").read_bytes()
    assert len(kept) == diagnose.MOST_BYTES
    assert kept.endswith(b"30000\n")


class Item:
    """A test with a case, as pytest has it."""

    def __init__(self, **params: Any) -> None:
        if params:
            self.callspec = type("CallSpec", (), {"params": params})()


@pytest.mark.parametrize(
    ("item", "error", "blamed"),
    [
        (Item(), LabError("gave up", node="node2"), {"node2"}),
        (Item(), NodesFailed({"node1": LabError("a", node="node1"), "node3": OSError("b")}), {"node1", "node3"}),
        (Item(node="node3", peer="node4"), AssertionError(), {"node3", "node4"}),
        (Item(node="node3"), LabError("no route", node="node1"), {"node1"}),
        (Item(), AssertionError("HEALTH_ERR"), {"node1"}),
    ],
)  # fmt: skip
def test_who_is_blamed(item: Item, error: BaseException, blamed: set[str]) -> None:
    session = Session.prepare(Request("verify", ROOT / "labs" / "virtual.yaml"))
    session.blame(cast("pytest.Item", item), error)
    assert session.blamed == blamed


class Talkative(Board):
    """A BMC that answers, and keeps a log of 30 entries, newest first; another log, and what is not known."""

    logs: ClassVar[list[Log] | None] = [
        Log("SEL", tuple(Entry(str(n), f"2026-11-22T03:{n:02}:00Z", "Critical", f"event {n}")
                         for n in reversed(range(30))), whole=True, clear=None),
        Log("Faults", (Entry(None, None, None, None),), whole=True, clear=None),
        Log("OS", (), whole=True, clear=None), Log("HDD", None, whole=True, clear=None),
    ]  # fmt: skip

    def power_state(self) -> str:
        return "On"

    def boot_override(self) -> str:
        return "target None"

    def identity(self) -> Any:
        return SimpleNamespace(model="X11", serial=None, bios="3.4", firmware=None)

    def ask(self, _what: str, _question: object) -> list[Log] | None:
        return self.logs


def test_the_last_of_what_a_bmc_noted_itself(
    tmp_path: Path, virtual: Lab, here: Here, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(diagnose, "Board", Talkative)
    diagnose.fetch(virtual, run, ["node1"], tmp_path)
    told = files(tmp_path)["node1/bmc.txt"]
    assert told.startswith("power: On\nnext boot: target None\nmodel: X11\nserial: not known\n")
    assert "log SEL: the last of 30 entries\n  2026-11-22T03:10:00Z Critical event 10\n" in told
    assert "event 9\n" not in told
    assert told.endswith("  2026-11-22T03:29:00Z Critical event 29\nlog Faults: the last of 1 entries\n  - - -\n"
                         "log OS: empty\nlog HDD: not known\n")  # fmt: skip


def test_a_bmc_that_keeps_its_log_to_itself_still_tells_its_power(
    tmp_path: Path, virtual: Lab, here: Here, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Silent(Talkative):
        def ask(self, _what: str, _question: object) -> list[Log] | None:
            raise Unreachable("asked for its logs, gives no answer", node="node1")

    monkeypatch.setattr(diagnose, "Board", Silent)
    diagnose.fetch(virtual, run, ["node1"], tmp_path)
    told = files(tmp_path)["node1/bmc.txt"]
    assert told.startswith("power: On\n")
    assert told.endswith("not to be had: node1: asked for its logs, gives no answer\n")
    monkeypatch.setattr(Talkative, "logs", None)
    monkeypatch.setattr(diagnose, "Board", Talkative)
    diagnose.fetch(virtual, run, ["node1"], tmp_path)
    assert files(tmp_path)["node1/bmc.txt"].endswith("logs: not known\n")
