"""A web server beyond the rack's own one: the packages of the mirror, and a lab's cloud image."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Iterable, Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import unquote, urlsplit

from virtual_lab import kernel
from virtual_lab.places import Places
from virtual_lab.plan import INTERNET, WAN

_RECORD = "internet.json"
_PORT = 80
DEBIAN, SIMPLE = "debian", "simple"
"""The folders of the package mirror, at the top: a flat Debian repository, and an index of wheels."""


def address_of(url: str) -> str:
    """Where the rack serves what the lab file finds at `url`: the same file name, on the played internet."""
    return f"http://{INTERNET.ip}/{_name(url)}"


def offer(rack: Path, mirror: Path, urls: Iterable[str] = (), image: Path | None = None) -> None:
    """Keep, in a rack's folder, what is to be had: the files of `mirror`, and `image` as what `urls` name."""
    files = {_name(url): str(image) for url in urls}
    (rack / _RECORD).write_text(json.dumps({"mirror": str(mirror), "files": files}))


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Serve, in the rack's namespace beyond its server, until the process is ended."""
    parser = argparse.ArgumentParser(prog="python -m virtual_lab.internet")
    parser.add_argument("home", type=Path)
    parser.add_argument("instance")
    given = parser.parse_args(arguments)
    places = Places(given.home, given.instance)
    kernel.enter(places.namespace(WAN), kernel.CLONE_NEWNET)
    kernel.call_myself(f"web:{given.instance}")
    Server(places.rack, (str(INTERNET.ip), _PORT)).serve_forever()
    sys.exit(0)


class Server(ThreadingHTTPServer):
    """Answers for the files that the rack's folder `rack` lists at the time of the request."""

    daemon_threads = True

    def __init__(self, rack: Path, address: tuple[str, int]) -> None:
        self._record = rack / _RECORD
        super().__init__(address, _Handler)

    def file(self, target: str) -> Path | None:
        """The file behind a request's path, or None; of a folder that ends with a slash, its page."""
        path = unquote(urlsplit(target).path).removeprefix("/")
        listed: dict[str, Any] = json.loads(self._record.read_text())
        if path in listed["files"]:
            return Path(listed["files"][path])
        mirror = Path(listed["mirror"]).resolve()
        found = (mirror / path / "index.html" if path.endswith("/") else mirror / path).resolve()
        return found if found.is_relative_to(mirror) and found.is_file() else None


class _Handler(BaseHTTPRequestHandler):
    server: Server
    server_version, sys_version, protocol_version = "rackproof", "", "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, *, with_body: bool) -> None:
        path = self.server.file(self.path)
        if path is None:
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        with path.open("rb") as file:
            self.send_response(HTTPStatus.OK)
            kind = "text/html" if path.suffix == ".html" else "application/octet-stream"
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(path.stat().st_size))
            self.end_headers()
            if with_body:
                shutil.copyfileobj(file, self.wfile, 1 << 20)


def _name(url: str) -> str:
    return unquote(urlsplit(url).path).rpartition("/")[2]


if __name__ == "__main__":
    main()
