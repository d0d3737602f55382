"""The one folder of downloaded and prepared installers: locked while in use, and kept below a limit."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from provision.errors import InventoryError, LabError, Mistake
from provision.images.download import in_words
from provision.inventory import images as places
from provision.wait import Deadline, NotYet, Patience

LIMIT = 40 * 10**9
VARIABLE = "RACKPROOF_IMAGES_LIMIT"
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


def limit(env: Mapping[str, str] = os.environ) -> int:
    """Bytes that the cache may take: RACKPROOF_IMAGES_LIMIT such as 40G, which is what it is without."""
    given = env.get(VARIABLE, "")
    found = re.fullmatch(r"(\d{1,12})([KMGT]?)B?", given.strip().upper(), re.ASCII)
    if given and found is None:
        message = f'"{given}" is no size; write it as 40G or 500M'
        raise InventoryError([Mistake(VARIABLE, None, "", message)])
    return int(found[1]) * _UNITS[found[2]] if found else LIMIT


@dataclass(frozen=True, slots=True)
class Entry:
    """All that is kept of one ISO."""

    folder: Path

    @property
    def sha256(self) -> str:
        """The ISO's checksum, by which the entry is called."""
        return self.folder.name

    @property
    def iso(self) -> Path:
        """The ISO as it was published: there when it came whole and its checksum was right."""
        return self.folder / "published.iso"

    @property
    def part(self) -> Path:
        """What came of it so far."""
        return self.folder / "published.iso.part"

    @property
    def prepared(self) -> Path:
        """What it was turned into: there when that was finished."""
        return places.prepared(self.sha256)

    @property
    def size(self) -> int:
        """Bytes on the disk; a file with two names counts once."""
        about = [file.lstat() for file in self.folder.rglob("*") if not file.is_dir()]
        return sum({each.st_ino: each.st_blocks * 512 for each in about}.values())

    @property
    def used(self) -> float:
        """When a run last needed it, in seconds since 1970."""
        return self.folder.stat().st_mtime


class Cache:
    """The cache at its folder; `keep` are the checksums that the lab in use needs and that never go."""

    def __init__(self, keep: Iterable[str] = (), *, most: int | None = None) -> None:
        self.folder, self.keep = places.cache(), frozenset(keep)
        self.most = limit() if most is None else most

    def entry(self, sha256: str) -> Entry:
        """The place of an ISO, whether it is there or not."""
        return Entry(self.folder / sha256)

    def entries(self) -> list[Entry]:
        """What is kept, the least recently used first."""
        folders = self.folder.iterdir() if self.folder.is_dir() else ()
        found = [Entry(folder) for folder in folders if re.fullmatch("[0-9a-f]{64}", folder.name)]
        return sorted(found, key=lambda entry: entry.used)

    def others(self) -> list[Entry]:
        """What is kept and not needed by the lab in use, the least recently used first."""
        return [entry for entry in self.entries() if entry.sha256 not in self.keep]

    @contextmanager
    def held(
        self, sha256: str, is_missing: Callable[[], bool], deadline: Deadline, tell: Callable[[str], None]
    ) -> Iterator[None]:
        """Hold an entry: alone while it `is_missing`, else with others that use it, too. Nobody removes it.

        Raises GaveUp at the deadline.
        """
        told: list[str] = []

        def look() -> IO[str] | NotYet:
            lock = self._lock(sha256, fcntl.LOCK_EX if is_missing() else fcntl.LOCK_SH)
            if lock is None and not told:
                told.append("waiting: another process is at work on it")
                tell(told[0])
            return lock or NotYet("another process was still at work on it")

        with Patience(deadline.remaining, first=0.1).until(f"image {sha256[:12]}… to be free", look):
            (self.folder / sha256).mkdir(exist_ok=True)
            os.utime(self.folder / sha256)
            yield

    def make_room(self, needed: int) -> None:
        """Have `needed` bytes more: below the limit, as far as others can go, and on the disk.

        Raises LabError with the numbers when the disk has too little even so.
        """
        while self._over(needed) and self._remove_one():
            pass
        free = shutil.disk_usage(self.folder).free
        if needed > free:
            numbers = f"{in_words(needed)} are needed and {in_words(free)} are free"
            likely = "make room there, or set RACKPROOF_HOME to a folder on a larger disk"
            raise LabError(f"{self.folder} has too little room: {numbers}", likely=likely)

    def remove(self, entry: Entry) -> int | None:
        """Remove an entry that nobody is at work on; its bytes, or None when it is in use."""
        lock = self._lock(entry.sha256, fcntl.LOCK_EX)
        if lock is None:
            return None
        with lock:
            size = entry.size
            shutil.rmtree(entry.folder)
            return size

    def _over(self, needed: int) -> bool:
        total = sum(entry.size for entry in self.entries())
        return total + needed > self.most or needed > shutil.disk_usage(self.folder).free

    def _remove_one(self) -> bool:
        """Remove the least recently used of what may go; False when nothing may."""
        return any(self.remove(entry) is not None for entry in self.others())

    def _lock(self, sha256: str, kind: int) -> IO[str] | None:
        """The entry's lock, which ends with its process; None when another has it."""
        locks = self.folder / "locks"
        locks.mkdir(parents=True, exist_ok=True)
        lock = (locks / sha256).open("w")
        try:
            fcntl.flock(lock, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            return None
        return lock
