"""Serves both APIs from one process: two unix sockets, one event loop, an orderly end at SIGTERM."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp

from provision.boot_service.dhcp import DhcpJournal
from provision.boot_service.node_api import NodeApi
from provision.boot_service.operator_api import OperatorApi
from provision.boot_service.service import Service
from provision.boot_service.store import Store

MOST_HEADER = 16 * 1024
GOODBYE_SECONDS = 5


class _Server(uvicorn.Server):
    """A server that leaves signals to the process that runs it beside another."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none: both servers are stopped together."""
        yield


def listen(path: Path, mode: int) -> socket.socket:
    """A listening unix socket at `path`, in the place of a dead one; nobody but `mode` allows can connect."""
    if path.is_socket():
        path.unlink()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o777)
    try:
        listener.bind(str(path))
    finally:
        os.umask(before)
    path.chmod(mode)
    listener.listen(1024)
    return listener


async def serve(
    store: Store, operators: socket.socket, nodes: socket.socket, dhcp_log: Sequence[str] | None
) -> None:
    """Serve until SIGTERM or SIGINT; says READY=1 to systemd once both sockets are served."""
    service = Service(store)
    servers = [(_server(OperatorApi(service).app()), operators), (_server(NodeApi(service).app()), nodes)]
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _stop, service, [server for server, _ in servers])
    await service.work(store.scrub, service.clock())
    async with asyncio.TaskGroup() as tasks:
        for server, listener in servers:
            tasks.create_task(server.serve([listener]))
        tasks.create_task(service.scrub_until_stopped())
        if dhcp_log:
            tasks.create_task(DhcpJournal(service, dhcp_log).follow_until_stopped())
        # Both sockets listen already: whoever connects from here on is served.
        notify("READY=1")
    store.scrub(service.clock())


def notify(state: str) -> None:
    """Tell the service manager, if there is one that wants to know (sd_notify(3)) and still listens."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as manager, suppress(OSError):
        manager.connect("\0" + address[1:] if address.startswith("@") else address)
        manager.sendall(state.encode())


def _server(app: ASGIApp) -> _Server:
    # No access log: the paths have tokens in them.
    return _Server(
        uvicorn.Config(
            app,
            http="h11",
            ws="none",
            lifespan="off",
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            h11_max_incomplete_event_size=MOST_HEADER,
            limit_concurrency=1000,
            timeout_graceful_shutdown=GOODBYE_SECONDS,
        )
    )


def _stop(service: Service, servers: Sequence[uvicorn.Server]) -> None:
    notify("STOPPING=1")
    service.stop()
    for server in servers:
        server.should_exit = True
