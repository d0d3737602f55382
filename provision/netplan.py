"""Writes netplan's files: a bridge of our own, and other files without what moves onto it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any

import yaml

from provision.errors import LabError
from provision.ifupdown import Wanted

FILE = "/etc/netplan/90-rackproof.yaml"
HEAD = "# by rackproof: the bridge of the lab file's server.bridge\n"
# What an interface has for itself, and a port of a bridge must not have.
_MOVES = (
    "addresses", "gateway4", "gateway6", "routes", "routing-policy", "nameservers", "dhcp4", "dhcp6",
    "dhcp4-overrides", "dhcp6-overrides", "dhcp-identifier", "accept-ra", "link-local", "ipv6-privacy",
    "ipv6-address-generation", "ipv6-address-token", "optional-addresses",
)  # fmt: skip
_KEPT_KINDS = ("tag:yaml.org,2002:bool", "tag:yaml.org,2002:null", "tag:yaml.org,2002:merge")
_MEMBERS = ("bridges", "bonds")


class _Loader(yaml.SafeLoader):
    """Reads a plain 12:34:56:12:34:56 as the text that it is to netplan; a number is one of digits alone."""

    yaml_implicit_resolvers = {  # noqa: RUF012 (yaml's own way)
        first: [(kind, pattern) for kind, pattern in resolvers if kind in _KEPT_KINDS]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"(?:0|[1-9][0-9]*)$"), list("0123456789"))


def holder_of(texts: Mapping[str, str], port: str, bridge: str) -> tuple[str, str] | None:
    """The file, not ours, and the interface that has `port` as a member, or that is `bridge` itself."""
    for path, network in _others(texts):
        for kind in _MEMBERS:
            for name in _mapping(network, kind):
                if name == bridge or port in (_mapping(network[kind], name).get("interfaces") or []):
                    return path, name
    return None


def edited(texts: Mapping[str, str], wanted: Wanted, macs: Mapping[str, str], node: str) -> dict[str, str]:
    """The files as they should be, by path; FILE is among them, and other files without a change stay.

    A list in a later file is added to that of an earlier one: what moves is taken out of the other files.
    `macs` are the ports' own. Raises LabError, about `node`, for YAML that cannot be read, and for an entry
    that is of the ports and of other interfaces.
    """
    carried: dict[str, Any] = dict(_carried(texts))
    ids, others = dict(zip(wanted.ports, wanted.ports, strict=True)), {}
    for path, network in _others(texts):
        moved = False
        for identity, body in _mapping(network, "ethernets").items():
            port = next((port for port in wanted.ports if _is(port, identity, body or {}, macs)), None)
            if port and "*" in str(_mapping(body, "match").get("name", "")):
                message = f"{path} has {port} among others in ethernets.{identity}"
                raise LabError(message, node=node, likely=f"give {port} an entry of its own there")
            ids |= {port: identity} if port else {}
            if port or _has(body or {}, wanted.address):
                moving = {key: body.pop(key) for key in _MOVES if key in (body or {})}
                carried, moved = _merged(carried, moving), moved or bool(moving)
        if moved:
            others[path] = yaml.safe_dump({"network": network}, sort_keys=False)
    return {
        **texts,
        **others,
        FILE: HEAD + yaml.safe_dump(_ours(wanted, carried, ids, macs), sort_keys=False),
    }


def _ours(
    wanted: Wanted, carried: dict[str, Any], ids: dict[str, str], macs: Mapping[str, str]
) -> dict[str, Any]:
    more = [one for one in carried.pop("addresses", []) if not _has({"addresses": [one]}, wanted.address)]
    bridge = {
        "interfaces": [ids[port] for port in wanted.ports],
        "addresses": [wanted.address, *more],
        "macaddress": macs[wanted.ports[0]],
        "mtu": wanted.mtu,
        "parameters": {"stp": False, "forward-delay": 0},
    }
    ports = {ids[port]: {"dhcp4": False, "dhcp6": False, "mtu": wanted.mtu} for port in wanted.ports}
    return {"network": {"version": 2, "ethernets": ports, "bridges": {wanted.name: {**bridge, **carried}}}}


def _carried(texts: Mapping[str, str]) -> dict[str, Any]:
    """What moved onto our bridge in an earlier run."""
    bridges = _mapping(_network(FILE, texts.get(FILE, "")), "bridges")
    return {key: value for body in bridges.values() for key, value in body.items() if key in _MOVES}


def _merged(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    lists = {
        key: [*one[key], *(item for item in other[key] if item not in one[key])]
        for key in one.keys() & other.keys()
        if isinstance(one[key], list) and isinstance(other[key], list)
    }
    return {**one, **other, **lists}


def _others(texts: Mapping[str, str]) -> Iterator[tuple[str, dict[str, Any]]]:
    return ((path, _network(path, text)) for path, text in sorted(texts.items()) if path != FILE)


def _network(path: str, text: str) -> dict[str, Any]:
    try:
        read = yaml.load(text, _Loader)  # noqa: S506 (it is a safe one)
    except yaml.YAMLError as error:
        raise LabError(f"{path} is no YAML", last_seen=str(error)) from error
    return _mapping(read, "network")


def _mapping(body: object, key: str) -> dict[str, Any]:
    part = body.get(key) if isinstance(body, Mapping) else None
    return part if isinstance(part, dict) else {}


def _is(port: str, identity: str, body: Mapping[str, Any], macs: Mapping[str, str]) -> bool:
    """Whether this entry is of the port: by its new name, by what it matches, or by its own name."""
    match = _mapping(body, "match")
    if "set-name" in body or not match:
        return bool(port == body.get("set-name", identity))
    by_mac = str(match.get("macaddress", "")).lower() == macs.get(port, "-")
    return by_mac or fnmatchcase(port, str(match.get("name", "")))


def _has(body: Mapping[str, Any], address: str) -> bool:
    """Addresses are texts, or mappings from the text to their options."""
    plain = address.partition("/")[0]
    texts = [str(next(iter(one)) if isinstance(one, dict) else one) for one in body.get("addresses") or []]
    return plain in [text.partition("/")[0] for text in texts]
