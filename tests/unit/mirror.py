"""A mirror on loopback that behaves as it is told: cut connections, wrong ranges, refusals, other content."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Mirror:
    """What a mirror has and how it gives it; `asked` are the headers of each request that it got.

    `cuts` says after how many bytes each of the next answers breaks off; `silent` ones stay open instead,
    until the mirror is closed. `ranges` is how it takes `Range`: as it should, not at all, or from a wrong byte.
    """

    content: bytes
    version: str = '"one"'
    status: int = 200
    ranges: str = "right"
    sized: bool = True
    cuts: list[int] = field(default_factory=list)
    silent: bool = False
    asked: list[dict[str, str]] = field(default_factory=list)
    then: Callable[[], None] = lambda: None
    closed: threading.Event = field(default_factory=threading.Event)
    url: str = ""


@contextmanager
def serving(mirror: Mirror) -> Iterator[Mirror]:
    """The mirror, reachable at its `url` until this ends."""

    class Handler(_Handler):
        of = mirror

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    mirror.url = f"http://127.0.0.1:{server.server_address[1]}/image.iso"
    try:
        yield mirror
    finally:
        mirror.closed.set()
        server.shutdown()
        server.server_close()
        thread.join()


def unreachable() -> str:
    """An address at which nothing listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{taken.getsockname()[1]}/image.iso"


class _Handler(BaseHTTPRequestHandler):
    of: Mirror

    def do_GET(self) -> None:
        mirror = self.of
        mirror.asked.append(dict(self.headers))
        if mirror.status != 200:
            self.send_error(mirror.status)
            return
        start = self._start()
        if start is not None and start >= len(mirror.content):
            self.send_error(416)
            return
        shift = 1 if mirror.ranges == "wrong" else 0
        body = mirror.content[(start or 0) - shift if start else 0 :]
        self.send_response(200 if start is None else 206)
        if start is not None:
            last = len(mirror.content) - 1
            self.send_header("Content-Range", f"bytes {start - shift}-{last}/{len(mirror.content)}")
        self.send_header("ETag", mirror.version)
        if mirror.sized:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self._give(body)

    def _start(self) -> int | None:
        wanted, known = self.headers.get("Range"), self.headers.get("If-Range")
        if wanted is None or self.of.ranges == "ignored" or known not in (None, self.of.version):
            return None
        return int(wanted.removeprefix("bytes=").rstrip("-"))

    def _give(self, body: bytes) -> None:
        cut = self.of.cuts.pop(0) if self.of.cuts else len(body)
        with suppress(OSError):
            self.wfile.write(body[:cut])
            self.wfile.flush()
            self.of.then()
            if cut < len(body) and self.of.silent:
                self.of.closed.wait(30)
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Say nothing: the test says what matters."""
