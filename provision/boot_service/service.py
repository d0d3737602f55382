"""What all APIs share: the store behind a thread, the clock, and the news of what was kept."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import AbstractContextManager
from dataclasses import asdict, replace
from threading import Lock
from typing import Any, ParamSpec, TypeVar

from sqlalchemy.exc import SQLAlchemyError

from provision.boot_service.flood import FloodGate
from provision.boot_service.grouped import GroupCommit, GroupRead
from provision.boot_service.hands_client import HandsClient
from provision.boot_service.leases import Leases
from provision.boot_service.news import News
from provision.boot_service.published import Published
from provision.boot_service.shared import RACK
from provision.boot_service.store import Permit, Store
from provision.ledger import Event

P = ParamSpec("P")
T = TypeVar("T")

HEARTBEAT_SECONDS = 15.0
SCRUB_SECONDS = 10.0
EVENTS_AT_ONCE = 200

log = logging.getLogger(__name__)


class Service:
    """One boot service, or one worker of it: its store, its clock, and whoever listens to its events.

    `published` is brought up to date, by one process at a time (`publishing`), before a change of a permit
    or of the rack is acknowledged. `hands` is None when nobody can reach the BMCs.
    """

    def __init__(
        self,
        store: Store,
        *,
        clock: Callable[[], float] = time.time,
        leases: Leases | None = None,
        published: Published | None = None,
        hands: HandsClient | None = None,
        news: News | None = None,
        publishing: AbstractContextManager[object] | None = None,
    ) -> None:
        self.store, self.clock = store, clock
        self.leases, self.published, self.hands = leases, published, hands
        self.refusals = FloodGate(each=30, all_together=300)
        # A thousand nodes that boot within a minute are not too many; what they boot, anybody can ask for.
        self.handouts = FloodGate(each=120, all_together=20_000)
        self.reports = FloodGate(each=240)
        self.strangers = FloodGate(each=1, all_together=60)
        self.stopping = asyncio.Event()
        self.news = news or News()
        self._publishing = publishing or Lock()
        self._unpublished: set[str] = set()
        self._group = GroupCommit(store.write_together, self.news.post)
        self._by_report_token = GroupRead(store.permits_by_report_tokens)
        self._by_answer_token = GroupRead(store.permits_by_answer_tokens)
        self._current = GroupRead(store.current_permits)
        if published is not None:
            store.publish = self._publish

    # What is kept

    async def work(self, job: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a job on the store outside the event loop, then wake the listeners: what it kept is durable."""
        try:
            return await asyncio.to_thread(job, *args, **kwargs)
        finally:
            self.news.post()

    async def keep(self, gate: FloodGate, key: str, event: Event) -> None:
        """Keep an event that anyone on the network can cause, so many a minute."""
        held_back = gate.admit(key, event.time)
        if held_back is None:
            return
        counted = replace(event, facts=event.facts | {"held_back": held_back}) if held_back else event
        await self.append(counted)

    async def append(self, event: Event) -> Event:
        """Keep an event; durable, and with its number, when this returns. Many at once cost one commit."""
        return await self._group.write(lambda connection: self.store.enter(connection, event))

    async def finish(self, permit: Permit, event: Event) -> Event:
        """Keep a node's report that it is complete, and erase what its permit still carries."""
        return await self._group.write(lambda connection: self.store.finish_in(connection, permit, event))

    async def spend(
        self, permit: Permit, now: float, *, as_json: bool = False, **facts: object
    ) -> str | None:
        """Take the answer of a live permit, for good: of all who ask exactly one gets it, the others None."""
        return await self._group.write(
            lambda connection: self.store.spend_in(connection, permit, now, as_json=as_json, **facts)
        )

    # Permits

    async def report_permit(self, token: str) -> Permit | None:
        """The permit whose node reports with this token, in any state."""
        return self.store.reporting(token) or await self._by_report_token.get(token)

    async def answer_permit(self, token: str) -> Permit | None:
        """The permit whose answer this token asks for, in any state."""
        return await self._by_answer_token.get(token)

    async def current_permit(self, node: str) -> Permit | None:
        """The node's one permit that was neither replaced nor revoked; it may be spent, done or expired."""
        return await self._current.get(node)

    # The service's life

    def stop(self) -> None:
        """End every listener and every background task."""
        self.stopping.set()
        self.news.wake()

    async def tidy_until_stopped(self, *, scrub: bool = True) -> None:
        """Again and again: publish what could not be published, forget and `scrub` what has served."""
        while not await _happens(self.stopping, SCRUB_SECONDS):
            await asyncio.to_thread(self._publish, ())
            self.store.forget_reporting()
            if scrub:
                await self._scrub()

    async def _scrub(self) -> None:
        try:
            await self.work(self.store.scrub, self.clock())
        except SQLAlchemyError as error:  # next time, then: it is no reason to serve no longer
            log.error("what has served could not be erased: %s", error)

    def publish_all(self) -> None:
        """Publish what every node is to boot, whatever was published before."""
        self._publish({RACK})

    async def stream(self, after: int) -> AsyncIterator[str]:
        """Every event after number `after` as server-sent events, then each new one once it is durable."""
        with self.news.listening():
            while not self.stopping.is_set():
                # Taken before the look into the store, so that what is kept in between is not missed.
                news = self.news.next()
                events = await asyncio.to_thread(self.store.events, after=after, limit=EVENTS_AT_ONCE)
                for event in events:
                    yield f"id: {event.seq}\ndata: {json.dumps(self.event_json(event))}\n\n"
                    after = event.seq
                if not events and not await _happens(news, HEARTBEAT_SECONDS):
                    yield ": still here\n\n"

    def event_json(self, event: Event) -> dict[str, Any]:
        """An event as JSON; its origin names this service's ledger, so that a copy is kept once elsewhere."""
        return asdict(event) | {"origin": event.origin or f"{self.store.uuid}:{event.seq}"}

    def _publish(self, names: Collection[str]) -> None:
        """Publish what is kept by now; called in any thread, so in any order, and never with an error.

        It is read while no other process publishes: whoever comes last writes what is newest.
        """
        with self._publishing:
            due = self._unpublished | set(names)
            self._unpublished = set()
            try:
                self._refresh(due)
            except (OSError, SQLAlchemyError) as error:
                # A script that is out of date gives no leave to install: that is what the permit is for.
                self._unpublished = due
                log.error("the boot scripts of %s are not published: %s", ", ".join(due), error)

    def _refresh(self, names: Collection[str]) -> None:
        if self.published is None or not names:
            return
        rack, now = self.store.rack, self.clock()
        if RACK in names:
            self.published.refresh_all(rack, self.store.current_permits().values(), now)
            return
        permits = self.store.current_permits(names)
        for node in filter(None, map(rack.by_name, names)):
            self.published.refresh(node, permits.get(node.name), now)


async def _happens(event: asyncio.Event, seconds: float) -> bool:
    """Whether the event comes within so many seconds."""
    try:
        await asyncio.wait_for(event.wait(), seconds)
    except TimeoutError:
        return False
    return True
