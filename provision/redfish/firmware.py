"""The firmware of a machine: of its BMC, its BIOS, and what else the BMC lists."""

from __future__ import annotations

from dataclasses import dataclass

from provision.redfish.body import link
from provision.redfish.connection import Connection
from provision.redfish.identity import Identity, said


@dataclass(frozen=True, slots=True)
class Firmware:
    """One version, as the BMC writes it; None when it lists the part without one."""

    name: str
    version: str | None


def read(conn: Connection, found: Identity) -> list[Firmware]:
    """BMC and BIOS first, by what the BMC says of itself; then its inventory, where it has one."""
    own = [Firmware("BMC", found.firmware), Firmware("BIOS", found.bios)]
    service = conn.read_or_none(link(conn.root, "UpdateService"))
    listed = conn.members(link(service, "FirmwareInventory"))
    return own + [
        Firmware(said(one.get("Name")) or said(one.get("Id")) or "unnamed", said(one.get("Version")))
        for one in listed
    ]
