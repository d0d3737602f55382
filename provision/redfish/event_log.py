"""The logs that a BMC keeps of its machine and of itself; sushy has no class for them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

import requests
from sushy import exceptions

from provision.errors import GaveUp, Refused
from provision.redfish.body import Json, link, objects, part
from provision.redfish.change import finish
from provision.redfish.connection import Connection, Timing
from provision.redfish.identity import said
from provision.wait import NotYet

MOST_ENTRIES = 2000
"""Read of one log: a BMC sends them by fifties, a second for each."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry: `created` as the BMC writes it, `severity` Redfish's OK, Warning or Critical."""

    id: str | None
    created: str | None
    severity: str | None
    message: str | None


@dataclass(frozen=True, slots=True)
class Log:
    """One log, as far as it was read: `whole` is False when it holds more; None entries are not known.

    `clear` is where it is cleared, None when it cannot be.
    """

    name: str
    entries: tuple[Entry, ...] | None
    whole: bool
    clear: str | None


def read(conn: Connection, path: str) -> list[Log] | None:
    """The logs of the system at `path`, of its managers and chassis; None when the BMC offers none.

    Logs of a vendor's own format (LogEntryType OEM) are left out: Dell's Lifecycle log holds every login of
    years, and says nothing of the hardware that the event log does not.
    """
    services = list(_services(conn, path))
    return [_log(conn, one) for one in services if said(one.get("LogEntryType")) != "OEM"] or None


def clear(conn: Connection, path: str, timing: Timing) -> list[str]:
    """Clear every log that can be, each asked for once and read back; the names of those cleared.

    Raises Refused when there is none, GaveUp when entries of before are still there after it. Without
    entries that can be read, as Lenovo's SEL is, nothing would show what was done: it is left alone.
    """
    able = [log for log in read(conn, path) or [] if log.clear is not None and log.entries is not None]
    if not able:
        raise Refused("the BMC offers no log that can be cleared and read back")
    for log in able:
        finish(conn, _asked_to_clear(conn, log), timing)
    timing.kept.until("the logs to be empty of what was in them", lambda: _left(conn, path, able))
    return [log.name for log in able]


def _asked_to_clear(conn: Connection, log: Log) -> requests.Response | None:
    try:
        return conn.post(log.clear, data={})  # type: ignore[no-any-return]
    except exceptions.ConnectionError:
        return None  # whether it was done shows in what is left


def _left(conn: Connection, path: str, before: list[Log]) -> bool | NotYet:
    try:
        now = {log.name: set(log.entries or ()) for log in read(conn, path) or []}
    except (exceptions.ConnectionError, GaveUp) as error:
        return NotYet(f"no answer: {error}")
    left = {log.name: len(now.get(log.name, set()) & set(log.entries or ())) for log in before}
    kept = [f"{name} keeps {count} entries" for name, count in left.items() if count]
    return NotYet(", ".join(kept)) if kept else True


def _services(conn: Connection, path: str) -> Iterator[dict[str, Json]]:
    """The log services of system, managers and chassis, each once however many link to it."""
    system = conn.read(path)
    owners = [system, *_linked(conn, system, "ManagedBy"), *_linked(conn, system, "Chassis")]
    collections = dict.fromkeys(filter(None, (link(owner, "LogServices") for owner in owners)))
    for collection in collections:
        yield from conn.members(collection)


def _linked(conn: Connection, system: Mapping[str, Json], name: str) -> list[dict[str, Json]]:
    links = objects(part(system, "Links", name))
    return [body for one in links if (body := conn.read_or_none(link(one))) is not None]


def _log(conn: Connection, service: Mapping[str, Json]) -> Log:
    path, name = link(service, "Entries"), said(service.get("Name"))
    identity = said(service.get("Id"))
    entries = tuple(map(_entry, islice(conn.members(path), MOST_ENTRIES + 1))) if path else None
    target = said(part(service, "Actions", "#LogService.ClearLog", "target"))
    return Log(
        name=identity or name or "unnamed",
        entries=None if entries is None else entries[:MOST_ENTRIES],
        whole=entries is None or len(entries) <= MOST_ENTRIES,
        clear=target,
    )


def _entry(body: Mapping[str, Json]) -> Entry:
    words = (said(body.get(key)) for key in ("Message", "MessageId", "Description"))
    return Entry(
        id=said(body.get("Id")),
        created=said(body.get("Created")) or said(body.get("EventTimestamp")),
        severity=said(body.get("Severity")),
        message=next((word for word in words if word), None),
    )
