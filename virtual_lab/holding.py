"""Holding a rack, so that two commands do not build or remove it at the same time."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from virtual_lab.places import Places


@contextmanager
def held(places: Places, say: Callable[[str], None]) -> Iterator[None]:
    """Hold the rack; who comes second waits. The hold ends with the process, however that ends."""
    places.rack.parent.mkdir(parents=True, exist_ok=True)
    path = places.rack.with_name(f"{places.instance}.lock")
    lock = _locked(
        path, lambda: say(f"another command is at work on the rack {places.instance}; waiting for it")
    )
    with lock:
        yield
        if not places.rack.exists():
            path.unlink()


def _locked(path: Path, waiting: Callable[[], None]) -> TextIO:
    """The file at `path`, locked. It may have been unlinked while this process waited for it: then again."""
    while True:
        lock = path.open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(lock, fcntl.LOCK_EX)
        if path.exists() and os.path.samestat(os.fstat(lock.fileno()), path.stat()):
            return lock
        lock.close()
