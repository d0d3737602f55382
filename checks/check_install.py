"""The install: it is this one, of this run, whole, and of the version and name that were asked for."""

from __future__ import annotations

import json
from typing import Any

import pytest
from testinfra.host import Host

from provision.install import INSTALL_FILE
from provision.inventory import Lab, Node

pytestmark = pytest.mark.step("install")

FIRST_BOOT = "/var/lib/proxmox-first-boot"


def test_nonce_is_of_this_install(host: Host, proved: dict[str, Any]) -> None:
    """The random value that this install put on the disk is there, and no older one."""
    assert json.loads(host.check_output("cat %s", INSTALL_FILE))["nonce"] == proved["nonce"]


def test_installed_in_that_run(host: Host, proved: dict[str, Any]) -> None:
    """The installer wrote the disk between the leave and its own report."""
    written = int(host.check_output(f"stat -c %Y {FIRST_BOOT}/proxmox-first-boot"))
    assert int(proved["permitted"]) <= written <= proved["installed"] + 1


def test_full_name(host: Host, node: Node) -> None:
    """The node goes by its full name, and that name leads to its management address."""
    assert host.check_output("hostname -f") == node.fqdn
    assert host.check_output("getent ahostsv4 %s", node.name).split()[0] == str(node.management)


def test_proxmox_version(host: Host) -> None:
    """Proxmox VE 9 is installed."""
    assert host.check_output("pveversion").startswith("pve-manager/9.")


def test_first_boot_is_done(host: Host) -> None:
    """The first-boot script ended well, and will not run again."""
    assert host.service("proxmox-first-boot").systemd_properties["Result"] == "success"
    assert not host.file(f"{FIRST_BOOT}/pending-first-boot-setup").exists


def test_resolves_by_the_server(host: Host, lab: Lab) -> None:
    """Names are asked of the lab's own DNS."""
    asked = lab.management.dns[0] if lab.management.dns else lab.server.address
    assert f"nameserver {asked}" in host.check_output("cat /etc/resolv.conf").splitlines()
