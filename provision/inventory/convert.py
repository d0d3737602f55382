"""Writes the lab file of a classic inventory and its variables, and says what it could not carry over."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from provision.errors import InventoryError, Mistake
from provision.inventory import classic, document
from provision.inventory.document import Place
from provision.inventory.models import DhcpRange
from provision.inventory.reading import build
from provision.inventory.words import (
    MANAGEMENT,
    Address,
    Addresses,
    Cidr,
    ClusterName,
    Domain,
    Interface,
    Mtu,
    Timezone,
)


@dataclass(frozen=True, slots=True)
class Target:
    """Where in a lab file a group variable goes: the names it has in the field, and what it must be."""

    place: Place
    kind: Any
    names: tuple[str, ...]
    reshape: Callable[[Any], Any] = lambda value: value


def _split(value: object) -> object:
    return [part for part in re.split(r"[,\s]+", value) if part] if isinstance(value, str) else value


def _number(value: object) -> object:
    return int(value) if isinstance(value, str) and re.fullmatch("[0-9]{1,6}", value) else value


def _range(value: object) -> object:
    """dnsmasq's `start,end,netmask,lease`, or `start-end` as it is."""
    parts = value.split(",") if isinstance(value, str) else []
    return f"{parts[0].strip()}-{parts[1].strip()}" if len(parts) > 1 else value


TARGETS = (
    Target(("domain",), Domain, ("domain", "dns_domain", "domain_name", "dnsmasq_domain")),
    Target(("defaults", "locale", "timezone"), Timezone, ("timezone", "time_zone", "tz")),
    Target(("cluster", "name"), ClusterName, ("cluster_name", "proxmox_cluster_name", "pve_cluster_name")),
    Target(("server", "address"), Address, ("server_ip", "provisioning_ip", "dnsmasq_listen_address")),
    Target(("server", "lan"), Interface, ("provisioning_bridge", "lan_interface", "management_interface")),
    Target(("server", "wan"), Interface, ("wan_interface", "external_interface")),
    Target(
        ("networks", MANAGEMENT, "cidr"), Cidr, ("management_network", "provisioning_network", "mgmt_network")
    ),
    Target(
        ("networks", MANAGEMENT, "gateway"),
        Address,
        ("gateway", "gateway_ip", "default_gateway", "management_gateway", "dnsmasq_dhcp_router"),
    ),
    Target(
        ("networks", MANAGEMENT, "dns"),
        Addresses,
        ("dns_servers", "dns_server", "nameservers", "dns", "dnsmasq_dhcp_dns_server"),
        _split,
    ),
    Target(("networks", MANAGEMENT, "dhcp"), DhcpRange, ("dhcp_range", "dnsmasq_dhcp_range"), _range),
    Target(("networks", classic.STORAGE, "cidr"), Cidr, ("ceph_network", "storage_network", "ceph_cidr")),
    Target(
        ("networks", classic.STORAGE, "mtu"),
        Mtu,
        ("mtu", "jumbo_frame_mtu", "ceph_mtu", "storage_mtu"),
        _number,
    ),
)


@dataclass(frozen=True, slots=True)
class Converted:
    """A lab file's text, and each variable that is not in it with the reason."""

    text: str
    left: dict[str, str]


def convert(inventory: Path, variables: Path | None, env: Mapping[str, str]) -> Converted:
    """The lab file of this nodes.json and main.yml; raises InventoryError when it would not load."""
    found = document.read(inventory)
    if not classic.is_classic(found.data):
        raise InventoryError(
            [Mistake(str(inventory), None, "nodes", "is no list: this is no classic inventory")]
        )
    lab = classic.translate(found, env)
    build(lab, inventory.absolute().parent)
    left = _carry(document.read(variables).data, lab.data, env) if variables else {}
    text = _head(inventory, variables, left) + _dump(lab.data)
    build(document.parse(text, "the converted lab file"), inventory.absolute().parent)
    return Converted(text, left)


def _carry(variables: Mapping[str, Any], lab: dict[str, Any], env: Mapping[str, str]) -> dict[str, str]:
    """Move what has a place in a lab file into `lab`; what stays behind, and why."""
    left = dict.fromkeys(variables, "a lab file has no place for it")
    taken: dict[Place, tuple[str, object]] = {}
    for target, name in _known(variables):
        value = target.reshape(_resolved(name, variables))
        first, before = taken.get(target.place, (name, value))
        if why := _unfit(target, value, lab):
            left[name] = why
        elif before != value:
            left[name] = f"{first} says otherwise"
        else:
            taken[target.place] = (name, value)
            del left[name]
    for place, (_, value) in taken.items():
        _set(lab, place, value)
    if ("cluster", "name") in taken and not env.get("CLUSTER_NAME"):
        lab["name"] = classic.lab_name(lab["cluster"]["name"])
    return left


def _known(variables: Mapping[str, Any]) -> Iterator[tuple[Target, str]]:
    yield from ((target, name) for target in TARGETS for name in target.names if name in variables)


def _resolved(name: str, variables: Mapping[str, Any]) -> object:
    """The variable's value, through references to other variables such as "{{ server_ip }}"."""
    value: object = variables[name]
    for _ in range(8):
        reference = re.fullmatch(r"\s*{{\s*(\w+)\s*(\|.*)?}}\s*", value) if isinstance(value, str) else None
        if reference is None or reference[1] not in variables:
            break
        value = variables[reference[1]]
    return value


def _unfit(target: Target, value: object, lab: Mapping[str, Any]) -> str | None:
    if target.place[0] == "networks" and target.place[1] not in lab["networks"]:
        return f"no node has an address in {target.place[1]}"
    try:
        TypeAdapter(target.kind).validate_python(value)
    except ValidationError as error:
        return error.errors()[0]["msg"].removeprefix("Value error, ")
    return None


def _set(lab: dict[str, Any], place: Place, value: object) -> None:
    for part in place[:-1]:
        lab = lab.setdefault(part, {})
    lab[place[-1]] = value


def _head(inventory: Path, variables: Path | None, left: Mapping[str, str]) -> str:
    sources = " and ".join(path.name for path in (inventory, variables) if path)
    lines = [
        f"The lab file of {sources}.",
        "The classic inventory names no disk: the system goes to sda; better give its serial or wwn.",
        "classic: true lets installers and nodes use paths without a token; better take it out.",
        "trust: pinned needs the fingerprint of each BMC's certificate under its bmc:.",
    ]
    lines += ["", "Not carried over:"] if left else []
    lines += [f"  {name}: {why}" for name, why in left.items()]
    return "".join(f"# {_printable(line)}".rstrip() + "\n" for line in lines)


def _printable(line: str) -> str:
    """The line without anything that could end the comment it stands in."""
    return "".join(character if character.isprintable() else "?" for character in line)


def _dump(data: Mapping[str, Any]) -> str:
    """YAML with the innermost mappings on one line each."""
    ordered = {key: data[key] for key in ("name", "domain", "server") if key in data}
    return yaml.safe_dump(
        {**ordered, **data}, sort_keys=False, default_flow_style=None, width=110, allow_unicode=True
    )
