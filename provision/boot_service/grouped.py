"""Group commit: all writes that wait while one transaction is on its way to the disk share the next one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from sqlalchemy import Connection

T = TypeVar("T")
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


def _settle(done: asyncio.Future[Any], outcome: Any) -> None:
    if done.done():
        return
    if isinstance(outcome, Exception):
        done.set_exception(outcome)
    else:
        done.set_result(outcome)
