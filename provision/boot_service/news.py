"""Tells whoever listens to events that there are new ones, in this worker and in the others."""

from __future__ import annotations

import asyncio
import mmap
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress


class News:
    """The news of one worker: `post` wakes every listener, here and in the other workers."""

    def __init__(
        self,
        worker: int = 0,
        ears: Sequence[tuple[socket.socket, socket.socket]] = (),
        listening: mmap.mmap | None = None,
    ) -> None:
        self._worker, self._ears = worker, ears
        self._listening = mmap.mmap(-1, 1) if listening is None else listening
        self._listening[worker] = 0
        self._listeners = 0
        self._next = asyncio.Event()

    def hear(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin to hear the other workers, in this event loop."""
        if self._ears:
            loop.add_reader(self._ears[self._worker][0], self._heard)

    def next(self) -> asyncio.Event:
        """What is set when there is news. Take it before you look at what there is already."""
        return self._next

    def post(self) -> None:
        """Say that something was kept; it is durable already."""
        self.wake()
        for worker, (_, mouth) in enumerate(self._ears):
            if worker != self._worker and self._listening[worker]:
                # One that has not yet heard what it was told before needs not be told again.
                with suppress(BlockingIOError, ConnectionError):
                    mouth.send(b"n")

    def wake(self) -> None:
        """Wake the listeners of this worker."""
        self._next.set()
        self._next = asyncio.Event()

    @contextmanager
    def listening(self) -> Iterator[None]:
        """While somebody of this worker listens, the others speak to it."""
        self._listeners += 1
        self._listening[self._worker] = 1
        try:
            yield
        finally:
            self._listeners -= 1
            self._listening[self._worker] = int(self._listeners > 0)

    def _heard(self) -> None:
        with suppress(BlockingIOError):
            while self._ears[self._worker][0].recv(16):
                pass
        self.wake()


class NewsRoom:
    """What the news of so many workers goes through; made before they are forked."""

    def __init__(self, workers: int) -> None:
        self._ears = [socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in range(workers)]
        for pair in self._ears:
            for end in pair:
                end.setblocking(False)
        self._listening = mmap.mmap(-1, workers)

    def of(self, worker: int) -> News:
        """The news of one worker, in its own process."""
        return News(worker, self._ears, self._listening)

    def close(self) -> None:
        """Give back the sockets."""
        for pair in self._ears:
            for end in pair:
                end.close()
