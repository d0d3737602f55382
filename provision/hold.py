"""One acting run at a time in a lab: a lock that ends with its process, and the queue of those that wait."""

from __future__ import annotations

import fcntl
import getpass
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

from provision import state
from provision.errors import GaveUp, LabError
from provision.wait import NotYet, Patience

OFTEN, SELDOM = 0.2, 5.0
"""Seconds between two looks at the queue, at first and later: a lock cannot call back."""


@contextmanager
def held(
    lab: str, run: str, *, wait: float = 0.0, tell: Callable[[str], None] = lambda _: None
) -> Iterator[None]:
    """Hold the lab: no other run on this machine acts on it meanwhile.

    Waits for up to `wait` seconds, first come first served; each change of holder or place is told. Raises
    LabError naming the run that holds it. The hold ends with the process, however that ends.
    """
    folder = state.folder(lab)
    with ExitStack() as stack:
        ticket = stack.enter_context(_ticket(folder / "queue", run))
        queue = _Queue(folder, ticket, tell)
        try:
            lock = Patience(wait, first=OFTEN, most=SELDOM).until(f"lab {lab} to be free", queue.look)
        except GaveUp as error:
            advice = "wait for it to end, stop it, or say --wait MINUTES" if not wait else "it was waited for"
            raise LabError(f"lab {lab} is {error.last_seen}; {advice}") from error
        stack.enter_context(lock)
        lock.truncate(0)
        lock.write(f"run {run}, process {os.getpid()}, {user()}, since {time.strftime('%d %b %H:%M')}\n")
        lock.flush()
        ticket.unlink(missing_ok=True)
        yield


class _Queue:
    """What one waiting run sees of the others."""

    def __init__(self, folder: Path, ticket: Path, tell: Callable[[str], None]) -> None:
        self._lock, self._ticket, self._tell = folder / "lock", ticket, tell
        self._told = ""

    def look(self) -> IO[str] | NotYet:
        """The lock, held, when it is this run's turn."""
        before = [ticket for ticket in sorted(self._ticket.parent.iterdir()) if ticket < self._ticket]
        place = 1 + sum(_is_alive(ticket) for ticket in before)
        lock = self._lock.open("a+")
        if place == 1 and _taken(lock):
            return lock
        lock.close()
        return self._wait(f"held by {self._holder()}", place)

    def _wait(self, held_by: str, place: int) -> NotYet:
        told = f"{held_by}; place {place} in the queue"
        if told != self._told:
            self._tell(told)
            self._told = told
        return NotYet(held_by)

    def _holder(self) -> str:
        return self._lock.read_text().strip() or "a run that is just beginning"


@contextmanager
def _ticket(queue: Path, run: str) -> Iterator[Path]:
    """A file that is locked for as long as its process waits; its name says since when."""
    queue.mkdir(exist_ok=True)
    path = queue / f"{time.time_ns():020}-{run}"
    with path.open("w") as ticket:
        fcntl.flock(ticket, fcntl.LOCK_EX)
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)


def _is_alive(ticket: Path) -> bool:
    """Whether a ticket's process still waits; what a dead one left is cleared away."""
    try:
        with ticket.open() as file:
            if not _taken(file):
                return True
    except FileNotFoundError:
        return False
    ticket.unlink(missing_ok=True)
    return False


def _taken(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def user() -> str:
    """Who runs this."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # A user without a name, as in many containers.
        return f"user {os.getuid()}"
