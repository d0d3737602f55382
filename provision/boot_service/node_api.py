"""The HTTP paths that nodes use: boot script, answer, first-boot script, webhook and reports.

nginx passes these on from the management network and says in X-Real-IP who asks. Everyone there can
reach them, so a path gives nothing away without a token, except the boot script, which has no secret
but the way to one install.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable
from ipaddress import ip_address
from typing import Any, TypeVar

from fastapi import FastAPI, Request, Response
from fastapi.responses import PlainTextResponse
from fastapi.routing import APIRoute
from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from provision.boot_service.reports import (
    Malformed,
    asked_macs,
    clean,
    installed_facts,
    report,
)
from provision.boot_service.service import Service
from provision.boot_service.store import Permit

MOST_BODY = 1024 * 1024
# The log's tail has at most 64 KiB, which escapes of JSON can make several times longer.
MOST_REPORT = 256 * 1024
BODY_SECONDS = 30.0

T = TypeVar("T")

log = logging.getLogger(__name__)

_LONG_SEGMENT = re.compile(r"[A-Za-z0-9_\-.~%]{16,}")


class Refusal(Exception):
    """A request is answered with `status` and one line, and nothing else; `why` carries no secret."""

    def __init__(self, status: int, why: str, permit: Permit | None = None, **facts: object) -> None:
        super().__init__(why)
        self.status, self.why, self.permit = status, why, permit
        self.facts: dict[str, Any] = facts


class NodeApi:
    """The paths of the nodes socket."""

    def __init__(self, service: Service) -> None:
        self._service, self._store = service, service.store

    def app(self) -> FastAPI:
        """The application: these five paths, and a recorded refusal for everything else."""
        app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
        app.add_api_route("/boot/{mac}", self.boot, methods=["GET"], response_model=None)
        app.add_api_route("/answer/{token}", self.answer, methods=["POST"], response_model=None)
        app.add_api_route("/first-boot/{token}", self.first_boot, methods=["GET"], response_model=None)
        app.add_api_route("/installed/{token}", self.installed, methods=["POST"], response_model=None)
        app.add_api_route("/report/{token}", self.report, methods=["POST"], response_model=None)
        app.exception_handler(Refusal)(self._refused)
        app.exception_handler(HTTPException)(self._no_such_path)
        app.exception_handler(SQLAlchemyError)(_not_kept)
        return app

    async def boot(self, request: Request, mac: str) -> Response:
        """The node's iPXE script: the installer's while its permit is live, else the standing one."""
        node = self._store.rack.by_mac(mac)
        if node is None:
            raise Refusal(404, f"{clean(mac, 40)} is the MAC of no node of the rack", mac=clean(mac, 40))
        now = self._service.clock()
        permit = await asyncio.to_thread(self._store.current_permit, node.name)
        script = permit.boot_script if permit and permit.state(now) == "live" else None
        text = "installer" if script else "local disk"
        run = permit.open_run(now) if permit else None
        about = {"mac": clean(mac, 40), "who": _who(request)}
        event = self._store.event(now, "boot-script", text, node=node.name, run=run, **about)
        await self._service.keep(self._service.handouts, f"boot {node.name} {text}", event)
        return PlainTextResponse(script or node.boot_script)

    async def answer(self, request: Request, token: str) -> Response:
        """The answer of a live permit, once, for an installer on one of the node's NICs."""
        permit = await asyncio.to_thread(self._store.permit_by_answer_token, token)
        if permit is None:
            raise Refusal(404, "no permit has this token")
        macs = await self._asked_macs(request, permit)
        node = self._store.rack.by_name(permit.node)
        if node is None or not set(macs) & set(node.macs):
            raise Refusal(403, f"none of these MACs is of {permit.node}", permit, macs=macs[:16])
        now = self._service.clock()
        answer = None
        if permit.state(now) == "live":
            answer = await self._service.spend(permit, now, who=_who(request), macs=macs[:16])
        if answer is None:
            raise await self._no_answer(permit, now)
        return Response(answer, media_type="application/toml")

    async def first_boot(self, request: Request, token: str) -> Response:
        """The first-boot script, for the installer that was given the answer."""
        permit = await self._spent_permit(token)
        now = self._service.clock()
        if permit.first_boot is None or permit.expires <= now:
            raise Refusal(410, f"the first-boot script of {permit.node} is no longer handed out", permit)
        event = permit.event(now, "first-boot-script", "first-boot script handed out", who=_who(request))
        await self._service.keep(self._service.handouts, f"first-boot {permit.id}", event)
        return PlainTextResponse(permit.first_boot)

    async def installed(self, request: Request, token: str) -> Response:
        """The installer's webhook; any answer but 200 would leave the node in a shell, not rebooting."""
        permit = await self._spent_permit(token)
        facts = self._read(installed_facts, permit, await _body(request, MOST_BODY))
        text = " ".join([facts.get("product", "system"), facts.get("version", ""), "installed"])
        event = permit.event(self._service.clock(), "installed", text, who=_who(request), **facts)
        self._bound(permit)
        await self._service.append(event)
        return PlainTextResponse("recorded\n")

    async def report(self, request: Request, token: str) -> Response:
        """A node's word about itself; phases may come in any order and more than once."""
        permit = await self._spent_permit(token)
        body = await _body(request, MOST_REPORT)
        phase, text, facts = self._read(lambda body: report(body, token), permit, body)
        event = permit.event(self._service.clock(), phase, text, who=_who(request), **facts)
        self._bound(permit)
        if phase == "registered":
            await self._service.finish(permit, event)
        else:
            await self._service.append(event)
        return PlainTextResponse("recorded\n")

    async def _asked_macs(self, request: Request, permit: Permit) -> list[str]:
        return self._read(asked_macs, permit, await _body(request, MOST_BODY))

    async def _no_answer(self, permit: Permit, now: float) -> Refusal:
        # Read again: who lost a race for the answer was shown a live permit before.
        again = await asyncio.to_thread(self._store.current_permit, permit.node)
        state = again.state(now) if again and again.id == permit.id else "revoked"
        why = {"expired": "has expired", "revoked": "was revoked or replaced"}.get(
            state, "was used already; an answer is handed out once"
        )
        return Refusal(410, f"the permit of {permit.node} {why}", permit, state=state)

    async def _spent_permit(self, token: str) -> Permit:
        permit = await self._service.report_permit(token)
        if permit is None:
            raise Refusal(404, "no permit has this token")
        if permit.revoked is not None:
            raise Refusal(410, f"the permit of {permit.node} was revoked or replaced", permit)
        if permit.spent is None:
            raise Refusal(403, f"the answer of {permit.node} was not handed out yet", permit)
        return permit

    def _read(self, parse: Callable[[bytes], T], permit: Permit, body: bytes) -> T:
        try:
            return parse(body)
        except Malformed as error:
            raise Refusal(400, str(error), permit) from error

    def _bound(self, permit: Permit) -> None:
        if self._service.reports.admit(f"permit {permit.id}", self._service.clock()) is None:
            raise Refusal(429, f"{permit.node} reports too often; wait a minute", permit)

    async def _refused(self, request: Request, refusal: Refusal) -> Response:
        service, permit, now = self._service, refusal.permit, self._service.clock()
        what, who = _what(request), _who(request)
        facts = refusal.facts | {
            "who": who,
            "what": what,
            "status": refusal.status,
            "why": clean(refusal.why),
        }
        text = f"{what} of {who} refused: {clean(refusal.why)}"
        event = (
            permit.event(now, "refused", text, **facts)
            if permit
            else service.store.event(now, "refused", text, **facts)
        )
        # Who holds a token cannot be drowned out by those who hold none.
        gate, key = (service.reports, f"refused {permit.id}") if permit else (service.refusals, who)
        await service.keep(gate, key, event)
        return PlainTextResponse(f"{clean(refusal.why)}\n", refusal.status)

    async def _no_such_path(self, request: Request, error: HTTPException) -> Response:
        why = "there is no such path here" if error.status_code == 404 else clean(error.detail)
        return await self._refused(request, Refusal(error.status_code, why))


async def _body(request: Request, most: int) -> bytes:
    """The request's body; however it is sent, not one byte beyond `most` is kept."""
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.stream():
                body += chunk
                if len(body) > most:
                    raise Refusal(413, f"the body is larger than {most} bytes")
    except TimeoutError as error:
        raise Refusal(408, f"the body did not arrive within {BODY_SECONDS:g} s") from error
    except ClientDisconnect as error:
        raise Refusal(400, "the body broke off") from error
    return bytes(body)


async def _not_kept(_request: Request, error: SQLAlchemyError) -> Response:
    log.error("the ledger failed: %s", error)
    return PlainTextResponse("this could not be recorded, so it was not done; ask again\n", 503)


def _who(request: Request) -> str:
    try:
        return str(ip_address(request.headers.get("x-real-ip", "")))
    except ValueError:
        return "unknown"


def _what(request: Request) -> str:
    # A token is never repeated: not where it belongs, nor whatever looks like one in any other path.
    route = request.scope.get("route")
    path = route.path if isinstance(route, APIRoute) else _LONG_SEGMENT.sub("…", request.url.path)
    return clean(f"{request.method} {path}", 80)
