"""The HTTP below the paths of the nodes: limits, the table of paths, bodies that are read only so far.

A table of its own, because a report must be cheap and nothing may be answered that is not in it: no HEAD that
no firmware needs, no redirect to a path with a slash, no validation that repeats what was sent.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from sqlalchemy.exc import SQLAlchemyError
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import Receive, Scope, Send

from provision.boot_service.refusals import Refusal

MOST_PATH = 1024
MOST_HEADERS = 16 * 1024
BODY_SECONDS = 30.0

Handler = Callable[..., Awaitable[Response]]

log = logging.getLogger(__name__)

_FIELD = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class Route:
    """One path of one method; `{name}` in the path is one segment, given to the handler by that name."""

    method: str
    path: str
    handler: Handler
    pattern: re.Pattern[str] = field(init=False)

    def __post_init__(self) -> None:
        parts = _FIELD.split(self.path)
        names = (f"(?P<{part}>[^/]+)" if odd % 2 else re.escape(part) for odd, part in enumerate(parts))
        object.__setattr__(self, "pattern", re.compile("".join(names), re.DOTALL))


class NodeApp:
    """An ASGI application of these routes; `refused` answers everything else, and its handlers' Refusals."""

    def __init__(
        self, routes: Sequence[Route], refused: Callable[[Request, Refusal], Awaitable[Response]]
    ) -> None:
        self._refused = refused
        self._routes: dict[str, list[Route]] = {}
        for route in routes:
            self._routes.setdefault(_first(route.path), []).append(route)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        response = await self._answer(Request(scope, receive))
        await response(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        try:
            try:
                _limit(request)
                handler, fields = self._route(request)
                return await handler(request, **fields)
            except Refusal as refusal:
                return await self._refused(request, refusal)
        except SQLAlchemyError as error:
            log.error("the ledger failed: %s", error)
            told = "this could not be recorded, so it was not done; ask again\n"
            return PlainTextResponse(told, 503, {"Retry-After": "1", "Connection": "close"})

    def _route(self, request: Request) -> tuple[Handler, dict[str, str]]:
        path, methods = request.scope["path"], []
        for route in self._routes.get(_first(path), ()):
            if found := route.pattern.fullmatch(path):
                request.scope["shown"] = route.path
                if route.method == request.method:
                    return route.handler, found.groupdict()
                methods.append(route.method)
        if methods:
            raise Refusal(405, "Method Not Allowed", allow=", ".join(sorted(set(methods))))
        raise Refusal(404, "there is no such path here")


async def body_of(request: Request, most: int) -> bytes:
    """The request's body. Raises Refusal (413) before one byte beyond `most` is kept, 408 when it is slow."""
    said = request.headers.get("content-length", "")
    if said.isdecimal() and int(said[:20]) > most:
        raise _too_large(most)
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.stream():
                body += chunk
                if len(body) > most:
                    raise _too_large(most)
    except TimeoutError as error:
        raise Refusal(408, f"the body did not arrive within {BODY_SECONDS:g} s") from error
    except ClientDisconnect as error:
        raise Refusal(400, "the body broke off") from error
    return bytes(body)


def secret_text(content: str, media_type: str = "text/plain") -> Response:
    """A response that nobody may keep a copy of."""
    return Response(content, media_type=media_type, headers={"Cache-Control": "no-store"})


def _first(path: str) -> str:
    return path.split("/", 2)[1] if path.startswith("/") else ""


def _too_large(most: int) -> Refusal:
    return Refusal(413, f"the body is larger than {most} bytes")


def _limit(request: Request) -> None:
    raw = request.scope.get("raw_path") or request.scope["path"].encode("utf-8", "replace")
    if len(raw) + len(request.scope.get("query_string", b"")) > MOST_PATH:
        raise Refusal(414, f"the path is longer than {MOST_PATH} bytes")
    if sum(len(name) + len(value) for name, value in request.scope["headers"]) > MOST_HEADERS:
        raise Refusal(431, f"the headers are larger than {MOST_HEADERS} bytes")
