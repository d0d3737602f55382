"""Serves the APIs of one process: unix sockets, one event loop, an orderly end at SIGTERM."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import uvicorn
from starlette.types import ASGIApp

from provision.boot_service.actions import Actions
from provision.boot_service.boot_log import keep_boot_scripts
from provision.boot_service.dhcp import DhcpJournal
from provision.boot_service.http_server import HttpServer
from provision.boot_service.nginx_log import NginxLog
from provision.boot_service.node_api import NodeApi
from provision.boot_service.operator_api import OperatorApi
from provision.boot_service.people_api import PeopleApi
from provision.boot_service.service import Service


@dataclass(frozen=True, slots=True)
class Sockets:
    """The sockets of the boot service; None: not served."""

    operators: socket.socket
    nodes: socket.socket
    people: socket.socket | None = None
    nginx: socket.socket | None = None


async def serve(
    service: Service,
    sockets: Sockets,
    *,
    ready: Callable[[], None],
    keeper: bool = True,
    dhcp_log: Sequence[str] | None = None,
    parent: int | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT, or until `parent` is at its end; calls `ready` once all is served.

    Of all processes that serve one store the `keeper` alone follows the logs of dnsmasq and nginx and scrubs.
    """
    loop = asyncio.get_running_loop()
    servers = [(HttpServer(app), listener) for app, listener in _applications(service, sockets)]
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _stop, service, [server for server, _ in servers])
    if parent is not None:
        loop.add_reader(parent, _orphaned, loop, parent)
    service.news.hear(loop)
    async with asyncio.TaskGroup() as tasks:
        for server, listener in servers:
            tasks.create_task(server.serve([listener]))
        tasks.create_task(service.tidy_until_stopped(scrub=keeper))
        if keeper and dhcp_log:
            tasks.create_task(DhcpJournal(service, dhcp_log).follow_until_stopped())
        if keeper and sockets.nginx:
            keep = partial(keep_boot_scripts, service)
            tasks.create_task(NginxLog(sockets.nginx, keep).follow_until(service.stopping))
        # All sockets listen already: whoever connects from here on is served.
        ready()
    if keeper:
        service.store.scrub(service.clock())


def _applications(service: Service, sockets: Sockets) -> list[tuple[ASGIApp, socket.socket]]:
    actions = Actions(service, service.hands)
    found: list[tuple[ASGIApp, socket.socket]] = [
        (OperatorApi(service, actions).app(), sockets.operators),
        (NodeApi(service).app(), sockets.nodes),
    ]
    if sockets.people is not None:
        found.append((PeopleApi(service, actions).app(), sockets.people))
    return found


def _stop(service: Service, servers: Sequence[uvicorn.Server]) -> None:
    service.stop()
    for server in servers:
        server.should_exit = True


def _orphaned(loop: asyncio.AbstractEventLoop, parent: int) -> None:
    loop.remove_reader(parent)
    signal.raise_signal(signal.SIGTERM)
