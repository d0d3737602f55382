"""Corosync: every node a quorate member, both links to every peer, one configuration on all."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from testinfra.host import Host

from checks import probe
from provision.inventory import Lab, Network, Node

pytestmark = [pytest.mark.step("cluster"), pytest.mark.cluster]

CONFIG = "/etc/corosync/corosync.conf"
SHARED_CONFIG = "/etc/pve/corosync.conf"


def test_corosync_runs(host: Host) -> None:
    """corosync runs, and will after a reboot."""
    service = host.service("corosync").systemd_properties
    assert (service["ActiveState"], service["UnitFileState"]) == ("active", "enabled")


def test_node_is_in_the_quorum(host: Host, lab: Lab) -> None:
    """The node counts itself into a quorate cluster of all the lab's Proxmox nodes."""
    quorum = probe.quorum(host)
    votes = str(len(lab.proxmox.nodes))
    assert (quorum["Quorate"], quorum["Expected votes"], quorum["Total votes"]) == ("Yes", votes, votes)


def test_members_are_the_labs_nodes(host: Host, lab: Lab) -> None:
    """The configuration names exactly the lab's Proxmox nodes."""
    assert set(probe.corosync_node_ids(host)) == set(lab.proxmox.nodes)


def test_link_to_peer(host: Host, peer: Node, link: tuple[int, Network]) -> None:
    """The link to the peer is connected."""
    number, network = link
    ids = probe.corosync_node_ids(host)
    links = [found for found in probe.corosync_peers(host).get(ids[peer.name], []) if found.link == number]
    states = ["connected" if found.connected else "disconnected" for found in links]
    assert states == ["connected"], (
        f"link {number} ({network.name}) to {peer.name} is {' and '.join(states) or 'not there'}"
    )


def test_link_address(host: Host, node: Node, lab: Lab, link: tuple[int, Network]) -> None:
    """The link runs from this node's address on that network to the peers' addresses there."""
    number, network = link
    ids = {node_id: name for name, node_id in probe.corosync_node_ids(host).items()}
    found = {
        ids[peer]: (peer_link.source, peer_link.target)
        for peer, links in probe.corosync_peers(host).items()
        for peer_link in links
        if peer_link.link == number
    }
    here = str(node.addresses[network.name])
    assert found == {name: (here, str(lab.nodes[name].addresses[network.name])) for name in found}


def test_configuration_is_the_clusters(host: Host) -> None:
    """The configuration that corosync runs on is the one all members share."""
    assert host.run("cmp %s %s", CONFIG, SHARED_CONFIG).rc == 0


def test_configuration_is_on_every_node(host: Host, lab: Lab, host_named: Callable[[str], Host]) -> None:
    """Digest and version of the configuration are the primary's."""
    assert lab.cluster is not None
    assert _configuration(host) == _configuration(host_named(lab.cluster.primary))


def _configuration(host: Host) -> tuple[str, str]:
    digest = host.check_output("sha256sum <%s", CONFIG).split()[0]
    return digest, host.check_output("corosync-cmapctl -g totem.config_version")
