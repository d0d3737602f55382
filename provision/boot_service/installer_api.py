"""What Proxmox installers ask and say: the answer, the first-boot script, the webhook, the reports.

The protocol is that of Proxmox VE 9 (pve-installer: proxmox-fetch-answer, proxmox-post-hook) and, for ISOs
prepared for the answer server of Proxmox Datacenter Manager, that one's (server/src/api/auto_installer). The
installer takes 200 and 201 as success and nothing else, waits for 60 s and asks once.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from typing import TypeVar

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from provision.boot_service.accept import prefers_json
from provision.boot_service.identity import Identity, bearer, digest_of, unknown_token
from provision.boot_service.messages import RackNode
from provision.boot_service.node_http import Route, body_of, secret_text
from provision.boot_service.refusals import Refusal, who_asks
from provision.boot_service.reports import Asked, Malformed, asked, installed, report
from provision.boot_service.service import Service
from provision.boot_service.store import Permit

MOST_BODY = 1024 * 1024
# The log's tail has at most 64 KiB, which escapes of JSON can make several times longer.
MOST_REPORT = 256 * 1024

# One line for whatever stands against it, as Proxmox Datacenter Manager has it.
NO_ANSWER = "no answer file found"

T = TypeVar("T")


class InstallerApi:
    """The paths of Proxmox installers and of the systems they install."""

    def __init__(self, service: Service, identity: Identity) -> None:
        self._service, self._identity = service, identity

    def routes(self) -> list[Route]:
        """Those with a token of the node's own, and those of prepared ISOs."""
        return [
            Route("POST", "/report/{token}", self.report),
            Route("POST", "/answer/{token}", self.answer),
            Route("GET", "/first-boot/{token}", self.first_boot),
            Route("POST", "/installed/{token}", self.installed),
            Route("POST", "/answer", self.answer_for_iso),
            Route("POST", "/api2/json/auto-install/answer", self.answer_for_iso),
            Route("POST", "/api2/json/auto-install/installations/{token}/post-hook", self.installed),
        ]

    # Answers

    async def answer(self, request: Request, token: str) -> Response:
        """The answer of a live permit, once, for an installer on one of the node's NICs."""
        permit = await self._identity.asker(request, token, "proxmox")
        said = read(lambda body: asked(body, token), await body_of(request, MOST_BODY), permit)
        node = self._service.store.rack.by_name(permit.node)
        if node is None or not set(said.macs) & set(node.macs):
            raise Refusal(403, f"none of these MACs is of {permit.node}", permit, macs=said.macs[:16])
        return await self._hand_out(request, permit, said)

    async def answer_for_iso(self, request: Request) -> Response:
        """The answer for a prepared ISO, whose bearer token all nodes share: the MACs tell which."""
        if not self._identity.bears_iso_token(request):
            raise Refusal(401, "no bearer token", told="")
        return await self.answer_without_token(request)

    async def answer_without_token(self, request: Request) -> Response:
        """The answer for the node whose lease the source address holds and whose MACs the request lists.

        Every refusal is 400 in the same words, whichever of the checks has failed.
        """
        try:
            permit, said = await self._permit_by_macs(request)
            self._identity.must_install(permit, "proxmox")
            self._identity.must_be_live(permit)
            return await self._hand_out(request, permit, said)
        except Refusal as refusal:
            if refusal.status in (400, 408, 413):
                raise
            raise Refusal(
                400, refusal.why, refusal.permit, told=NO_ANSWER, node=refusal.node, **refusal.facts
            ) from refusal

    async def _permit_by_macs(self, request: Request) -> tuple[Permit, Asked]:
        node = await self._node_at(request)
        token = bearer(request) or ""
        said = read(lambda body: asked(body, token), await body_of(request, MOST_BODY))
        named = self._identity.node_of(said.macs)
        if named is None or node not in (None, named):
            raise Refusal(
                403, "these MACs are not those of one node of the rack, at its own lease",
                node=node.name if node else None, macs=said.macs[:16],
            )  # fmt: skip
        permit = await self._service.current_permit(named.name)
        if permit is None:
            raise Refusal(403, f"{named.name} has no permit", node=named.name, macs=said.macs[:16])
        return permit, said

    async def _node_at(self, request: Request) -> RackNode | None:
        """The node that holds the source address's lease, before a byte of the body is read."""
        if self._service.leases is None:
            return None
        who = who_asks(request)
        holder = await self._identity.lease_holder(who)
        node = self._service.store.rack.by_mac(holder) if holder else None
        if node is None:
            raise Refusal(403, f"{who} holds no DHCP lease of a node")
        return node

    async def _hand_out(self, request: Request, permit: Permit, said: Asked) -> Response:
        accept = ",".join(request.headers.getlist("accept"))
        as_json = permit.answer_json is not None and prefers_json(accept)
        now = self._service.clock()
        facts = said.facts | {"who": who_asks(request), "macs": said.macs[:16]}
        answer = await self._service.spend(permit, now, as_json=as_json, **facts)
        if answer is None:
            raise await self._identity.lost_race(permit)
        return secret_text(answer, "application/json" if as_json else "application/toml")

    # The installed system

    async def first_boot(self, request: Request, token: str) -> Response:
        """The first-boot script, for the installer that was given the answer."""
        permit, now = await self._identity.reporter(request, token), self._service.clock()
        if permit.first_boot is None or permit.expires <= now:
            raise Refusal(410, f"the first-boot script of {permit.node} is no longer handed out", permit)
        who = who_asks(request)
        event = permit.event(now, "first-boot-script", "first-boot script handed out", who=who)
        await self._service.keep(self._service.handouts, f"first-boot {permit.id}", event)
        return secret_text(permit.first_boot)

    async def installed(self, request: Request, token: str) -> Response:
        """The installer's webhook; any answer but 200 would leave the node in a shell, not rebooting."""
        permit = await self._identity.reporter(request, token)
        hook = read(lambda body: installed(body, token), await body_of(request, MOST_BODY), permit)
        if permit.answered_json and permit.hook_token_sha256 is not None:
            must_be_hook_token(permit, hook.token)
        text = " ".join([hook.facts.get("product", "system"), hook.facts.get("version", ""), "installed"])
        event = permit.event(
            self._service.clock(), "installed", text, **hook.facts | {"who": who_asks(request)}
        )
        self.bound(permit)
        await self._service.append(event)
        return PlainTextResponse("recorded\n")

    async def report(self, request: Request, token: str) -> Response:
        """A node's word about itself; phases may come in any order and more than once."""
        permit = await self._identity.reporter(request, token)
        self.bound(permit)
        said = read(lambda body: report(body, token), await body_of(request, MOST_REPORT), permit)
        await self.keep_report(request, permit, *said)
        return PlainTextResponse("recorded\n")

    async def keep_report(
        self, request: Request, permit: Permit, phase: str, text: str, facts: dict[str, object]
    ) -> None:
        """Keep a report; the one of a registered node ends its permit."""
        event = permit.event(self._service.clock(), phase, text, **facts | {"who": who_asks(request)})
        if phase == "registered":
            await self._service.finish(permit, event)
        else:
            await self._service.append(event)

    def bound(self, permit: Permit) -> None:
        """Raise a Refusal (429) when this permit's node reports more than so many times a minute."""
        if self._service.reports.admit(f"permit {permit.id}", self._service.clock()) is None:
            raise Refusal(429, f"{permit.node} reports too often; wait a minute", permit)


def must_be_hook_token(permit: Permit, token: str) -> None:
    """Raise a Refusal unless this is the token that the answer gave for the webhook.

    The answer to it is that of an unknown path's token: it does not tell that one of the two was right.
    """
    if not hmac.compare_digest(digest_of(token), permit.hook_token_sha256 or ""):
        raise Refusal(
            404, f"the webhook's token is not that of {permit.node}", permit, told=unknown_token().told
        )


def read(parse: Callable[[bytes], T], body: bytes, permit: Permit | None = None) -> T:
    """What `parse` makes of a body; Malformed becomes a Refusal (400)."""
    try:
        return parse(body)
    except Malformed as error:
        raise Refusal(400, str(error), permit) from error
