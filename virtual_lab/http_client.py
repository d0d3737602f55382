"""An HTTP client as boot loaders and installers have it: one connection, one deadline, nothing retried."""

from __future__ import annotations

import hashlib
import http.client
import ipaddress
import ssl
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urljoin, urlsplit

from provision.wait import Deadline

_CHUNK = 1 << 18
_REDIRECTS = (301, 302, 303, 307, 308)


class HttpFailed(Exception):
    """No answer, or a cut one; `status` is None unless the server's answer itself was the failure.

    It does not tell the address: the path of one may be a secret.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class Response:
    """What came back; header names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Request:
    """One request; `headers` are sent as they are, next to Host and Content-Length only."""

    method: str
    url: str
    headers: Mapping[str, str]
    body: bytes = b""
    fingerprint: str | None = None


def send(request: Request, seconds: float, *, most: int = 10_000_000) -> Response:
    """Send a request and read the whole answer (cut after `most` bytes) in `seconds`; follows no redirect.

    A `fingerprint` (SHA-256 of the certificate, hex) replaces the check by CA. Raises HttpFailed.
    """
    deadline = Deadline(seconds)
    with _exchange(request, deadline) as (connection, answer):
        body = _read(connection, answer, deadline, most)
        return Response(answer.status, {name.lower(): value for name, value in answer.getheaders()}, body)


def origin(url: str) -> str:
    """The address without its path, which may be a secret: consoles are kept."""
    return "/".join(url.split("/", 3)[:3])


def download(url: str, to: Path, seconds: float, *, agent: str, redirects: int = 5) -> int:
    """GET `url` into a file and return its size in bytes; follows redirects, as iPXE does.

    Raises HttpFailed, also when fewer bytes come than Content-Length promised.
    """
    deadline = Deadline(seconds)
    with _exchange(Request("GET", url, {"User-Agent": agent}), deadline) as (connection, answer):
        if answer.status == 200:
            return _stream(connection, answer, to, deadline)
        status, reason, target = answer.status, answer.reason, answer.getheader("Location", "")
    if status not in _REDIRECTS or not redirects:
        raise HttpFailed(f"{status} {reason}", status)
    return download(urljoin(url, target), to, deadline.remaining, agent=agent, redirects=redirects - 1)


@contextmanager
def _exchange(
    request: Request, deadline: Deadline
) -> Iterator[tuple[http.client.HTTPConnection, http.client.HTTPResponse]]:
    """The connection and the answer's head; any trouble with either, also inside, is HttpFailed."""
    parts = urlsplit(request.url)
    path = parts.path + (f"?{parts.query}" if parts.query else "") or "/"
    try:
        pinned = request.fingerprint is not None
        connection = _connection(parts.scheme, _numeric(parts.hostname or ""), parts.port, pinned, deadline)
        with closing(connection):
            if request.fingerprint is not None and parts.scheme == "https":
                _check_pin(connection, request.fingerprint)
            connection.putrequest(request.method, path, skip_accept_encoding=True)
            for name, value in request.headers.items():
                connection.putheader(name, value)
            if request.body or request.method == "POST":
                connection.putheader("Content-Length", str(len(request.body)))
            connection.endheaders(request.body or None)
            with closing(connection.getresponse()) as answer:
                yield connection, answer
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise HttpFailed(str(error) or type(error).__name__) from error


def _connection(
    scheme: str, host: str, port: int | None, pinned: bool, deadline: Deadline
) -> http.client.HTTPConnection:
    seconds = max(deadline.remaining, 0.001)
    if scheme == "http":
        return http.client.HTTPConnection(host, port, timeout=seconds)
    if scheme != "https":
        raise ValueError(f"{scheme or 'no scheme'}: not an address of HTTP")
    context = ssl.create_default_context()
    if pinned:
        # The pin takes the place of the CA; it is checked before the first byte of the request is sent.
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return http.client.HTTPSConnection(host, port, timeout=seconds, context=context)


def _check_pin(connection: http.client.HTTPConnection, fingerprint: str) -> None:
    connection.connect()
    assert isinstance(connection.sock, ssl.SSLSocket)
    found = hashlib.sha256(connection.sock.getpeercert(binary_form=True) or b"").hexdigest()
    if found != fingerprint.replace(":", "").lower():
        raise ValueError(f"the server's certificate has the fingerprint {found}, not the pinned one")


def _numeric(host: str) -> str:
    # A played machine has no resolver of its own; asking this machine's would leave the rack.
    try:
        return str(ipaddress.ip_address(host))
    except ValueError as error:
        raise ValueError(f"could not resolve host {host!r}: only numeric addresses are played") from error


def _read(
    connection: http.client.HTTPConnection, answer: http.client.HTTPResponse, deadline: Deadline, most: int
) -> bytes:
    body = bytearray()
    while len(body) < most:
        _patience(connection, deadline)
        chunk = answer.read1(min(_CHUNK, most - len(body)))
        if not chunk:
            break
        body += chunk
    if answer.length and len(body) < most:
        raise ValueError(f"{answer.length} bytes of the answer are missing")
    return bytes(body)


def _stream(
    connection: http.client.HTTPConnection, answer: http.client.HTTPResponse, to: Path, deadline: Deadline
) -> int:
    promised, came = answer.length, 0
    with to.open("wb") as file:
        while True:
            _patience(connection, deadline)
            chunk = answer.read1(_CHUNK)
            if not chunk:
                break
            came += file.write(chunk)
    if promised is not None and came != promised:
        raise ValueError(f"{came} bytes came, {promised} were promised")
    return came


def _patience(connection: http.client.HTTPConnection, deadline: Deadline) -> None:
    if deadline.expired:
        raise TimeoutError(f"not complete within {deadline.seconds:g} s")
    if connection.sock is not None:  # None once an answer with "Connection: close" owns the socket
        connection.sock.settimeout(deadline.remaining)
