"""Reads what nginx logs to a datagram socket: the boot scripts that it served from published files."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress

from sqlalchemy.exc import SQLAlchemyError

MOST_LINE = 8 * 1024
MOST_LINES = 256

log = logging.getLogger(__name__)


class NginxLog:
    """Hands the lines of a datagram socket on, as many at once as there are.

    `keep` gets lines as they came, header of syslog and all. While it is at work no line is read: nginx
    never waits for its log, so what the socket's buffer cannot hold meanwhile is lost.
    """

    def __init__(self, log: socket.socket, keep: Callable[[list[str]], Awaitable[None]]) -> None:
        self._log, self._keep = log, keep
        log.setblocking(False)

    async def follow_until(self, stopping: asyncio.Event) -> None:
        """Follow the log until `stopping` is set."""
        loop = asyncio.get_running_loop()
        stopped = asyncio.create_task(stopping.wait())
        while not stopped.done():
            line = asyncio.ensure_future(loop.sock_recv(self._log, MOST_LINE))
            await asyncio.wait([line, stopped], return_when=asyncio.FIRST_COMPLETED)
            if line.done():
                await self._kept([_text(each) for each in (line.result(), *self._waiting())])
            else:
                line.cancel()

    async def _kept(self, lines: list[str]) -> None:
        try:
            await self._keep(lines)
        except SQLAlchemyError as error:  # those that follow may be kept
            log.error("%d lines of nginx could not be kept: %s", len(lines), error)

    def _waiting(self) -> list[bytes]:
        found: list[bytes] = []
        with suppress(BlockingIOError):
            while len(found) < MOST_LINES:
                found.append(self._log.recv(MOST_LINE))
        return found


def _text(line: bytes) -> str:
    return line.decode("utf-8", "replace")
