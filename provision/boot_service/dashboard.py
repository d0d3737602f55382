"""The dashboard's pages: the rack, the timeline of its run, a node, the audit trail, log-in and log-out."""

from __future__ import annotations

import asyncio
import hashlib
import mimetypes
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.exceptions import HTTPException as AnyHTTPException

from provision.boot_service import current_run, said
from provision.boot_service.accounts import NOBODY, SESSION_SECONDS, Accounts, TooManyFailures
from provision.boot_service.actions import ActionRefused
from provision.boot_service.api_v1 import AUDITED, Api, denied
from provision.boot_service.gate import COOKIE, address_of, form
from provision.boot_service.masked import masked
from provision.boot_service.messages import RackNode
from provision.boot_service.rack_state import PHASES, newest_events, node_state, rack_state, table
from provision.boot_service.routes import Denied, Role
from provision.boot_service.service import Service
from provision.boot_service.store import Permit
from provision.boot_service.timeline import SORTS, newest_run, picture, run_events
from provision.ledger import Event

PAGES = Path(__file__).parent / "pages"
MOST_WAITING = 20
EVENTS_OF_A_PAGE = 50
LOGS_OF_A_PAGE = 8
SIGNS = {
    "idle": ("–", "quiet", "idle"),  # noqa: RUF001
    "waiting": ("▸", "busy", "waiting"),
    "installing": ("▸", "busy", "installing"), "late": ("!", "bad", "late"), "failed": ("✗", "bad", "failed"),
    "registered": ("✓", "good", "registered"), "expired": ("✗", "bad", "its leave expired"),
    "rescue": ("▸", "busy", "rescue"),
}  # fmt: skip
"""How each condition of a node is shown: sign, tone, words."""
STEP_SIGNS = {"waiting": "·", "running": "▸", "done": "✓", "failed": "✗", "not-reached": "–"}  # noqa: RUF001
_ACTIONS: dict[str, tuple[str, tuple[str, ...]]] = {
    "power": ("power", ("how",)), "boot-once": ("boot_once", ("source",)),
    "permit": ("permit_install", ("confirmed",)), "rescue": ("rescue", ()), "cancel": ("cancel", ()),
}  # fmt: skip
"""The forms of a node's page: the action of each, and its fields."""
_CHOICES = {"how": ("on", "off", "cycle"), "source": ("network", "disk")}


class Dashboard:
    """The pages of routes.PAGES."""

    def __init__(self, service: Service, accounts: Accounts, api: Api) -> None:
        self._service, self._store, self._accounts, self._api = service, service.store, accounts, api
        self._turn, self._waiting = asyncio.Semaphore(1), 0
        self._static = {
            path.name: path.read_bytes() for path in (PAGES / "static").iterdir() if path.is_file()
        }
        self._templates = _environment(self._static)

    # Log-in

    async def login_page(self, request: Request) -> Response:
        """The form to log in with."""
        if request.state.principal is not NOBODY:
            return RedirectResponse("/", 303)
        return self._page(request, "login.html.j2")

    async def login(self, request: Request) -> Response:
        """Begin a session, for the right password."""
        fields = await form(request)
        name, password = fields.get("name", "").strip(), fields.get("password", "")
        try:
            session = await self._session(name, password, address_of(request))
        except TooManyFailures:
            return self._page(
                request,
                "login.html.j2",
                429,
                why="Too many log-ins failed, or wait. Try again in five minutes.",
            )
        if session is None:
            return self._page(
                request, "login.html.j2", 403, why="This name and password do not belong together."
            )
        answer = RedirectResponse("/", 303)
        answer.set_cookie(
            COOKIE, session, max_age=int(SESSION_SECONDS), secure=True, httponly=True, samesite="strict"
        )
        return answer

    async def logout(self, request: Request) -> Response:
        """End the session."""
        session = request.cookies.get(COOKIE, "")
        principal, address = request.state.principal, address_of(request)
        await self._service.work(self._accounts.log_out, session, principal, address, self._service.clock())
        answer = RedirectResponse("/login", 303)
        answer.delete_cookie(COOKIE, secure=True, httponly=True, samesite="strict")
        return answer

    async def static(self, name: str) -> Response:
        """A packaged file."""
        content = self._static.get(name)
        if content is None:
            raise HTTPException(404, "there is no such file")
        kind = mimetypes.guess_type(name)[0] or "text/plain"
        return Response(content, media_type=kind, headers={"Cache-Control": "private, max-age=86400"})

    # Pages

    async def rack(self, request: Request) -> Response:
        """The rack at a glance."""
        now = self._service.clock()
        last, nodes, run = await self._read(lambda: (self._store.last_seq(), rack_state(self._store, now),
                                                     current_run.read_run(self._store)))  # fmt: skip
        names = [node.name for node in nodes]
        asking = self._api.board.refresh(names)
        power = {name: self._api.board.known(name) for name in names}
        return self._page(
            request, "rack.html.j2", nodes=nodes, run=run, power=power, asking=asking, last=last
        )

    async def timeline(self, request: Request) -> Response:
        """The newest run across time."""
        last, run, drawn = await self._read(self._drawn)
        return self._page(request, "timeline.html.j2", run=run, picture=drawn, last=last)

    async def node(self, request: Request, node: str, before: int | None = None) -> Response:
        """All that is known of one node."""
        known = self._store.rack.by_name(node)
        if known is None:
            raise HTTPException(404, "the rack has no such node")
        if before is not None and not 0 < before < 2**63:
            raise HTTPException(404, "there is no such page")
        read = await self._read(lambda: self._of_node(known, before))
        asking = self._api.board.refresh([node])
        power = self._api.board.known(node)
        return self._page(
            request, "node.html.j2", node=known, power=power, asking=asking, before=before, **read
        )

    async def audit(self, request: Request, before: int | None = None) -> Response:
        """Who did what, or was refused it."""
        if before is not None and not 0 < before < 2**63:
            raise HTTPException(404, "there is no such page")
        last = await self._read(self._store.last_seq)
        events = await self._read(
            lambda: newest_events(self._store, kinds=AUDITED, before=before, limit=EVENTS_OF_A_PAGE + 1)
        )
        shown, older = events[:EVENTS_OF_A_PAGE], _older(events)
        return self._page(request, "audit.html.j2", events=shown, before=before, last=last, older=older)

    async def act(self, request: Request, node: str, action: str) -> Response:
        """Do what a form of the node's page asks for, and say what came of it."""
        if action not in _ACTIONS:
            raise HTTPException(404, "there is no such action")
        name, wanted = _ACTIONS[action]
        fields = await form(request)
        order = {field: fields.get(field, "") for field in wanted}
        status, outcome = await self._outcome(request, node, name, order)
        good = status == 200
        if request.headers.get("hx-request"):
            return self._page(request, "outcome.html.j2", status if good else 200, outcome=outcome, good=good)
        if good:
            return RedirectResponse(f"/nodes/{node}", 303)
        return self._page(request, "error.html.j2", status, why=outcome)

    async def _outcome(
        self, request: Request, node: str, name: str, order: dict[str, str]
    ) -> tuple[int, str]:
        for field, value in order.items():
            if field in _CHOICES and value not in _CHOICES[field]:
                return 422, f"{field} must be one of {', '.join(_CHOICES[field])}"
        try:
            return 200, (await self._api.act(request, node, name, **order)).done
        except ActionRefused as refused:
            return refused.status, refused.why

    async def _session(self, name: str, password: str, address: str) -> str | None:
        # Passwords are looked at one by one: each takes 64 MiB, and a thread that nodes wait for.
        if self._waiting >= MOST_WAITING:
            raise TooManyFailures
        self._waiting += 1
        try:
            async with self._turn:
                return await self._service.work(
                    self._accounts.log_in, name, password, address, self._service.clock()
                )
        finally:
            self._waiting -= 1

    # What the pages show

    def _drawn(self) -> tuple[Any, ...]:
        last, run = self._store.last_seq(), current_run.read_run(self._store)
        wanted = run.id if run else newest_run(self._store)
        events = run_events(self._store, wanted) if wanted else []
        names = [node.name for node in self._store.rack.nodes]
        return last, run, picture(run, events, names, self._service.clock())

    def _of_node(self, node: RackNode, before: int | None) -> dict[str, Any]:
        now = self._service.clock()
        last = self._store.last_seq()
        events = newest_events(self._store, node=node.name, before=before, limit=EVENTS_OF_A_PAGE + 1)
        told = newest_events(
            self._store, node=node.name, kinds=("failed", "registered", "installer", "status"), limit=200
        )
        heard = newest_events(self._store, node=node.name, kinds=("installed", "answer"), limit=20)
        logs = [event for event in told if event.facts.get("log")]
        return {
            "state": node_state(self._store, node.name, now), "last": last, "older": _older(events),
            "events": events[:EVENTS_OF_A_PAGE], "logs": logs[:LOGS_OF_A_PAGE],
            "hardware": _newest_of_each(heard), **self._texts(node, now),
        }  # fmt: skip

    def _texts(self, node: RackNode, now: float) -> dict[str, Any]:
        """What the node would be handed now, with secrets struck out; the answer None once it was erased."""
        permit = self._store.current_permit(node.name)
        digests = {*self._store.rack.iso_tokens_sha256, *(_digests(self._store, permit) if permit else ())}
        live = permit if permit and permit.state(now) == "live" else None
        boot, grub = (live.boot_script, live.grub_script) if live else (node.boot_script, node.grub_script)
        answer = live.answer or live.answer_json if live else None
        return {
            "permit": permit, "permit_state": permit.state(now) if permit else None, "live": live is not None,
            "boot_script": masked(boot or "", digests), "grub_script": masked(grub or "", digests),
            "answer": masked(answer, digests) if answer else None,
        }  # fmt: skip

    # Inside

    def answer_errors(self, app: FastAPI) -> None:
        """Let whoever asked for a page get a page when it cannot be shown; tools get JSON."""
        app.exception_handler(Denied)(self._denied)
        app.exception_handler(AnyHTTPException)(self._no_page)

    async def _denied(self, request: Request, error: Denied) -> Response:
        if _for_tools(request):
            return await denied(request, error)
        if error.status != 401:
            return self._page(request, "error.html.j2", error.status, why=error.why)
        if request.headers.get("hx-request"):
            return Response(status_code=401, headers={"HX-Redirect": "/login"})
        return RedirectResponse("/login", 303)

    async def _no_page(self, request: Request, error: AnyHTTPException) -> Response:
        if _for_tools(request):
            return JSONResponse({"detail": error.detail}, error.status_code, headers=error.headers)
        return self._page(request, "error.html.j2", error.status_code, why=error.detail)

    def _page(self, request: Request, template: str, status: int = 200, **content: Any) -> Response:
        principal = getattr(request.state, "principal", NOBODY)
        page = self._templates.get_template(template).render(
            me=principal, may_act=principal.role >= Role.OPERATOR, now=self._service.clock(),
            lab=self._store.rack.lab, ledger=self._store.uuid, path=request.url.path,
            **({"why": None} | content),
        )  # fmt: skip
        return HTMLResponse(page, status)

    async def _read(self, job: Callable[[], Any]) -> Any:
        return await asyncio.to_thread(job)


def _environment(static: dict[str, bytes]) -> Environment:
    environment = Environment(
        loader=FileSystemLoader(PAGES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    versions = {name: hashlib.sha256(content).hexdigest()[:12] for name, content in static.items()}
    environment.globals.update(
        PHASES=PHASES, SIGNS=SIGNS, STEP_SIGNS=STEP_SIGNS, SORTS=SORTS, versions=versions
    )
    environment.filters.update(
        duration=said.duration, clock_time=said.clock_time, date_time=said.date_time, iso_time=said.iso_time,
        words=said.words, moment=said.moment, one_line=said.one_line,
    )  # fmt: skip
    return environment


def _for_tools(request: Request) -> bool:
    path = request.url.path
    return path.startswith("/api/") or path in ("/healthz", "/readyz", "/metrics")


def _older(events: Sequence[Event]) -> int | None:
    """The number to page on with, when there are more than one page's events."""
    return events[EVENTS_OF_A_PAGE - 1].seq if len(events) > EVENTS_OF_A_PAGE else None


def _newest_of_each(events: Sequence[Event]) -> list[Event]:
    kinds: dict[str, Event] = {}
    for event in events:
        kinds.setdefault(event.kind, event)
    return list(kinds.values())


def _digests(store: Any, permit: Permit) -> list[str]:
    permits = table(store, "permits")
    columns = [
        permits.c[name] for name in ("answer_token_sha256", "report_token_sha256", "hook_token_sha256")
    ]
    with store.engine.connect() as connection:
        row = connection.execute(
            permits.select().with_only_columns(*columns).where(permits.c.id == permit.id)
        ).first()
    return [digest for digest in row or () if digest]
