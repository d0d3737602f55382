"""Ceph as a whole: monitors, managers, metadata servers, versions, clocks, crashes, health."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import pytest
from testinfra.host import Host

from checks.ceph_facts import CephFacts
from provision.inventory import Ceph, Lab, Node
from provision.journal import Evidence

pytestmark = [pytest.mark.step("ceph"), pytest.mark.ceph]

SOURCES = "/etc/apt/sources.list.d/ceph.sources"


def test_monitor_of_node(node: Node, asked: Ceph, ceph: CephFacts) -> None:
    """A node that is to have a monitor has one, in the quorum, at its public address; another has none."""
    monitor = ceph.monitors.get(node.name)
    if node.name in asked.monitors:
        assert monitor is not None, "no monitor of that name"
        assert monitor.in_quorum, "its monitor is not in the quorum"
        assert monitor.addresses == {node.addresses[asked.public]}
    else:
        assert monitor is None, "a monitor that nobody asked for"


def test_no_monitor_of_a_stranger(lab: Lab, ceph: CephFacts) -> None:
    """Every monitor is named for a node of the lab."""
    assert set(ceph.monitors) - set(lab.proxmox.nodes) == set()


def test_managers(asked: Ceph, ceph: CephFacts) -> None:
    """One manager works, and the others that were asked for stand by."""
    assert ceph.active_manager in asked.managers
    assert ceph.managers == set(asked.managers)


@pytest.mark.cephfs
def test_metadata_servers(asked: Ceph, ceph: CephFacts) -> None:
    """A metadata server works for the filesystem, and those that were asked for are all there."""
    assert asked.cephfs is not None
    told = ceph.metadata_servers
    assert "up:active" in told.get(asked.cephfs.name, {}).values(), f"metadata servers: {told}"
    assert {name for servers in told.values() for name in servers} >= set(asked.cephfs.mds)


def test_one_version_everywhere(lab: Lab, asked: Ceph, ceph: CephFacts) -> None:
    """All daemons run one version; on hardware it is of the release that the lab file asks for."""
    versions = {version for kind in ceph.versions.values() for version in kind}
    assert len(versions) == 1, f"daemons run {ceph.versions}"
    # What the nodes of a virtual rack run is Debian's Ceph, whatever is asked for.
    assert lab.virtual or f" {asked.release} " in versions.pop()


def test_packages_are_of_the_release(host: Host, asked: Ceph) -> None:
    """The node takes Ceph's packages from the release and the repository of the lab file."""
    text = host.check_output("cat %s", SOURCES)
    assert re.findall(r"^URIs:.*/ceph-(\w+)/?\s*$", text, re.MULTILINE) == [asked.release]
    assert re.findall(r"^Components:\s*(.*?)\s*$", text, re.MULTILINE) == [asked.repository]
    assert not re.search(r"^Enabled:\s*(no|false|0)\s*$", text, re.MULTILINE | re.IGNORECASE)


def test_clocks_agree(ceph: CephFacts) -> None:
    """The leading monitor has compared the clock of each in the quorum, and finds none skewed."""
    quorum = {name for name, monitor in ceph.monitors.items() if monitor.in_quorum}
    assert ceph.clocks == dict.fromkeys(quorum, "HEALTH_OK")


def test_no_new_crash(ceph: CephFacts, evidence: Evidence) -> None:
    """No daemon crashed since this Ceph was built."""
    built = datetime.fromtimestamp(evidence.started, UTC)
    assert [crash for crash in ceph.crashes if crash.moment > built] == []


def test_health(asked: Ceph, ceph: CephFacts) -> None:
    """Ceph has nothing to complain of, or warns of what the lab file allows alone."""
    told = ceph.complaints
    allowed = {code for code in asked.allowed_warnings if told.get(code, "").startswith("HEALTH_WARN")}
    complaints = [f"{code}: {said}" for code, said in told.items() if code not in allowed]
    assert not complaints, "\n".join(complaints)
