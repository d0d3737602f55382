"""Checks that write, one through each client; tests/lab/test_read_only.py gives them to verify, which runs none.

Where a node writes, it is node2: that two workers ask at once is no matter.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from provision.boot_service.client import BootService
from provision.boot_service.messages import RunState
from provision.inventory import Lab
from provision.machines import Machines
from provision.pve import Session as ApiSession
from provision.pve import guests
from provision.redfish import Board
from provision.remote import LocalRemote, Remote
from provision.server_plan import OPERATOR_SOCKET

WRITTEN = "/root/written-by-a-check"
HERE = Path(os.environ.get("RACKPROOF_HOME", "/tmp")) / "rackproof-written-by-a-check"
NODE = "node2"

pytestmark = pytest.mark.step("install")


@pytest.fixture
def machine(machines: Machines) -> Remote:
    return machines.node(NODE)


@pytest.fixture
def its_board(lab: Lab) -> Iterator[Board]:
    with Board(lab.nodes[NODE]) as board:
        board.power_state()
        yield board


@pytest.fixture
def api(api_of: Callable[[str], ApiSession]) -> ApiSession:
    return api_of(NODE)


def test_command_of_testinfra(host_named: Callable[[str], Any]) -> None:
    host_named(NODE).run(f"cat /etc/hosts; touch {WRITTEN}")


def test_command_of_the_servers_testinfra(server_host: Any) -> None:
    server_host.check_output(f"echo $(touch {WRITTEN})")


def test_command(machine: Remote) -> None:
    machine.check(f"echo x >{WRITTEN}")


def test_script(machine: Remote) -> None:
    machine.run("sh -s", stdin=f"touch {WRITTEN}")


def test_python(machine: Remote) -> None:
    machine.run("python3 -", stdin=f"open('{WRITTEN}', 'w')")


def test_file(machine: Remote) -> None:
    machine.write(WRITTEN, "x")


def test_file_of_the_server(machines: Machines) -> None:
    machines.server.write(WRITTEN, "x")


def test_this_machine() -> None:
    LocalRemote().run(f"touch {HERE}")


def test_socket(machines: Machines) -> None:
    with machines.server.forward_socket(OPERATOR_SOCKET) as socket:
        BootService(socket).revoke_node(NODE)


@pytest.mark.parametrize("write", [
    lambda service: service.revoke_node(NODE), lambda service: service.put_accounts([]),
    lambda service: service.put_rack("virtual", []),
    lambda service: service.put_run(RunState(id="x", lab="virtual", mode="verify", started=0)),
], ids=["permits", "accounts", "rack", "run"])  # fmt: skip
def test_boot_service(write: Callable[[BootService], None]) -> None:
    write(BootService(HERE))


@pytest.mark.parametrize("write", [
    Board.set_boot_once_pxe, Board.clear_boot_override, Board.reset, Board.cycle, lambda board: board.switch("Off"),
], ids=["pxe", "no override", "reset", "cycle", "off"])  # fmt: skip
def test_board(its_board: Board, write: Callable[[Board], None]) -> None:
    write(its_board)


@pytest.mark.parametrize("method", ["POST", "PATCH", "PUT", "DELETE"])
def test_request_to_the_bmc(its_board: Board, method: str) -> None:
    """By the session of requests itself, beside all that is ours."""
    connection = its_board._conn
    boot = {"Boot": {"BootSourceOverrideTarget": "Pxe", "BootSourceOverrideEnabled": "Once"}}
    connection._session.request(method, f"{connection._url}{its_board._system}", json=boot, timeout=20)


def test_post_to_the_api(api: ApiSession) -> None:
    api.api.storage.post(storage="written", type="dir", path="/root")


def test_put_to_the_api(api: ApiSession) -> None:
    api.api.cluster.options.put(description="written by a check")


def test_delete_of_the_api(api: ApiSession) -> None:
    api.api.storage("local").delete()


def test_calls_of_the_api(api: ApiSession) -> None:
    guests.start(api, NODE, 9000)


def test_cluster_of_the_api(api: ApiSession) -> None:
    api.delete_node("node1")


def test_request_to_the_api(api: ApiSession) -> None:
    """By the session of requests itself, beside all that is ours."""
    ticket: Any = api._transport._valid_ticket()
    api._transport._http.put(
        f"{api._transport.base_url}/cluster/options", {"description": "written by a check"},
        headers={"Cookie": f"PVEAuthCookie={ticket.value}", "CSRFPreventionToken": ticket.csrf},
        timeout=20,
    )  # fmt: skip
