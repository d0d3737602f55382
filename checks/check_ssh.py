"""SSH: in by key and not by password, exactly the lab's keys, a host key of its own, and node to node."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress

import pytest
from testinfra.host import Host

from provision.errors import Unreachable
from provision.inventory import Lab, Node
from provision.machines import node_target
from provision.remote import password_refused, shown_host_key

HOST_KEY = "/etc/ssh/ssh_host_ed25519_key.pub"


@pytest.fixture(scope="session")
def keys_by_node(lab: Lab, host_named: Callable[[str], Host]) -> Mapping[str, str]:
    """The host key of every node, read once; a node that cannot be reached fails checks of its own."""
    found = {}
    for name in lab.nodes:
        with suppress(Unreachable):
            found[name] = key_in(host_named(name))
    return found


@pytest.mark.light
@pytest.mark.step("install")
def test_key_lets_root_in(host: Host) -> None:
    """The harness is root on the node, by its key."""
    assert host.check_output("id -un") == "root"


@pytest.mark.light
@pytest.mark.step("install")
def test_password_does_not(node: Node, lab: Lab, known_keys: tuple[str, ...]) -> None:
    """The node offers no log-in by password."""
    assert password_refused(node_target(lab, node, known_keys))


@pytest.mark.light
@pytest.mark.step("install")
def test_host_key_is_the_known_one(host: Host, known_keys: tuple[str, ...]) -> None:
    """The node has the host key that its installer reported, or that was made for it and handed over."""
    assert key_in(host) in keys_of("\n".join(known_keys))


@pytest.mark.light
@pytest.mark.step("install")
def test_node_shows_the_known_host_key(node: Node, lab: Lab, known_keys: tuple[str, ...]) -> None:
    """Whoever logs in is shown that host key, and no other."""
    shown = shown_host_key(node_target(lab, node, ()))
    assert shown in keys_of("\n".join(known_keys))


@pytest.mark.light
@pytest.mark.step("install")
def test_host_key_is_no_other_nodes(host: Host, node: Node, keys_by_node: Mapping[str, str]) -> None:
    """No two nodes share a host key, as clones of one image would."""
    own = key_in(host)
    assert [name for name, key in keys_by_node.items() if key == own and name != node.name] == []


@pytest.mark.step("cluster")
def test_authorized_keys_are_exactly_the_labs(
    host: Host, node: Node, lab: Lab, host_named: Callable[[str], Host]
) -> None:
    """Root lets in the keys of the lab file, on Proxmox those of all such nodes, and nobody else."""
    found = keys_of(host.check_output("cat /root/.ssh/authorized_keys"))
    asked = keys_of("\n".join(node.ssh_keys))
    peers = lab.proxmox.nodes if node.is_proxmox else ()
    own = keys_of("\n".join(host_named(name).check_output("cat /root/.ssh/id_*.pub") for name in peers))
    assert found == asked | own


@pytest.mark.cluster
@pytest.mark.step("cluster")
def test_node_reaches_node(host: Host, peer: Node) -> None:
    """Root on one node is let in on another, by the cluster's keys (as Proxmox itself calls ssh)."""
    known = f"/etc/pve/nodes/{peer.name}/ssh_known_hosts"
    command = (
        f"ssh -o BatchMode=yes -o ConnectTimeout=5 -o HostKeyAlias={peer.name} -o UserKnownHostsFile={known} "
        f"-o GlobalKnownHostsFile=none root@{peer.management} hostname"
    )
    assert host.check_output(command) == peer.name


def key_in(host: Host) -> str:
    """The type and the key itself of a node's host key, without its comment."""
    return " ".join(host.check_output("cat %s", HOST_KEY).split()[:2])


def keys_of(text: str) -> set[str]:
    """The keys of an authorized_keys file, without comments."""
    lines = (line.strip() for line in text.splitlines())
    return {" ".join(line.split()[:2]) for line in lines if line and not line.startswith("#")}
