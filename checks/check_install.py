"""The install: it is this one, of this run, whole, and of the version and name that were asked for."""

from __future__ import annotations

import json
from typing import Any

import pytest
from testinfra.host import Host

from checks import probe
from provision.install import INSTALL_FILE
from provision.inventory import Lab, Node

pytestmark = pytest.mark.step("install")

FIRST_BOOT = "/var/lib/proxmox-first-boot"
UBUNTU_FIRST_BOOT = "/var/lib/rackproof-first-boot"


def test_nonce_is_of_this_install(host: Host, proved: dict[str, Any]) -> None:
    """The random value that this install put on the disk is there, and no older one."""
    assert json.loads(host.check_output("cat %s", INSTALL_FILE))["nonce"] == proved["nonce"]


def test_installed_in_that_run(host: Host, node: Node, proved: dict[str, Any]) -> None:
    """The installer wrote the disk between the leave and its own report."""
    script, _, _ = first_boot_of(node)
    written = int(host.check_output(f"stat -c %Y {script}"))
    assert int(proved["permitted"]) <= written <= proved["installed"] + 1


@pytest.mark.light
def test_full_name(host: Host, node: Node) -> None:
    """The node goes by its full name, and that name leads to its management address."""
    assert host.check_output("hostname -f") == node.fqdn
    assert host.check_output("getent ahostsv4 %s", node.name).split()[0] == str(node.management)


@pytest.mark.proxmox
def test_proxmox_version(host: Host) -> None:
    """Proxmox VE 9 is installed."""
    assert host.check_output("pveversion").startswith("pve-manager/9.")


@pytest.mark.ubuntu
def test_ubuntu_version(host: Host, node: Node) -> None:
    """The release of Ubuntu that was asked for is installed."""
    said = host.check_output('. /etc/os-release; echo "$ID-$VERSION_ID"')
    assert said == node.os


@pytest.mark.ubuntu
def test_packages_are_installed(host: Host, node: Node) -> None:
    """The installer has added every package that the lab file names."""
    listed = host.check_output("dpkg-query -W -f '${db:Status-Abbrev} ${Package}\\n'")
    installed = {line.split()[-1] for line in listed.splitlines() if line.startswith("ii ")}
    assert set(node.packages) - installed == set()


def test_first_boot_is_done(host: Host, node: Node) -> None:
    """The first-boot script ended well, and will not run again."""
    _, pending, unit = first_boot_of(node)
    assert host.service(unit).systemd_properties["Result"] == "success"
    assert not host.file(pending).exists


@pytest.mark.light
def test_resolves_by_the_server(host: Host, lab: Lab) -> None:
    """Names are asked of the lab's own DNS."""
    asked = lab.management.dns[0] if lab.management.dns else lab.server.address
    assert str(asked) in probe.name_servers(host)


def first_boot_of(node: Node) -> tuple[str, str, str]:
    """Where the node's first-boot script is, the file that is there until it has ended well, and its unit."""
    if node.is_proxmox:
        return (
            f"{FIRST_BOOT}/proxmox-first-boot",
            f"{FIRST_BOOT}/pending-first-boot-setup",
            "proxmox-first-boot",
        )
    return f"{UBUNTU_FIRST_BOOT}/first-boot", f"{UBUNTU_FIRST_BOOT}/pending", "rackproof-first-boot"
