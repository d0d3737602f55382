"""The clock of a node."""

from __future__ import annotations

import pytest
from testinfra.host import Host

from provision.inventory import Lab

pytestmark = [pytest.mark.step("install"), pytest.mark.first_boot("clock")]


def test_clock_follows_the_server(host: Host, lab: Lab) -> None:
    """chrony asks the provisioning server: its clock is the lab's."""
    sources = [line.split()[1] for line in host.check_output("chronyc -n sources").splitlines()[2:]]
    assert str(lab.server.address) in sources


def test_clock_follows_the_server_after_a_restart(host: Host, lab: Lab) -> None:
    """chrony starts with the system, and reads of the server then."""
    assert host.service("chrony").systemd_properties["UnitFileState"] == "enabled"
    lines = host.check_output("cat /etc/chrony/chrony.conf /etc/chrony/sources.d/*.sources").splitlines()
    assert ["server", str(lab.server.address)] in [line.split()[:2] for line in lines]
