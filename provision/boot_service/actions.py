"""What an operator may do to a node: each action checked, written down, and done by the hands."""

from __future__ import annotations

import hashlib
import re
import secrets
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

from provision.boot_service.hands_client import HandsClient, HandsRefused
from provision.boot_service.messages import Grant, RackNode, StandingOrder
from provision.boot_service.service import Service
from provision.boot_service.store import NotGranted, Permit

__all__ = ["ActionRefused", "Actions", "HandsClient"]

HOWS, SOURCES = ("on", "off", "cycle"), ("network", "disk")
OPERATOR_RUN = "operator-"
RESCUE_SECONDS = 1800.0
MARK = re.compile("@(RUN|ANSWER_TOKEN|REPORT_TOKEN|HOOK_TOKEN|NONCE)@")
NOT_FOUND, CONFLICT, WRONG, FAULT, NO_HANDS = 404, 409, 422, 500, 503


class ActionRefused(Exception):
    """An action was not done, or failed; `status` as in HTTP, `why` one line without a secret."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status, self.why = status, why


@dataclass(frozen=True, slots=True)
class Words:
    """What each permit has of its own, in the place of the marks of a standing order; all fit into a URL."""

    run: str
    answer_token: str
    report_token: str
    hook_token: str
    nonce: str

    @classmethod
    def fresh(cls, now: float) -> Words:
        """Words that nobody has used before, for a run that an operator begins at `now`."""
        run = OPERATOR_RUN + time.strftime("%Y%m%d-%H%M%S", time.gmtime(now))
        token = secrets.token_urlsafe
        return cls(run, token(24), token(24), token(24), secrets.token_hex(16))

    def fill(self, text: str | None) -> str | None:
        """The text with these words for its marks."""
        return text and MARK.sub(lambda mark: str(getattr(self, mark[1].lower())), text)


class _Record:
    """What is written down of one action at one node: that it has begun, and how it ended."""

    def __init__(self, service: Service, known: RackNode | None, action: str, who: str) -> None:
        self._service, self._action, self._who = service, action, who
        self.known, self._begun = known, False

    @property
    def node(self) -> RackNode:
        """The node, which is known."""
        assert self.known is not None
        return self.known

    async def done_by(self, act: Callable[[RackNode], Awaitable[str]]) -> str:
        """Do it, between the word that it begins and the word that it is done; returns the latter."""
        await self.keep("begun")
        self._begun = True
        done = await act(self.node)
        await self.keep("done", done)
        return done

    async def end_refused(self, status: int, why: str) -> None:
        """Nothing was done, or it was begun and failed."""
        await self.keep("failed" if self._begun and status >= FAULT else "refused", why)

    async def keep(self, outcome: str, more: str = "") -> None:
        """Keep it as an event, durable when this returns."""
        facts = {"who": self._who, "action": self._action, "outcome": outcome}
        text = ": ".join(filter(None, [*facts.values(), more]))
        node = self.known.name if self.known else None
        event = self._service.store.event(self._service.clock(), "action", text, node=node, **facts)
        await self._service.append(event)


class Actions:
    """The actions, each by `who`, an account: returns one line of what was done, or raises ActionRefused.

    Every call leaves an event `action` with facts who, action and outcome: begun (kept before anything is
    done), and at the end done, refused (nothing was done) or failed.
    """

    def __init__(self, service: Service, hands: HandsClient | None) -> None:
        self._service, self._store, self._given_hands = service, service.store, hands

    async def power(self, node: str, how: str, who: str) -> str:
        """Switch a node on, off (without asking its OS), or off and on (`cycle`)."""
        async with self._written_down(node, f"power {how}", who) as record:
            _require(how in HOWS, WRONG, f"power is one of {', '.join(HOWS)}")
            self._require_hands()
            return await record.done_by(lambda known: self._hands.power(known.name, how))

    async def boot_once(self, node: str, source: str, who: str) -> str:
        """Let a node's next boot, and only that, be from network or disk."""
        async with self._written_down(node, f"boot once from {source}", who) as record:
            _require(source in SOURCES, WRONG, f"a node boots once from one of {', '.join(SOURCES)}")
            self._require_hands()
            return await record.done_by(lambda known: self._hands.boot_once(known.name, source))

    async def permit_install(self, node: str, who: str, confirmed: str) -> str:
        """Let a node be installed by its standing order, and boot it; `confirmed` is its name once more."""
        async with self._written_down(node, "permit an install", who) as record:
            name, order = record.node.name, record.node.standing_order
            _require(confirmed == name, WRONG, f"type {name} to confirm: its disk will be overwritten")
            _require(order is not None, CONFLICT, "there is no standing order to install it by")
            self._require_hands()
            await self._require_no_run(name)
            return await record.done_by(self._install)

    async def rescue(self, node: str, who: str) -> str:
        """Boot a node into the rescue system, once; its leave for that ends after half an hour."""
        async with self._written_down(node, "rescue", who) as record:
            _require(record.node.rescue_script is not None, CONFLICT, "there is no rescue system for it")
            self._require_hands()
            await self._require_no_run(record.node.name)
            return await record.done_by(self._rescue)

    async def cancel(self, node: str, who: str) -> str:
        """Take back a node's leave to be installed or rescued."""
        async with self._written_down(node, "cancel", who) as record:
            return await record.done_by(self._cancel)

    async def power_state(self, node: str) -> str | None:
        """A node's power as its BMC tells it: on, off or on the way; None when that is not known."""
        try:
            power = (await self._hands.state(node))["power"]
        except (ActionRefused, HandsRefused):
            return None
        return str(power).lower() if power else None

    # What every action goes through

    @asynccontextmanager
    async def _written_down(self, node: str, action: str, who: str) -> AsyncIterator[_Record]:
        """Keep what becomes of an action; raises ActionRefused, also for what the hands refuse."""
        record = _Record(self._service, self._store.rack.by_name(node), action, who)
        try:
            _require(record.known is not None, NOT_FOUND, "there is no such node in the rack")
            yield record
        except HandsRefused as refused:
            why = _one_line(refused.why)
            await record.end_refused(refused.status, why)
            raise ActionRefused(refused.status, why) from refused
        except ActionRefused as refused:
            await record.end_refused(refused.status, refused.why)
            raise
        except BaseException as error:
            await record.keep(
                "failed", f"the boot service was at fault or was stopped: {type(error).__name__}"
            )
            raise

    def _require_hands(self) -> None:
        _require(self._given_hands is not None, NO_HANDS, "this boot service has no hands to do it with")

    @property
    def _hands(self) -> HandsClient:
        self._require_hands()
        assert self._given_hands is not None
        return self._given_hands

    async def _require_no_run(self, node: str) -> None:
        """Refuse while a run of the harness installs the node, or is about to."""
        permit, now = await self._permit(node), self._service.clock()
        run = permit and permit.open_run(now)
        if permit and run and now < permit.expires and not run.startswith(OPERATOR_RUN):
            raise ActionRefused(
                CONFLICT, f"run {run} is installing it; cancel its permit or wait for its end"
            )

    async def _permit(self, node: str) -> Permit | None:
        return await self._service.work(self._store.current_permit, node)

    # Leave to install, or to be rescued

    async def _install(self, node: RackNode) -> str:
        assert node.standing_order is not None
        now = self._service.clock()
        words = Words.fresh(now)
        grant = install_grant(self._store.rack.lab, node.name, node.standing_order, words, now)
        # Only the Proxmox installer asks where its answer is; others find it by their boot script.
        token = words.answer_token if grant.system == "proxmox" else None
        return await self._boot_with(grant, token)

    async def _rescue(self, node: RackNode) -> str:
        now = self._service.clock()
        return await self._boot_with(rescue_grant(self._store.rack.lab, node, Words.fresh(now), now), None)

    async def _boot_with(self, grant: Grant, token: str | None) -> str:
        """Grant it, durably, then arm DHCP, then make the node boot from the network; or take all back."""
        hands = self._hands
        with _alone(self._store.uuid, grant.node):
            number = await self._granted(grant)
            try:
                if token:
                    await hands.answers({grant.node: token})
                done = await hands.power(grant.node, "cycle", source="network")
            except HandsRefused as refused:
                return await self._after_trouble(grant, number, refused, armed=bool(token))
            except BaseException:
                await self._take_back(grant.node, number, armed=bool(token))
                raise
        until = time.strftime("%H:%M UTC", time.gmtime(grant.expires))
        leave = "may be installed once" if grant.purpose == "install" else "may boot the rescue system"
        return f"{done}; it {leave}, until {until}, as run {grant.run}"

    async def _granted(self, grant: Grant) -> int:
        try:
            return await self._service.work(self._store.grant, grant, self._service.clock())
        except NotGranted as error:
            raise ActionRefused(CONFLICT, str(error)) from error

    async def _after_trouble(self, grant: Grant, number: int, refused: HandsRefused, *, armed: bool) -> str:
        why = _one_line(refused.why)
        left = await self._take_back(grant.node, number, armed=armed)
        if left is None:
            return f"{grant.node} has fetched its answer and is being installed, though its BMC said: {why}"
        raise ActionRefused(refused.status, f"{why}; {left}") from refused

    async def _take_back(self, node: str, number: int, *, armed: bool) -> str | None:
        """Revoke this permit and disarm DHCP, unless another has taken its place; the state after that.

        Nothing is taken back, and None told, when the node has fetched its answer: that would strand it.
        """
        permit, now = await self._permit(node), self._service.clock()
        if permit is None or permit.id != number:
            return "its permit was cancelled, or replaced by another, meanwhile"
        if permit.state(now) in ("spent", "done"):
            return None
        await self._service.work(self._store.revoke, now, node=node)
        if armed and not await self._disarmed(node):
            return "its permit is revoked, though DHCP still names the answer that it can no longer have"
        return "its permit is revoked: it is not installed, and boots from its disk"

    async def _disarmed(self, node: str) -> bool:
        try:
            await self._hands.answers({node: ""})
        except (ActionRefused, HandsRefused):
            return False
        return True

    async def _cancel(self, node: RackNode) -> str:
        permit, now = await self._permit(node.name), self._service.clock()
        state = permit.state(now) if permit else None
        if permit and state in ("live", "spent"):
            await self._service.work(self._store.revoke, now, node=node.name)
        if self._given_hands is not None and not await self._disarmed(node.name):
            raise ActionRefused(NO_HANDS, f"{_cancelled(node.name, state)}; DHCP could not be disarmed, "
                                          "and names an answer that nobody can have any more")  # fmt: skip
        return _cancelled(node.name, state)


def install_grant(lab: str, node: str, order: StandingOrder, words: Words, now: float) -> Grant:
    """The permit that a standing order becomes by an operator's word."""
    texts = {
        name: words.fill(getattr(order, name))
        for name in ("boot_script", "grub_script", "answer", "answer_json", "first_boot")
    }
    return Grant.model_validate({
        **_own(lab, node, words),
        **texts,
        "system": order.system,
        "hook_token_sha256": _sha256(words.hook_token),
        "expires": now + order.patience,
        "private_boot": order.private_boot,
        "nonce": words.nonce,
        "deadlines": order.deadlines,
    })  # fmt: skip


def rescue_grant(lab: str, node: RackNode, words: Words, now: float) -> Grant:
    """The permit to boot the rescue system: there is no answer to be had with it."""
    return Grant.model_validate({
        **_own(lab, node.name, words),
        "purpose": "rescue",
        "expires": now + RESCUE_SECONDS,
        "boot_script": words.fill(node.rescue_script),
        "grub_script": words.fill(node.rescue_grub),
    })  # fmt: skip


def _own(lab: str, node: str, words: Words) -> Mapping[str, str]:
    return {
        "run": words.run,
        "lab": lab,
        "node": node,
        "answer_token_sha256": _sha256(words.answer_token),
        "report_token_sha256": _sha256(words.report_token),
    }


@contextmanager
def _alone(ledger: str, node: str) -> Iterator[None]:
    """Refuse while another operator's leave is on its way to this node, in any worker of this service.

    An abstract socket's name belongs to one process at a time, and to none once that has ended.
    """
    name = hashlib.sha256(f"{ledger} {node}".encode()).hexdigest()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as holder:
        try:
            holder.bind(f"\0rackproof-{name}")
        except OSError as error:
            raise ActionRefused(CONFLICT, "another operator's leave is on its way to it") from error
        yield


def _require(holds: bool, status: int, why: str) -> None:
    if not holds:
        raise ActionRefused(status, why)


def _one_line(text: str) -> str:
    return "; ".join(line.strip() for line in text.splitlines() if line.strip())


def _cancelled(node: str, state: str | None) -> str:
    if state == "live":
        return f"{node}: its permit is revoked, unused"
    if state == "spent":
        return f"{node}: its permit is revoked after its use: an installer at work goes on, unheard"
    return f"{node} had no permit"


def _sha256(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
