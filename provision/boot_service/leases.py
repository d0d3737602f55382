"""Says which MAC holds the DHCP lease of an address, as dnsmasq writes it into its lease file.

A line per lease: when it ends (seconds since the epoch, 0: never), the MAC, the address, the name, the
client's id (dnsmasq, lease.c). Leases of IPv6 follow a line that begins with "duid". dnsmasq writes the file
before it sends the DHCPACK, but in place: truncated first, then line by line.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from provision.boot_service.messages import normal_mac
from provision.errors import GaveUp
from provision.wait import NotYet, Patience

# While dnsmasq writes its file anew a lease may be missing for some milliseconds.
UNSETTLED_SECONDS = 0.05
PATIENCE = Patience(0.45, first=UNSETTLED_SECONDS, most=UNSETTLED_SECONDS)


@dataclass(frozen=True, slots=True)
class _Lease:
    mac: str
    ends: float


class Leases:
    """The leases of one lease file, read again whenever the file has changed."""

    def __init__(
        self, path: Path, *, clock: Callable[[], float] = time.time, patience: Patience = PATIENCE
    ) -> None:
        self._path, self._clock, self._patience = path, clock, patience
        self._seen: tuple[int, int, int] | None = None
        self._leases: dict[str, _Lease] = {}

    def holder(self, address: str) -> str | None:
        """The MAC (lower case, colons) that holds the lease of this IPv4 address now, or None.

        Blocks for at most half a second, and only when the lease is not there and the file is being written.
        """
        try:
            return self._patience.until("the lease file to be whole", lambda: self._look(address))
        except GaveUp:
            return None

    def _look(self, address: str) -> str | NotYet | None:
        settled = self._refresh()
        lease = self._leases.get(address)
        if lease is not None and (lease.ends == 0 or lease.ends > self._clock()):
            return lease.mac
        return None if settled else NotYet("it is being written")

    def _refresh(self) -> bool:
        """Read the file if it has changed. False: it is so fresh that more may follow."""
        try:
            found = self._path.stat()
        except OSError:
            self._seen, self._leases = None, {}
            return True
        mark = (found.st_ino, found.st_size, found.st_mtime_ns)
        settled = abs(time.time() - found.st_mtime) > UNSETTLED_SECONDS
        if mark != self._seen:
            self._leases = _read(self._path)
            # A file this fresh may change again without another time stamp.
            self._seen = mark if settled else None
        return settled


def _read(path: Path) -> dict[str, _Lease]:
    try:
        return _parse(path.read_text(errors="replace"))
    except OSError:
        return {}


def _parse(text: str) -> dict[str, _Lease]:
    found: dict[str, _Lease] = {}
    for line in text.split("\n"):
        fields = line.split(" ")
        if fields[0] == "duid":
            break
        if (
            len(fields) == 5
            and fields[0].isascii()
            and fields[0].isdigit()
            and (mac := normal_mac(fields[1]))
        ):
            found[fields[2]] = _Lease(mac, float(fields[0]))
    return found
