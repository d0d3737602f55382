"""The HTTP paths that the harness uses, on a socket that only the machine's administrator can open."""

from __future__ import annotations

from fastapi import FastAPI

from provision.boot_service.accounts import Accounts
from provision.boot_service.actions import Actions
from provision.boot_service.api_v1 import Api, answer_errors, describe
from provision.boot_service.gate import OperatorGate
from provision.boot_service.power_board import PowerBoard
from provision.boot_service.routes import API, mount
from provision.boot_service.service import Service


class OperatorApi:
    """The paths of the operator socket: all of /api/v1."""

    def __init__(self, service: Service, actions: Actions | None = None) -> None:
        self._service, self._actions = service, actions

    def app(self) -> FastAPI:
        """The application."""
        app = FastAPI(title="rackproof boot service", docs_url=None, redoc_url=None, openapi_url=None)
        power = PowerBoard(self._actions.power_state if self._actions else None, self._service.clock)
        api = Api(self._service, Accounts(self._service.store), self._actions, power)
        mount(app, OperatorGate(), API, api, published=True)
        answer_errors(app)
        describe(app)
        return app
