"""The hands of the boot service: its own process, which alone holds BMC passwords and may arm DHCP.

It does what the boot service asks of it over a unix socket, and nothing else: switch a node, make it boot,
let it boot once from network or disk, tell its power, and tell nodes by DHCP where their answer is.
"""

from __future__ import annotations

import argparse
import json
import signal
import socketserver
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, RootModel, ValidationError, model_validator

from provision.boot_service.answer_options import AnswerOptions
from provision.boot_service.boards import Boards, How, Source, TooOften, UnderWay, UnknownNode
from provision.boot_service.hands_config import HandsConfig
from provision.boot_service.sockets import listen, notify
from provision.errors import GaveUp, IdentityMismatch, LabError

LONGEST_BODY = 64 * 1024
BODY_SECONDS = 10.0
MOST_AT_ONCE = 256
STATUS: Mapping[type[LabError], HTTPStatus] = {
    UnknownNode: HTTPStatus.NOT_FOUND,
    UnderWay: HTTPStatus.CONFLICT,
    IdentityMismatch: HTTPStatus.CONFLICT,
    TooOften: HTTPStatus.TOO_MANY_REQUESTS,
    GaveUp: HTTPStatus.GATEWAY_TIMEOUT,
    LabError: HTTPStatus.BAD_GATEWAY,
}
"""What each error is told as, the more special ones first."""


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)


class PowerRequest(_Request):
    """Body of POST /nodes/NODE/power; `source` makes a cycle boot once from there."""

    how: How
    source: Source | None = None

    @model_validator(mode="after")
    def _source_of_a_cycle(self) -> PowerRequest:
        if self.source is not None and self.how != "cycle":
            raise ValueError("only a cycle has a source")
        return self


class BootOnceRequest(_Request):
    """Body of POST /nodes/NODE/boot-once."""

    source: Source


Token = Annotated[str, Field(pattern="^([A-Za-z0-9_-]{16,128})?$")]


class AnswersRequest(RootModel[dict[str, Token]]):
    """Body of PUT /answers: the answer token of each node named, an empty one to take it away."""

    model_config = ConfigDict(hide_input_in_errors=True)


class Wrong(Exception):
    """A request that is refused before anything is done; `status` says how."""

    def __init__(self, status: HTTPStatus, why: str) -> None:
        super().__init__(why)
        self.status = status


class Hands:
    """What can be asked: method, path and body, answered with a status and JSON that is free of secrets."""

    def __init__(self, config: HandsConfig, boards: Boards, options: AnswerOptions) -> None:
        self._names = frozenset(node.name for node in config.nodes)
        self._secrets = [
            secret for node in config.nodes for secret in (node.bmc.password.value, node.bmc.user.value)
        ]
        self._boards, self._options = boards, options

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, dict[str, Any]]:
        """Do what is asked."""
        try:
            return HTTPStatus.OK, self._route(method, path.split("/")[1:], body)
        except Wrong as wrong:
            return wrong.status, {"detail": str(wrong)}
        except ValidationError as error:
            return HTTPStatus.UNPROCESSABLE_ENTITY, {"detail": _mistakes(error)}
        except LabError as error:
            status = next(status for kind, status in STATUS.items() if isinstance(error, kind))
            return status, {"detail": self._without_secrets(str(error))}

    def _route(self, method: str, words: list[str], body: bytes) -> dict[str, Any]:
        match [method, *words]:
            case ["GET", "healthz"]:
                return {"ok": True}
            case ["GET", "nodes", name]:
                return asdict(self._boards.state(name))
            case ["POST", "nodes", name, "power"]:
                power = PowerRequest.model_validate_json(body)
                return self._done(name, self._boards.power(name, power.how, power.source))
            case ["POST", "nodes", name, "boot-once"]:
                once = BootOnceRequest.model_validate_json(body)
                return self._done(name, self._boards.boot_once(name, once.source))
            case ["PUT", "answers"]:
                return {"changed": self._put_answers(AnswersRequest.model_validate_json(body).root)}
        raise Wrong(HTTPStatus.NOT_FOUND, "there is nothing here for this method")

    def _done(self, name: str, text: str) -> dict[str, Any]:
        return {"done": self._without_secrets(f"{name}: {text}")}

    def _put_answers(self, tokens: dict[str, str]) -> bool:
        if not tokens.keys() <= self._names:
            raise UnknownNode("no node of this lab has one of these names")
        return self._options.put(tokens)

    def _without_secrets(self, text: str) -> str:
        """The text, should a BMC have repeated in its words what it was sent."""
        for secret in self._secrets:
            # A user name such as "admin" is no secret, and may be a word of any sentence.
            if len(secret) >= 6:
                text = text.replace(secret, "[struck out]")
        return text


def _mistakes(error: ValidationError) -> str:
    told = error.errors(include_url=False, include_context=False, include_input=False)
    # Keys may be the sender's words, so that only our own are repeated.
    places = [" ".join(str(part) for part in each["loc"] if part in ("how", "source")) for each in told]
    return "; ".join(
        f"{place or 'body'}: {each['msg']}" for place, each in zip(places[:5], told, strict=False)
    )


class HandsServer(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """Serves Hands on a unix socket, a thread for each request; the end waits for what is under way."""

    daemon_threads, block_on_close = False, True

    def __init__(self, path: Path, answer: Callable[[str, str, bytes], tuple[int, dict[str, Any]]]) -> None:
        super().__init__(str(path), _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket, self.answer = listen(path, 0o660), answer
        self._free = threading.BoundedSemaphore(MOST_AT_ONCE)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Take a request, or hang up when too many are under way."""
        if self._free.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Handle one request in its thread."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Tell what kind of error it was, and no more: a traceback's words might be secrets."""
        error = sys.exception()
        if not isinstance(error, OSError):
            print(f"a request failed: {type(error).__name__}", file=sys.stderr)


class _Handler(BaseHTTPRequestHandler):
    server: HandsServer
    timeout = BODY_SECONDS
    server_version, sys_version = "rackproof-hands", ""

    def _serve(self) -> None:
        try:
            status, content = self.server.answer(self.command, self.path, self._body())
        except Wrong as wrong:
            status, content = wrong.status, {"detail": str(wrong)}
        except Exception as error:
            self._tell(
                HTTPStatus.INTERNAL_SERVER_ERROR, {"detail": f"a fault of the hands: {type(error).__name__}"}
            )
            raise
        self._tell(status, content)

    do_GET = do_POST = do_PUT = _serve  # noqa: N815

    def _body(self) -> bytes:
        if self.command == "GET":
            return b""
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or "Transfer-Encoding" in self.headers:
            raise Wrong(HTTPStatus.LENGTH_REQUIRED, "a body needs its length")
        if int(length) > LONGEST_BODY:
            raise Wrong(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"a body has at most {LONGEST_BODY} bytes")
        return self.rfile.read(int(length))

    def _tell(self, status: int, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Write no line for every request: what is done is in the boot service's ledger."""


def main(arguments: list[str] | None = None) -> int:
    """Serve until SIGTERM. Returns 0; 1 when the configuration or the socket cannot be had."""
    options = _parser().parse_args(arguments)
    try:
        config = read_config(options.config)
        boards = Boards(config)
        answers = AnswerOptions(options.options_file, url=config.url, fingerprint=config.fingerprint)
        server = HandsServer(options.socket, Hands(config, boards, answers).answer)
    except ValidationError as error:
        print(f"the hands cannot start: {options.config}: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"the hands cannot start: {error}", file=sys.stderr)
        return 1
    serve(server, boards)
    return 0


def read_config(path: Path) -> HandsConfig:
    """The configuration; raises ValidationError, and OSError also for a file that others can read."""
    if path.stat().st_mode & 0o077:
        raise PermissionError(f"{path} holds passwords, and others can read it; chmod 400 {path}")
    return HandsConfig.model_validate_json(path.read_bytes())


def serve(server: HandsServer, boards: Boards) -> None:
    """Serve until SIGTERM or SIGINT, then break off what is under way."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        notify("STOPPING=1")
        boards.stop()
        # It waits for the loop that this handler has interrupted.
        threading.Thread(target=server.shutdown).start()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    notify("READY=1")
    with server:
        server.serve_forever(poll_interval=0.5)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python3 -m provision.boot_service.hands", description=__doc__)
    parser.add_argument("--config", required=True, type=Path, metavar="FILE", help="see hands_config.py")
    parser.add_argument("--socket", required=True, type=Path, metavar="PATH", help="made with mode 0660")
    parser.add_argument("--options-file", required=True, type=Path, metavar="FILE",
                        help="dnsmasq's dhcp-optsfile")  # fmt: skip
    return parser


if __name__ == "__main__":
    sys.exit(main())
