"""A NIC's address while firmware or installer use it: given by a lease, gone when they hand over."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from virtual_lab.dhcp_client import Lease


@contextmanager
def up(nics: Mapping[str, str]) -> Iterator[None]:
    """The NICs' links are up while inside; afterwards they are down and have no address."""
    for nic in nics:
        _ip("link", "set", nic, "up")
    try:
        yield
    finally:
        for nic in nics:
            _ip("addr", "flush", "dev", nic)
            _ip("link", "set", nic, "down")


def power_up(nics: Mapping[str, str]) -> None:
    """Make the machine's network what the hardware is: its NICs, down and bare, as no system had ever run.

    A network namespace outlives the systems that run in it, and so would their bridges; a NIC that is still
    the port of one gives no packet to anybody else.
    """
    links = json.loads(subprocess.run(["ip", "-j", "link"], check=True, capture_output=True).stdout)
    made = [link["ifname"] for link in links if link["ifname"] not in (*nics, "lo")]
    commands = [f"link del {name}" for name in made]
    for nic, mac in nics.items():
        commands += [
            f"link set {nic} down",
            f"link set {nic} nomaster address {mac} mtu 1500",
            f"addr flush dev {nic}",
        ]
    # Links that were deleted together with their peer are no longer there: hence --force.
    subprocess.run(
        ["ip", "-force", "-batch", "-"], input="\n".join(commands).encode(), check=False, capture_output=True
    )


def configure(lease: Lease) -> None:
    """Give a NIC the address and the default route of its lease, and nothing that it had before."""
    _ip("addr", "flush", "dev", lease.nic)
    _ip("addr", "add", str(lease.address), "broadcast", "+", "dev", lease.nic)
    if lease.gateway:
        _ip("route", "replace", "default", "via", str(lease.gateway), "dev", lease.nic)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)
