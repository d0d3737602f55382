"""corosync.conf: read as Proxmox reads it, written as Proxmox writes it, and its rules for links."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from .propstring import parse_property_string
from .schema import Rule

MAX_LINK = 7
Section = dict[str, Any]

_LISTS = {"node": ("name", "ring0_addr"), "interface": ("linknumber", "ringnumber")}
_ADDRESS_KEY = re.compile(r"^(?:ring|link)(\d+)_addr$")


class ConfError(ValueError):
    """corosync.conf cannot be read, or a node does not fit into it."""


@dataclass(slots=True)
class Conf:
    """A corosync.conf: nested sections, `node` and `interface` keyed by name and number; all values text."""

    main: Section = field(default_factory=dict)
    digest: str = ""

    @property
    def nodes(self) -> dict[str, Section]:
        """The nodelist by node name."""
        nodes: dict[str, Section] = self.main.get("nodelist", {}).get("node", {})
        return nodes

    @property
    def totem(self) -> Section:
        """The totem section."""
        totem: Section = self.main.get("totem", {})
        return totem

    @property
    def version(self) -> int:
        """config_version; ConfError when there is none."""
        try:
            return int(self.totem["config_version"])
        except (KeyError, ValueError):
            raise ConfError("invalid corosync config: unable to read config version") from None

    @property
    def links(self) -> dict[int, str]:
        """Link numbers and addresses of the first node: all nodes have the same links."""
        return links_of(next(iter(self.nodes.values()), {}))


def links_of(node: Mapping[str, str]) -> dict[int, str]:
    """A nodelist entry's addresses by link number."""
    found = ((_ADDRESS_KEY.match(key), value) for key, value in node.items())
    return {int(match[1]): value for match, value in found if match}


def parse(raw: str) -> Conf:
    """Read a corosync.conf; ConfError when it is not one."""
    conf = Conf(digest=hashlib.sha1(raw.encode(), usedforsecurity=False).hexdigest())
    words = re.sub(r"#.*", "", raw).split()
    conf.main, rest = _section(words, 0, top=True)
    if rest != len(words):
        raise ConfError("parse error - unexpected '}'")
    return conf


def _section(words: list[str], at: int, *, top: bool = False) -> tuple[Section, int]:
    section: Section = {}
    while at < len(words) and words[at] != "}":
        if words[at + 1 : at + 2] == ["{"]:
            name = words[at]
            below, at = _section(words, at + 2)
            _add_section(section, name, below)
        else:
            at = _add_value(section, words, at)
    if top:
        return section, at
    if at >= len(words):
        raise ConfError("parse error - missing '}'")
    return section, at + 1


def _add_section(section: Section, name: str, below: Section) -> None:
    if name in _LISTS:
        first, second = _LISTS[name]
        section.setdefault(name, {})[below.get(first, below.get(second, ""))] = below
    elif name in section:
        raise ConfError(f"section '{name}' already exists and not marked as array!")
    else:
        section[name] = below


def _add_value(section: Section, words: list[str], at: int) -> int:
    key = words[at]
    if not key.endswith(":"):
        raise ConfError(f"missing ':' after key '{key}'")
    if at + 1 >= len(words):
        raise ConfError(f"parse error - no value for '{key[:-1]}'")
    section[key[:-1]] = words[at + 1]
    return at + 2


def render(conf: Conf) -> str:
    """Write a corosync.conf, keys sorted, as Proxmox does."""
    return "".join(_lines(conf.main, ""))


def _lines(section: Section, indent: str) -> Iterator[str]:
    for key, value in sorted(section.items()):
        if not isinstance(value, dict):
            yield f"{indent}{key}: {value}\n"
            continue
        for below in [value[name] for name in sorted(value)] if key in _LISTS else [value]:
            yield f"{indent}{key} {{\n"
            yield from _lines(below, indent + "  ")
            yield f"{indent}}}\n"
        if not indent:
            yield "\n"


LINK_FORMAT: dict[str, Rule] = {
    "address": {"type": "string", "format": "address"},
    "priority": {"type": "integer", "minimum": 0, "maximum": 255, "optional": True},
}


def parse_link(text: str) -> dict[str, Any]:
    """A link parameter: `10.0.0.1` or `address=10.0.0.1,priority=20`."""
    return parse_property_string(text, LINK_FORMAT, default_key="address")


def link_arguments(params: Mapping[str, Any]) -> dict[int, dict[str, Any]]:
    """The link0 to link7 among call parameters, by number."""
    given = {number: params.get(f"link{number}") for number in range(MAX_LINK + 1)}
    return {number: parse_link(str(text)) for number, text in given.items() if text}


def new_conf(node: str, address: str, params: Mapping[str, Any]) -> Conf:
    """The first configuration of a cluster; its version is 0 until it is written."""
    links = link_arguments(params) or {0: {"address": address}}
    entry = {
        "name": node,
        "nodeid": str(params.get("nodeid", 1)),
        "quorum_votes": str(params.get("votes", 1)),
    }
    interfaces: dict[str, Section] = {}
    for number, link in links.items():
        priority = {"knet_link_priority": str(link["priority"])} if link.get("priority") else {}
        interfaces[str(number)] = {"linknumber": str(number), **priority}
        entry[f"ring{number}_addr"] = link["address"]
    totem = {
        "version": "2", "secauth": "on", "cluster_name": params["clustername"], "config_version": "0",
        "ip_version": "ipv4-6", "link_mode": "passive", "interface": interfaces,
        "token_coefficient": str(params.get("token-coefficient", 125)),
    }  # fmt: skip
    return Conf({
        "totem": totem, "nodelist": {"node": {node: entry}}, "quorum": {"provider": "corosync_votequorum"},
        "logging": {"to_syslog": "yes", "debug": "off"},
    })  # fmt: skip


def mistakes(conf: Conf) -> list[str]:
    """What forbids a change of this configuration: links that the nodes or interfaces do not share."""
    if not conf.nodes:
        return ["no nodes found"]
    if not conf.totem:
        return ["no totem found"]
    interfaces = set(map(int, conf.totem.get("interface", {})))
    wanted = interfaces or {link for node in conf.nodes.values() for link in links_of(node)}
    return [text for name in sorted(conf.nodes) for text in _node_mistakes(conf, name, wanted)]


def _node_mistakes(conf: Conf, name: str, wanted: set[int]) -> Iterator[str]:
    links = set(links_of(conf.nodes[name]))
    for link in sorted(wanted - links):
        if conf.totem.get("interface"):
            yield f"node '{name}' is missing address for interface number {link}"
        else:
            yield f"node '{name}' is missing link {link}, which is configured on other nodes"
    for link in sorted(links - wanted):
        yield f"node '{name}' has 'ring{link}_addr', but there is no interface number {link} configured"


def add_node(conf: Conf, name: str, params: Mapping[str, Any]) -> None:
    """Put a joining node into the nodelist, by all of Proxmox' rules; ConfError when one is broken."""
    given = {number: link["address"] for number, link in link_arguments(params).items()}
    _refuse_used_addresses(conf, name, given)
    links = _fitting_links(conf, given, params.get("new_node_ip"))
    node_id, votes = _identity(conf, name, params)
    entry = {"name": name, "nodeid": str(node_id)}
    if votes:
        entry["quorum_votes"] = str(votes)
    entry.update({f"ring{number}_addr": address for number, address in links.items()})
    conf.nodes[name] = entry


def _refuse_used_addresses(conf: Conf, name: str, given: Mapping[int, str]) -> None:
    for address in given.values():
        for other, entry in conf.nodes.items():
            used = [number for number, taken in links_of(entry).items() if taken == address]
            if other != name and used:
                link = f"ring{used[0]}_addr"
                raise ConfError(
                    f"corosync: address '{address}' already used on link {link} by node '{other}'"
                )


def _fitting_links(conf: Conf, given: Mapping[int, str], fallback: str | None) -> dict[int, str]:
    there = conf.links
    if not given:
        return _fallback_link(there, fallback)
    for number in range(MAX_LINK + 1):
        if number in there and number not in given:
            raise ConfError(
                f"corosync: link {number} exists in cluster config but wasn't specified for new node"
            )
        if number in given and number not in there:
            raise ConfError(f"corosync: link {number} specified for new node doesn't exist in cluster config")
    return dict(given)


def _fallback_link(there: Mapping[int, str], fallback: str | None) -> dict[int, str]:
    if not fallback:
        raise ConfError("no links and no fallback ip (new_node_ip) given, cannot join cluster")
    if len(there) != 1:
        raise ConfError(
            "no links given but multiple links found on other nodes, fallback only supported on "
            "single-link clusters"
        )
    return {next(iter(there)): fallback}


def _identity(conf: Conf, name: str, params: Mapping[str, Any]) -> tuple[int, int]:
    there = conf.nodes.get(name)
    if there is None:
        taken = {int(node["nodeid"]) for node in conf.nodes.values()}
        free = next(number for number in range(1, len(taken) + 2) if number not in taken)
        return params.get("nodeid") or free, params.get("votes", 1)
    node_id = params.get("nodeid") or int(there["nodeid"])
    votes = params.get("votes", int(there.get("quorum_votes", 1)))
    same = (node_id, votes) == (int(there["nodeid"]), int(there.get("quorum_votes", 1)))
    if not (same and params.get("force")):
        raise ConfError(f"can't add existing node '{name}'")
    return node_id, votes


def find_node(conf: Conf, wanted: str) -> str:
    """The name of the node called `wanted`, or with that address; ConfError when there is none."""
    for name, entry in conf.nodes.items():
        if wanted == name or wanted in (entry.get("ring0_addr"), entry.get("ring1_addr")):
            return name
    raise ConfError(f"Node/IP: {wanted} is not a known host of the cluster.")
