"""Networks on a node: each bridge with its port and address, one default route, persisted as live."""

from __future__ import annotations

import re
from ipaddress import IPv4Interface

import pytest
from testinfra.host import Host

from checks import probe
from provision.inventory import Lab, Network, Node

pytestmark = [pytest.mark.step("install"), pytest.mark.light]

GUEST_PORT = re.compile(r"(tap|veth)\d+i\d+|fwpr\d+p\d+")
"""What Proxmox calls the ends of its guests' cables (pve-common's `Network.pm`)."""


def test_cable_carries(host: Host, node: Node, network: Network) -> None:
    """The NIC of that network has a link to its switch."""
    links = probe.links(host)
    nic = nic_of(node, network, links)
    assert links[nic].carrier, f"{nic} has no link: its cable is out, or its port on the switch is off"


def test_bridge_has_its_port(host: Host, node: Node, network: Network) -> None:
    """The bridge is up, and the node's NIC of that network is its one port, guests' aside."""
    links = probe.links(host)
    ports = [link.name for link in links.values() if link.master == network.bridge]
    nics = [name for name in ports if not GUEST_PORT.fullmatch(name)]
    assert links[network.bridge].up
    assert nics == [nic_of(node, network, links)]


def test_bridge_has_its_address(host: Host, node: Node, network: Network) -> None:
    """The bridge bears exactly the node's address, with the network's prefix."""
    assert probe.links(host)[network.bridge].addresses == (address_of(node, network),)


def test_nic_bears_no_address(host: Host, node: Node, network: Network) -> None:
    """The port itself has no IPv4 address: it would answer beside the bridge."""
    links = probe.links(host)
    assert links[nic_of(node, network, links)].addresses == ()


def test_address_is_persisted(host: Host, node: Node, network: Network) -> None:
    """After a reboot the bridge has the same port and address."""
    stanza = probe.stanzas(host)[network.bridge]
    assert stanza["auto"] == "yes"
    assert IPv4Interface(stanza["address"]) == address_of(node, network)
    assert stanza["bridge-ports"] == nic_of(node, network, probe.links(host))


def test_default_route_by_management_only(host: Host, lab: Lab) -> None:
    """There is one default route, by the management network's gateway."""
    management = lab.management
    assert probe.default_routes(host) == [(str(management.gateway), management.bridge)]


def test_default_route_is_persisted(host: Host, lab: Lab) -> None:
    """After a reboot there is the same one default route."""
    gateways = {
        name: stanza["gateway"] for name, stanza in probe.stanzas(host).items() if "gateway" in stanza
    }
    assert gateways == {lab.management.bridge: str(lab.management.gateway)}


@pytest.mark.wan
def test_reaches_the_world_by_nat(host: Host, server_host: Host, lab: Lab) -> None:
    """A host beyond the server, which knows no way back into the lab, answers the node."""
    target = lab.server.wan_probe or _gateway_of(server_host, str(lab.server.wan))
    assert host.run("ping -4 -n -c 1 -W 2 %s", str(target)).rc == 0


def nic_of(node: Node, network: Network, links: dict[str, probe.Link]) -> str:
    """The node's NIC on a network: the one with the MAC of the lab file, or the name."""
    mac = node.mac if network.name == "management" else node.macs.get(network.name)
    bridges = {link.master for link in links.values()}
    by_mac = [link.name for link in links.values() if link.mac == mac and link.name not in bridges]
    return by_mac[0] if by_mac else node.nics[network.name]


def address_of(node: Node, network: Network) -> IPv4Interface:
    """The node's address on a network, with its prefix."""
    return IPv4Interface(f"{node.addresses[network.name]}/{network.cidr.prefixlen}")


def _gateway_of(server: Host, wan: str) -> str:
    return str(server.check_output("ip -4 route show default dev %s", wan).split()[2])
