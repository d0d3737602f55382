"""The HTTP paths that the harness uses, on a socket that only the machine's administrator can open."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import FastAPI, Header, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse

from provision.boot_service.messages import Grant, PermitState, Rack
from provision.boot_service.service import Service
from provision.boot_service.store import NotGranted


class OperatorApi:
    """The paths of the operator socket."""

    def __init__(self, service: Service) -> None:
        self._service, self._store = service, service.store

    def app(self) -> FastAPI:
        """The application."""
        app = FastAPI(title="rackproof boot service", docs_url=None, redoc_url=None)
        app.add_api_route("/healthz", self.healthz, methods=["GET"])
        app.add_api_route("/api/v1/rack", self.put_rack, methods=["PUT"])
        app.add_api_route("/api/v1/permits", self.permits, methods=["GET"])
        app.add_api_route("/api/v1/permits", self.grant, methods=["POST"], status_code=201)
        app.add_api_route("/api/v1/permits", self.revoke, methods=["DELETE"], response_model=None)
        app.add_api_route("/api/v1/events", self.events, methods=["GET"], response_model=None)
        app.exception_handler(RequestValidationError)(_invalid)
        app.exception_handler(NotGranted)(_not_granted)
        return app

    async def healthz(self) -> dict[str, Any]:
        """That the service answers, which ledger it keeps, and the number of its newest event."""
        return {
            "ok": True,
            "ledger": self._store.uuid,
            "last": await self._service.work(self._store.last_seq),
        }

    async def put_rack(self, rack: Rack) -> dict[str, bool]:
        """Know these nodes and no others."""
        return {"changed": await self._service.work(self._store.put_rack, rack, self._service.clock())}

    async def permits(self) -> list[PermitState]:
        """Every permit and its state."""
        return await self._service.work(self._store.permits, self._service.clock())

    async def grant(self, grant: Grant) -> dict[str, int]:
        """Let a node be installed once."""
        return {"id": await self._service.work(self._store.grant, grant, self._service.clock())}

    async def revoke(self, run: str | None = None, node: str | None = None) -> Response:
        """Revoke the permits of a run, or of a node."""
        if (run is None) == (node is None):
            return _error(422, "name either a run or a node whose permits are to be revoked")
        count = await self._service.work(self._store.revoke, self._service.clock(), run=run, node=node)
        return JSONResponse({"revoked": count})

    async def events(
        self,
        after: Annotated[int, Query(ge=0)] = 0,
        ledger: str | None = None,
        last_event_id: Annotated[int | None, Header(ge=0)] = None,
    ) -> Response:
        """Events after a number, for ever, as server-sent events.

        `ledger` says whose number that is: one of another ledger than this counts as 0.
        """
        number = after if last_event_id is None else last_event_id
        known = ledger in (None, self._store.uuid)
        headers = {"X-Ledger": self._store.uuid, "Cache-Control": "no-store"}
        stream = self._service.stream(number if known else 0)
        return StreamingResponse(stream, media_type="text/event-stream", headers=headers)


async def _invalid(_request: Request, error: RequestValidationError) -> Response:
    # What was sent is not repeated: it may be what a permit carries.
    places = [f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()]
    return _error(422, "; ".join(places[:10]))


async def _not_granted(_request: Request, error: NotGranted) -> Response:
    return _error(409, str(error))


def _error(status: int, detail: str) -> Response:
    return JSONResponse({"detail": detail}, status)
