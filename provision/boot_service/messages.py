"""The shapes that the harness and the boot service exchange, and the forms a MAC address comes in."""

from __future__ import annotations

import re
from collections import Counter
from functools import cached_property
from ipaddress import IPv4Address
from typing import Annotated, Literal

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


def _bounded_if_any(text: str | None) -> str | None:
    if text == "":
        raise ValueError("is empty; leave it out instead")
    return text if text is None else _bounded(text)


Mac = Annotated[str, AfterValidator(_known_mac)]
Name = Annotated[str, Field(min_length=1, max_length=128)]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Purpose = Literal["install", "rescue"]
Payload = Annotated[str, Field(min_length=1, repr=False), AfterValidator(_bounded)]
MaybePayload = Annotated[str | None, Field(repr=False), AfterValidator(_bounded_if_any)]


class Message(BaseModel):
    """A message of the operator API: unknown keys are mistakes, and an error never shows what was sent."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class StandingOrder(Message):
    """All that a node is handed when an operator lets it be installed outside of a run of the harness.

    Its texts are those of a Grant with these marks in the place of what each permit has of its own: @RUN@,
    @ANSWER_TOKEN@, @REPORT_TOKEN@, @HOOK_TOKEN@, @NONCE@. The permit lives for `patience` seconds.
    """

    system: Literal["proxmox", "ubuntu"] = "proxmox"
    patience: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    boot_script: Payload
    grub_script: MaybePayload = None
    private_boot: bool = False
    answer: Payload
    answer_json: MaybePayload = None
    first_boot: MaybePayload = None
    deadlines: dict[str, float] = {}


class RackNode(Message):
    """A node that the service knows: all its MACs, its management address, what it may boot without leave.

    The standing scripts are what the node gets whenever it boots from the network without leave to be
    installed: boot the local disk. The rescue scripts start the installer's medium as a shell.
    """

    name: Name
    macs: Annotated[tuple[Mac, ...], Field(min_length=1)]
    address: IPv4Address
    boot_script: Payload
    grub_script: MaybePayload = None
    rescue_script: MaybePayload = None
    rescue_grub: MaybePayload = None
    standing_order: StandingOrder | None = None


class Rack(Message):
    """All nodes that the service knows, of one lab; no MAC, name or address twice.

    `consoles` are the MACs of BMCs: of the rack, though of no node, so their DHCP is no news.
    `iso_tokens_sha256` are the SHA-256 of the bearer tokens ("name:secret") that prepared ISOs carry.
    `classic` lets installers and nodes of a classic lab, which have no token, use the classic paths.
    """

    lab: Name
    nodes: tuple[RackNode, ...]
    consoles: tuple[Mac, ...] = ()
    iso_tokens_sha256: tuple[Sha256, ...] = ()
    classic: bool = False

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
        known = self._by_mac.get(mac)
        return known or self._by_mac.get(normal_mac(mac) or "")

    def by_address(self, address: str) -> RackNode | None:
        """The node with this management address, or None."""
        return self._by_address.get(address)

    def by_name(self, name: str) -> RackNode | None:
        """The node of this name, or None."""
        return self._by_name.get(name)

    # A rack may have a thousand nodes, and every request looks one up.

    @cached_property
    def _by_mac(self) -> dict[str, RackNode]:
        return {mac: node for node in self.nodes for mac in node.macs}

    @cached_property
    def _by_address(self) -> dict[str, RackNode]:
        return {str(node.address): node for node in self.nodes}

    @cached_property
    def _by_name(self) -> dict[str, RackNode]:
        return {node.name: node for node in self.nodes}


class Grant(Message):
    """Leave for one node to be installed once (or to boot the rescue system), and all it is handed meanwhile.

    The tokens stand in the URLs and bodies the node uses; the service is only told their SHA-256 (hex).
    `expires` is in seconds since the epoch. For `system` proxmox, `answer` is TOML for installers up to
    9.1 and `answer_json` the same as JSON, with the webhook's `auth-token`, for those from 9.2 on; for
    ubuntu, `answer` is the user-data. `private_boot`: the boot scripts hold a token, so that only the
    service hands them out, to the holder of the node's lease. `deadlines` has seconds by phase.
    """

    run: Name
    lab: Name
    node: Name
    purpose: Purpose = "install"
    system: Literal["proxmox", "ubuntu"] = "proxmox"
    answer_token_sha256: Sha256
    report_token_sha256: Sha256
    hook_token_sha256: Sha256 | None = None
    expires: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    boot_script: Payload
    grub_script: MaybePayload = None
    private_boot: bool = False
    answer: MaybePayload = None
    answer_json: MaybePayload = None
    first_boot: MaybePayload = None
    nonce: Annotated[str, Field(max_length=128)] | None = None
    deadlines: dict[str, float] = {}

    @model_validator(mode="after")
    def _install_has_an_answer(self) -> Grant:
        if self.purpose == "install" and self.answer is None:
            raise ValueError("a permit to install needs an answer")
        return self


class PermitState(BaseModel):
    """What an operator may see of a permit: no token, nothing of what it carries. Times since the epoch."""

    model_config = ConfigDict(frozen=True)

    id: int
    run: str
    lab: str
    node: str
    purpose: str
    granted: float
    expires: float
    spent: float | None
    done: float | None
    nonce: str | None
    deadlines: dict[str, float]
    state: str


class RunState(Message):
    """What the harness says of its run, for the dashboard: its steps in order, each with its state.

    States: waiting, running, done, failed, not-reached. `seconds` is None for a step that has not ended;
    times are in seconds since the epoch.
    """

    class Step(Message):
        """One step of the run."""

        name: Name
        state: Literal["waiting", "running", "done", "failed", "not-reached"]
        began: float | None = None
        seconds: float | None = None
        text: Annotated[str, Field(max_length=1000)] = ""

    id: Name
    lab: Name
    mode: Literal["provision", "verify"]
    holder: Annotated[str, Field(max_length=200)] = ""
    started: float
    ended: float | None = None
    outcome: Annotated[str, Field(max_length=100)] | None = None
    steps: tuple[Step, ...] = ()
