"""The boot service as a process: two sockets, one winner, and events that outlive kill -9."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import random
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from threading import Event as Flag
from typing import Any

import pytest

from provision.boot_service.client import BootService, _Connection
from provision.boot_service.messages import Rack, RackNode
from provision.boot_service.store import Store
from provision.errors import Refused, Unreachable
from provision.ledger import Event
from provision.wait import Deadline, NotYet, Patience, Signal

ROOT = Path(__file__).parents[2]
SEED = 20261122
NODES = 64
REQUEST = {
    "$schema": {"version": "1.0"},
    "network_interfaces": [{"link": "eno1", "mac": "AC:1F:6B:00:00:00"}],
}


class Process:
    """One boot service on sockets of its own, begun as systemd does."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.operator = BootService(folder / "operator.sock")
        self.begin()

    def begin(self) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            (self.folder / "notify").unlink(missing_ok=True)
            manager.bind(str(self.folder / "notify"))
            manager.settimeout(30)
            command: list[str | Path] = [
                sys.executable,
                "-m",
                "provision.boot_service",
                "--ledger",
                self.folder / "boot.db",
                "--operator-socket",
                self.folder / "operator.sock",
                "--nodes-socket",
                self.folder / "nodes.sock",
            ]
            notify = {"NOTIFY_SOCKET": str(self.folder / "notify")}
            self.process = subprocess.Popen(command, cwd=ROOT, env=os.environ | notify)
            assert manager.recv(100) == b"READY=1"

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        try:
            return self.process.wait(20)
        finally:
            self.process.kill()

    def ask(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, str]:
        connection = _Connection(self.folder / "nodes.sock", 20)
        try:
            connection.request(method, path, body, headers or {}, encode_chunked=hasattr(body, "__next__"))
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def grant(self, **other: Any) -> int:
        given: dict[str, Any] = {
            "run": "r1",
            "lab": "hall",
            "node": "node0",
            "answer_token_sha256": sha256("answer"),
            "report_token_sha256": sha256("report"),
            "expires": time.time() + 600,
            "boot_script": "#!ipxe",
            "answer": "the answer",
            "first_boot": "#!/bin/sh",
        }
        return self.operator.grant(**(given | other))


def sha256(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def mac(number: int) -> str:
    return f"ac:1f:6b:00:00:{number:02x}"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    service = Process(tmp_path_factory.mktemp("boot"))
    nodes = [
        RackNode(name=f"node{n}", macs=(mac(n),), address=f"10.10.1.{n + 1}", boot_script="#!ipxe\nexit\n")
        for n in range(NODES)
    ]
    assert service.operator.would_change_rack(Rack(lab="hall", nodes=tuple(nodes)))
    assert service.operator.put_rack("hall", nodes)
    assert not service.operator.would_change_rack(Rack(lab="hall", nodes=tuple(nodes)))
    assert not service.operator.put_rack("hall", nodes)
    yield service
    assert service.end() == 0


def test_the_operator_socket_is_private_and_the_nodes_socket_is_not(service: Process) -> None:
    modes = {path.name: oct(stat.S_IMODE(path.stat().st_mode)) for path in service.folder.glob("*.sock")}
    assert modes == {"operator.sock": "0o600", "nodes.sock": "0o666"}


def test_the_nodes_socket_offers_nothing_of_the_operator(service: Process) -> None:
    for path in ("/healthz", "/api/v1/permits", "/api/v1/events"):
        assert service.ask("GET", path)[0] == 404
    assert service.ask("POST", "/api/v1/permits", "{}")[0] == 404


def test_many_at_once_and_exactly_one_is_answered(service: Process) -> None:
    service.grant()
    with ThreadPoolExecutor(32) as pool:
        asked = [pool.submit(service.ask, "POST", "/answer/answer", json.dumps(REQUEST)) for _ in range(64)]
        answers = [each.result() for each in asked]
    assert [text for status, text in answers if status == 200] == ["the answer"]
    assert {status for status, _ in answers} == {200, 410}
    states = [(permit.node, permit.state) for permit in service.operator.permits()]
    assert states == [("node0", "spent")]
    assert service.operator.revoke(run="r1") == 1


def test_a_chunked_body_without_a_length_is_cut_off(service: Process) -> None:
    service.grant(answer_token_sha256=sha256("a2"), report_token_sha256=sha256("r2"))
    chunks = (b"x" * 65536 for _ in range(17))
    assert service.ask("POST", "/answer/a2", chunks, {"Transfer-Encoding": "chunked"})[0] == 413
    assert service.operator.revoke_node("node0") == 1


@pytest.mark.parametrize(("path", "header"), [("/boot/x", "x" * 1_000_000), ("/boot/" + "x" * 1_000_000, "")])
def test_a_huge_header_or_path_is_cut_off(service: Process, path: str, header: str) -> None:
    with suppress(BrokenPipeError, ConnectionResetError):  # Cut off while it was still being sent.
        assert service.ask("GET", path, headers={"X-Long": header})[0] == 400
    assert service.ask("GET", f"/boot/{mac(1)}")[0] == 200


def test_what_the_service_refuses_the_harness_is_told(service: Process) -> None:
    with pytest.raises(Refused, match=r"refused POST /api/v1/permits \(409\): node99 is no node of the rack"):
        service.grant(node="node99")
    with pytest.raises(Unreachable, match=r"does not answer on .*nowhere"):
        BootService(service.folder / "nowhere").health()
    assert not BootService(service.folder / "nowhere").healthy()


def test_two_processes_spend_one_permit_once(tmp_path: Path, service: Process) -> None:
    """Two services over one ledger, which no unit starts, would still give an answer once."""
    service.grant(answer_token_sha256=sha256("a3"), report_token_sha256=sha256("r3"))
    script = (
        "import sys; from provision.boot_service.store import Store\n"
        "store = Store(sys.argv[1]); permit = store.permit_by_answer_token('a3')\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "print(store.spend(permit, permit.granted))"
    )
    rivals = [
        subprocess.Popen(
            [sys.executable, "-c", script, service.folder / "boot.db"],
            cwd=ROOT,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        for _ in range(4)
    ]
    for rival in rivals:
        assert rival.stdout is not None
        assert rival.stdout.readline() == "ready\n"
    said = []
    for rival in rivals:
        assert rival.stdin is not None
        rival.stdin.write("\n")
        rival.stdin.flush()
    for rival in rivals:
        said.append(rival.communicate(timeout=20)[0])
    assert sorted(said) == ["None\n", "None\n", "None\n", "the answer\n"]


def test_a_follower_hears_everything_once_over_kill_9_and_restarts(service: Process) -> None:
    chance = random.Random(SEED)
    heard: list[Event] = []
    news, enough = Signal(), Flag()

    def take(event: Event) -> None:
        heard.append(event)
        news.notify()

    def load(worker: int) -> int:
        acknowledged = 0
        while not enough.is_set():
            for node in range(worker, NODES, 4):
                if booted(service, node):
                    acknowledged += 1
                else:
                    enough.wait(0.02)
        return acknowledged

    begun = service.operator.health().last
    following = service.operator.follow(begun, take)
    with ThreadPoolExecutor(4) as pool:
        loads = [pool.submit(load, worker) for worker in range(4)]
        try:
            for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL):
                reach(news, heard, len(heard) + chance.randrange(50, 150))
                service.end(number)
                service.begin()
        finally:
            enough.set()
        acknowledged = sum(each.result() for each in loads)
    last = service.operator.health().last
    news.until(
        "the last event", lambda: heard[-1].seq == last or NotYet(f"{heard[-1].seq} of {last}"), Deadline(30)
    )
    following.stop()
    store = Store(service.folder / "boot.db")
    kept = store.events(after=begun)
    assert [event.seq for event in heard] == [event.seq for event in kept]
    assert {event.origin for event in heard} == {f"{store.uuid}:{event.seq}" for event in kept}
    assert sum(event.kind == "boot-script" for event in heard) >= acknowledged > 100
    store.close()


def reach(news: Signal, heard: list[Event], count: int) -> None:
    news.until(f"{count} events", lambda: len(heard) >= count or NotYet(f"{len(heard)}"), Deadline(20))


def booted(service: Process, node: int) -> bool:
    """Whether the node was given its boot script; not while the service is down."""
    try:
        return service.ask("GET", f"/boot/{mac(node)}")[0] == 200
    except (OSError, http.client.HTTPException):
        return False


def test_a_follower_of_another_ledger_begins_again(service: Process) -> None:
    heard: list[int] = []
    news = Signal()

    def take(event: Event) -> None:
        heard.append(event.seq)
        news.notify()

    following = service.operator.follow(10**9, take, ledger="another")
    news.until("events", lambda: len(heard) > 5 or NotYet("few"), Deadline(10))
    following.stop()
    assert heard[:5] == [1, 2, 3, 4, 5]


def test_what_breaks_a_follower_is_told_to_whoever_stops_it(service: Process) -> None:
    def take(event: Event) -> None:
        raise LookupError(event.kind)

    following = service.operator.follow(0, take)
    Patience(10).until("the follower's end", lambda: following.failure or NotYet("alive"))
    with pytest.raises(LookupError, match="rack"):
        following.stop()
