"""Every path of the operator's and the people's sockets, with the role that it needs: the one place."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Protocol

from fastapi import FastAPI, Request, Response
from fastapi.routing import APIRoute


class Role(IntEnum):
    """What somebody may do; each role may do what those before it may."""

    ANYONE = 0
    VIEWER = 1
    OPERATOR = 2
    HARNESS = 3


@dataclass(frozen=True, slots=True)
class Route:
    """A path, the role it needs, and the name of the method that answers it."""

    method: str
    path: str
    role: Role
    name: str
    status: int = 200


API = (
    Route("GET", "/healthz", Role.ANYONE, "healthz"),
    Route("GET", "/readyz", Role.ANYONE, "readyz"),
    Route("GET", "/metrics", Role.VIEWER, "metrics"),
    Route("GET", "/api/v1/openapi.json", Role.ANYONE, "openapi"),
    Route("GET", "/api/v1/nodes", Role.VIEWER, "nodes"),
    Route("GET", "/api/v1/nodes/{node}", Role.VIEWER, "node"),
    Route("GET", "/api/v1/nodes/{node}/events", Role.VIEWER, "node_events"),
    Route("GET", "/api/v1/nodes/{node}/power", Role.VIEWER, "power_state"),
    Route("POST", "/api/v1/nodes/{node}/power", Role.OPERATOR, "power"),
    Route("POST", "/api/v1/nodes/{node}/boot-once", Role.OPERATOR, "boot_once"),
    Route("POST", "/api/v1/nodes/{node}/permit", Role.OPERATOR, "permit_install"),
    Route("POST", "/api/v1/nodes/{node}/rescue", Role.OPERATOR, "rescue"),
    Route("POST", "/api/v1/nodes/{node}/cancel", Role.OPERATOR, "cancel"),
    Route("GET", "/api/v1/audit", Role.OPERATOR, "audit"),
    Route("GET", "/api/v1/run", Role.VIEWER, "run"),
    Route("PUT", "/api/v1/run", Role.HARNESS, "put_run"),
    Route("PUT", "/api/v1/rack", Role.HARNESS, "put_rack"),
    Route("POST", "/api/v1/rack/difference", Role.HARNESS, "rack_difference"),
    Route("PUT", "/api/v1/accounts", Role.HARNESS, "put_accounts"),
    Route("POST", "/api/v1/accounts/difference", Role.HARNESS, "accounts_difference"),
    Route("GET", "/api/v1/permits", Role.VIEWER, "permits"),
    Route("POST", "/api/v1/permits", Role.HARNESS, "grant", status=201),
    Route("DELETE", "/api/v1/permits", Role.HARNESS, "revoke"),
    Route("GET", "/api/v1/events", Role.VIEWER, "events"),
)
"""For tools: on both sockets, but what only the harness may do is not on the people's at all."""

PAGES = (
    Route("GET", "/login", Role.ANYONE, "login_page"),
    Route("POST", "/login", Role.ANYONE, "login"),
    Route("POST", "/logout", Role.VIEWER, "logout"),
    Route("GET", "/static/{name}", Role.ANYONE, "static"),
    Route("GET", "/", Role.VIEWER, "rack"),
    Route("GET", "/timeline", Role.VIEWER, "timeline"),
    Route("GET", "/audit", Role.OPERATOR, "audit"),
    Route("GET", "/nodes/{node}", Role.VIEWER, "node"),
    Route("POST", "/nodes/{node}/{action}", Role.OPERATOR, "act"),
)
"""For people in a browser: on the people's socket alone."""


class Denied(Exception):
    """Somebody may not do what was asked for; `why` is one line without a secret."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status, self.why = status, why


class Gate(Protocol):
    """Says who asks, and lets in whoever has the role."""

    async def admit(self, request: Request, role: Role) -> None:
        """Put the principal into request.state, or raise Denied."""


class _Guarded(APIRoute):
    """A route that asks the gate before it reads anything of the request's body."""

    def get_route_handler(self) -> Callable[[Request], Awaitable[Response]]:  # type: ignore[override]
        answer = super().get_route_handler()
        role = Role[(self.openapi_extra or {})["x-role"].upper()]

        async def guarded(request: Request) -> Response:
            await request.app.state.gate.admit(request, role)
            return await answer(request)

        return guarded


def mount(app: FastAPI, gate: Gate, routes: Iterable[Route], handlers: object, *, published: bool) -> None:
    """Let `handlers` answer these routes behind the gate; `published` ones stand in the OpenAPI document."""
    app.state.gate = gate
    for route in routes:
        app.router.add_api_route(
            route.path,
            getattr(handlers, route.name),
            methods=[route.method],
            status_code=route.status,
            name=f"{route.method} {route.path}",
            operation_id=f"{route.name}" if published else None,
            responses=_answers(route) if published else None,
            openapi_extra={"x-role": route.role.name.lower()} | _security(route),
            include_in_schema=published,
            route_class_override=_Guarded,
        )


def _security(route: Route) -> dict[str, Any]:
    if route.role in (Role.ANYONE, Role.HARNESS):
        return {}
    session: dict[str, list[str]] = {"session": []}
    return {"security": [{"bearer": []}, session if route.method == "GET" else session | {"csrf": []}]}


_WHY = {
    400: "the body cannot be read", 401: "not logged in",
    403: "this role may not do that, or the CSRF token is wrong",
    404: "there is no such node", 409: "it cannot be done as things stand", 413: "the body is too large",
    422: "what was sent is wrong; never repeats it", 502: "the node's console did not do it",
    503: "the store or the hands cannot be reached",
    500: "the service is at fault", 504: "the node's console did not answer in time",
}  # fmt: skip


def _answers(route: Route) -> dict[int | str, dict[str, Any]]:
    numbers = {401, 503} if route.role is Role.ANYONE else {401, 403, 503}
    numbers |= {404} if "{node}" in route.path else set()
    numbers |= {400, 409, 413, 422, 500, 502, 504} if route.method != "GET" else {422}
    content = {"application/json": {"schema": ERROR_SCHEMA}}
    return {number: {"description": _WHY[number], "content": content} for number in sorted(numbers)}


ERROR_SCHEMA = {"type": "object", "properties": {"detail": {"type": "string"}}, "required": ["detail"]}
SECURITY_SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "session": {"type": "apiKey", "in": "cookie", "name": "__Host-rackproof"},
    "csrf": {"type": "apiKey", "in": "header", "name": "X-CSRF-Token"},
}
