"""Broken, endless and mixed-up HTTP on the nodes' socket tells nothing, and keeps nobody else waiting."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from provision.boot_service.installer_api import MOST_BODY
from provision.boot_service.messages import RackNode
from tests.faults.test_boot_service_process import REQUEST, Process, sha256

HOME = {"X-Real-IP": "10.10.1.1"}
SECRETS = (b"the answer", b"#!/bin/sh", b"answer-token", b"report-token")
STALLED = 100


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    service = Process(tmp_path_factory.mktemp("boot"))
    node = RackNode(
        name="node0", macs=("ac:1f:6b:00:00:00",), address="10.10.1.1", boot_script="#!ipxe\nexit\n"
    )
    service.operator.put_rack("hall", [node])
    service.grant(answer_token_sha256=sha256("answer-token"), report_token_sha256=sha256("report-token"))
    yield service
    # The innocent node is served after all of it, once.
    for status in (200, 410):
        assert service.ask("POST", "/answer/answer-token", json.dumps(REQUEST), HOME)[0] == status
    assert service.ask("POST", "/report/report-token", '{"phase": "status"}', HOME)[0] == 200
    assert service.end() == 0


def connect(folder: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(10)
    connection.connect(str(folder / "nodes.sock"))
    return connection


def put(folder: Path, data: bytes) -> bytes:
    """All that comes back for these bytes, until the service ends the connection."""
    with closing(connect(folder)) as connection:
        try:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
        except (BrokenPipeError, ConnectionResetError):
            pass
        answer = b""
        try:
            while chunk := connection.recv(65536):
                answer += chunk
        except ConnectionResetError:
            pass
        return answer


def request(head: str, *fields: str, body: bytes = b"") -> bytes:
    lines = [f"{head} HTTP/1.1", "Host: x", "X-Real-IP: 10.10.1.1", *fields]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


ASK = json.dumps(REQUEST).encode()
LENGTH = f"Content-Length: {len(ASK)}"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00" * 4096,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),  # TLS to a plain socket
        b"POST /answer/answer-token",
        b"POST /answer/answer-token HTTP/9.9\r\n\r\n",
        b"GET " + b"/x" * 40_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /boot/x HTTP/1.1\r\n" + b"X-Y: z\r\n" * 10_000,
        b"GET /boot/x HTTP/1.1\r\nX-Long: " + b"y" * 200_000,
        request("POST /answer/answer-token", "Content-Length: -1", body=ASK),
        request("POST /answer/answer-token", "Content-Length: 99999999999999999999", body=ASK),
        request("POST /answer/answer-token", "Content-Length: 5", "Content-Length: 500", body=ASK),
        request("POST /answer/answer-token", "Transfer-Encoding: chunked", body=b"zz\r\n" + ASK),
        request("POST /answer/answer-token", f"Content-Length: {len(ASK) + 1}", body=ASK),
        request("POST /answer/answer-token", "Expect: 100-continue", "Content-Length: 9", body=b"not json "),
        request("POST /answer/answer-token\r\nX: y", LENGTH, body=ASK).replace(b"POST /a", b"POST  /a"),
        request("GET http://10.10.1.1/answer/answer-token", body=ASK),
        request("CONNECT 10.10.1.1:22"),
        request("OPTIONS *"),
        request("PRI *") + b"SM\r\n\r\n",
    ],
    ids=range(19),
)  # fmt: skip
def test_broken_http_tells_nothing(service: Process, data: bytes) -> None:
    answer = put(service.folder, data)
    # Who ends the connection before the answer may get none, or no more than the leave to go on.
    last = answer.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert not last or last.startswith(b"HTTP/1.1 4")
    assert [secret for secret in SECRETS if secret in answer] == []


def test_a_body_without_an_end_is_cut_off_at_its_limit(service: Process) -> None:
    with closing(connect(service.folder)) as connection:
        connection.sendall(request("POST /answer/answer-token", f"Content-Length: {MOST_BODY + 1}"))
        answer = b""
        while chunk := connection.recv(65536):
            answer += chunk
    assert answer.startswith(b"HTTP/1.1 413")
    assert b"connection: close" in answer.lower()


def test_connections_that_say_half_and_wait_keep_nobody_waiting(service: Process) -> None:
    with ExitStack() as stalled:
        for _ in range(STALLED):
            connection = stalled.enter_context(closing(connect(service.folder)))
            connection.sendall(request("POST /answer/answer-token", "Content-Length: 1000", body=b"{"))
        script = service.ask("GET", "/boot/ac1f6b000000", headers=HOME)
        assert script == (200, "#!ipxe")
