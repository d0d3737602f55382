"""A light node: what the rack must know of it, and what an installed node would have on its disk of that."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Interface
from typing import Any

from provision.inventory.models import Lab, Network, Node
from provision.inventory.words import MANAGEMENT

HOST_KEY = "ssh_host_ed25519_key"
_NO_PASSWORDS = "PasswordAuthentication no\nKbdInteractiveAuthentication no\n"


@dataclass(frozen=True, slots=True)
class Bridge:
    """A bridge on a NIC, with its address as 10.10.1.21/24."""

    name: str
    nic: str
    address: str
    mtu: int
    gateway: str | None = None


@dataclass(frozen=True, slots=True)
class Light:
    """What a light node has of its own; `ssh_keys` let root in, beside the rack's."""

    bridges: tuple[Bridge, ...]
    name_servers: tuple[str, ...]
    ssh_keys: tuple[str, ...] = ()


def asked_for(lab: Lab, node: Node) -> Light | None:
    """What the lab file asks of a node if it is a light one."""
    if node.kind != "light":
        return None
    networks = (lab.networks[name] for name in sorted(node.addresses, key=lambda each: each != MANAGEMENT))
    servers = lab.management.dns or (lab.server.address,)
    bridges = tuple(_bridge(node, network) for network in networks)
    return Light(bridges, tuple(map(str, servers)), node.ssh_keys)


def loaded(raw: Mapping[str, Any]) -> Light:
    """What `dataclasses.asdict` and JSON have made of it."""
    bridges = tuple(Bridge(**bridge) for bridge in raw["bridges"])
    return Light(bridges, tuple(raw["name_servers"]), tuple(raw["ssh_keys"]))


def _bridge(node: Node, network: Network) -> Bridge:
    address = f"{node.addresses[network.name]}/{network.cidr.prefixlen}"
    gateway = str(network.gateway) if network.gateway else None
    return Bridge(network.bridge, node.nics[network.name], address, network.mtu, gateway)


def links(light: Light) -> Iterator[str]:
    """The lines of `ip -batch` that set its network up, as ifupdown2 does at boot."""
    yield "link set lo up"
    for bridge in light.bridges:
        yield f"link add {bridge.name} type bridge stp_state 0 forward_delay 0"
        yield f"link set {bridge.nic} mtu {bridge.mtu} master {bridge.name} up"
        yield f"link set {bridge.name} mtu {bridge.mtu} up"
        yield f"addr add {bridge.address} broadcast + dev {bridge.name}"
        if bridge.gateway:
            yield f"route add default via {bridge.gateway} dev {bridge.name}"


def files(light: Light, fqdn: str) -> dict[str, str]:
    """Its files by their paths, apart from its keys."""
    name, address = fqdn.partition(".")[0], IPv4Interface(light.bridges[0].address).ip
    return {
        "etc/hostname": f"{name}\n",
        "etc/hosts": f"127.0.0.1 localhost\n{address} {fqdn} {name}\n",
        "etc/resolv.conf": "".join(f"nameserver {server}\n" for server in light.name_servers),
        "etc/network/interfaces": "auto lo\niface lo inet loopback\n" + "".join(map(_stanzas, light.bridges)),
        "etc/ssh/sshd_config.d/10-rackproof.conf": _NO_PASSWORDS,
    }


def _stanzas(bridge: Bridge) -> str:
    broadcast = IPv4Interface(bridge.address).network.broadcast_address
    gateway = f"\tgateway {bridge.gateway}\n" if bridge.gateway else ""
    return (
        f"\nauto {bridge.nic}\niface {bridge.nic} inet manual\n\tmtu {bridge.mtu}\n"
        f"\nauto {bridge.name}\niface {bridge.name} inet static\n"
        f"\taddress {bridge.address}\n\tbroadcast {broadcast}\n{gateway}"
        f"\tbridge-ports {bridge.nic}\n\tbridge-stp off\n\tbridge-fd 0\n\tmtu {bridge.mtu}\n"
    )
