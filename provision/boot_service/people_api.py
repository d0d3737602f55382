"""The application on the people's socket: the dashboard and /api/v1, behind log-in, with strict headers."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from provision.boot_service.accounts import Accounts
from provision.boot_service.actions import Actions
from provision.boot_service.api_v1 import Api, answer_errors, describe
from provision.boot_service.dashboard import Dashboard
from provision.boot_service.gate import PeopleGate
from provision.boot_service.power_board import PowerBoard
from provision.boot_service.routes import API, PAGES, Denied, Role, mount
from provision.boot_service.service import Service

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
MOST_BODY = 64 * 1024


class PeopleApi:
    """The paths of the people's socket."""

    def __init__(self, service: Service, actions: Actions | None = None) -> None:
        self._service, self._actions = service, actions

    def app(self) -> FastAPI:
        """The application."""
        app = FastAPI(title="rackproof", docs_url=None, redoc_url=None, openapi_url=None)
        accounts = Accounts(self._service.store)
        gate = PeopleGate(self._service, accounts)
        power = PowerBoard(self._actions.power_state if self._actions else None, self._service.clock)
        api = Api(self._service, accounts, self._actions, power)
        mount(app, gate, [route for route in API if route.role <= Role.OPERATOR], api, published=True)
        dashboard = Dashboard(self._service, accounts, api)
        mount(app, gate, PAGES, dashboard, published=False)
        answer_errors(app)
        describe(app)
        dashboard.answer_errors(app)
        app.exception_handler(Exception)(_fault)
        app.state.still_admitted = _still_admitted(gate)
        app.add_middleware(_Protected)
        return app


def _still_admitted(gate: PeopleGate) -> Any:
    async def ask(request: Request) -> bool:
        try:
            await gate.admit(request, Role.VIEWER)
        except Denied:
            return False
        return True

    return ask


class _Protected:
    """Puts the protecting headers on every answer, and ends a body that grows too large."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        size = 0

        async def bounded() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > MOST_BODY:
                raise HTTPException(413, "the body is too large")
            return message

        async def protected(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        await self._app(scope, bounded, protected)


async def _fault(_request: Request, _error: Exception) -> Response:
    return JSONResponse({"detail": "a fault of the service; its journal says which"}, 500, HEADERS)
