"""Broadcast addresses on a node: set on every bridge, live and after a reboot."""

from __future__ import annotations

import pytest
from testinfra.host import Host

from checks import probe
from provision.inventory import Network

pytestmark = [pytest.mark.step("install"), pytest.mark.light]


def test_broadcast_address(host: Host, network: Network) -> None:
    """The bridge has its network's broadcast address (ifupdown2 sets none unless told to)."""
    assert probe.links(host)[network.bridge].broadcasts == (str(network.cidr.broadcast_address),)


def test_broadcast_address_is_persisted(host: Host, network: Network) -> None:
    """The bridge's stanza says the broadcast address."""
    assert probe.stanzas(host)[network.bridge].get("broadcast") == str(network.cidr.broadcast_address)
