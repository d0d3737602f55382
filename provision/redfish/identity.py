"""Which machine stands behind a BMC, and whether it is the one that the lab file names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from provision.errors import IdentityMismatch
from provision.redfish.body import Json, objects, part, words
from provision.redfish.connection import Connection
from provision.redfish.machine import Machine

PLACEHOLDERS = frozenset({
    "", "none", "n/a", "not available", "not specified", "default string", "to be filled by o.e.m.",
    "system serial number", "0123456789", "unknown",
})  # fmt: skip
MAC_KEYS = ("MACAddress", "PermanentMACAddress")
PORTS = ("Ports", "NetworkPorts", "NetworkDeviceFunctions")


@dataclass(frozen=True, slots=True)
class Identity:
    """What a BMC says of itself and of its system; None for what it leaves out or fills with a placeholder.

    MACs are in lower case with colons. `service_tag` is Dell's, which stands where others have a model's SKU.
    """

    system: str
    serial: str | None
    service_tag: str | None
    uuid: str | None
    manufacturer: str | None
    model: str | None
    power: str | None
    bios: str | None
    firmware: str | None
    macs: frozenset[str]
    bmc_macs: frozenset[str]


def identify(conn: Connection, path: str, node: Machine) -> Identity:
    """Read the system at `path` and its managers; `node` says which MACs to look for further."""
    system = conn.read(path)
    managers = _managers(conn, system)
    maker = said(system.get("Manufacturer"))
    return Identity(
        system=path,
        serial=said(system.get("SerialNumber")),
        # Dell's SerialNumber is the main board's; what is printed on the machine stands in SKU.
        service_tag=said(system.get("SKU")) if (maker or "").startswith("Dell") else None,
        uuid=said(system.get("UUID")),
        manufacturer=maker,
        model=said(system.get("Model")),
        power=said(system.get("PowerState")),
        bios=said(system.get("BiosVersion")),
        firmware=next((version for one in managers if (version := said(one.get("FirmwareVersion")))), None),
        macs=system_macs(conn, system, node),
        bmc_macs=frozenset().union(*(_nics(conn, manager) for manager in managers)),
    )


def system_macs(conn: Connection, system: Mapping[str, Json], node: Machine) -> frozenset[str]:
    """The MACs of the system's own interfaces.

    Health is not asked: some BMCs report none, and a NIC without a link is a NIC. Where the list is
    missing or does not hold all of this node's (Lenovo's XCC), the adapters in the chassis are read too.
    """
    nics = _nics(conn, system)
    if node.all_macs <= nics:
        return nics
    chassis = objects(part(system, "Links", "Chassis"))
    return nics.union(*(_adapters(conn, part(link, "@odata.id")) for link in chassis))


def prove(node: Machine, found: Identity) -> str:
    """How the machine is known to be `node`, in words.

    Each thing that the lab file names must fit: serial number, every MAC, the BMC's own MAC. A BMC that
    reports no network interface at all, as OpenBMC does, needs the serial number. Raises IdentityMismatch
    when the machine is another, or cannot be known.
    """
    proofs = (_serial(node, found), _macs(node, found), _console(node, found))
    return ", ".join(proof for proof in proofs if proof)


def said(text: Json) -> str | None:
    """A word of a BMC, or None for the blanks and placeholders that stand for no word."""
    clean = text.strip() if isinstance(text, str) else ""
    return None if clean.lower() in PLACEHOLDERS else clean


def mac(text: Json) -> str | None:
    """A MAC address in lower case with colons; None for anything else, such as "" or "Not Available"."""
    digits = re.sub("[:-]", "", text.strip().lower()) if isinstance(text, str) else ""
    if not re.fullmatch("[0-9a-f]{12}", digits) or digits == "0" * 12:
        return None
    return ":".join(digits[i : i + 2] for i in range(0, 12, 2))


def _managers(conn: Connection, system: Mapping[str, Json]) -> list[dict[str, Json]]:
    links = objects(part(system, "Links", "ManagedBy"))
    managers = [conn.read_or_none(part(link, "@odata.id")) for link in links]
    if any(managers):
        return [manager for manager in managers if manager]
    return list(conn.members(part(conn.root, "Managers", "@odata.id")))


def _nics(conn: Connection, owner: Mapping[str, Json]) -> frozenset[str]:
    nics = conn.members(part(owner, "EthernetInterfaces", "@odata.id"))
    return _known(nic.get(key) for nic in nics for key in MAC_KEYS)


def _adapters(conn: Connection, chassis: Json) -> frozenset[str]:
    adapters = conn.members(part(conn.read_or_none(chassis), "NetworkAdapters", "@odata.id"))
    ports = [
        port
        for adapter in adapters
        for key in PORTS
        for port in conn.members(part(adapter, key, "@odata.id"))
    ]
    return _known(address for port in ports for address in _port_macs(port))


def _port_macs(port: Mapping[str, Json]) -> list[Json]:
    ethernet = part(port, "Ethernet")
    listed = words(port.get("AssociatedNetworkAddresses")) + words(part(ethernet, "AssociatedMACAddresses"))
    return [*listed, *(part(ethernet, key) for key in MAC_KEYS)]


def _known(addresses: Iterable[Json]) -> frozenset[str]:
    return frozenset(filter(None, map(mac, addresses)))


def _serial(node: Machine, found: Identity) -> str | None:
    if node.serial is None:
        return None
    reported = [word for word in (found.serial, found.service_tag) if word]
    if node.serial.lower() not in [word.lower() for word in reported]:
        seen = f"serial number {' / '.join(reported)}" if reported else "no serial number"
        raise _mismatch(node, f"serial number {node.serial}", seen)
    return f"serial number {node.serial}"


def _macs(node: Machine, found: Identity) -> str | None:
    if not found.macs:
        if node.serial is not None:
            return None
        raise _unprovable(node, found)
    missing = sorted(node.all_macs - found.macs)
    if missing:
        raise _mismatch(node, f"MAC {', '.join(missing)}", f"MACs {', '.join(sorted(found.macs))}")
    return f"MAC {', '.join(sorted(node.all_macs))}"


def _console(node: Machine, found: Identity) -> str | None:
    if node.bmc.mac is None or not found.bmc_macs:
        return None
    if node.bmc.mac not in found.bmc_macs:
        seen = f"console MACs {', '.join(sorted(found.bmc_macs))}"
        raise _mismatch(node, f"console MAC {node.bmc.mac}", seen)
    return f"console MAC {node.bmc.mac}"


def _mismatch(node: Machine, wanted: str, seen: str) -> IdentityMismatch:
    return IdentityMismatch(
        f"the machine behind {node.bmc.name} ({node.bmc.address}) is not the one in the lab file, which "
        f"names {wanted}; nothing was written to it",
        node=node.name,
        last_seen=seen,
        likely=f"nodes.{node.name}.bmc.address is another machine's console, or a part was exchanged",
    )


def _unprovable(node: Machine, found: Identity) -> IdentityMismatch:
    label = found.serial or "what stands on the machine's label"
    return IdentityMismatch(
        f"{node.bmc.name} ({node.bmc.address}) reports no network interface, and the lab file names no "
        "serial number: there is nothing to prove the machine by; nothing was written to it",
        node=node.name,
        last_seen=f"serial number {found.serial}" if found.serial else "no serial number either",
        likely=f"add to nodes.{node.name}, once compared with the machine's label, serial: {label}",
    )
