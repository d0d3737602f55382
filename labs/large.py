"""Writes the lab file of a large virtual rack: python -m labs.large --nodes 64 --kind light > lab.yaml."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

import yaml

MOST = {"light": 1000, "full": 16}
"""A Linux bridge has 1023 ports; 17 machines with systemd take all the inotify instances of one user."""

_DEFAULT_LAB = Path(__file__).parent / "virtual.yaml"
_FIRST = {"management": IPv4Address("10.10.0.0"), "storage": IPv4Address("10.20.0.0")}
_RESERVED = 10
"""Addresses for the server and whoever else stands in the rack, before those of consoles and nodes."""
_OF_FULL_NODES = ("cluster", "ceph", "templates", "people", "deadlines")


@dataclass(frozen=True, slots=True)
class Network:
    """Where the machines of a network with so many nodes have their addresses."""

    first: IPv4Address
    nodes: int

    @property
    def cidr(self) -> IPv4Network:
        """Room for consoles, nodes, as many strangers, and the harness; a /24 at least."""
        needed = _RESERVED + 3 * self.nodes + 2
        return IPv4Network((self.first, min(24, 32 - needed.bit_length())))

    def console(self, number: int) -> str:
        """The address of a node's console; nodes are counted from 1."""
        return str(self.first + _RESERVED + number)

    def node(self, number: int) -> str:
        """The address of a node."""
        return self.console(self.nodes + number)

    @property
    def strangers(self) -> str:
        """The range of DHCP."""
        return f"{self.node(self.nodes + 1)}-{self.node(2 * self.nodes)}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the lab file."""
    parser = argparse.ArgumentParser(prog="python -m labs.large", description=__doc__)
    parser.add_argument("--nodes", type=int, required=True, help=f"how many; at most {MOST}")
    parser.add_argument(
        "--kind", choices=MOST, default="light",
        help="light: network, SSH and the tools that checks read; full: those of the default lab",
    )  # fmt: skip
    parser.add_argument("--name", help="the lab's name; default: KIND-NODES")
    given = parser.parse_args(arguments)
    if not 1 <= given.nodes <= MOST[given.kind]:
        parser.error(f"--nodes {given.nodes}: a rack has 1 to {MOST[given.kind]} {given.kind} nodes")
    print(written(given.nodes, given.kind, given.name), end="")
    return 0


def written(nodes: int, kind: str, name: str | None = None) -> str:
    """The text of a lab file: the default lab with so many nodes of a kind, light or full."""
    lab: dict[str, Any] = yaml.safe_load(_DEFAULT_LAB.read_text(encoding="utf-8"))
    management, storage = (Network(_FIRST[network], nodes) for network in ("management", "storage"))
    lab |= {"name": name or f"{kind}-{nodes}", "networks": _networks(lab["networks"], management, storage)}
    lab["nodes"] = dict(_node(number, management, storage) for number in range(1, nodes + 1))
    lab = _light(lab) if kind == "light" else _full(lab)
    how = f"# Written by python -m labs.large --nodes {nodes} --kind {kind}: a rack of this machine\n"
    return how + yaml.safe_dump(lab, sort_keys=False)


def _networks(default: Mapping[str, Any], management: Network, storage: Network) -> dict[str, Any]:
    gateway = str(management.first + 1)
    own = {"cidr": str(management.cidr), "gateway": gateway, "dns": [gateway], "dhcp": management.strangers}
    return {
        "management": default["management"] | own,
        "storage": default["storage"] | {"cidr": str(storage.cidr)},
    }


def _node(number: int, management: Network, storage: Network) -> tuple[str, dict[str, Any]]:
    name = f"node{number:0{len(str(management.nodes))}}"
    low = f"{number >> 8:02x}:{number & 255:02x}"
    return name, {
        "serial": f"RPV{number:07}",
        "mac": f"52:54:00:a1:{low}",
        "management": management.node(number),
        "storage": storage.node(number),
        "macs": {"storage": f"52:54:00:a2:{low}"},
        "bmc": {"address": management.console(number), "mac": f"52:54:00:a0:{low}"},
        "disk": {"serial": f"RPVDISK{number:07}"},
    }


def _full(lab: dict[str, Any]) -> dict[str, Any]:
    names = list(lab["nodes"])
    disks = {name: [{"serial": f"RPVOSD{number:07}"}] for number, name in enumerate(names, 1)}
    osds = {**lab["ceph"]["osds"], "disks": disks}
    return lab | {"cluster": lab["cluster"] | {"primary": names[0]}, "ceph": lab["ceph"] | {"osds": osds}}


def _light(lab: dict[str, Any]) -> dict[str, Any]:
    """Nodes that stand without ever being installed, so there is no server to install them from."""
    defaults = {key: value for key, value in lab["defaults"].items() if key != "first_boot"}
    kept = {key: value for key, value in lab.items() if key not in _OF_FULL_NODES}
    return kept | {"server": {}, "defaults": defaults | {"kind": "light"}}


if __name__ == "__main__":
    sys.exit(main())
