"""Reads the classic inventory, nodes.json, as the lab file that it would be.

What the classic inventory leaves unsaid is what the classic lab was: /24 networks, .1 for gateway, DNS
and server, bridges vmbr0 and vmbr1 on eno1 and eno3, MTU 9000 for storage, the system on sda. Its
installers and nodes may use the classic paths, which know no token.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from ipaddress import IPv4Network
from typing import Any

from provision.inventory.document import Document, Place
from provision.inventory.words import MANAGEMENT, did_you_mean

STORAGE = "storage"
CLUSTER_NAME = "sddc-cluster"
"""The classic scripts' cluster when CLUSTER_NAME is not set."""

FIELDS: dict[str, Place] = {
    "os_mac": ("mac",),
    "os_ip": (MANAGEMENT,),
    "ceph_ip": (STORAGE,),
    "console_ip": ("bmc", "address"),
    "console_mac": ("bmc", "mac"),
}
"""Where in a node of a lab file each field of a row stands."""
ROW_KEYS = (*FIELDS, "hostname", "os_hostname", "mac", "ip")
LISTS = ("nodes", "provisioning_nodes", "console_nodes")
"""The lists of rows; the last two, with the fields mac and ip, are from before `nodes` had both."""


def is_classic(data: Mapping[str, Any]) -> bool:
    """Whether this is a classic inventory: its nodes are a list."""
    return any(isinstance(data.get(name), list) for name in LISTS)


def translate(found: Document, env: Mapping[str, str]) -> Document:
    """The same document in the shape of a lab file; each place keeps its line and its classic name."""
    return _Translation(found).document(env.get("CLUSTER_NAME") or CLUSTER_NAME)


def lab_name(cluster: str) -> str:
    """The lab's name after its cluster's, made a host name."""
    return re.sub("[^a-z0-9-]+", "-", cluster.lower()).strip("-") or "classic"


class _Translation:
    """One classic inventory on its way to a lab file."""

    def __init__(self, found: Document) -> None:
        self._found = found
        self._lab = Document(found.file, mistakes=list(found.mistakes))

    def document(self, cluster: str) -> Document:
        nodes = self._nodes()
        self._lab.called[("cluster", "name")] = "CLUSTER_NAME"
        self._lab.data = {
            "name": lab_name(cluster),
            "domain": "lab.local",
            "classic": True,
            "networks": _networks(nodes),
            "defaults": self._defaults(),
            "nodes": nodes,
            "cluster": _cluster(cluster, nodes),
        }
        self._unknown((), self._found.data, (*LISTS, "ssh_keys"))
        return self._lab

    def _nodes(self) -> dict[str, dict[str, Any]]:
        """Each row is a node, its console, or both; rows of one name are one node."""
        nodes: dict[str, dict[str, Any]] = {}
        for place, row in self._rows():
            name = _node_name(row)
            if name is None:
                self._wrong(place, "has no os_hostname")
                continue
            self._note(place, ("nodes", name))
            self._found.called |= {(*place, key): f"nodes.{name}.{key}" for key in row}
            self._unknown(place, row, ROW_KEYS)
            node = nodes.setdefault(name, {"mac": None, MANAGEMENT: None, STORAGE: None, "bmc": {}})
            for key in row:
                self._carry((*place, key), row, name, node)
        return {name: _filled(node) for name, node in nodes.items()}

    def _rows(self) -> Iterator[tuple[Place, dict[str, Any]]]:
        for name in LISTS:
            rows = self._found.data.get(name)
            for index, row in enumerate(rows if isinstance(rows, list) else []):
                place = (name, str(index))
                if isinstance(row, dict):
                    yield place, row
                else:
                    self._wrong(place, "must be a mapping of keys")

    def _carry(self, source: Place, row: Mapping[str, Any], name: str, node: dict[str, Any]) -> None:
        """Put one field of a row where a lab file has it, unless another row of this node was there first."""
        key, value = source[-1], row[source[-1]]
        target = _target(key, row, name)
        if target is None:
            return
        part = node if len(target) == 1 else node[target[0]]
        if part.get(target[-1]) not in (None, value):
            self._wrong(source, f"another row gives {name} one already")
            return
        part[target[-1]] = value
        self._note(source, ("nodes", name, *target))

    def _defaults(self) -> dict[str, Any]:
        keys = self._found.data.get("ssh_keys")
        self._lab.called[("defaults", "ssh_keys")] = "ssh_keys.root"
        self._note(("ssh_keys", "root"), ("defaults", "ssh_keys"))
        if isinstance(keys, dict):
            self._unknown(("ssh_keys",), keys, ("root",))
        elif keys is not None:
            self._wrong(("ssh_keys",), "must be a mapping of keys")
        root = keys.get("root") if isinstance(keys, dict) else None
        return {
            "os": "proxmox-9",
            "bmc": {"user": "env:BMC_USER", "password": "env:BMC_PASSWORD", "trust": "pinned"},
            "root_password": "env:PROXMOX_ROOT_PASSWORD",
            "ssh_keys": root if isinstance(root, list) else [root] if root else [],
            "disk": {"filesystem": "ext4", "device": "sda"},
        }

    def _unknown(self, place: Place, part: Mapping[str, Any], known: tuple[str, ...]) -> None:
        for key in part:
            if key not in known:
                self._wrong((*place, key), f"is an unknown key{did_you_mean(key, known)}")

    def _wrong(self, place: Place, message: str) -> None:
        self._lab.mistakes.append(self._found.mistake(place, message))

    def _note(self, source: Place, target: Place) -> None:
        """Keep where the lab's `target` stands in the classic file, and how it is called there."""
        if source in self._found.lines and target not in self._lab.lines:
            self._lab.lines[target] = self._found.lines[source]
            if target[0] == "nodes" and len(target) > 2:
                self._lab.called[target] = f"nodes.{target[1]}.{source[-1]}"


def _node_name(row: Mapping[str, Any]) -> str | None:
    name = row.get("os_hostname") or row.get("hostname")
    return name.removeprefix("console-") if isinstance(name, str) and name else None


def _target(key: str, row: Mapping[str, Any], name: str) -> Place | None:
    """Where the field stands in a node; the old `mac` and `ip` belong to what the row's hostname names."""
    if key == "hostname" and "os_hostname" in row and row[key] != f"console-{name}":
        return ("bmc", "name")
    if key in ("mac", "ip"):
        console = str(row.get("hostname")).startswith("console-") and f"console_{key}" not in row
        key = f"{'console' if console else 'os'}_{key}"
    return FIELDS.get(key)


def _filled(node: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in node.items() if value}


def _networks(nodes: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    networks: dict[str, dict[str, Any]] = {}
    if management := _network_of(nodes, MANAGEMENT):
        first = str(management[1])
        here = {"cidr": str(management), "gateway": first, "dns": [first]}
        networks[MANAGEMENT] = {**here, "bridge": "vmbr0", "nic": "eno1"}
    if storage := _network_of(nodes, STORAGE):
        networks[STORAGE] = {"cidr": str(storage), "mtu": 9000, "bridge": "vmbr1", "nic": "eno3"}
    return networks


def _network_of(nodes: Mapping[str, Mapping[str, Any]], network: str) -> IPv4Network | None:
    """The /24 of the first node that has an address there."""
    for node in nodes.values():
        try:
            return IPv4Network(f"{node.get(network)}/24", strict=False)
        except ValueError:
            continue
    return None


def _cluster(name: str, nodes: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    cluster: dict[str, Any] = {"name": name, "primary": next(iter(nodes), None)}
    if not any(STORAGE in node for node in nodes.values()):
        return {**cluster, "links": [MANAGEMENT]}
    return {**cluster, "links": [MANAGEMENT, STORAGE], "migration": STORAGE}
