"""What the hands of the boot service are told: every node's BMC with its password, and where answers are.

It is the one file on the provisioning server that holds BMC passwords, for root alone.
"""

from __future__ import annotations

from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from provision.errors import LabError

if TYPE_CHECKING:
    from provision.inventory import Bmc, Lab, Node, Secret

LONGEST_ACTION = 600.0
"""Seconds that whoever asks for an action waits at most: the lab file's deadline may be longer."""

MAC = "^[0-9a-f]{2}(:[0-9a-f]{2}){5}$"
WORD = "^[A-Za-z0-9._:/-]+$"
"""What can stand in a file of dnsmasq's options, quoted or not (as in provision/render.py)."""


class Part(BaseModel):
    """A part of the file; an error in it never shows what stands there."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class KeptSecret(Part):
    """A secret, and where the lab file says that it is kept."""

    reference: str
    value: Annotated[str, Field(min_length=1, repr=False)]

    def reveal(self) -> str:
        """The value."""
        return self.value


class HandsConsole(Part):
    """A node's BMC, as redfish.machine.Console; `ca` is the text of PEM certificates."""

    name: str
    address: IPv4Address
    mac: Annotated[str, Field(pattern=MAC)] | None = None
    user: KeptSecret
    password: KeptSecret
    trust: Literal["system", "pinned", "ca"]
    ca: Annotated[str, Field(min_length=1)] | None = None
    fingerprint: str | None = None
    system: str | None = None

    @model_validator(mode="after")
    def _trust_has_its_means(self) -> HandsConsole:
        if (self.trust == "ca") != (self.ca is not None):
            raise ValueError("trust ca and the certificates in ca go together")
        return self


class HandsNode(Part):
    """A node, as redfish.machine.Machine: what proves it, and its BMC."""

    name: Annotated[str, Field(pattern=WORD)]
    serial: str | None = None
    mac: Annotated[str, Field(pattern=MAC)]
    network_target: Literal["Pxe", "UefiHttp"] = "Pxe"
    boot_mode: Literal["UEFI", "Legacy"] = "UEFI"
    macs: tuple[Annotated[str, Field(pattern=MAC)], ...]
    bmc: HandsConsole

    @property
    def all_macs(self) -> frozenset[str]:
        """Every MAC of its own NICs that the lab file names."""
        return frozenset([self.mac, *self.macs])


class HandsConfig(Part):
    """The whole file. An action at a BMC ends within `seconds`.

    Nodes are told by DHCP to ask for their answer at `url`/answer/TOKEN, and to expect a certificate with
    this SHA-256 `fingerprint`, if there is one.
    """

    lab: str
    url: Annotated[str, Field(pattern=WORD)]
    fingerprint: Annotated[str, Field(pattern=WORD)] | None = None
    seconds: Annotated[float, Field(gt=0, le=LONGEST_ACTION)]
    nodes: tuple[HandsNode, ...]

    @model_validator(mode="after")
    def _no_name_twice(self) -> HandsConfig:
        names = [node.name for node in self.nodes]
        if len(names) != len(set(names)):
            raise ValueError("a node stands there twice")
        return self


def hands_config(lab: Lab, *, url: str, fingerprint: str | None = None) -> HandsConfig:
    """What the hands are told of a lab, the same text each time; see HandsConfig for `url`, `fingerprint`.

    Raises LabError when a secret or a CA's file cannot be read.
    """
    return HandsConfig(
        lab=lab.name,
        url=url,
        fingerprint=fingerprint,
        seconds=min(lab.deadlines.power, LONGEST_ACTION),
        nodes=tuple(map(_node, lab.nodes.values())),
    )


def _node(node: Node) -> HandsNode:
    return HandsNode(
        name=node.name,
        serial=node.serial,
        mac=node.mac,
        network_target=node.network_target,
        boot_mode=node.boot_mode,
        macs=tuple(sorted(node.all_macs)),
        bmc=_console(node.name, node.bmc),
    )


def _console(node: str, bmc: Bmc) -> HandsConsole:
    return HandsConsole(
        name=bmc.name,
        address=bmc.address,
        mac=bmc.mac,
        user=_kept(bmc.user),
        password=_kept(bmc.password),
        trust=bmc.trust,
        ca=_certificates(node, bmc),
        fingerprint=bmc.fingerprint,
        system=bmc.system,
    )


def _kept(secret: Secret) -> KeptSecret:
    return KeptSecret(reference=secret.reference, value=secret.reveal())


def _certificates(node: str, bmc: Bmc) -> str | None:
    if bmc.ca is None:
        return None
    try:
        text = bmc.ca.read_text()
    except (OSError, ValueError) as error:
        raise LabError(f"the CA of {bmc.name} cannot be read from {bmc.ca}: {error}", node=node) from error
    if not text.strip():
        raise LabError(f"the CA of {bmc.name} cannot be read from {bmc.ca}: it is empty", node=node)
    return text
