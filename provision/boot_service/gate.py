"""Who asks on which socket: whoever can open the operator's is the harness, people log in."""

from __future__ import annotations

import asyncio
import hmac
from ipaddress import ip_address
from urllib.parse import parse_qs

from fastapi import Request

from provision.boot_service.accounts import NOBODY, Accounts, Principal
from provision.boot_service.reports import clean
from provision.boot_service.routes import Denied, Role
from provision.boot_service.service import Service

COOKIE = "__Host-rackproof"
MOST_FORM = 16 * 1024
_READS = ("GET", "HEAD")
_FORM = "application/x-www-form-urlencoded"


class OperatorGate:
    """The operator socket: its mode lets only the machine's administrator in."""

    async def admit(self, request: Request, role: Role) -> None:
        """Everyone here is the harness."""
        request.state.principal = Principal("harness", Role.HARNESS)


class PeopleGate:
    """The people's socket: a bearer token, or a session with its CSRF token for changes."""

    def __init__(self, service: Service, accounts: Accounts) -> None:
        self._service, self._accounts = service, accounts

    async def admit(self, request: Request, role: Role) -> None:
        """Let in who has the role; a refusal of somebody known is recorded."""
        principal = request.state.principal = await self._who(request)
        if request.method not in _READS:
            await _same_site(request)
        if role is Role.ANYONE:
            return
        if principal is NOBODY:
            raise Denied(401, "not logged in")
        if principal.csrf is not None and request.method not in _READS:
            await _has_csrf_token(request, principal.csrf)
        if principal.role < role:
            await self._record(request, principal, role)
            raise Denied(403, f"this needs the role {role.name.lower()}")

    async def _who(self, request: Request) -> Principal:
        kind, _, token = request.headers.get("authorization", "").partition(" ")
        if kind:
            found = (
                await asyncio.to_thread(self._accounts.by_token, token) if kind.lower() == "bearer" else None
            )
            if found is None:
                await self._record_stranger(request)
                raise Denied(401, "no account has this token")
            return found
        session = request.cookies.get(COOKIE)
        if not session:
            return NOBODY
        known = await asyncio.to_thread(self._accounts.by_session, session, self._service.clock())
        return known or NOBODY

    async def _record_stranger(self, request: Request) -> None:
        address = address_of(request)
        text = f"a token that is nobody's, from {address}, refused"
        about = {"who": "somebody unknown", "address": address}
        event = self._service.store.event(self._service.clock(), "login-refused", text, **about)
        await self._service.keep(self._service.refusals, f"people {address}", event)

    async def _record(self, request: Request, principal: Principal, role: Role) -> None:
        what = clean(f"{request.method} {request.url.path}", 100)
        node = clean(request.path_params.get("node", ""), 64) or None
        outcome = f"refused: needs the role {role.name.lower()}"
        event = self._service.store.event(
            self._service.clock(), "action", f"{principal.name}: {what}: {outcome}",
            node=node if node and self._service.store.rack.by_name(node) else None,
            who=principal.name, action=what, outcome=outcome,
        )  # fmt: skip
        await self._service.keep(self._service.refusals, f"people {principal.name}", event)


def address_of(request: Request) -> str:
    """Where the person sits, as nginx saw it."""
    try:
        return str(ip_address(request.headers.get("x-real-ip", "")))
    except ValueError:
        return "unknown"


async def form(request: Request) -> dict[str, str]:
    """The fields of a form that was sent; the first of each name."""
    if request.headers.get("content-type", "").split(";")[0].strip().lower() != _FORM:
        return {}
    body = bytearray()
    if not hasattr(request, "_body"):
        async for chunk in request.stream():
            body += chunk
            if len(body) > MOST_FORM:
                raise Denied(413, "the form is too large")
        request._body = bytes(body)
    fields = parse_qs(request._body.decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=None)
    return {name: values[0] for name, values in fields.items()}


async def _same_site(request: Request) -> None:
    # Browsers say where a request began. SameSite keeps the cookie from other sites; this keeps them from
    # logging somebody in as another, for which no cookie is needed.
    if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        raise Denied(403, "this was sent by the page of another site")


async def _has_csrf_token(request: Request, wanted: str) -> None:
    given = request.headers.get("x-csrf-token") or (await form(request)).get("csrf", "")
    if not hmac.compare_digest(given.encode("utf-8", "surrogatepass"), wanted.encode()):
        raise Denied(403, "the CSRF token is missing or wrong; load the page again")
