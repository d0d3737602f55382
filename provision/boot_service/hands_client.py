"""How the boot service asks its hands: HTTP over their unix socket, on the event loop, and in bounded time.

Not in a thread: an action may take minutes, and the threads are for the store that nodes wait for.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from provision.boot_service.hands_config import LONGEST_ACTION

ACTION_SECONDS = LONGEST_ACTION + 60.0
SHORT_SECONDS = 90.0
LONGEST_ANSWER = 1024 * 1024
DONE, UNAVAILABLE = 200, 503


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
        """Switch a node on or off, or off and on (`cycle`, booting once from `source`); what was done."""
        body = {"how": how} | ({"source": source} if source else {})
        return str((await self._act(node, "power", body))["done"])

    async def boot_once(self, node: str, source: str) -> str:
        """Make a node's next boot one from network or disk; what was done."""
        return str((await self._act(node, "boot-once", {"source": source}))["done"])

    async def state(self, node: str) -> dict[str, Any]:
        """A node's power as its BMC tells it, see boards.State."""
        return await self._ask("GET", f"/nodes/{quote(node, safe='')}", None, SHORT_SECONDS)

    async def answers(self, tokens: Mapping[str, str]) -> bool:
        """Tell nodes by DHCP where their answer is; an empty token: not any more. Whether that was news."""
        return bool((await self._ask("PUT", "/answers", tokens, SHORT_SECONDS))["changed"])

    async def _act(self, node: str, what: str, body: Mapping[str, str]) -> dict[str, Any]:
        return await self._ask("POST", f"/nodes/{quote(node, safe='')}/{what}", body, ACTION_SECONDS)

    async def _ask(
        self, method: str, path: str, body: Mapping[str, str] | None, seconds: float
    ) -> dict[str, Any]:
        content = b"" if body is None else json.dumps(dict(body)).encode()
        request = f"{method} {path} HTTP/1.0\r\nContent-Length: {len(content)}\r\n\r\n".encode() + content
        try:
            async with asyncio.timeout(seconds):
                status, answer = _read(await self._exchange(request))
        except (OSError, ValueError) as error:
            why = f"the hands do not answer on {self._path}: {error or type(error).__name__}"
            raise HandsRefused(UNAVAILABLE, why) from error
        if status != DONE:
            raise HandsRefused(status, str(answer.get("detail")))
        return answer

    async def _exchange(self, request: bytes) -> bytes:
        """What they answer before they hang up."""
        reader, writer = await asyncio.open_unix_connection(self._path, limit=LONGEST_ANSWER)
        try:
            writer.write(request)
            chunks = bytearray()
            while (chunk := await reader.read(LONGEST_ANSWER)) and len(chunks) < LONGEST_ANSWER:
                chunks += chunk
            return bytes(chunks)
        finally:
            writer.close()


def _read(raw: bytes) -> tuple[int, dict[str, Any]]:
    """Status and JSON object of an answer of HTTP/1.0; ValueError for anything else."""
    head, _, content = raw.partition(b"\r\n\r\n")
    words = head.split(maxsplit=2)
    if len(words) < 2 or not words[1].isdigit():
        raise ValueError("they hung up without an answer" if not raw else "their answer is no HTTP")
    answer = json.loads(content)
    if not isinstance(answer, dict):
        raise ValueError("their answer is no JSON object")
    return int(words[1]), answer
