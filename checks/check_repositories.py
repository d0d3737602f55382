"""Package repositories of a node, and the packages that the lab file asks for."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import pytest
from testinfra.host import Host

from provision.inventory import Lab, Node

pytestmark = pytest.mark.step("install")

SOURCES = "/etc/apt/sources.list.d"
OFF = frozenset({"no", "false", "without", "off", "disable"})
"""What apt reads as a no (sources.list(5): `Enabled`)."""


@pytest.mark.first_boot("repositories")
def test_proxmox_repository_is_the_one_asked_for(host: Host, node: Node) -> None:
    """Of Proxmox's repositories exactly that is on which the lab file asks for."""
    asked = node.first_boot.repositories
    on = [component for component in _components(host) if component.startswith("pve-")]
    assert on == ([] if asked == "none" else [f"pve-{asked}"])


@pytest.mark.first_boot("repositories")
def test_ceph_repository_needs_no_subscription_that_is_not_there(host: Host, node: Node, lab: Lab) -> None:
    """Ceph's enterprise repository is off unless the lab file asks for one with a subscription."""
    subscribed = "enterprise" in (node.first_boot.repositories, lab.ceph.repository if lab.ceph else "")
    assert subscribed or "enterprise" not in _components(host)


@pytest.mark.first_boot("packages")
def test_packages_are_installed(host: Host, node: Node) -> None:
    """Every package of the lab file is there."""
    assert [name for name in node.first_boot.packages if not host.package(name).is_installed] == []


def _components(host: Host) -> list[str]:
    """The components of every repository that is on."""
    stanzas = parse_sources(host.check_output(f'for file in {SOURCES}/*.sources; do cat "$file"; echo; done'))
    enabled = [stanza for stanza in stanzas if stanza.get("enabled", "yes").lower() not in OFF]
    return [component for stanza in enabled for component in stanza.get("components", "").split()]


def parse_sources(text: str) -> Iterator[Mapping[str, str]]:
    """The fields of each stanza of deb822 text by their names in lower case (sources.list(5))."""
    for block in re.split(r"\n(?:[ \t]*\n)+", text):
        lines = [line for line in block.splitlines() if line.strip() and not line.startswith("#")]
        unfolded = re.sub(r"\n[ \t]+", " ", "\n".join(lines)).splitlines()
        fields = (line.partition(":") for line in unfolded)
        if stanza := {name.strip().lower(): value.strip() for name, _, value in fields}:
            yield stanza
