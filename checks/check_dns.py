"""DNS on the provisioning server: every name of the lab, both ways."""

from __future__ import annotations

import pytest
from testinfra.host import Host

from provision.inventory import Lab

pytestmark = pytest.mark.step("server")


def test_name_has_its_address(server_host: Host, lab: Lab, record: tuple[str, str]) -> None:
    """The name resolves to exactly the address of the lab file."""
    name, address = record
    assert _dig(server_host, lab, f"{name} A") == [address]


def test_address_has_its_name(server_host: Host, lab: Lab, record: tuple[str, str]) -> None:
    """The address resolves to exactly that name."""
    name, address = record
    assert _dig(server_host, lab, f"-x {address}") == [f"{name}."]


def test_stranger_has_no_name(server_host: Host, lab: Lab) -> None:
    """A name that the lab file does not have is answered by the server itself, with nothing."""
    assert _dig(server_host, lab, f"no-such-machine.{lab.domain} A") == []


def _dig(host: Host, lab: Lab, question: str) -> list[str]:
    return str(
        host.check_output(f"dig +short +time=2 +tries=2 @{lab.server.address} {question}")
    ).splitlines()
