"""/api/v1 for the harness, people and tools: what each path of routes.API does, whoever asks."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any, Literal, NoReturn, TypeVar

from fastapi import FastAPI, Header, HTTPException, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel
from sqlalchemy.exc import SQLAlchemyError

from provision.boot_service import current_run, metrics
from provision.boot_service.accounts import AccountList, Accounts
from provision.boot_service.actions import ActionRefused, Actions
from provision.boot_service.messages import Grant, Message, PermitState, Rack, RunState
from provision.boot_service.power_board import PowerBoard
from provision.boot_service.rack_state import NodeState, newest_events, node_state, rack_state
from provision.boot_service.routes import ERROR_SCHEMA, SECURITY_SCHEMES, Denied
from provision.boot_service.service import Service
from provision.boot_service.store import NotGranted
from provision.ledger import Event

T = TypeVar("T")

log = logging.getLogger(__name__)

AUDITED = (
    "action",
    "login",
    "login-refused",
    "logout",
    "accounts",
    "refused",
    "permit",
    "permit-revoked",
    "rack",
)
"""Kinds of event that say who did what, or was refused it."""
MOST_SEQ = 2**63 - 1
CHECK_SECONDS = 10.0


class PowerOrder(Message):
    """What to do to a node's power."""

    how: Literal["on", "off", "cycle"]


class BootOrder(Message):
    """Where a node is to boot from the next time, once."""

    source: Literal["network", "disk"]


class PermitOrder(Message):
    """The node's name, typed again, by whoever means it."""

    confirmed: Annotated[str, Query(max_length=128)]


class Done(BaseModel):
    """One line of what was done."""

    done: str


class PowerAnswer(BaseModel):
    """What a node's console says; `power` is None when it did not say."""

    node: str
    power: Literal["on", "off"] | None
    asked: float


Before = Annotated[int | None, Query(ge=1, le=MOST_SEQ)]
Limit = Annotated[int, Query(ge=1, le=500)]


class Api:
    """The handlers; routes.mount puts them behind a gate."""

    def __init__(
        self, service: Service, accounts: Accounts, actions: Actions | None, power: PowerBoard
    ) -> None:
        self._service, self._store = service, service.store
        self._accounts, self._actions, self.board = accounts, actions, power

    # Whether it works

    async def healthz(self) -> dict[str, Any]:
        """That the service answers, which ledger it keeps, and the number of its newest event."""
        return {"ok": True, "ledger": self._store.uuid, "last": await self._read(self._store.last_seq)}

    async def readyz(self) -> dict[str, Any]:
        """That the store can be read and the rack is known: 200, else 503."""
        await self._read(self._store.last_seq)
        if not self._store.rack.nodes:
            raise HTTPException(503, "no rack is known yet")
        return {"ready": True, "lab": self._store.rack.lab, "nodes": len(self._store.rack.nodes)}

    async def metrics(self) -> Response:
        """The rack in the words of Prometheus."""
        now = self._service.clock()
        text = await self._read(
            lambda: metrics.exposition(
                rack_state(self._store, now), current_run.read_run(self._store), self._store.last_seq(), now
            )
        )
        return Response(text, media_type=metrics.CONTENT_TYPE)

    async def openapi(self, request: Request) -> dict[str, Any]:
        """This document."""
        app: FastAPI = request.app
        return app.openapi()

    # The rack

    async def nodes(self) -> list[NodeState]:
        """How every node stands."""
        return await self._read(lambda: rack_state(self._store, self._service.clock()))

    async def node(self, node: str) -> NodeState:
        """How one node stands."""
        found = await self._read(lambda: node_state(self._store, node, self._service.clock()))
        return found or _no_such_node()

    async def node_events(self, node: str, before: Before = None, limit: Limit = 50) -> list[Event]:
        """A node's events, newest first; `before` is the number of the oldest one of the page before."""
        self._known(node)
        return await self._told(node=node, before=before, limit=limit)

    async def audit(self, before: Before = None, limit: Limit = 50) -> list[Event]:
        """Who did what, or was refused it, newest first."""
        return await self._told(kinds=AUDITED, before=before, limit=limit)

    async def run(self) -> RunState | None:
        """The harness's run, or null when it never told of one."""
        return await self._read(lambda: current_run.read_run(self._store))

    async def put_run(self, run: RunState) -> dict[str, bool]:
        """Know how far the harness is."""
        return {
            "changed": await self._service.work(current_run.put_run, self._store, run, self._service.clock())
        }

    async def put_rack(self, rack: Rack) -> dict[str, bool]:
        """Know these nodes and no others."""
        return {"changed": await self._service.work(self._store.put_rack, rack, self._service.clock())}

    async def rack_difference(self, rack: Rack) -> dict[str, bool]:
        """Whether putting this rack would change anything; nothing is changed."""
        return {"changed": await self._read(lambda: rack != self._store.rack)}

    async def put_accounts(self, accounts: AccountList) -> dict[str, bool]:
        """Have these accounts and no others."""
        return {"changed": await self._service.work(self._accounts.put, accounts, self._service.clock())}

    async def accounts_difference(self, accounts: AccountList) -> dict[str, bool]:
        """Whether putting these accounts would change anything; nothing is changed."""
        return {"changed": await self._read(lambda: self._accounts.differ(accounts))}

    # Permits

    async def permits(self) -> list[PermitState]:
        """Every permit and its state."""
        return await self._read(lambda: self._store.permits(self._service.clock()))

    async def grant(self, grant: Grant) -> dict[str, int]:
        """Let a node be installed once."""
        return {"id": await self._service.work(self._store.grant, grant, self._service.clock())}

    async def revoke(self, run: str | None = None, node: str | None = None) -> dict[str, int]:
        """Revoke the permits of a run, or of a node."""
        if (run is None) == (node is None):
            raise HTTPException(422, "name either a run or a node whose permits are to be revoked")
        return {
            "revoked": await self._service.work(self._store.revoke, self._service.clock(), run=run, node=node)
        }

    # Actions

    async def power(self, request: Request, node: str, order: PowerOrder) -> Done:
        """Switch a node on or off, or off and on."""
        return await self.act(request, node, "power", how=order.how)

    async def boot_once(self, request: Request, node: str, order: BootOrder) -> Done:
        """Let a node's next boot, and only that, be from the network or from its disk."""
        return await self.act(request, node, "boot_once", source=order.source)

    async def permit_install(self, request: Request, node: str, order: PermitOrder) -> Done:
        """Let a node be installed, now: what is on its disk is lost. `confirmed` is the node's name."""
        return await self.act(request, node, "permit_install", confirmed=order.confirmed)

    async def rescue(self, request: Request, node: str) -> Done:
        """Boot a node into the rescue system once, without touching its disks."""
        return await self.act(request, node, "rescue")

    async def cancel(self, request: Request, node: str) -> Done:
        """Take back the node's leave to be installed or rescued."""
        return await self.act(request, node, "cancel")

    async def power_state(self, node: str) -> PowerAnswer:
        """What the node's console says of its power, asked at most every half a minute."""
        self._known(node)
        power = await self.board.state(node)
        return PowerAnswer.model_validate({"node": node, "power": power.state, "asked": power.asked})

    async def act(self, request: Request, node: str, action: str, **order: str) -> Done:
        """Have an action done in the name of whoever asks."""
        self._known(node)
        if self._actions is None:
            raise ActionRefused(503, "this service has no hands: nothing can be done to nodes from here")
        try:
            done = await getattr(self._actions, action)(node, who=request.state.principal.name, **order)
        finally:
            self.board.forget(node)
        return Done(done=done)

    # Events

    async def events(
        self,
        request: Request,
        after: Annotated[int, Query(ge=0, le=MOST_SEQ)] = 0,
        ledger: str | None = None,
        node: str | None = None,
        last_event_id: Annotated[int | None, Header(ge=0, le=MOST_SEQ)] = None,
    ) -> Response:
        """Events after a number, for ever, as server-sent events; of one node when `node` is given.

        `ledger` says whose number that is: one of another ledger than this counts as 0.
        """
        number = after if last_event_id is None else last_event_id
        known = ledger in (None, self._store.uuid)
        headers = {"X-Ledger": self._store.uuid, "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        stream = self._service.stream(number if known else 0)
        chosen = self._while_admitted(request, stream if node is None else _of_node(stream, node))
        return StreamingResponse(chosen, media_type="text/event-stream", headers=headers)

    async def _while_admitted(self, request: Request, stream: AsyncIterator[str]) -> AsyncIterator[str]:
        """The stream, until whoever listens has logged out, or is no longer known."""
        again: Callable[[], Any] | None = getattr(request.app.state, "still_admitted", None)
        checked = self._service.clock()
        async for chunk in stream:
            if again and self._service.clock() - checked >= CHECK_SECONDS:
                if not await request.app.state.still_admitted(request):
                    return
                checked = self._service.clock()
            yield chunk

    # Inside

    async def _read(self, job: Callable[[], T]) -> T:
        return await asyncio.to_thread(job)

    async def _told(self, **which: Any) -> list[Event]:
        return await self._read(lambda: newest_events(self._store, **which))

    def _known(self, node: str) -> None:
        if self._store.rack.by_name(node) is None:
            _no_such_node()


def _no_such_node() -> NoReturn:
    raise HTTPException(404, "the rack has no such node")


async def _of_node(stream: AsyncIterator[str], node: str) -> AsyncIterator[str]:
    """The stream's events of one node, and its comments."""
    async for chunk in stream:
        told = "".join(f"{each}\n\n" for each in chunk.split("\n\n") if each and _is_of(each, node))
        if told:
            yield told


def _is_of(event: str, node: str) -> bool:
    data = next((line[len("data: ") :] for line in event.splitlines() if line.startswith("data: ")), None)
    return data is None or json.loads(data)["node"] == node


def answer_errors(app: FastAPI) -> None:
    """Let every error be answered with {"detail": one line}, which never repeats what was sent."""
    app.exception_handler(RequestValidationError)(_invalid)
    app.exception_handler(NotGranted)(_not_granted)
    app.exception_handler(ActionRefused)(_action_refused)
    app.exception_handler(Denied)(denied)
    app.exception_handler(SQLAlchemyError)(_no_store)


def describe(app: FastAPI) -> None:
    """Put the ways to log in, and the form of a 422, into the OpenAPI document."""
    made = app.openapi

    def openapi() -> dict[str, Any]:
        document = made()
        document.setdefault("components", {})["securitySchemes"] = SECURITY_SCHEMES
        schemas = document["components"].setdefault("schemas", {})
        schemas.pop("ValidationError", None)
        schemas["HTTPValidationError"] = ERROR_SCHEMA
        return document

    app.openapi = openapi  # type: ignore[method-assign]


async def denied(_request: Request, error: Denied) -> Response:
    """401 or 403 as JSON."""
    headers = {"WWW-Authenticate": "Bearer"} if error.status == 401 else {}
    return JSONResponse({"detail": error.why}, error.status, headers=headers)


async def _invalid(_request: Request, error: RequestValidationError) -> Response:
    # What was sent is not repeated: it may be what a permit carries.
    places = [f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()]
    return _error(422, "; ".join(places))


async def _not_granted(_request: Request, error: NotGranted) -> Response:
    return _error(409, str(error))


async def _action_refused(_request: Request, error: ActionRefused) -> Response:
    return _error(error.status, error.why)


async def _no_store(_request: Request, error: SQLAlchemyError) -> Response:
    log.error("the store failed: %s", error)
    return _error(503, "the store cannot be reached, so nothing was done; ask again")


def _error(status: int, detail: str) -> Response:
    return JSONResponse({"detail": detail}, status)
