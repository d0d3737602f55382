"""The order in which a machine tries its boot entries, as its BMC keeps it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sushy import exceptions

from provision.errors import GaveUp, Refused
from provision.redfish.body import Json, link, part, words
from provision.redfish.change import patch
from provision.redfish.connection import Connection, Timing
from provision.redfish.identity import said
from provision.wait import NotYet


@dataclass(frozen=True, slots=True)
class BootEntry:
    """One boot entry: its reference, such as Boot0003, and what the firmware calls it and where it leads."""

    reference: str
    name: str | None
    device: str | None


def read(conn: Connection, path: str) -> list[BootEntry] | None:
    """The order that the next boot goes by, first to last; None when the BMC offers none."""
    system = conn.read(path)
    order = _order(conn, system)
    if order is None:
        return None
    options = {
        said(body.get("BootOptionReference")) or said(body.get("Id")): body
        for body in conn.members(link(system, "Boot", "BootOptions"))
    }
    return [_entry(reference, options.get(reference, {})) for reference in order]


def put_first(conn: Connection, path: str, timing: Timing, first: Sequence[str]) -> list[BootEntry]:
    """Put these entries first, the others after them as they were; the order that is then read back.

    An entry is named by its reference or by a part of its name that no other has. Raises Refused when that is
    not so or the BMC takes no order, GaveUp when it accepts one and does not keep it.
    """
    entries = read(conn, path)
    if not entries:
        raise Refused("the BMC offers no boot order")
    chosen = list(dict.fromkeys(_named(word, entries) for word in first))
    wanted = chosen + [entry.reference for entry in entries if entry.reference not in chosen]
    if wanted != [entry.reference for entry in entries]:
        _set(conn, path, timing, wanted)
    by_reference = {entry.reference: entry for entry in entries}
    return [by_reference[reference] for reference in wanted]


def _set(conn: Connection, path: str, timing: Timing, wanted: list[str]) -> None:
    system = conn.read(path)
    pending = _pending(conn, system)
    patch(conn, pending[0] if pending else path, {"Boot": {"BootOrder": wanted}}, timing)

    def probe() -> bool | NotYet:
        try:
            now = _order(conn, conn.read(path))
        except exceptions.ConnectionError as error:
            return NotYet(f"no answer: {error}")
        return now == wanted or NotYet(f"order {', '.join(now or ()) or 'not known'}")

    try:
        timing.kept.until("the boot order to be read back", probe)
    except GaveUp as error:
        message = f"the boot order was accepted but not kept for {timing.kept.seconds:g} s"
        raise GaveUp(message, last_seen=error.last_seen) from error


def _order(conn: Connection, system: Mapping[str, Json]) -> list[str] | None:
    """The order that waits in the settings for the next boot, before the one in force."""
    pending = _pending(conn, system)
    order = words(part(pending[1] if pending else None, "Boot", "BootOrder"))
    return order or words(part(system, "Boot", "BootOrder")) or None


def _pending(conn: Connection, system: Mapping[str, Json]) -> tuple[str, dict[str, Json]] | None:
    """The settings resource, where it is there that this BMC takes a boot order (Dell, AMI), else None."""
    path = link(system, "@Redfish.Settings", "SettingsObject")
    body = conn.read_or_none(path)
    return (path, body) if path and body and "BootOrder" in (part(body, "Boot") or ()) else None


def _entry(reference: str, body: Mapping[str, Json]) -> BootEntry:
    name = said(body.get("DisplayName")) or said(body.get("Name"))
    return BootEntry(reference, name, said(body.get("UefiDevicePath")))


def _named(word: str, entries: Sequence[BootEntry]) -> str:
    exact = [entry.reference for entry in entries if entry.reference.lower() == word.lower()]
    within = [entry.reference for entry in entries if word.lower() in (entry.name or "").lower()]
    fitting = exact or within
    if len(fitting) != 1:
        known = ", ".join(f"{entry.reference} ({entry.name or 'no name'})" for entry in entries)
        problem = "is no boot entry" if not fitting else f"may be {' or '.join(fitting)}"
        raise Refused(f'"{word}" {problem}; there are {known}')
    return fitting[0]
