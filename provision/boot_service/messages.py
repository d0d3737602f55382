"""The shapes that the harness and the boot service exchange, and the forms a MAC address comes in."""

from __future__ import annotations

import re
from collections import Counter
from ipaddress import IPv4Address
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

# The installer cuts a longer first-boot script off at this size without a word (pve-installer,
# proxmox-fetch-answer), so it must be refused here.
MOST_PAYLOAD = 1024 * 1024

_MAC = re.compile(r"[0-9a-f]{2}(?:([:-])[0-9a-f]{2}(?:\1[0-9a-f]{2}){4}|[0-9a-f]{10})")


def normal_mac(text: str) -> str | None:
    """`text` as lower case with colons; it may be aa:bb:…, aa-bb-… or aabb…, in any case. None: not a MAC."""
    lower = text.lower()
    if not _MAC.fullmatch(lower):
        return None
    digits = re.sub("[:-]", "", lower)
    return ":".join(digits[i : i + 2] for i in range(0, 12, 2))


def _known_mac(text: str) -> str:
    mac = normal_mac(text)
    if mac is None:
        raise ValueError(f"{text!r} is not a MAC address such as ac:1f:6b:00:00:01")
    return mac


def _bounded(text: str) -> str:
    size = len(text.encode("utf-8", "surrogatepass"))
    if size > MOST_PAYLOAD:
        raise ValueError(f"has {size} bytes; the installer takes at most {MOST_PAYLOAD}")
    return text


Mac = Annotated[str, AfterValidator(_known_mac)]
Name = Annotated[str, Field(min_length=1, max_length=128)]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Payload = Annotated[str, Field(min_length=1, repr=False), AfterValidator(_bounded)]


class Message(BaseModel):
    """A message of the operator API: unknown keys are mistakes, and an error never shows what was sent."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class RackNode(Message):
    """A node that the service knows: all its MACs, its management address, its standing iPXE script.

    The standing script is what the node gets whenever it boots from the network without leave to be
    installed: boot the local disk.
    """

    name: Name
    macs: Annotated[tuple[Mac, ...], Field(min_length=1)]
    address: IPv4Address
    boot_script: Payload


class Rack(Message):
    """All nodes that the service knows, of one lab; no MAC, name or address twice.

    `consoles` are the MACs of BMCs: of the rack, though of no node, so their DHCP is no news.
    """

    lab: Name
    nodes: tuple[RackNode, ...]
    consoles: tuple[Mac, ...] = ()

    @model_validator(mode="after")
    def _nothing_twice(self) -> Rack:
        seen = Counter(
            item for node in self.nodes for item in (node.name, *set(node.macs), str(node.address))
        )
        seen.update(set(self.consoles))
        if twice := [item for item, count in seen.items() if count > 1]:
            raise ValueError(f"given to more than one node: {', '.join(sorted(twice))}")
        return self

    def by_mac(self, mac: str) -> RackNode | None:
        """The node that one of whose NICs has this MAC (any form), or None."""
        wanted = normal_mac(mac)
        return next((node for node in self.nodes if wanted in node.macs), None)

    def by_address(self, address: str) -> RackNode | None:
        """The node with this management address, or None."""
        return next((node for node in self.nodes if str(node.address) == address), None)

    def by_name(self, name: str) -> RackNode | None:
        """The node of this name, or None."""
        return next((node for node in self.nodes if node.name == name), None)


class Grant(Message):
    """Leave for one node to be installed once, and all that it is handed while that happens.

    The two tokens stand in the URLs the node uses; the service is only told their SHA-256 (hex).
    `expires` is in seconds since the epoch; `answer` is TOML, `first_boot` a script.
    """

    run: Name
    lab: Name
    node: Name
    answer_token_sha256: Sha256
    report_token_sha256: Sha256
    expires: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    boot_script: Payload
    answer: Payload
    first_boot: Payload


class PermitState(BaseModel):
    """What an operator may see of a permit: no token, nothing of what it carries. Times since the epoch."""

    model_config = ConfigDict(frozen=True)

    id: int
    run: str
    lab: str
    node: str
    granted: float
    expires: float
    state: str
