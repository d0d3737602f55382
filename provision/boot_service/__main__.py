"""Command line of the boot service; systemd runs it on the provisioning server."""

from __future__ import annotations

import argparse
import asyncio
import socket
import sys
from argparse import Namespace
from functools import partial
from pathlib import Path

from provision.boot_service.dhcp import journal_command
from provision.boot_service.hands_client import HandsClient
from provision.boot_service.leases import Leases
from provision.boot_service.news import NewsRoom
from provision.boot_service.published import Published
from provision.boot_service.serve import Sockets, serve
from provision.boot_service.service import Service
from provision.boot_service.shared import Marks, ProcessLock
from provision.boot_service.sockets import listen, notify
from provision.boot_service.store import Store
from provision.boot_service.workers import Place, Workers
from provision.ledger import LedgerUnusable

MOST_WORKERS = 64


class BootService:
    """One boot service as its command line wants it, in one process or in several."""

    def __init__(self, options: Namespace) -> None:
        self._options = options
        # Opened, and closed again before any process is forked: what is wrong with it is said once.
        Store(options.ledger).close()
        self._sockets = _sockets(options)
        self._marks, self._turn, self._publishing = Marks(), ProcessLock(), ProcessLock()
        self._news = NewsRoom(options.workers)

    def run(self) -> int:
        """Serve until told to stop. Returns the exit status."""
        ready, stopping = partial(notify, "READY=1"), partial(notify, "STOPPING=1")
        if self._options.workers == 1:
            status = self.work(Place(0, False, ready, None))
            stopping()
            return status
        return Workers(
            self._options.workers, self.work, ready=ready, stopping=stopping, died=self._marks.change_all
        ).run()

    def work(self, place: Place) -> int:
        """Be one worker until told to stop."""
        store = Store(self._options.ledger, turn=self._turn, marks=self._marks)
        service = self._service(store, place)
        keeper = place.number == 0
        if keeper or place.again:
            # Whoever had this place before may have died between a change and its publication.
            service.publish_all()
        unit = self._options.dhcp_journal
        asyncio.run(
            serve(
                service,
                self._sockets,
                ready=place.ready,
                keeper=keeper,
                dhcp_log=journal_command(unit) if unit else None,
                parent=place.parent,
            )
        )
        store.close()
        return 0

    def _service(self, store: Store, place: Place) -> Service:
        options = self._options
        return Service(
            store,
            leases=Leases(options.leases) if options.leases else None,
            published=Published(options.published) if options.published else None,
            hands=HandsClient(options.hands_socket) if options.hands_socket else None,
            news=self._news.of(place.number),
            publishing=self._publishing,
        )


def main(arguments: list[str] | None = None) -> int:
    """Serve until told to stop. Returns 0; 1 when the ledger, a socket or a worker cannot be had."""
    try:
        service = BootService(_parser().parse_args(arguments))
    except (LedgerUnusable, OSError) as error:
        print(f"the boot service cannot start: {error}", file=sys.stderr)
        return 1
    return service.run()


def _sockets(options: Namespace) -> Sockets:
    people, nginx = options.people_socket, options.nginx_socket
    return Sockets(
        operators=listen(options.operator_socket, 0o600),
        nodes=listen(options.nodes_socket, 0o666),
        people=listen(people, 0o666) if people else None,
        nginx=listen(nginx, 0o666, socket.SOCK_DGRAM) if nginx else None,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python3 -m provision.boot_service", description=__doc__)
    add = partial(parser.add_argument, type=Path, metavar="PATH")
    parser.add_argument("--ledger", "--store", required=True, metavar="WHERE",
                        help="SQLite file (made if missing) or URL (postgresql://…)")  # fmt: skip
    add("--operator-socket", required=True, help="made with mode 0600; for the harness")
    add("--nodes-socket", required=True, help="nginx passes nodes on to it")
    add("--people-socket", help="nginx passes people on to it")
    add("--nginx-socket", help="nginx logs to it which published boot scripts it has served")
    add("--hands-socket", help="of the service that reaches the BMCs")
    add("--published", metavar="DIR", help="publish boot scripts here, for nginx")
    add("--leases", metavar="FILE", help="dnsmasq's leases: who may have an answer")
    parser.add_argument("--workers", type=_workers, default=1, metavar="N", help="processes (default: 1)")
    parser.add_argument("--dhcp-journal", nargs="?", const="dnsmasq", metavar="UNIT",
                        help="follow this unit's journal for DHCP and TFTP (default: dnsmasq)")  # fmt: skip
    return parser


def _workers(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) <= MOST_WORKERS:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to {MOST_WORKERS}")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
