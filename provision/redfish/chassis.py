"""The chassis that a system is in."""

from __future__ import annotations

from collections.abc import Iterator

from provision.redfish.body import Json, link, objects, part
from provision.redfish.connection import Connection


def chassis_of(conn: Connection, path: str) -> Iterator[dict[str, Json]]:
    """The chassis that the system at `path` names; all there are when it names none, as Cray's does not."""
    named = [link(one) for one in objects(part(conn.read(path), "Links", "Chassis"))]
    found = [body for one in named if (body := conn.read_or_none(one)) is not None]
    yield from found or conn.members(link(conn.root, "Chassis"))
