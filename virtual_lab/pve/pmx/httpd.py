"""pveproxy on port 8006 (TLS, tickets, forwarding) and pvedaemon on 127.0.0.1:85 (what only root may do)."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import ssl
import sys
import syslog
import time
from collections.abc import Mapping
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NoReturn
from urllib.parse import parse_qsl, unquote, urlsplit

from . import api, auth, router
from .apiclient import TIMEOUT, PinnedConnection, WrongCertificate
from .clock import pause
from .cluster import BASE, certificate_of, fingerprint_of, node_address, node_name
from .errors import Failure
from .router import Answer, Endpoint

PROXY_PORT, DAEMON_PORT = 8006, 85
DELAY_OF_REFUSAL = 3.0
MAX_BODY = 512 * 1024
IDLE_SECONDS = 5.0
_KEPT_HEADERS = ("Cookie", "CSRFPreventionToken", "Authorization", "Content-Type")


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as it came."""

    method: str
    path: str
    query: str
    body: bytes
    headers: Mapping[str, str]

    def params(self) -> dict[str, str]:
        """Query and body together; Failure 400 for a body that cannot be read."""
        given = _from_form(self.query)
        if self.headers.get("Content-Type", "").startswith("application/json") and self.body:
            return {**given, **_from_json(self.body)}
        return {**given, **_from_form(self.body.decode("utf-8", "replace"))}


def _from_form(text: str) -> dict[str, str]:
    """The fields of a form; what one says several times, for an array, is joined by zero bytes."""
    found: dict[str, str] = {}
    for key, value in parse_qsl(text, keep_blank_values=True):
        found[key] = f"{found[key]}\0{value}" if key in found else value
    return found


def _from_json(body: bytes) -> dict[str, str]:
    try:
        found = json.loads(body)
    except ValueError:
        raise Failure("malformed JSON string", code=400) from None
    if not isinstance(found, dict):
        raise Failure("malformed JSON string, no object", code=400)
    return {key: _text(value) for key, value in found.items()}


def _text(value: Any) -> str:
    if isinstance(value, list):
        return "\0".join(map(_text, value))
    return str(int(value)) if isinstance(value, bool) else str(value)


@dataclass(frozen=True, slots=True)
class Reply:
    """A status line and a body."""

    code: int
    reason: str
    body: bytes


def reply(data: Any) -> Reply:
    """The answer to a call that went well."""
    content = {"data": data.data, **data.beside} if isinstance(data, Answer) else {"data": data}
    return Reply(200, "OK", json.dumps(content).encode())


def refusal(failed: Failure) -> Reply:
    """The answer to a call that did not: the reason line carries the message."""
    content: dict[str, Any] = {"data": None, "message": f"{failed.message}\n"}
    if failed.errors:
        content["errors"] = failed.errors
    return Reply(failed.code, " ".join(failed.message.split()), json.dumps(content).encode())


# -- who calls


def who(asked: Asked) -> auth.Caller:
    """The caller; Failure 401 when it is not known."""
    if "Authorization" in asked.headers:
        return auth.token_caller(asked.headers["Authorization"])
    ticket = _ticket(asked.headers.get("Cookie", ""))
    if not ticket:
        raise Failure("No ticket", code=401)
    user = api.access.TICKETS.user_of(ticket)
    if user is None:
        raise Failure("permission denied - invalid PVE ticket", code=401)
    token = asked.headers.get("CSRFPreventionToken", "")
    if asked.method != "GET" and not auth.csrf_fits(user, token, time.time()):
        raise Failure("Permission denied - invalid csrf token", code=401)
    return auth.caller(user)


def _ticket(cookies: str) -> str:
    try:
        found = SimpleCookie(cookies).get("PVEAuthCookie")
    except CookieError:
        return ""
    return unquote(found.value) if found else ""


# -- carrying out, here or elsewhere


def carry_out(asked: Asked, *, daemon: bool) -> Reply:
    """Answer a request, by this process or by whoever has to."""
    if asked.method == "DELETE" and asked.body:
        raise Failure("Unexpected content for method 'DELETE'", code=501)
    public = asked.path in ("/access/ticket", "/access/domains")
    caller = auth.Caller("", all_rights=False) if public else who(asked)
    endpoint, in_path = router.find(asked.method, asked.path)
    endpoint.check_right(caller)
    in_path = {name: unquote(value) for name, value in in_path.items()}
    if endpoint.of_a_node and in_path["node"] not in (node_name(), "localhost"):
        return _ask_node(in_path["node"], asked)
    if endpoint.protected and not daemon:
        return _forward(http.client.HTTPConnection("127.0.0.1", DAEMON_PORT, timeout=TIMEOUT), asked)
    return _here(endpoint, caller, {**asked.params(), **in_path})


def _here(endpoint: Endpoint, caller: auth.Caller, params: Mapping[str, str]) -> Reply:
    try:
        return reply(endpoint.run(caller, params))
    except OSError as error:
        # /etc/pve is away while pmxcfs restarts, and refuses writes without quorum.
        raise Failure(f"{error.strerror or error} - {error.filename or endpoint.path}") from None
    except ValueError as error:
        raise Failure(str(error)) from None


def _ask_node(node: str, asked: Asked) -> Reply:
    address = node_address(node)
    certificate = certificate_of(node)
    known = fingerprint_of(certificate) if certificate.exists() else None
    return _forward(PinnedConnection(address, known), asked)


def _forward(connection: http.client.HTTPConnection, asked: Asked) -> Reply:
    headers = {name: asked.headers[name] for name in _KEPT_HEADERS if name in asked.headers}
    target = f"/api2/json{asked.path}" + (f"?{asked.query}" if asked.query else "")
    try:
        connection.connect()
    except WrongCertificate:
        raise Failure("tls_process_server_certificate: certificate verify failed", code=596) from None
    except OSError as error:
        raise Failure(error.strerror or "Connection timed out", code=595) from None
    try:
        connection.request(asked.method, target, asked.body or None, headers)
        answer = connection.getresponse()
        return Reply(answer.status, answer.reason, answer.read())
    except (OSError, http.client.HTTPException) as error:
        raise Failure(getattr(error, "strerror", None) or "Broken pipe", code=596) from None
    finally:
        connection.close()


# -- HTTP


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    server_version, sys_version = "pve-api-daemon/3.0", ""
    timeout = IDLE_SECONDS
    server: Server

    def setup(self) -> None:
        """Shake hands in this connection's own thread, not in the one that accepts."""
        if self.server.tls:
            self.request.settimeout(IDLE_SECONDS)
            self.request = self.server.tls.wrap_socket(self.request, server_side=True)
        super().setup()

    def do_GET(self) -> None:
        """GET."""
        self._answer()

    do_POST = do_PUT = do_DELETE = do_GET  # noqa: N815

    def _answer(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        if length > MAX_BODY:
            self._send(refusal(Failure("for data too large", code=413)))
            self.close_connection = True
            return
        url = urlsplit(self.path)
        headers = {name: self.headers[name] for name in _KEPT_HEADERS if name in self.headers}
        body = self.rfile.read(length)
        if url.path == "/":
            self._send(Reply(200, "OK", _PAGE % node_name().encode()), kind="text/html")
            return
        prefix, _, path = url.path.partition("/api2/json")
        asked = Asked(self.command, path.rstrip("/") or "/", url.query, body, headers)
        self._send(self._outcome(asked) if not prefix and path else _nothing(url.path))

    def _outcome(self, asked: Asked) -> Reply:
        try:
            outcome = carry_out(asked, daemon=self.server.is_daemon)
        except Failure as failed:
            outcome = refusal(failed)
        if outcome.code == 401 and not self.server.is_daemon:
            pause(DELAY_OF_REFUSAL)  # whoever guesses passwords shall wait
        return outcome

    def _send(self, answer: Reply, *, kind: str = "application/json;charset=UTF-8") -> None:
        self.send_response(answer.code, answer.reason.encode("latin-1", "replace").decode("latin-1"))
        for name, value in (("Cache-Control", "max-age=0"), ("Pragma", "no-cache"), ("Content-Type", kind),
                            ("Content-Length", str(len(answer.body)))):  # fmt: skip
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(answer.body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Nothing: the journal has the tasks."""


_PAGE = (
    b"<!DOCTYPE html><html><head><title>%s - Proxmox Virtual Environment</title></head><body></body></html>\n"
)


def _nothing(path: str) -> Reply:
    return refusal(Failure(f"no such file '{path}'", code=404))


class Server(ThreadingHTTPServer):
    """pveproxy with a TLS context, or pvedaemon without."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, address: tuple[str, int], *, tls: ssl.SSLContext | None) -> None:
        self.tls, self.is_daemon = tls, tls is None
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        super().__init__(address, Handler)

    def server_bind(self) -> None:
        """Bind, for IPv4 as well when bound to all of IPv6."""
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()

    def handle_error(self, request: object, client_address: object) -> None:
        """A connection that broke is nobody's fault here; anything else goes to the journal."""
        error = sys.exc_info()[1]
        if not isinstance(error, (OSError, TimeoutError)):
            syslog.syslog(syslog.LOG_ERR, f"{type(error).__name__}: {error}")


def proxy_main() -> int:
    """The command pveproxy."""
    own = BASE / "local/pveproxy-ssl.pem"
    certificate = own if own.exists() else BASE / "local/pve-ssl.pem"
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        tls.load_cert_chain(certificate, certificate.with_suffix(".key"))
    except OSError:
        print(f"{certificate}: failed to load local private key", file=sys.stderr)
        return 1
    host = "::" if os.path.exists("/proc/net/if_inet6") else "0.0.0.0"  # noqa: S104, PTH110
    return _serve("pveproxy", Server((host, PROXY_PORT), tls=tls))


def daemon_main() -> int:
    """The command pvedaemon."""
    return _serve("pvedaemon", Server(("127.0.0.1", DAEMON_PORT), tls=None))


def _serve(name: str, server: Server) -> int:
    syslog.openlog(name, syslog.LOG_PID, syslog.LOG_DAEMON)
    signal.signal(signal.SIGHUP, _begin_anew)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    _tell_systemd("READY=1")
    server.serve_forever()
    return 0


def _begin_anew(*_: object) -> NoReturn:
    # Every connection is cut and the port is closed for a moment, as clients of a reload must expect.
    os.execv(sys.executable, [sys.executable, "-IS", *sys.argv])  # noqa: S606


def _tell_systemd(state: str) -> None:
    where = os.environ.get("NOTIFY_SOCKET")
    if where:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
            line.connect("\0" + where[1:] if where.startswith("@") else where)
            line.send(state.encode())
