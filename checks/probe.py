"""Questions that checks ask often, each by one command: addresses, routes, stanzas, corosync."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from ipaddress import IPv4Interface
from typing import Any

import yaml
from testinfra.host import Host

INTERFACES = "/etc/network/interfaces"
NO_BROADCAST = "# no broadcast"
NETPLAN = f"netplan get; ! grep -rqs '^Broadcast=no$' /etc/systemd/network || echo '{NO_BROADCAST}'"
"""What netplan has in all its files, and a remark of what only networkd itself can be told."""


@dataclass(frozen=True, slots=True)
class Link:
    """A network interface as the kernel has it; without `carrier` its cable is out, or is dead beyond."""

    name: str
    mtu: int
    up: bool
    carrier: bool
    mac: str
    master: str | None
    addresses: tuple[IPv4Interface, ...]
    broadcasts: tuple[str | None, ...]


def links(host: Host) -> dict[str, Link]:
    """All interfaces of a machine by name (`ip -j -4 addr` and its link fields; iproute2's JSON)."""
    return {entry["ifname"]: _link(entry) for entry in json.loads(host.check_output("ip -j addr show"))}


def _link(entry: dict[str, Any]) -> Link:
    ipv4 = [info for info in entry["addr_info"] if info["family"] == "inet"]
    return Link(
        name=entry["ifname"],
        mtu=entry["mtu"],
        up="UP" in entry["flags"],
        carrier="LOWER_UP" in entry["flags"],
        mac=entry["address"],
        master=entry.get("master"),
        addresses=tuple(IPv4Interface(f"{info['local']}/{info['prefixlen']}") for info in ipv4),
        broadcasts=tuple(info.get("broadcast") for info in ipv4),
    )


def default_routes(host: Host) -> list[tuple[str, str]]:
    """All default IPv4 routes as (gateway, interface)."""
    routes = json.loads(host.check_output("ip -j -4 route show default"))
    return [(route.get("gateway", ""), route["dev"]) for route in routes]


def stanzas(host: Host) -> dict[str, dict[str, str]]:
    """What is set up at a reboot: options by interface, as interfaces(5) has them; `auto` is one, as "yes".

    By /etc/network/interfaces, or by netplan where there is no such file.
    """
    text = host.check_output(f"cat {INTERFACES} 2>/dev/null || {{ {NETPLAN}; }}")
    return parse_netplan(text) if text.startswith("network:") else parse_stanzas(text)


def parse_stanzas(text: str) -> dict[str, dict[str, str]]:
    """The options of each `iface` stanza (interfaces(5)); several of one name are put together."""
    found: dict[str, dict[str, str]] = {}
    current: dict[str, str] = {}
    for line in text.splitlines():
        words = line.split(maxsplit=1)
        if not words or words[0].startswith("#"):
            continue
        rest = words[1].strip() if len(words) > 1 else ""
        if words[0] == "auto":
            for name in rest.split():
                found.setdefault(name, {})["auto"] = "yes"
        elif words[0] == "iface":
            current = found.setdefault(rest.split()[0], {})
            current["method"] = rest.split()[-1]
        elif words[0].startswith(("source", "allow-", "mapping")):
            current = {}
        else:
            current[words[0]] = rest
    return found


def parse_netplan(text: str) -> dict[str, dict[str, str]]:
    """The same of netplan's YAML, as networkd renders it: an address has its network's broadcast address."""
    network = yaml.safe_load(text)["network"]
    found = {}
    for name, settings in {**network.get("ethernets", {}), **network.get("bridges", {})}.items():
        ports = " ".join(settings.get("interfaces", ()))
        found[name] = {"auto": "yes"} | ({"bridge-ports": ports} if ports else {})
        found[name] |= {"mtu": str(settings["mtu"])} if "mtu" in settings else {}
        for address in settings.get("addresses", ())[:1]:
            broadcast = str(IPv4Interface(address).network.broadcast_address)
            found[name] |= {"address": address} | ({} if NO_BROADCAST in text else {"broadcast": broadcast})
        for route in settings.get("routes", ()):
            found[name] |= {"gateway": route["via"]} if route["to"] in ("default", "0.0.0.0/0") else {}
    return found


def name_servers(host: Host) -> list[str]:
    """The name servers that are asked, also where systemd-resolved asks them."""
    resolved = "grep -q '^nameserver 127.0.0.53$' /etc/resolv.conf && cat /run/systemd/resolve/resolv.conf"
    lines = host.check_output(f"{resolved} || cat /etc/resolv.conf").splitlines()
    return [words[1] for line in lines if (words := line.split())[:1] == ["nameserver"]]


def ping(host: Host, source: str, target: str, size: int, patience: str = "-w 3") -> tuple[bool, str]:
    """Whether an unfragmented IPv4 echo of `size` data bytes came back, and what ping said.

    One is sent each second until one comes back, or three seconds have passed: the first may be lost to
    address resolution.
    """
    result = host.run(f"ping -4 -n -c 1 {patience} -M do -I %s -s %s %s", source, str(size), target)
    return result.rc == 0, result.stdout + result.stderr


@dataclass(frozen=True, slots=True)
class PeerLink:
    """A corosync link to one peer as this node has it."""

    link: int
    source: str
    target: str
    connected: bool


def corosync_peers(host: Host) -> dict[int, list[PeerLink]]:
    """The links to every reachable peer by node id (`corosync-cfgtool -n`, corosync 3.1)."""
    return parse_peers(host.check_output("corosync-cfgtool -n"))


def parse_peers(text: str) -> dict[int, list[PeerLink]]:
    """What `corosync-cfgtool -n` printed; peers that are not reachable are simply missing in it."""
    peers: dict[int, list[PeerLink]] = {}
    current: list[PeerLink] = []
    for line in text.splitlines():
        if node := re.match(r"nodeid:\s+(\d+)\s+reachable", line):
            current = peers.setdefault(int(node[1]), [])
        elif link := re.match(r"\s+LINK:\s+(\d+)\s+\S+\s+\(([^)]*)->([^)]*)\)\s+enabled(.*)", line):
            connected = re.match(r"\s+connected\b", link[4]) is not None
            current.append(PeerLink(int(link[1]), link[2], link[3], connected))
    return peers


def corosync_node_ids(host: Host) -> dict[str, int]:
    """The node ids of the running configuration by node name (`corosync-cmapctl nodelist.`)."""
    names: dict[str, str] = {}
    ids: dict[str, int] = {}
    for place, key, value in re.findall(
        r"nodelist\.node\.(\d+)\.(name|nodeid) \(\w+\) = (\S+)",
        host.check_output("corosync-cmapctl nodelist."),
    ):
        if key == "name":
            names[place] = value
        else:
            ids[place] = int(value)
    return {names[place]: ids[place] for place in ids if place in names}


def quorum(host: Host) -> dict[str, str]:
    """The `Name: value` lines of `corosync-quorumtool -s`, which ends with 2 when there is no quorum."""
    output = host.run_expect([0, 2], "corosync-quorumtool -s").stdout
    return dict(re.findall(r"^([A-Z][\w ]+):\s+(.*?)\s*$", output, re.MULTILINE))
