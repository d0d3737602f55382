"""Decides who a request is from: a known token first, then the permit's state, then where it came from.

A token proves what the harness told one node. The source address is the second proof: while a node is being
installed it holds the DHCP lease of one of its NICs (dnsmasq's lease file says so); once it runs, it has the
address that the lab file gives it, though its lease may have run out.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac

from starlette.requests import Request

from provision.boot_service.messages import RackNode
from provision.boot_service.refusals import Refusal, who_asks
from provision.boot_service.service import Service
from provision.boot_service.store import Permit

SEED_SECONDS = 600.0


class Identity:
    """The questions that every path asks before it does anything."""

    def __init__(self, service: Service) -> None:
        self._service = service

    # Before the installation: who may have an answer or a seed

    async def asker(self, request: Request, token: str, system: str) -> Permit:
        """The live permit whose answer this token asks for, from the holder of its node's lease."""
        permit = await self._permit_to(token, system)
        self.must_be_live(permit)
        await self.must_hold_lease(request, permit)
        return permit

    async def seed_reader(self, request: Request, token: str) -> Permit:
        """The permit for Ubuntu whose seed is being read: live, or spent at most ten minutes ago."""
        permit = await self._permit_to(token, "ubuntu")
        now = self._service.clock()
        if permit.state(now) != "spent" or now - (permit.spent or 0.0) > SEED_SECONDS:
            self.must_be_live(permit)
        await self.must_hold_lease(request, permit)
        return permit

    async def _permit_to(self, token: str, system: str) -> Permit:
        permit = await self._service.answer_permit(token)
        if permit is None:
            raise unknown_token()
        self.must_install(permit, system)
        return permit

    def must_install(self, permit: Permit, system: str) -> None:
        """Raise a Refusal unless the permit is one to install this system."""
        if permit.purpose != "install" or permit.system != system:
            what = f"installs {permit.system}" if permit.purpose == "install" else "boots the rescue system"
            raise Refusal(403, f"the permit of {permit.node} {what}; it has no such answer", permit)

    def must_be_live(self, permit: Permit) -> None:
        """Raise a Refusal unless the permit's answer can still be had."""
        state = permit.state(self._service.clock())
        if state != "live":
            raise _ended(permit, state)

    async def lost_race(self, permit: Permit) -> Refusal:
        """The refusal of one who was shown a live permit, and found its answer gone."""
        again = await self._service.current_permit(permit.node)
        same = again is not None and again.id == permit.id
        return _ended(permit, again.state(self._service.clock()) if again and same else "revoked")

    async def must_hold_lease(self, request: Request, permit: Permit) -> None:
        """Raise a Refusal unless the source address holds the lease of one of the node's NICs."""
        if self._service.leases is None:
            return
        who = who_asks(request)
        holder = await self.lease_holder(who)
        node = self._service.store.rack.by_name(permit.node)
        if holder is None:
            raise Refusal(403, f"{who} holds no DHCP lease", permit)
        if node is None or holder not in node.macs:
            raise Refusal(403, f"{who} holds the lease of {holder}, no NIC of {permit.node}", permit)

    async def lease_holder(self, address: str) -> str | None:
        """The MAC that holds this address's lease, or None."""
        leases = self._service.leases
        return await asyncio.to_thread(leases.holder, address) if leases is not None else None

    # From the installation on: whose word counts

    async def reporter(self, request: Request, token: str) -> Permit:
        """The permit whose node reports with this token, from the node's own address."""
        permit = await self._service.report_permit(token)
        if permit is None:
            raise unknown_token()
        self.must_be_reporting(request, permit)
        return permit

    def must_be_reporting(self, request: Request, permit: Permit) -> None:
        """Raise a Refusal unless the answer was handed out and the source is the node's own address."""
        if permit.revoked is not None:
            raise Refusal(410, f"the permit of {permit.node} was revoked or replaced", permit)
        if permit.spent is None:
            raise Refusal(403, f"the answer of {permit.node} was not handed out yet", permit)
        who, node = who_asks(request), self._service.store.rack.by_name(permit.node)
        if node is None or who != str(node.address):
            raise Refusal(403, f"{who} is not the address of {permit.node}", permit)

    # Bearers

    def bears_iso_token(self, request: Request) -> bool:
        """Whether the request carries the token of an ISO that was prepared for this rack.

        Raises a Refusal (401, empty, as Proxmox Datacenter Manager answers) when it carries another one.
        """
        token = bearer(request)
        if token is None:
            return False
        digest = digest_of(token)
        # All are compared, each in constant time: how long it takes does not tell which one was near.
        known = [hmac.compare_digest(digest, each) for each in self._service.store.rack.iso_tokens_sha256]
        if not any(known):
            raise Refusal(401, "no ISO of this rack was prepared with this token", told="")
        return True

    def node_of(self, macs: list[str]) -> RackNode | None:
        """The one node that has any of these MACs; None when there is none, or more than one."""
        found = {node.name: node for mac in macs if (node := self._service.store.rack.by_mac(mac))}
        return next(iter(found.values())) if len(found) == 1 else None


def unknown_token() -> Refusal:
    """The refusal of a token that no permit has."""
    return Refusal(404, "no permit has this token")


def _ended(permit: Permit, state: str) -> Refusal:
    why = {"expired": "has expired", "revoked": "was revoked or replaced"}.get(
        state, "was used already; an answer is handed out once"
    )
    return Refusal(410, f"the permit of {permit.node} {why}", permit, state=state)


def bearer(request: Request) -> str | None:
    """What the Authorization header bears; None when there is no such header or it is of another kind."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


def digest_of(token: str) -> str:
    """The SHA-256 (hex) by which a token is known."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
