"""MTU: of every port and bridge, live and persisted, and of the way between every two nodes."""

from __future__ import annotations

import pytest
from testinfra.host import Host

from checks import probe
from checks.check_network import nic_of
from provision.inventory import Network, Node

pytestmark = [pytest.mark.step("install"), pytest.mark.light]

HEADERS = 28
"""Bytes of an IPv4 and an ICMP header."""


def test_mtu_of_bridge(host: Host, network: Network) -> None:
    """The bridge has the network's MTU."""
    mtu = probe.links(host)[network.bridge].mtu
    assert mtu == network.mtu, f"{network.bridge} has MTU {mtu}, not {network.mtu}"


def test_mtu_of_port(host: Host, node: Node, network: Network) -> None:
    """The bridge's port has the network's MTU."""
    links = probe.links(host)
    nic = nic_of(node, network, links)
    assert links[nic].mtu == network.mtu, f"{nic} has MTU {links[nic].mtu}, not {network.mtu}"


def test_mtu_is_persisted(host: Host, node: Node, network: Network) -> None:
    """Both stanzas say the MTU; ifupdown2 resets one that does not to 1500."""
    stanzas = probe.stanzas(host)
    nic = nic_of(node, network, probe.links(host))
    assert {name: stanzas[name].get("mtu", "1500") for name in (network.bridge, nic)} == {
        network.bridge: str(network.mtu),
        nic: str(network.mtu),
    }


def test_largest_packet_passes(host: Host, node: Node, peer: Node, network: Network) -> None:
    """An unfragmented packet of exactly the MTU comes back from the peer."""
    source, target = _way(node, peer, network)
    passed, said = probe.ping(host, source, target, network.mtu - HEADERS)
    assert passed, f"no packet of {network.mtu} bytes comes back from {target} to {source}\n{said}"


def test_larger_packet_is_refused(host: Host, node: Node, peer: Node, network: Network) -> None:
    """One byte more does not leave the node, so the packet before was no accident of a larger MTU."""
    # The node's own kernel refuses it at once, so there is nothing to wait for.
    passed, said = probe.ping(host, *_way(node, peer, network), network.mtu - HEADERS + 1, "-W 0.05")
    assert not passed, said
    assert "message too long" in said.lower(), said


def _way(node: Node, peer: Node, network: Network) -> tuple[str, str]:
    return str(node.addresses[network.name]), str(peer.addresses[network.name])
