"""What Proxmox's installer asks of a node besides its disks: place, time zone, the names of its NICs."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from importlib import resources
from typing import Any

from provision.inventory.document import Place
from provision.inventory.words import MANAGEMENT, did_you_mean, parse_mac

Told = tuple[Place, str, Place | None]
Body = Mapping[str, Any]

PROXMOX_ONLY = ("interface_names", "reboot_on_error", "subscription")
PROXMOX_DISK = ("serials", "devices", "udev", "zfs", "lvm", "btrfs")


def install_rules(nodes: Mapping[str, Body], osds: Body) -> Iterator[Told]:
    """Every rule that a node breaks by what it asks of its installer; `osds` are Ceph's disks."""
    for name, body in nodes.items():
        if str(body.get("os", "")).startswith("ubuntu"):
            yield from _not_for_ubuntu(name, body)
            continue
        yield from _place_rules(("nodes", name, "locale"), _part(body, "locale"))
        yield from _pinning_rules(name, body)
        yield from _osd_rules(name, _part(body, "disk"), osds)


@functools.cache
def countries() -> frozenset[str]:
    """The country codes of the installer, in lower case: those of ISO 3166."""
    return frozenset(columns[0].lower() for columns in _table("iso3166.tab"))


@functools.cache
def time_zones() -> frozenset[str]:
    """The time zones of the installer: those that a country has in the tz database, and UTC."""
    return frozenset(columns[2] for columns in _table("zone.tab")) | {"UTC"}


def _table(name: str) -> Iterator[list[str]]:
    """The columns of a table of the tz database, which the installer's own lists are made from, too."""
    text = resources.files("tzdata").joinpath("zoneinfo", name).read_text(encoding="utf-8")
    yield from (line.split("\t") for line in text.splitlines() if not line.startswith("#"))


def _part(body: Body, key: str) -> Body:
    part = body.get(key)
    return part if isinstance(part, dict) else {}


def _not_for_ubuntu(name: str, body: Body) -> Iterator[Told]:
    at = ("nodes", name)
    for key in PROXMOX_ONLY:
        if _is_asked(body.get(key)):
            yield (*at, key), "is for Proxmox nodes only", (*at, "os")
    for key in PROXMOX_DISK:
        if _part(body, "disk").get(key) is not None:
            yield (*at, "disk", key), "is for Proxmox nodes only", (*at, "os")


def _is_asked(value: object) -> bool:
    # What is false stands as text here, and may be what defaults are overridden with.
    return bool(value) and str(value).lower() not in ("false", "f", "no", "n", "off", "0")


def _place_rules(at: Place, locale: Body) -> Iterator[Told]:
    country, zone = locale.get("country"), locale.get("timezone")
    # What is no word of its kind at all is told by the models.
    if isinstance(country, str) and re.fullmatch("[a-z]{2}", country) and country not in countries():
        yield (*at, "country"), f'"{country}" is no country that the Proxmox installer knows', None
    if isinstance(zone, str) and zone.isascii() and zone[:1].isalpha() and zone not in time_zones():
        hint = did_you_mean(zone, time_zones())
        yield (*at, "timezone"), f'"{zone}" is no time zone that the Proxmox installer knows{hint}', None


def _pinning_rules(name: str, body: Body) -> Iterator[Told]:
    """With a pinned name every NIC gets another, so each network must name a pinned one."""
    at, pinned = ("nodes", name), _part(body, "interface_names")
    yield from _one_name_each(at, pinned)
    for network in _part(body, "addresses") if pinned else ():
        nic, place = str(_part(body, "nics").get(network, "")), (*at, "nics", network)
        own = body.get("mac") if network == MANAGEMENT else _part(body, "macs").get(network)
        if nic not in pinned:
            message = f'"{nic}" is not pinned, and the installer names every NIC that is not nic0, nic1, …'
            yield place, f"{message}; give one of interface_names", (*at, "interface_names")
        elif own and _mac(own) != _mac(pinned[nic]):
            message = f'"{pinned[nic]}" is not the MAC of the NIC in {network}, {own}'
            where = (*at, "mac") if network == MANAGEMENT else (*at, "macs", network)
            yield (*at, "interface_names", nic), message, where


def _one_name_each(at: Place, pinned: Body) -> Iterator[Told]:
    first: dict[str, str] = {}
    for name, mac in pinned.items():
        if (same := _mac(mac)) and first.setdefault(same, name) != name:
            place = (*at, "interface_names", name)
            yield place, f'"{mac}" is already pinned to {first[same]}', (*at, "interface_names", first[same])


def _mac(text: object) -> str | None:
    try:
        return parse_mac(text) if isinstance(text, str) else None
    except ValueError:
        return None


def _osd_rules(name: str, disk: Body, osds: Body) -> Iterator[Told]:
    """The system's disk must not be one of Ceph's: the first disk that matches is wiped."""
    for key in ("serial", "wwn"):
        glob = disk.get(key)
        for place, osd in _osd_disks(name, osds):
            text = osd.get(key)
            if isinstance(glob, str) and isinstance(text, str) and fnmatchcase(text, glob):
                where = ("nodes", name, "disk", key)
                yield (
                    where,
                    f'"{glob}" also matches a disk for Ceph, "{text}": the system may go there',
                    place,
                )


def _osd_disks(name: str, osds: Body) -> Iterator[tuple[Place, Body]]:
    for owner in ("all", name):
        listed = _part(osds, "disks").get(owner)
        for index, disk in enumerate(listed if isinstance(listed, list) else ()):
            if isinstance(disk, dict):
                yield ("ceph", "osds", "disks", owner, str(index)), disk
        for part in ("db", "wal"):
            if device := _part(_part(osds, part), owner):
                yield ("ceph", "osds", part, owner), device
