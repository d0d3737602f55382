"""The cluster's firewall: on, closed to strangers, and open to the lab's own networks."""

from __future__ import annotations

import re

import pytest
from testinfra.host import Host

from provision.inventory import Lab, Node

pytestmark = [pytest.mark.step("install"), pytest.mark.first_boot("firewall")]

FILE = "/etc/pve/firewall/cluster.fw"


def test_firewall_is_on(host: Host) -> None:
    """It is switched on and drops what no rule lets in; where Proxmox's own service is, that runs."""
    options = dict(re.findall(r"^(\w+):\s*(\S+)", host.check_output("cat %s", FILE), re.MULTILINE))
    assert (options.get("enable"), options.get("policy_in")) == ("1", "DROP")
    status = host.run("pve-firewall status")
    assert status.rc == 127 or status.stdout.startswith("Status: enabled/running")


def test_firewall_lets_the_lab_in(host: Host, node: Node, lab: Lab) -> None:
    """The lab's networks reach every node, as do the others that the lab file names."""
    asked = node.first_boot.firewall
    assert asked is not None
    sources = re.findall(r"^IN ACCEPT -source (\S+)", host.check_output("cat %s", FILE), re.MULTILINE)
    assert set(sources) == {str(network.cidr) for network in lab.networks.values()} | set(asked.allow)
