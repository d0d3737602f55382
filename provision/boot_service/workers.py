"""Runs a service as several processes: begins them, begins one anew that died, ends them all together."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import NoReturn

SIGNALS = {signal.SIGTERM, signal.SIGINT, signal.SIGCHLD}

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Place:
    """What a worker is told: its number from 0 on, whether another had it before, how to say that it serves.

    `parent` is a pipe that comes to its end once the parent has died, or None.
    """

    number: int
    again: bool
    ready: Callable[[], None]
    parent: int | None


@dataclass(slots=True)
class _Worker:
    number: int
    ready: int  # a pipe's end: one byte comes when the worker serves
    served: bool = False

    def serves(self) -> bool:
        """Whether it has ever said that it serves; waits until it has, or has died."""
        self.served = self.served or os.read(self.ready, 1) != b""
        return self.served


class Workers:
    """So many processes that all do `work`, which returns a process's exit status.

    `ready` is called when all of them serve, `stopping` when they are told to end, `died` when one has
    died that had served, before it is begun again.
    """

    def __init__(
        self,
        count: int,
        work: Callable[[Place], int],
        *,
        ready: Callable[[], None],
        stopping: Callable[[], None],
        died: Callable[[], None],
    ) -> None:
        self._count, self._work = count, work
        self._ready, self._stopping, self._died = ready, stopping, died
        self._running: dict[int, _Worker] = {}
        self._parent, self._alive = os.pipe()

    def run(self) -> int:
        """Keep them running until SIGTERM or SIGINT. Returns 0; 1 when one could not begin, or ended badly.

        Must be called before this process has threads.
        """
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        for number in range(self._count):
            self._begin(number, again=False)
        if not all(worker.serves() for worker in self._running.values()):
            return self._end() or 1
        self._ready()
        while signal.sigwait(SIGNALS) == signal.SIGCHLD:
            if not self._replace_the_dead():
                return self._end() or 1
        self._stopping()
        return self._end()

    def _begin(self, number: int, *, again: bool) -> None:
        ready, said = os.pipe()
        pid = os.fork()
        if not pid:
            os.close(self._alive)
            os.close(ready)
            self._be(Place(number, again, lambda: _say(said), self._parent))
        os.close(said)
        self._running[pid] = _Worker(number, ready)

    def _be(self, place: Place) -> NoReturn:
        status = 1
        try:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
            status = self._work(place)
        except Exception:
            log.exception("worker %d failed", place.number)
        finally:
            os._exit(status)

    def _replace_the_dead(self) -> bool:
        """Begin anew whoever has died. False: one died that had never served, so a next one would too."""
        while dead := self._reap(os.WNOHANG):
            worker, status = dead
            log.error("worker %d died (%s); another takes its place", worker.number, status)
            if not worker.serves():
                return False
            os.close(worker.ready)
            self._died()
            self._begin(worker.number, again=True)
        return True

    def _reap(self, how: int = 0) -> tuple[_Worker, int] | None:
        try:
            pid, status = os.waitpid(-1, how)
        except ChildProcessError:
            return None
        return (self._running.pop(pid), os.waitstatus_to_exitcode(status)) if pid else None

    def _end(self) -> int:
        for pid in self._running:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        failed = 0
        while dead := self._reap():
            failed |= int(dead[1] not in (0, -signal.SIGTERM))
        return failed


def _say(pipe: int) -> None:
    os.write(pipe, b"r")
    os.close(pipe)
