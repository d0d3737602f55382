"""The Prometheus node exporter: it runs, will after a restart, and speaks on the management network alone."""

from __future__ import annotations

import pytest
from testinfra.host import Host

from provision.inventory import Node

pytestmark = [pytest.mark.step("install"), pytest.mark.first_boot("exporter")]


def test_exporter_runs(host: Host) -> None:
    """systemd has it active, and starts it with the system."""
    unit = host.service("prometheus-node-exporter").systemd_properties
    assert (unit["ActiveState"], unit["UnitFileState"]) == ("active", "enabled")


def test_exporter_speaks_on_management_alone(host: Host, node: Node) -> None:
    """Its metrics are to be had at the node's management address, and at no other."""
    listening = host.check_output("ss -Hltn 'sport = :9100'").splitlines()
    assert [line.split()[3] for line in listening] == [f"{node.management}:9100"]
