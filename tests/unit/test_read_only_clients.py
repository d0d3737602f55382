"""While only reading is allowed, no client sends a write: by what arrives at servers that write down every request."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from provision import read_only
from provision.boot_service.client import BootService
from provision.boot_service.messages import Rack
from provision.errors import Unreachable, WriteRefused
from provision.pve import Session
from provision.redfish import Board
from provision.remote import Remote
from tests.unit import redfish_bmc as fake
from tests.unit.pve_api import FakeRack
from tests.unit.redfish_bmc import Bmc
from tests.unit.test_pve import node, rack, session
from tests.unit.test_redfish import node as board_node
from tests.unit.test_remote import SshServer, remote, server

__all__ = ["node", "rack", "remote", "server", "session"]
COMMANDS: dict[str, Callable[[Remote], Any]] = {
    "run": lambda machine: machine.run("touch /tmp/x"),
    "check": lambda machine: machine.check("cat /etc/hosts; rm /tmp/x"),
    "input": lambda machine: machine.run("sh -s", stdin="rm /tmp/x"),
    "write": lambda machine: machine.write("/tmp/x", "x"),
    "socket": lambda machine: machine.forward_socket("/tmp/x").__enter__(),
}
BOARD: dict[str, Callable[[Board], Any]] = {
    "network boot": Board.set_boot_once_pxe,
    "own boot order": Board.clear_boot_override,
    "reset": Board.reset,
    "cycle": Board.cycle,
    "off": lambda board: board.switch("Off"),
    "patch": lambda board: board._conn.patch(board._system, {"Boot": {}}),
    "put": lambda board: board._conn.put("/x", {}),
    "requests": lambda board: board._conn._session.delete(f"{board._conn._url}{board._system}", timeout=5),
}
API: dict[str, Callable[[Session], Any]] = {
    "create": lambda api: api.create_cluster("x", []),
    "delete": lambda api: api.delete_node("node2"),
    "put": lambda api: api.api.nodes("node1").config.put(description="x"),
    "post": lambda api: api.api.nodes("node1").qemu.post(),
    "another ticket": lambda api: api.api.access.ticket.put(),
    "below the ticket": lambda api: api.api.access.ticket("x").post(),
    "requests": lambda api: api._transport._http.delete(
        f"{api._transport.base_url}/cluster/config", timeout=5
    ),
}
SERVICE: dict[str, Callable[[BootService], Any]] = {
    "rack": lambda service: service.put_rack("virtual", []),
    "accounts": lambda service: service.put_accounts([]),
    "run's permits": lambda service: service.revoke("x"),
    "node's permits": lambda service: service.revoke_node("x"),
    "permit": lambda service: service._ask("POST", "/api/v1/permits", "{}"),
}
RACK = Rack(lab="virtual", nodes=(), consoles=(), iso_tokens_sha256=(), classic=False)


@pytest.fixture(autouse=True)
def reading(rack: FakeRack) -> Iterator[None]:
    """On for each test, once the servers are up."""
    with read_only.only_reading():
        yield


@pytest.mark.parametrize("write", COMMANDS.values(), ids=COMMANDS.keys())
def test_ssh(server: SshServer, remote: Remote, write: Callable[[Remote], Any]) -> None:
    with pytest.raises(WriteRefused, match=r"^node1: not sent: "):
        write(remote)
    assert server.commands == []
    assert remote.read("/etc/hosts")
    assert len(server.commands) == 1


@pytest.mark.parametrize("write", BOARD.values(), ids=BOARD.keys())
def test_redfish(write: Callable[[Board], Any]) -> None:
    sessions = f"{fake.ROOT}/SessionService/Sessions"
    with fake.serving(Bmc(fake.written())) as bmc:
        with (
            Board(board_node(), port=bmc.port) as board,
            pytest.raises(WriteRefused, match=r"^console-node1: not"),
        ):
            write(board)
        assert not bmc.sessions, "logged in and out again"
        others = [request for request in bmc.requests if not request.startswith("GET ")]
        assert others == [f"POST {sessions}", f"DELETE {sessions}/1"]


@pytest.mark.parametrize("write", API.values(), ids=API.keys())
def test_proxmox(rack: FakeRack, session: Session, write: Callable[[Session], Any]) -> None:
    session.version()
    with pytest.raises(WriteRefused, match=r"^node1: not sent: "):
        write(session)
    assert {(call.method, call.path) for call in rack.calls if call.method != "GET"} == {
        ("POST", "/access/ticket")
    }


@pytest.fixture
def door(tmp_path: Path) -> Iterator[socket.socket]:
    """A socket at which a boot service might listen; who comes is not answered."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket"))
        listening.listen()
        listening.setblocking(False)
        yield listening


@pytest.mark.parametrize("write", SERVICE.values(), ids=SERVICE.keys())
def test_boot_service(tmp_path: Path, door: socket.socket, write: Callable[[BootService], Any]) -> None:
    with pytest.raises(WriteRefused, match=r"^boot service: not sent: "):
        write(BootService(tmp_path / "socket"))
    with pytest.raises(BlockingIOError):
        door.accept()


def test_boot_service_is_asked(tmp_path: Path, door: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("provision.boot_service.client.ANSWER_SECONDS", 0.05)
    service = BootService(tmp_path / "socket")
    for ask in (
        service.permits,
        lambda: service.would_change_rack(RACK),
        lambda: service.would_change_accounts([]),
    ):
        with suppress(Unreachable):
            ask()
        door.accept()[0].close()
