"""The HTTP server of one socket: uvicorn over httptools, which is several times cheaper than over h11."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MOST_HEAD = 16 * 1024
# More than all connections of nginx: each is at most one request, and one that is turned away is a node's.
MOST_CONNECTIONS = 8192
# Longer than nginx keeps a connection to a socket, so that it never uses one that is about to be closed.
KEPT_SECONDS = 75
GOODBYE_SECONDS = 5


class HttpServer(uvicorn.Server):
    """A server that leaves signals to the process that runs it beside others."""

    def __init__(self, app: ASGIApp) -> None:
        # No access log: the paths have tokens in them.
        super().__init__(
            uvicorn.Config(
                app,
                http=_BoundedHead,
                ws="none",
                lifespan="off",
                log_level="warning",
                access_log=False,
                server_header=False,
                proxy_headers=False,
                limit_concurrency=MOST_CONNECTIONS,
                timeout_keep_alive=KEPT_SECONDS,
                timeout_graceful_shutdown=GOODBYE_SECONDS,
            )
        )

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none: all servers are stopped together."""
        yield


class _BoundedHead(HttpToolsProtocol):
    """Cuts off (400) who sends a head without an end; httptools itself takes any size."""

    _in_head = False
    _head = 0

    def on_message_begin(self) -> None:
        """A head begins."""
        self._in_head = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """The head is whole; how large it may be is for the application to say."""
        self._in_head = False
        super().on_headers_complete()

    def data_received(self, data: bytes) -> None:
        """Take what came."""
        super().data_received(data)
        self._head = self._head + len(data) if self._in_head else 0
        if self._head > MOST_HEAD and not self.transport.is_closing():
            self.send_400_response("The head of the request is too large.")
