"""Both APIs of the boot service over one store, without a socket: what its tests ask and tell it."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from json import dumps
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from starlette.types import ASGIApp

from provision.boot_service.leases import Leases
from provision.boot_service.messages import Grant, Rack, RackNode
from provision.boot_service.node_api import NodeApi
from provision.boot_service.operator_api import OperatorApi
from provision.boot_service.service import Service
from provision.boot_service.store import Store
from provision.ledger import Event

ANSWER_TOKEN, REPORT_TOKEN = "answer-token-of-node1-0001", "report-token-of-node1-0001"
CANARIES = {
    "boot_script": "#!ipxe CANARY-BOOT",
    "answer": "CANARY-ANSWER",
    "first_boot": "#!/bin/sh\n: CANARY-FIRST",
}
STANDING = "#!ipxe\nexit 0\n"
MAC1, STORAGE_MAC1, MAC2 = "ac:1f:6b:00:00:01", "ac:1f:6b:00:00:31", "ac:1f:6b:00:00:02"
PERMIT_SECONDS = 600.0


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@dataclass(frozen=True)
class Reply:
    status_code: int
    headers: dict[str, str]
    content: bytes

    @property
    def text(self) -> str:
        return self.content.decode()

    def json(self) -> Any:
        return json.loads(self.content)


class Asker:
    """Puts requests to an application directly: no socket, no thread, no client library."""

    def __init__(self, app: ASGIApp, runner: asyncio.Runner, headers: dict[str, str]) -> None:
        self._app, self._runner, self._headers = app, runner, headers
        self.parts_read = 0

    def request(
        self,
        method: str,
        url: str,
        *,
        json: Any = None,
        content: bytes | Iterable[bytes] = b"",
        headers: dict[str, str] | None = None,
    ) -> Reply:
        chunks = [content] if isinstance(content, bytes) else content
        if json is not None:
            chunks, headers = [dumps(json).encode()], {"content-type": "application/json"} | (headers or {})
        return self._runner.run(self._put(method, url, chunks, self._headers | (headers or {})))

    def get(self, url: str, **other: Any) -> Reply:
        return self.request("GET", url, **other)

    def post(self, url: str, **other: Any) -> Reply:
        return self.request("POST", url, **other)

    async def _put(self, method: str, url: str, chunks: Iterable[bytes], headers: dict[str, str]) -> Reply:
        raw, _, query = url.partition("?")
        scope = {
            "type": "http",
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": unquote(raw),
            "raw_path": raw.encode(),
            "query_string": query.encode(),
            "server": ("x", 80),
            "root_path": "",
            "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()],
        }
        parts = ({"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks)
        incoming = chain(parts, [{"type": "http.request", "body": b"", "more_body": False}])
        sent: list[Any] = []
        self.parts_read = 0

        async def receive() -> Any:
            self.parts_read += 1
            return next(incoming)

        async def send(message: Any) -> None:
            sent.append(message)

        await self._app(scope, receive, send)
        found = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
        return Reply(sent[0]["status"], found, b"".join(part.get("body", b"") for part in sent[1:]))


class Bench:
    """Both APIs over one store, on a clock that stands still; with a lease file if leases are to be held."""

    def __init__(self, path: Path, *, leases: Path | None = None) -> None:
        self.path, self.clock = path, Clock()
        self.store = Store(path)
        self.leases = leases
        known = Leases(leases, clock=self.clock) if leases else None
        self.service = Service(self.store, clock=self.clock, leases=known)
        self.runner = asyncio.Runner()
        self._written = 0

    @cached_property
    def nodes(self) -> Asker:
        return Asker(NodeApi(self.service).app(), self.runner, {"X-Real-IP": "10.10.1.21"})

    def hold(self, leases: dict[str, str], ends: float | None = None) -> None:
        """These addresses are leased to these MACs, and no others; the file is an old one, so it is final."""
        assert self.leases is not None
        ends = self.clock.now + 3600 if ends is None else ends
        lines = [f"{ends:.0f} {mac} {address} * *\n" for address, mac in leases.items()]
        self.leases.write_text("".join(lines))
        self._written += 1
        os.utime(self.leases, (self._written, self._written))

    @cached_property
    def operator(self) -> Asker:
        return Asker(OperatorApi(self.service).app(), self.runner, {})

    def close(self) -> None:
        self.runner.close()
        self.store.close()

    def grant(self, **other: Any) -> int:
        return self.store.grant(Grant(**grant(self.clock.now, **other)), self.clock.now)

    def post_grant(self, **other: Any) -> Reply:
        return self.operator.post("/api/v1/permits", json=grant(self.clock.now, **other))

    def ask(self, token: str = ANSWER_TOKEN, macs: tuple[str, ...] = (MAC1,), **other: Any) -> Reply:
        return self.nodes.post(f"/answer/{token}", json=request_of(macs) | other)

    def report(self, phase: str = "first-boot", **other: Any) -> Reply:
        return self.nodes.post(f"/report/{REPORT_TOKEN}", json={"phase": phase} | other)

    def last(self) -> Event:
        return self.store.events()[-1]

    def kinds(self) -> list[str]:
        return [event.kind for event in self.store.events()]

    def bytes_on_disk(self) -> bytes:
        return b"".join(file.read_bytes() for file in self.path.parent.glob(self.path.name + "*"))


def sha256(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def grant(now: float, **other: Any) -> dict[str, Any]:
    return (
        {
            "run": "r1",
            "lab": "hall",
            "node": "node1",
            "answer_token_sha256": sha256(ANSWER_TOKEN),
            "report_token_sha256": sha256(REPORT_TOKEN),
            "expires": now + PERMIT_SECONDS,
        }
        | CANARIES
        | other
    )


def request_of(macs: tuple[str, ...]) -> dict[str, Any]:
    """What a 9.2 installer sends."""
    return {
        "$schema": {"version": "1.0"},
        "product": {"fullname": "Proxmox VE", "product": "pve", "enable_btrfs": True},
        "iso": {"release": "9.2", "isorelease": "1"},
        "dmi": {"system": {"serial": "S1", "name": "SYS-1"}, "baseboard": {}, "chassis": {}},
        "network_interfaces": [{"link": f"eno{n}", "mac": mac} for n, mac in enumerate(macs)],
    }


def rack() -> Rack:
    return Rack(
        lab="hall",
        nodes=(
            RackNode(
                name="node1", macs=(MAC1.upper(), STORAGE_MAC1), address="10.10.1.21", boot_script=STANDING
            ),
            RackNode(name="node2", macs=(MAC2,), address="10.10.1.22", boot_script=STANDING),
        ),
    )
