"""What is remembered of refused logins, for all processes of this machine: BMCs lock accounts for them."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from provision import state
from provision.redfish.body import number, objects, part
from provision.redfish.machine import Console
from provision.wait import NotYet, Patience

REMEMBERED = 600.0
"""Seconds for which a refused login is remembered: BMCs count them for minutes, too."""
MOST = 2
"""Refused logins of one account within that time, whatever the password: the strictest BMCs lock at three."""


@dataclass(frozen=True, slots=True)
class _Refusal:
    """One refused login: when, as seconds since the epoch, and which password, as salt and scrypt in hex."""

    at: float
    salt: str
    digest: str
    told: str


class Account:
    """One account of one BMC; where nothing can be kept, nothing is remembered."""

    def __init__(self, bmc: Console, port: int, *, now: Callable[[], float] = time.time) -> None:
        self._bmc, self._port, self._now = bmc, port, now

    @contextmanager
    def turn(self, patience: Patience) -> Iterator[None]:
        """Log in alone: others wait, and then know what came of it. Raises GaveUp when they wait in vain."""
        path = self._path()
        if path is None:
            yield
            return
        with path.with_suffix(".lock").open("a") as lock:
            patience.until(f"another login to {self._bmc.name} to end", lambda: _taken(lock))
            yield

    def verdict(self) -> str | None:
        """Why a login is not to be tried now; None when it may be."""
        recent = self._recent()
        mine = next((one for one in recent if one.digest == _digest(self._bmc, one.salt)), None)
        if mine is not None:
            ago, left = self._now() - mine.at, self._left(mine)
            return f"{mine.told}, {ago:.0f} s ago; not asked again for {left:.0f} s"
        if len(recent) >= MOST:
            other, left = f"{len(recent)} logins with other passwords", self._left(recent[0])
            return f"{other} were refused within {REMEMBERED:.0f} s; not asked again for {left:.0f} s"
        return None

    @property
    def remedy(self) -> str:
        """What to do about a verdict."""
        return (
            f"more tries lock the account; if it is known to be unlocked, remove {self._path()} and try again"
        )

    def note(self, told: str) -> None:
        """Remember that the login was refused, in the BMC's words."""
        salt = os.urandom(16).hex()
        refusal = _Refusal(self._now(), salt, _digest(self._bmc, salt), told)
        self._write([*self._recent(), refusal])

    def forget(self) -> None:
        """Remember nothing of it any more: a login has succeeded."""
        path = self._path()
        if path is not None:
            with suppress(OSError):
                path.unlink()

    def _left(self, refusal: _Refusal) -> float:
        return refusal.at + REMEMBERED - self._now()

    def _recent(self) -> list[_Refusal]:
        """What is remembered, oldest first; nothing of a file that cannot be read."""
        path = self._path()
        try:
            kept = objects(json.loads(path.read_text())) if path else []
        except (OSError, ValueError):
            return []
        read = [
            _Refusal(number(part(one, "at")) or 0.0, *(str(part(one, key)) for key in _WORDS)) for one in kept
        ]
        return [one for one in read if 0 <= self._now() - one.at < REMEMBERED]

    def _write(self, refusals: list[_Refusal]) -> None:
        path = self._path()
        if path is None:
            return
        new = path.with_suffix(f".{os.getpid()}.new")
        with suppress(OSError):
            new.write_text(json.dumps([asdict(one) for one in refusals]))
            new.replace(path)

    def _path(self) -> Path | None:
        """The account's file, beside the labs' ledgers; None where there can be none."""
        # The same address may be another BMC in another lab: what it must prove is part of what it is.
        bmc = self._bmc
        known = f"{bmc.address}:{self._port} {bmc.user.reveal()} {bmc.trust} {bmc.fingerprint} {bmc.ca}"
        try:
            place = folder()
            place.mkdir(mode=0o700, parents=True, exist_ok=True)
        except (OSError, RuntimeError):  # a service without a home, or one that it may not write to
            return None
        able = os.access(place, os.W_OK | os.X_OK)
        return place / f"{hashlib.sha256(known.encode()).hexdigest()[:32]}.json" if able else None


def folder() -> Path:
    """Where it is kept: for all labs, beside their ledgers."""
    return state.home() / "bmc-logins"


_WORDS = ("salt", "digest", "told")


def _digest(bmc: Console, salt: str) -> str:
    password = bmc.password.reveal().encode()
    return hashlib.scrypt(password, salt=salt.encode(), n=2**14, r=8, p=1, dklen=32).hex()


def _taken(lock: IO[str]) -> bool | NotYet:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return NotYet("it is under way")
    return True
