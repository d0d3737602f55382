"""The steps' own tests: each stands first in its step and carries its duration and its error in JUnit."""

from __future__ import annotations

import pytest

from provision.inventory import Lab
from provision.journal import Evidence

pytestmark = [pytest.mark.provision, pytest.mark.acts]


@pytest.mark.step("server")
def test_server(server_configured: Evidence) -> None:
    """The provisioning server serves DHCP, DNS, TFTP and HTTP."""
    assert server_configured.step == "server"


@pytest.mark.step("power")
def test_power(nodes_rebooted: Evidence) -> None:
    """Every node is the one the lab file names, and was reset into network boot."""
    assert nodes_rebooted.nodes, "no node was rebooted"


@pytest.mark.step("install")
def test_install(nodes_installed: Evidence) -> None:
    """Every node has registered itself with the nonce of this install."""
    assert nodes_installed.nodes, "no node was installed"


@pytest.mark.step("cluster")
def test_cluster(cluster_formed: Evidence, lab: Lab) -> None:
    """The nodes form one quorate cluster, if the lab file asks for one."""
    assert cluster_formed.nodes or lab.cluster is None, "no node is in the cluster"


@pytest.mark.step("ceph")
def test_ceph(ceph_healthy: Evidence) -> None:
    """Ceph stands as asked for, and is healthy."""
    assert ceph_healthy.step == "ceph"


@pytest.mark.step("templates")
def test_templates(templates_ready: Evidence) -> None:
    """Every VM template stands as asked for, and a clone of it came up."""
    assert templates_ready.step == "templates"
