"""What a node is told when it is refused, and the event that keeps who asked for what, and why not."""

from __future__ import annotations

import re
from functools import lru_cache
from ipaddress import ip_address
from typing import Any

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from provision.boot_service.reports import clean
from provision.boot_service.service import Service
from provision.boot_service.store import Permit

_LONG_SEGMENT = re.compile(r"[A-Za-z0-9_\-.~%]{16,}")


class Refusal(Exception):
    """A request is answered with `status` and one line, and nothing else; `why` carries no secret.

    `told` is the line where it must not tell why; an empty one is an empty body. `facts` go into the event.
    `stranger`: whoever it was has shown no token, though it was about this permit.
    """

    stranger = False

    def __init__(
        self,
        status: int,
        why: str,
        permit: Permit | None = None,
        *,
        told: str | None = None,
        node: str | None = None,
        **facts: object,
    ) -> None:
        super().__init__(why)
        self.status, self.why, self.permit = status, why, permit
        self.told = why if told is None else told
        self.node = permit.node if permit else node
        self.facts: dict[str, Any] = facts


class Refusals:
    """Answers refused requests, and records them: so many a minute, the others are counted."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def answer(self, request: Request, refusal: Refusal) -> Response:
        """The response to a refused request, its event kept or held back."""
        service, permit, now = self._service, refusal.permit, self._service.clock()
        what, who, why = _what(request), who_asks(request), clean(refusal.why)
        facts = refusal.facts | {"who": who, "what": what, "status": refusal.status, "why": why}
        text = f"{what} of {who} refused: {why}"
        event = (
            permit.event(now, "refused", text, **facts)
            if permit
            else service.store.event(now, "refused", text, node=refusal.node, **facts)
        )
        # Who holds a token cannot be drowned out by those who hold none.
        gate, key = service.refusals, who
        if permit is not None and not refusal.stranger:
            gate, key = service.reports, f"refused {permit.id}"
        await service.keep(gate, key, event)
        return _response(refusal)


def who_asks(request: Request) -> str:
    """The address that nginx says the request came from, or "unknown"."""
    return _address(request.headers.get("x-real-ip", "")[:64])


@lru_cache(maxsize=4096)
def _address(said: str) -> str:
    try:
        return "unknown" if "%" in said else str(ip_address(said))
    except ValueError:
        return "unknown"


def without_tokens(text: str, most: int) -> str:
    """`text` as one short line, whatever looks like a token left out."""
    return clean(_LONG_SEGMENT.sub("…", text[:2000]), most)


def _response(refusal: Refusal) -> Response:
    told = clean(refusal.told)
    # What is left of the body is not read: the connection ends with the answer.
    headers = {"Connection": "close", "Cache-Control": "no-store"}
    if refusal.status == 405 and "allow" in refusal.facts:
        headers["Allow"] = refusal.facts["allow"]
    return PlainTextResponse(f"{told}\n" if told else "", refusal.status, headers)


def _what(request: Request) -> str:
    # A token is never repeated: not where it belongs, nor whatever looks like one in any other path.
    path = request.scope.get("shown") or without_tokens(request.scope["path"], 80)
    return clean(f"{request.method} {path}", 80)
