"""HTTP as boot loaders and installers speak it, against a server in the test."""

from __future__ import annotations

import hashlib
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import trustme

from virtual_lab.http_client import HttpFailed, Request, download, send


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    seen: list[dict[str, str]] = []  # noqa: RUF012 (the server makes the instances)

    def do_GET(self) -> None:
        self.seen.append(dict(self.headers.items()))
        if self.path == "/elsewhere":
            self._answer(302, b"", Location="/file")
        elif self.path == "/short":
            self.send_response(200)
            self.send_header("Content-Length", "10")
            self.end_headers()
            self.wfile.write(b"cut")
            self.close_connection = True
        else:
            self._answer(200 if self.path == "/file" else 404, b"x" * 300_000)

    def do_POST(self) -> None:
        self.seen.append(dict(self.headers.items()))
        self._answer(201, self.rfile.read(int(self.headers["Content-Length"])))

    def _answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (http.server's)
        """Keep the test's output clean."""


@contextmanager
def serving(context: ssl.SSLContext | None = None) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # a broken handshake is a test's wish
    if context:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"{'https' if context else 'http'}://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving() as base:
        yield base


def test_only_the_given_headers_are_sent(url: str) -> None:
    Handler.seen.clear()
    answer = send(Request("POST", f"{url}/answer", {"Content-Type": "application/json"}, b"{}"), 5)
    assert (answer.status, answer.body) == (201, b"{}")
    assert set(Handler.seen[0]) == {"Host", "Content-Type", "Content-Length"}


def test_an_installer_follows_no_redirect(url: str) -> None:
    assert send(Request("GET", f"{url}/elsewhere", {}), 5).status == 302


def test_ipxe_follows_one(url: str, tmp_path: Path) -> None:
    assert download(f"{url}/elsewhere", tmp_path / "file", 5, agent="iPXE") == 300_000
    assert (tmp_path / "file").stat().st_size == 300_000


def test_a_body_is_cut_at_its_limit(url: str) -> None:
    assert len(send(Request("GET", f"{url}/file", {}), 5, most=1000).body) == 1000


def test_a_cut_answer_is_a_failure(url: str, tmp_path: Path) -> None:
    with pytest.raises(HttpFailed, match="promised"):
        download(f"{url}/short", tmp_path / "file", 5, agent="iPXE")
    with pytest.raises(HttpFailed, match="missing"):
        send(Request("GET", f"{url}/short", {}), 5)


def test_a_status_is_told(url: str, tmp_path: Path) -> None:
    with pytest.raises(HttpFailed) as failed:
        download(f"{url}/none", tmp_path / "file", 5, agent="iPXE")
    assert failed.value.status == 404


@pytest.mark.parametrize(
    "wrong", ["http://server.lab.local/x", "ftp://127.0.0.1/x", "no-url", "http://127.0.0.1:1/x"]
)
def test_what_cannot_be_reached(wrong: str) -> None:
    with pytest.raises(HttpFailed):
        send(Request("GET", wrong, {}), 5)


def test_a_certificate_is_checked_by_its_pin_or_by_a_ca() -> None:
    certificate = trustme.CA().issue_cert("127.0.0.1")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    pem = certificate.cert_chain_pems[0].bytes().decode()
    pin = hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest()
    with serving(context) as base:
        assert send(Request("GET", f"{base}/file", {}, fingerprint=pin.upper()), 5).status == 200
        with pytest.raises(HttpFailed, match="not the pinned one"):
            send(Request("GET", f"{base}/file", {}, fingerprint="00" * 32), 5)
        with pytest.raises(HttpFailed, match="certificate"):
            send(Request("GET", f"{base}/file", {}), 5)
