"""What both APIs share: the store behind a thread, the clock, and the news of what was kept."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict, replace
from typing import Any, ParamSpec, TypeVar

from provision.boot_service.flood import FloodGate
from provision.boot_service.leases import Leases
from provision.boot_service.published import Published
from provision.boot_service.store import Permit, Store
from provision.ledger import Event

P = ParamSpec("P")
T = TypeVar("T")

HEARTBEAT_SECONDS = 15.0
SCRUB_SECONDS = 10.0
EVENTS_AT_ONCE = 200


class Service:
    """One boot service: its store, its clock, and whoever listens to its events."""

    def __init__(
        self,
        store: Store,
        *,
        clock: Callable[[], float] = time.time,
        leases: Leases | None = None,
        published: Published | None = None,
    ) -> None:
        self.store, self.clock = store, clock
        self.leases, self.published = leases, published
        self.refusals = FloodGate(each=30, all_together=300)
        self.handouts = FloodGate(each=120, all_together=3000)
        self.reports = FloodGate(each=240, all_together=6000)
        self.strangers = FloodGate(each=1, all_together=60)
        self.stopping = asyncio.Event()
        self._news = asyncio.Event()

    async def work(self, job: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a job on the store outside the event loop, then wake the listeners: what it kept is durable."""
        try:
            return await asyncio.to_thread(job, *args, **kwargs)
        finally:
            self._wake()

    async def keep(self, gate: FloodGate, key: str, event: Event) -> None:
        """Keep an event that anyone on the network can cause, so many a minute."""
        held_back = gate.admit(key, event.time)
        if held_back is None:
            return
        counted = replace(event, facts=event.facts | {"held_back": held_back}) if held_back else event
        await self.append(counted)

    async def append(self, event: Event) -> Event:
        """Keep an event; it is durable when this returns."""
        return await self.work(self.store.append, event)

    async def finish(self, permit: Permit, event: Event) -> None:
        """Keep a node's report that it is complete, and erase what its permit still carries."""
        await self.work(self.store.finish, permit, event)
        self._publish(permit.node, None)

    async def report_permit(self, token: str) -> Permit | None:
        """The permit whose node reports with this token, in any state."""
        return await asyncio.to_thread(self.store.permit_by_report_token, token)

    async def answer_permit(self, token: str) -> Permit | None:
        """The permit whose answer this token asks for, in any state."""
        return await asyncio.to_thread(self.store.permit_by_answer_token, token)

    async def current_permit(self, node: str) -> Permit | None:
        """The node's one permit that was neither replaced nor revoked."""
        return await asyncio.to_thread(self.store.current_permit, node)

    async def spend(self, permit: Permit, now: float, *, as_json: bool, **facts: object) -> str | None:
        """The answer of a live permit, for one of all who ask; the others get None."""
        answer = await self.work(self.store.spend, permit, now, as_json=as_json, **facts)
        self._publish(permit.node, None)
        return answer

    def _publish(self, name: str, permit: Permit | None) -> None:
        node = self.store.rack.by_name(name)
        if self.published is not None and node is not None:
            self.published.refresh(node, permit, self.clock())

    def stop(self) -> None:
        """End every listener and every background task."""
        self.stopping.set()
        self._wake()

    async def scrub_until_stopped(self) -> None:
        """Erase what expired and spent permits carried, again and again until the service stops."""
        while not await _happens(self.stopping, SCRUB_SECONDS):
            await self.work(self.store.scrub, self.clock())

    async def stream(self, after: int) -> AsyncIterator[str]:
        """Every event after number `after` as server-sent events, then each new one once it is durable."""
        while not self.stopping.is_set():
            # Taken before the look into the store, so that what is kept in between is not missed.
            news = self._news
            events = await asyncio.to_thread(self.store.events, after=after, limit=EVENTS_AT_ONCE)
            for event in events:
                yield f"id: {event.seq}\ndata: {json.dumps(self.event_json(event))}\n\n"
                after = event.seq
            if not events and not await _happens(news, HEARTBEAT_SECONDS):
                yield ": still here\n\n"

    def event_json(self, event: Event) -> dict[str, Any]:
        """An event as JSON; its origin names this service's ledger, so that a copy is kept once elsewhere."""
        return asdict(event) | {"origin": event.origin or f"{self.store.uuid}:{event.seq}"}

    def _wake(self) -> None:
        self._news.set()
        self._news = asyncio.Event()


async def _happens(event: asyncio.Event, seconds: float) -> bool:
    """Whether the event comes within so many seconds."""
    try:
        await asyncio.wait_for(event.wait(), seconds)
    except TimeoutError:
        return False
    return True
