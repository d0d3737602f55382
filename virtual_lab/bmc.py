"""The BMCs of a rack: `python -m virtual_lab.bmc PLAN` serves Redfish for every node, each in its namespace.

One process imports once and forks a child for each node; a child is ready when the file `bmc.ready` is in the
node's folder. All of them end with the parent, however it ends.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import ssl
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from socketserver import TCPServer
from types import FrameType
from typing import Any, NoReturn

from werkzeug.serving import ThreadedWSGIServer, WSGIRequestHandler

from virtual_lab import kernel
from virtual_lab.bmc_app import application
from virtual_lab.bmc_state import Bmc, Console
from virtual_lab.places import Places
from virtual_lab.plan import MachinePlan, RackPlan, hardware

HANDSHAKE_SECONDS = 10.0


def consoles(places: Places) -> list[Console]:
    """The BMCs of the rack at `places`, by its plan."""
    return [console_of(places, node) for node in RackPlan.load(places.plan).nodes]


def console_of(places: Places, node: MachinePlan) -> Console:
    """A node's BMC; its files are in the node's folder."""
    assert node.console is not None
    server, folder = hardware(places, node, ()), places.machine(node.name)
    return Console(
        node=node.name, netns=places.namespace(f"{node.name}-bmc"), address=node.console.address,
        mac=node.console.mac, certificate=folder / "bmc.crt", key=folder / "bmc.key",
        users=folder / "bmc.users", board_socket=places.board(node.name), quirk=folder / "bmc.quirk",
        serial=server.dmi.serial,
        product=server.dmi.product, manufacturer=server.dmi.manufacturer, uuid=server.dmi.uuid,
        bios_version=server.dmi.bios_version, memory_gib=server.memory_mib // 1024, cores=server.cores,
        nics=server.nics, http_boot=node.firmware is not None,
    )  # fmt: skip


def ready_file(console: Console) -> Path:
    """Is there while the BMC answers."""
    return console.board_socket.with_name("bmc.ready")


def serve_all(every: Iterable[Console]) -> NoReturn:
    """Serve until SIGTERM, or until a child ends; then all end."""
    children = [_forked(console) for console in every]
    signal.signal(signal.SIGTERM, _leave)
    try:
        _, status = os.wait()
        sys.exit(f"a BMC ended by itself, with {os.waitstatus_to_exitcode(status)}")
    finally:
        for child in children:
            _end(child)


def serve(console: Console) -> NoReturn:
    """Be one BMC, in the namespace of its console."""
    kernel.call_myself(f"bmc:{console.node}")
    kernel.enter(console.netns, kernel.CLONE_NEWNET)
    server = Server(console)
    ready_file(console).touch()
    server.serve_forever(poll_interval=3600)
    sys.exit(0)


class Server(ThreadedWSGIServer):
    """HTTPS on the console's address; a thread for each connection, in which the handshake happens, too."""

    def __init__(self, console: Console) -> None:
        super().__init__(console.address, console.port, application(Bmc(console)), _Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(console.certificate, console.key)
        self._context = context

    def server_bind(self) -> None:
        """Bind without the look-up of its own name that HTTPServer does: a console has no resolver to ask."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Do the handshake, then answer."""
        request.settimeout(HANDSHAKE_SECONDS)
        with self._context.wrap_socket(request, server_side=True) as secured:
            super().finish_request(secured, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that breaks off is its own business; any other error is told."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class _Handler(WSGIRequestHandler):
    def make_environ(self) -> dict[str, Any]:
        """What the application sees, with a way to drop the connection."""
        return {**super().make_environ(), "rackproof.hang_up": self._hang_up}

    def _hang_up(self) -> None:
        self.connection.shutdown(socket.SHUT_RDWR)

    def log(self, type: str, message: str, *args: Any) -> None:  # noqa: A002 (werkzeug's)
        """Write no line for every request."""


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Serve the BMCs of one rack."""
    parser = argparse.ArgumentParser(prog="python -m virtual_lab.bmc")
    parser.add_argument("plan", type=Path, help="the rack's plan.json")
    rack = parser.parse_args(arguments).plan.absolute().parent
    serve_all(consoles(Places(rack.parent.parent, rack.name)))


def _forked(console: Console) -> int:
    parent = os.getpid()
    child = os.fork()
    if child:
        return child
    kernel.die_with_parent(parent)
    ready_file(console).unlink(missing_ok=True)
    serve(console)


def _leave(_number: int, _frame: FrameType | None) -> NoReturn:
    sys.exit(0)


def _end(child: int) -> None:
    try:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    except (ProcessLookupError, ChildProcessError):
        return  # the one whose end ended us


if __name__ == "__main__":
    main()
