"""How the boot service asks its hands: HTTP over their unix socket, in a thread, with an end in any case."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

from provision.boot_service.hands_config import LONGEST_ACTION

ACTION_SECONDS = LONGEST_ACTION + 60.0
SHORT_SECONDS = 90.0
UNAVAILABLE = 503


class HandsRefused(Exception):
    """The hands did not do it, and say why; `status` is theirs, or 503 when they do not answer."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status, self.why = status, why


class HandsClient:
    """The hands behind a unix socket. Every method raises HandsRefused."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def power(self, node: str, how: str, *, source: str | None = None) -> str:
        """Switch a node on or off, or make it boot (`cycle`), once from `source`; what was done."""
        body = {"how": how} | ({"source": source} if source else {})
        return str((await self._ask("POST", node, "power", body))["done"])

    async def boot_once(self, node: str, source: str) -> str:
        """Make a node's next boot one from network or disk; what was done."""
        return str((await self._ask("POST", node, "boot-once", {"source": source}))["done"])

    async def state(self, node: str) -> dict[str, Any]:
        """A node's power as its BMC tells it, see boards.State."""
        return await self._ask("GET", node, None, None)

    async def answers(self, tokens: Mapping[str, str]) -> bool:
        """Tell nodes by DHCP where their answer is; an empty token: not any more. Whether that was news."""
        return bool(
            (await asyncio.to_thread(self._put, "PUT", "/answers", dict(tokens), SHORT_SECONDS))["changed"]
        )

    async def _ask(self, method: str, node: str, what: str | None, body: Any) -> dict[str, Any]:
        path = f"/nodes/{quote(node, safe='')}" + (f"/{what}" if what else "")
        seconds = ACTION_SECONDS if body else SHORT_SECONDS
        return await asyncio.to_thread(self._put, method, path, body, seconds)

    def _put(self, method: str, path: str, body: Any, seconds: float) -> dict[str, Any]:
        headers = {"Content-Type": "application/json"} if body is not None else {}
        try:
            with closing(_Connection(self._path, seconds)) as connection:
                connection.request(method, path, json.dumps(body) if body is not None else None, headers)
                answer = connection.getresponse()
                content = json.loads(answer.read())
        except (OSError, http.client.HTTPException, ValueError) as error:
            why = f"the hands do not answer on {self._path}: {error or type(error).__name__}"
            raise HandsRefused(UNAVAILABLE, why) from error
        if answer.status != http.client.OK:
            raise HandsRefused(answer.status, str(content.get("detail")))
        return dict(content)


class _Connection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("hands", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        """Connect to the socket."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))
