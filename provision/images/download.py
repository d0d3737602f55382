"""Downloads one large file from the first of its addresses that gives it; goes on where it was cut off."""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
from urllib3.exceptions import HTTPError

from provision.errors import GaveUp, LabError
from provision.wait import Deadline, NotYet, Patience

CONNECT, STALL = 15.0, 30.0
"""Seconds to reach an address, and for which it may send nothing."""

TRIES = 3
"""How often in a row an address may be cut off without a byte more than before."""

LARGEST = 64 << 30
"""Bytes of the largest file that is taken when neither lab file nor address says how large it is."""

_CHUNK = 1 << 18
_CAUSES = {
    "timed out": "nothing came for too long",
    "refused": "the connection was refused",
    "resolve": "its name is not known",
    "certificate": "its certificate is not trusted",
    "broken": "the connection was cut",
    "reset": "the connection was cut",
    "aborted": "the connection was cut",
}
"""Words of the libraries' errors, and what they mean to people."""
_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})


class _Cut(Exception):
    """What came ended too early; the address may be asked again."""


class _GivesNot(Exception):
    """This address does not have the file."""


@dataclass(frozen=True, slots=True)
class Order:
    """What is wanted: `addresses` in their order, the checksum, and its bytes where they are known."""

    addresses: tuple[str, ...]
    sha256: str
    size: int | None = None


@dataclass
class Download:
    """An order under way into the file `part`, which outlives this process.

    `room` is called with the bytes still to come before the first of them; it raises when they do not fit.
    `tell` gets lines for people, in which addresses stand without their queries.
    """

    order: Order
    part: Path
    deadline: Deadline
    room: Callable[[int], None] = lambda _: None
    tell: Callable[[str], None] = lambda _: None
    stall: float = STALL
    sleep: Callable[[float], None] = time.sleep
    session: requests.Session = field(default_factory=requests.Session)
    mixed: bool = field(default=False, init=False)
    """Whether what is here came in more than one answer, which may be of different files."""

    def fetch(self, target: Path) -> None:
        """Have the file at `target`, where nothing ever is whose checksum was not right.

        Raises LabError naming every address that was tried, and why each failed; GaveUp at the deadline.
        """
        failed: dict[str, str] = {}
        for address in dict.fromkeys(self.order.addresses):
            try:
                self._whole(address)
            except _GivesNot as error:
                failed[shown(address)] = str(error)
                self.tell(f"{shown(address)}: {error}")
            else:
                _settle(self.part, target)
                return
        raise self._none_gave_it(failed)

    def settle(self, target: Path) -> None:
        """Give the part its final name, once it is on the disk. Raises LabError for a wrong checksum."""
        if not self._is_right():
            self.drop()
            raise LabError(f"the file that came has another checksum than {self.order.sha256}")
        _settle(self.part, target)

    def _whole(self, address: str) -> None:
        """The right file into `part`, where an earlier address or run may have left some of another."""
        self.mixed = self.have > 0
        self._all_of(address)
        if self._is_right():
            return
        self.drop()
        if self.mixed:
            self.tell(
                f"{shown(address)}: with what was there already the checksum is wrong; from the beginning"
            )
            self._all_of(address)
            if self._is_right():
                return
            self.drop()
        raise _GivesNot(f"it gave another file: its checksum is not {self.order.sha256[:12]}…")

    def _all_of(self, address: str) -> None:
        source = _Source(self, address)
        patience = Patience(self.deadline.remaining, first=0.5, most=8.0, sleep=self.sleep)
        patience.until(f"download of {shown(address)}", source.read_on)

    @property
    def have(self) -> int:
        """Bytes that are here."""
        return self.part.stat().st_size if self.part.exists() else 0

    def _is_right(self) -> bool:
        self.tell(f"checking the {in_words(self.have)} that came")
        return digest(self.part) == self.order.sha256

    def drop(self) -> None:
        """Throw away what is here."""
        self.part.unlink(missing_ok=True)
        _about(self.part).unlink(missing_ok=True)

    def _none_gave_it(self, failed: Mapping[str, str]) -> LabError:
        return LabError(
            f"no address gave the file with sha256 {self.order.sha256}",
            last_seen="\n".join(f"{address}: {why}" for address, why in failed.items()),
            likely="an address that cannot be reached from here, or a file that was replaced after its "
            "checksum was written into the lab file",
        )


class _Source:
    """One address of a download."""

    def __init__(self, download: Download, address: str) -> None:
        self._of, self._address = download, address
        self._part, self._order = download.part, download.order
        self._barren = 0

    def read_on(self) -> bool | NotYet:
        """Read from where the part ends to the end of the file; NotYet when it was cut off again."""
        before = self._of.have
        try:
            self._read()
        except (_Cut, HTTPError, requests.RequestException) as error:
            have = self._of.have
            self._barren = 0 if have > before else self._barren + 1
            said = f"{_reason(error)}; {in_words(have)} are here"
            if self._barren >= TRIES:
                raise _GivesNot(f"{said}, and no more after {TRIES} tries") from error
            return NotYet(said)
        return True

    def _read(self) -> None:
        have = self._of.have
        if have and have == self._order.size:
            return
        with self._of.session.get(
            self._address, headers=self._headers(have), stream=True, timeout=(CONNECT, self._of.stall)
        ) as response:
            start, total = self._judged(response, have)
            self._of.room(max(0, (total or self._order.size or 0) - start))
            self._remember(response)
            self._take(response.raw, start, total)

    def _headers(self, have: int) -> dict[str, str]:
        headers = {"Accept-Encoding": "identity"}
        if have:
            headers["Range"] = f"bytes={have}-"
            if validator := self._remembered():
                headers["If-Range"] = validator
        return headers

    def _judged(self, response: requests.Response, have: int) -> tuple[int, int | None]:
        """Where in the file the answer begins, and the file's size when the answer says it."""
        if response.status_code in _AGAIN:
            raise _Cut(f"it answered {response.status_code} {response.reason}")
        if response.status_code == 416:
            # More is here than there: what is here is of another file.
            self._of.drop()
            raise _Cut("it has no more than what was here, which was thrown away")
        if response.status_code not in (200, 206):
            raise _GivesNot(f"it answered {response.status_code} {response.reason}")
        start, total = (0, _length(response)) if response.status_code == 200 else _range(response)
        if start != have and response.status_code == 206:
            self._of.drop()
            raise _Cut(f"it sent the file from byte {start}, asked for it from byte {have}")
        if self._order.size and total not in (None, self._order.size):
            raise _GivesNot(f"its file has {total} bytes, and the lab file says {self._order.size}")
        return start, total

    def _take(self, raw: Any, start: int, total: int | None) -> None:
        goal = total or self._order.size
        self._of.mixed = start > 0
        progress = _Progress(self._of.tell, urlsplit(self._address).netloc, goal)
        with self._part.open("r+b" if start else "wb") as part:
            part.seek(start)
            while data := raw.read1(_CHUNK, decode_content=False):
                part.write(data)
                progress.at(part.tell())
                self._go_on(part.tell(), goal)
        if goal and self._of.have != goal:
            raise _Cut(f"it ended early, of {in_words(goal)}")

    def _go_on(self, have: int, goal: int | None) -> None:
        if have > (goal or LARGEST):
            raise _GivesNot(f"it sends more than the {goal or LARGEST} bytes of the file")
        if self._of.deadline.expired:
            message = f"download of {shown(self._address)}: not done within {self._of.deadline.seconds:g} s"
            of = f" of {in_words(goal)}" if goal else ""
            raise GaveUp(message, last_seen=f"{in_words(have)}{of} are here")

    def _remember(self, response: requests.Response) -> None:
        """Keep by what the address knows this version of the file; a weak tag vouches for no bytes."""
        tag = response.headers.get("ETag", "")
        strong = tag if tag.startswith('"') else response.headers.get("Last-Modified", "")
        _about(self._part).write_text(json.dumps({"address": self._address, "version": strong}))

    def _remembered(self) -> str:
        with suppress(OSError, ValueError, AttributeError):
            known = json.loads(_about(self._part).read_text())
            if known.get("address") == self._address:
                return str(known.get("version", ""))
        return ""


class _Progress:
    """Tells each tenth of a file, or each quarter of a gigabyte of one whose size nobody knows."""

    def __init__(self, tell: Callable[[str], None], host: str, goal: int | None) -> None:
        self._tell, self._host, self._goal = tell, host, goal
        self._step = goal / 10 if goal else 1 << 28
        self._told: int | None = None

    def at(self, have: int) -> None:
        """So many bytes are here."""
        step = int(have / self._step)
        if self._told is not None and step > self._told:
            of = f"{in_words(have)} of {in_words(self._goal)}" if self._goal else in_words(have)
            self._tell(f"{of} from {self._host}")
        self._told = step


def shown(address: str) -> str:
    """An address as it may be told: without its query, in which some mirrors have a key."""
    return urlsplit(address)._replace(query="", fragment="").geturl()


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def in_words(size: int) -> str:
    """Bytes as people and the makers of images count them: 1.6 GB."""
    for unit, name in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if size >= unit:
            return f"{size / unit:.1f} {name}"
    return f"{size} bytes"


def _settle(part: Path, target: Path) -> None:
    """Give the file its final name, once its content is on the disk."""
    with part.open("rb") as file:
        os.fsync(file.fileno())
    part.rename(target)
    _about(part).unlink(missing_ok=True)


def _about(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _length(response: requests.Response) -> int | None:
    length = response.headers.get("Content-Length", "")
    return int(length) if re.fullmatch(r"\d{1,15}", length, re.ASCII) else None


def _range(response: requests.Response) -> tuple[int, int | None]:
    given = response.headers.get("Content-Range", "")
    found = re.fullmatch(r"bytes (\d{1,15})-\d{1,15}/(\d{1,15}|\*)", given.strip(), re.ASCII)
    if found is None:
        return -1, None
    return int(found[1]), None if found[2] == "*" else int(found[2])


def _reason(error: Exception) -> str:
    """Why it was cut off, without the layers that libraries wrap around it."""
    if isinstance(error, _Cut):
        return str(error)
    text = str(error).lower()
    known = (said for word, said in _CAUSES.items() if word in text)
    return next(known, f"the connection failed ({type(error).__name__})")
