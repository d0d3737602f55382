"""Groups what many callers want of the store at once: writes share a commit, looks share a query."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Generic, TypeVar

from sqlalchemy import Connection

T = TypeVar("T")
K = TypeVar("K")
Job = Callable[[Connection], Any]
Waiting = tuple[Job, "asyncio.Future[Any]"]


class GroupCommit:
    """Hands the writers' jobs of one event loop to one thread at a time, as many as wait in one transaction.

    `write_together` is Ledger.write_together; `kept` is called after every commit.
    """

    def __init__(
        self, write_together: Callable[[Sequence[Job]], list[Any]], kept: Callable[[], None]
    ) -> None:
        self._write_together, self._kept = write_together, kept
        self._waiting: list[Waiting] = []
        self._writer: asyncio.Task[None] | None = None

    async def write(self, job: Callable[[Connection], T]) -> T:
        """Do one job; what it wrote is durable when this returns. Jobs are done in the order of their calls.

        Raises what the job, or the commit, raised. A job is done even if who waits for it is cancelled.
        """
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()
        self._waiting.append((job, done))
        if self._writer is None or self._writer.done():
            self._writer = loop.create_task(self._write_all())
        return await done

    async def _write_all(self) -> None:
        while self._waiting:
            group, self._waiting = self._waiting, []
            try:
                outcomes = await asyncio.to_thread(self._write_together, [job for job, _ in group])
            except Exception as error:  # the commit's: it concerns every one of them
                outcomes = [error] * len(group)
            self._kept()
            for (_, done), outcome in zip(group, outcomes, strict=True):
                _settle(done, outcome)


class GroupRead(Generic[K, T]):
    """Looks up what many callers of one event loop want: all that wait during one look share the next.

    A look for each in a thread of its own would be the slower the more there are: threads of Python take
    turns. `look_up` is given the keys, each once, and returns what it found by its key.
    """

    def __init__(self, look_up: Callable[[Collection[K]], Mapping[K, T]]) -> None:
        self._look_up = look_up
        self._waiting: dict[K, asyncio.Future[T | None]] = {}
        self._reader: asyncio.Task[None] | None = None

    async def get(self, key: K) -> T | None:
        """What a look that begins after this call finds by the key, or None. Raises what the look raised."""
        loop = asyncio.get_running_loop()
        found = self._waiting.setdefault(key, loop.create_future())
        if self._reader is None or self._reader.done():
            self._reader = loop.create_task(self._read_all())
        # Several may wait for it: one of them that is cancelled takes it from no other.
        return await asyncio.shield(found)

    async def _read_all(self) -> None:
        while self._waiting:
            group, self._waiting = self._waiting, {}
            try:
                known = await asyncio.to_thread(self._look_up, group.keys())
            except Exception as error:  # the store's: it concerns every one of them
                for found in group.values():
                    _settle(found, error)
                continue
            for key, found in group.items():
                _settle(found, known.get(key))


def _settle(done: asyncio.Future[Any], outcome: Any) -> None:
    if done.done():
        return
    if isinstance(outcome, Exception):
        done.set_exception(outcome)
    else:
        done.set_result(outcome)
