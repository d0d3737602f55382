"""The Proxmox cluster by its own API: every node says the same of name, members and quorum."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from testinfra.host import Host

from provision.inventory import Lab, Node

if TYPE_CHECKING:
    from provision.pve import Session

pytestmark = [pytest.mark.step("cluster"), pytest.mark.cluster]

SERVICES = ("pve-cluster", "pvedaemon", "pveproxy")


@pytest.mark.parametrize("service", SERVICES)
def test_service_runs(host: Host, service: str) -> None:
    """The service of Proxmox runs."""
    assert host.service(service).systemd_properties["ActiveState"] == "active"


def test_api_agrees(node: Node, lab: Lab, api_of: Callable[[str], Session]) -> None:
    """The node's own API names the cluster, says it is quorate, and has every node online."""
    assert lab.cluster is not None
    status, members = api_of(node.name).status(), frozenset(lab.proxmox.nodes)
    assert (status.name, status.quorate, status.online) == (lab.cluster.name, True, members)


def test_shared_files_are_writable(host: Host) -> None:
    """/etc/pve is mounted, and the cluster filesystem has the quorum that writing takes."""
    assert host.check_output("findmnt -no FSTYPE /etc/pve").startswith("fuse")
    mode = host.check_output("stat -c %A /etc/pve/local")
    assert mode[2] == "w", f"/etc/pve/local has {mode}"
