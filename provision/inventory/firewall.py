"""What the provisioning server lets in from outside."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator

from provision.inventory.words import Part, listed

PING = "icmp"


def _door(text: str) -> str:
    """`icmp`, or a protocol and a port or two."""
    found = re.fullmatch(r"(?:tcp|udp)/([0-9]{1,5})(?:-([0-9]{1,5}))?", text, re.ASCII)
    if text == PING:
        return text
    if found is None:
        raise ValueError(f'"{text}" is nothing to let in: write tcp/22, udp/51820, tcp/8000-8010 or icmp')
    first, last = int(found[1]), int(found[2] or found[1])
    if not 1 <= first <= last <= 65535:
        raise ValueError(f'"{text}" names no ports: from 1 to 65535, the lower one first')
    return text


class Firewall(Part):
    """By `wan` comes in what answers the server, what is in `allow` (tcp/22, icmp), and nothing else."""

    allow: Annotated[
        tuple[Annotated[str, AfterValidator(_door)], ...], BeforeValidator(listed)
    ] = ()  # fmt: skip

    @property
    def rules(self) -> tuple[str, ...]:
        """Each door as nftables writes it, without a verdict."""
        return tuple(_rule(door) for door in self.allow)

    def lets_in(self, port: int) -> bool:
        """Whether a TCP connection to this port may come in."""
        return any(_covers(door, port) for door in self.allow)


def _rule(door: str) -> str:
    protocol, _, ports = door.partition("/")
    return f"{protocol} dport {ports}" if ports else "meta l4proto { icmp, ipv6-icmp }"


def _covers(door: str, port: int) -> bool:
    protocol, _, ports = door.partition("/")
    first, _, last = ports.partition("-")
    return protocol == "tcp" and int(first) <= port <= int(last or first)
