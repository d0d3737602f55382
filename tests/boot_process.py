"""The boot service as a process of the tests' own: begun as systemd does, from a parent that has imported it already."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from provision.boot_service.client import BootService
from provision.boot_service.messages import Grant, RackNode

ROOT = Path(__file__).parents[1]
NODES = 64

# Imports once, then forks a service for every line it is told, in a group of processes of its own.
NURSERY = """
import os, sys
from provision.boot_service.__main__ import main
import psycopg
for line in sys.stdin:
    pid = os.fork()
    if not pid:
        os.setsid()
        os._exit(main(line.split()))
    os.write(1, b"%d\\n" % pid)
    status = os.waitpid(pid, 0)[1]
    os.write(1, b"%d\\n" % os.waitstatus_to_exitcode(status))
"""


class BootProcess:
    """One boot service of so many workers, on sockets in a folder; it knows NODES nodes."""

    def __init__(self, folder: Path, store: str, workers: int) -> None:
        self.folder, self._store, self._workers = folder, store, workers
        self.operator = BootService(folder / "operator.sock")
        self._manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._manager.bind(str(folder / "notify"))
        self._manager.settimeout(30)
        self._nursery = subprocess.Popen(
            [sys.executable, "-c", NURSERY],
            cwd=ROOT,
            env=os.environ | {"NOTIFY_SOCKET": str(folder / "notify")},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.begin()
        self.operator.put_rack("hall", [node(number) for number in range(NODES)])

    def begin(self) -> None:
        """Begin the service; returns when all workers serve."""
        assert self._nursery.stdin is not None
        self._nursery.stdin.write(
            f"--ledger {self._store} --operator-socket {self.folder}/operator.sock "
            f"--nodes-socket {self.folder}/nodes.sock --nginx-socket {self.folder}/nginx.sock "
            f"--published {self.folder}/published --workers {self._workers}\n"
        )
        self._nursery.stdin.flush()
        self.pid = int(self._line())
        while self._manager.recv(100) != b"READY=1":
            pass

    def kill(self) -> None:
        """Kill the service, every process of it at once."""
        os.killpg(self.pid, signal.SIGKILL)
        self._line()

    def kill_parent(self) -> None:
        """Kill the parent of the workers alone."""
        os.kill(self.pid, signal.SIGKILL)
        self._line()

    def stop(self) -> int:
        """End the service in order. Returns its exit status."""
        os.kill(self.pid, signal.SIGTERM)
        return int(self._line())

    def workers(self) -> list[int]:
        """The processes of the workers."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text()
        return [int(pid) for pid in children.split()]

    def close(self) -> None:
        """End the parent of the service, which must have ended."""
        assert self._nursery.stdin is not None
        assert self._nursery.stdout is not None
        self._nursery.stdin.close()
        self._nursery.wait(10)
        self._nursery.stdout.close()
        self._manager.close()

    def _line(self) -> str:
        assert self._nursery.stdout is not None
        line = self._nursery.stdout.readline()
        assert line, "the parent of the service died"
        return line.strip()

    # What nodes and the harness say

    def grant(self, number: int, mark: str = "") -> int:
        """Let a node be installed; its tokens are aN and rN, with a mark at their ends."""
        grant = Grant(
            run="r1",
            lab="hall",
            node=f"node{number}",
            answer_token_sha256=sha256(f"a{number}{mark}"),
            report_token_sha256=sha256(f"r{number}{mark}"),
            expires=time.time() + 600,
            boot_script="#!ipxe",
            answer=f"the answer of node{number}",
            first_boot="#!/bin/sh",
        )
        return int(self.operator._ask("POST", "/api/v1/permits", grant.model_dump_json())["id"])


class _Connection(http.client.HTTPConnection):
    """A connection to a unix socket, made again whenever it is asked for after it was closed."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=20)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class Node:
    """One node, on one connection as long as it holds."""

    def __init__(self, service: BootProcess, number: int) -> None:
        self._connection = _Connection(service.folder / "nodes.sock")
        self._number = number

    def answer(self) -> tuple[int, str]:
        """Ask for the answer."""
        interfaces = [{"link": "eno1", "mac": mac(self._number)}]
        body = {"$schema": {"version": "1.0"}, "network_interfaces": interfaces}
        return self._ask(f"/answer/a{self._number}", body)

    def report(self, text: str, phase: str = "failed") -> bool:
        """Report; whether the service has acknowledged it. False, too, when there is no service."""
        try:
            return self._ask(f"/report/r{self._number}", {"phase": phase, "text": text})[0] == 200
        except (OSError, http.client.HTTPException):
            self._connection.close()
            return False

    def close(self) -> None:
        """Hang up."""
        self._connection.close()

    def _ask(self, path: str, body: Any) -> tuple[int, str]:
        headers = {"X-Real-IP": f"10.10.1.{self._number + 1}", "Content-Type": "application/json"}
        # Who is refused before the body was read may find the way closed for it, and the refusal to be read.
        with suppress(BrokenPipeError):
            self._connection.request("POST", path, json.dumps(body), headers)
        answer = self._connection.getresponse()
        return answer.status, answer.read().decode()


def node(number: int) -> RackNode:
    """Node N of the rack."""
    return RackNode.model_validate(
        {
            "name": f"node{number}",
            "macs": [mac(number)],
            "address": f"10.10.1.{number + 1}",
            "boot_script": "#!ipxe\nexit\n",
        }
    )


def mac(number: int) -> str:
    """The MAC of node N."""
    return f"ac:1f:6b:00:00:{number:02x}"


def sha256(token: str) -> str:
    """What the service is told of a token."""
    return hashlib.sha256(token.encode()).hexdigest()
