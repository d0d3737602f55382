"""What a machine is made of, as its BMC lists it: memory, processors, disks, ports, power supplies."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from provision.redfish.body import Json, link, number, objects, part
from provision.redfish.chassis import chassis_of
from provision.redfish.connection import Connection
from provision.redfish.identity import MAC_KEYS, mac, said

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Dimm:
    """A memory module: MiB and MHz. `health` here and below is Redfish's OK, Warning or Critical."""

    name: str
    mib: float | None
    mhz: float | None
    part: str | None
    serial: str | None
    health: str | None


@dataclass(frozen=True, slots=True)
class Processor:
    """A processor of the system; accelerators such as GPUs are processors too, by `kind`."""

    name: str
    kind: str | None
    model: str | None
    cores: float | None
    health: str | None


@dataclass(frozen=True, slots=True)
class Drive:
    """A disk: bytes, and the share of its life that is left, in percent."""

    name: str
    model: str | None
    serial: str | None
    bytes: float | None
    media: str | None
    life_left: float | None
    failing: bool | None
    health: str | None


@dataclass(frozen=True, slots=True)
class Port:
    """A network interface of the system: MAC in lower case, link as LinkUp or LinkDown, Mbit/s."""

    name: str
    mac: str | None
    link: str | None
    mbps: float | None
    health: str | None


@dataclass(frozen=True, slots=True)
class Supply:
    """A power supply: watts that it can give."""

    name: str
    model: str | None
    serial: str | None
    watts: float | None
    health: str | None


@dataclass(frozen=True, slots=True)
class Hardware:
    """All of it, each None when the BMC does not offer it; `gib` is the memory that the system sees."""

    gib: float | None
    dimms: tuple[Dimm, ...] | None
    processors: tuple[Processor, ...] | None
    drives: tuple[Drive, ...] | None
    ports: tuple[Port, ...] | None
    supplies: tuple[Supply, ...] | None


def read(conn: Connection, path: str) -> Hardware:
    """What the machine of the system at `path` is made of; parts that are absent are left out."""
    system = conn.read(path)
    return Hardware(
        gib=number(part(system, "MemorySummary", "TotalSystemMemoryGiB")) or None,
        dimms=_members(conn, link(system, "Memory"), _dimm),
        processors=_members(conn, link(system, "Processors"), _processor),
        drives=_drives(conn, system),
        ports=_members(conn, link(system, "EthernetInterfaces"), _port),
        supplies=_supplies(conn, path),
    )


def _members(
    conn: Connection, collection: str | None, of: Callable[[Mapping[str, Json]], T]
) -> tuple[T, ...] | None:
    if conn.read_or_none(collection) is None:
        return None
    return tuple(of(body) for body in conn.members(collection) if _is_there(body))


def _dimm(body: Mapping[str, Json]) -> Dimm:
    return Dimm(
        name=_name(body, "DeviceLocator", "Name"),
        mib=number(body.get("CapacityMiB")),
        mhz=number(body.get("OperatingSpeedMhz")),
        part=said(body.get("PartNumber")),
        serial=said(body.get("SerialNumber")),
        health=_health(body),
    )


def _processor(body: Mapping[str, Json]) -> Processor:
    return Processor(
        name=_name(body, "Socket", "Name"),
        kind=said(body.get("ProcessorType")),
        model=said(body.get("Model")),
        cores=number(body.get("TotalCores")),
        health=_health(body),
    )


def _drives(conn: Connection, system: Mapping[str, Json]) -> tuple[Drive, ...] | None:
    """The disks of every storage that can be read; those of the simple list where there is no other."""
    storages = [body for body in conn.members(link(system, "Storage")) if _is_there(body)]
    if storages:
        links = [link(one) for storage in storages for one in objects(storage.get("Drives"))]
        return tuple(_drive(body) for one in links if (body := conn.read_or_none(one)) and _is_there(body))
    if conn.read_or_none(link(system, "SimpleStorage")) is None:
        return None
    simple = conn.members(link(system, "SimpleStorage"))
    return tuple(_drive(one) for body in simple for one in objects(body.get("Devices")) if _is_there(one))


def _drive(body: Mapping[str, Json]) -> Drive:
    failing = body.get("FailurePredicted")
    return Drive(
        name=_name(body, "Name"),
        model=said(body.get("Model")),
        serial=said(body.get("SerialNumber")),
        bytes=number(body.get("CapacityBytes")),
        media=said(body.get("MediaType")),
        life_left=number(body.get("PredictedMediaLifeLeftPercent")),
        failing=failing if isinstance(failing, bool) else None,
        health=_health(body),
    )


def _port(body: Mapping[str, Json]) -> Port:
    macs = (mac(body.get(key)) for key in MAC_KEYS)
    return Port(
        name=_name(body, "Id"),
        mac=next((address for address in macs if address), None),
        link=said(body.get("LinkStatus")),
        mbps=number(body.get("SpeedMbps")) or None,
        health=_health(body),
    )


def _supplies(conn: Connection, path: str) -> tuple[Supply, ...] | None:
    """The power supplies; no machine has none, so an empty list says nothing (Supermicro's X10)."""
    powers = [conn.read_or_none(link(chassis, "Power")) for chassis in chassis_of(conn, path)]
    every = [one for power in powers for one in objects(part(power, "PowerSupplies"))]
    return tuple(map(_supply, filter(_is_there, every))) if every else None


def _supply(body: Mapping[str, Json]) -> Supply:
    return Supply(
        name=_name(body, "Name", "MemberId"),
        model=said(body.get("Model")),
        serial=said(body.get("SerialNumber")),
        watts=number(body.get("PowerCapacityWatts")),
        health=_health(body),
    )


def _name(body: Mapping[str, Json], *keys: str) -> str:
    return next((name for key in (*keys, "Id") if (name := said(body.get(key)))), "unnamed")


def _health(body: Mapping[str, Json]) -> str | None:
    return said(part(body, "Status", "Health"))


def _is_there(body: Mapping[str, Json]) -> bool:
    return said(part(body, "Status", "State")) != "Absent"
