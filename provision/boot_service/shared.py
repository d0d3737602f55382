"""What the worker processes of one boot service share: marks of what has changed, and locks.

All of it is made before the processes are forked, and lies in memory that they have in common.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from threading import Lock
from types import TracebackType
from zlib import crc32

MARK = 8
SLOTS = 4096
# Slot 0 is the rack's. A node's name can never be empty (messages.Name).
RACK = ""


class Marks:
    """A mark for the rack and one for each node: whoever changes what is kept of it changes its mark.

    Two marks of one name are equal only if nothing was changed in between, by any process; names may
    share a slot, so marks may also differ without a change.
    """

    def __init__(self) -> None:
        self._page = mmap.mmap(-1, SLOTS * MARK)

    def of(self, name: str) -> bytes:
        """The mark as it is now. Take it before you read what it stands for."""
        place = _place(name)
        return self._page[place : place + MARK]

    def all(self) -> bytes:
        """All marks as they are now."""
        return self._page[:]

    def change(self, name: str) -> None:
        """Say that what is kept of `name` has been changed: call it after the commit."""
        place = _place(name)
        # Random and not counted up: two processes that count at once could come out at the same number.
        self._page[place : place + MARK] = os.urandom(MARK)

    def change_all(self) -> None:
        """Say that anything may have been changed."""
        self._page[:] = os.urandom(len(self._page))


def mark_in(marks: bytes, name: str) -> bytes:
    """The mark of `name` among all marks as they were."""
    place = _place(name)
    return marks[place : place + MARK]


def _place(name: str) -> int:
    return (1 + crc32(name.encode("utf-8", "surrogatepass")) % (SLOTS - 1)) * MARK if name else 0


class ProcessLock:
    """A lock among the threads of this process and those of all processes that are forked from its maker.

    The kernel gives it back when its holder dies, and wakes who waits for it.
    """

    def __init__(self) -> None:
        self._made = os.memfd_create("lock", os.MFD_CLOEXEC)
        self._threads = Lock()
        self._process, self._opened = 0, -1

    def __enter__(self) -> None:
        self._threads.acquire()
        fcntl.flock(self._mine(), fcntl.LOCK_EX)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        fcntl.flock(self._opened, fcntl.LOCK_UN)
        self._threads.release()

    def _mine(self) -> int:
        # flock(2) counts openings, not processes: a descriptor that was inherited is its parent's lock.
        if self._process != os.getpid():
            self._process = os.getpid()
            self._opened = os.open(f"/proc/self/fd/{self._made}", os.O_RDWR | os.O_CLOEXEC)
        return self._opened
