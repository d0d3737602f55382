"""What Proxmox says of a VM template, in the words of its checks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from provision import template_plan as plan
from provision.inventory import Lab, Template
from provision.pve import Session, guests


@dataclass(frozen=True, slots=True)
class Standing:
    """A template that stands: its node, how that lists it, its configuration."""

    vmid: int
    node: str
    guest: guests.Guest
    config: guests.Config

    def drive(self, name: str) -> dict[str, str]:
        """A drive's properties, with its `storage` and `volume` id; empty when there is no such drive."""
        found = guests.split_properties(self.config.get(name, ""))
        volume = found.pop("", "")
        return {**found, "storage": volume.partition(":")[0], "volume": volume} if volume else {}

    @property
    def nic(self) -> dict[str, str]:
        """The properties of its network card, with its `model` and without its MAC."""
        return plan.nic(self.config.get("net0", ""))

    @property
    def agent_is_on(self) -> bool:
        """Whether Proxmox is told that the guest has an agent."""
        return plan.agent_is_on(self.config.get("agent", "0"))

    @property
    def image(self) -> str | None:
        """The SHA-256 of the image that its notes say it was made of."""
        return plan.image_of(self.vmid, self.config)

    @property
    def keys(self) -> list[str]:
        """The public keys of its user."""
        return guests.decode_keys(self.config.get("sshkeys", ""))

    @property
    def disk_gib(self) -> float:
        """The size of its system disk."""
        return plan.size_of(self.config) / (1 << 30)


def standing(session: Session, nodes: Iterable[str], vmid: int) -> Standing | None:
    """The guest of this id, None when no node has it."""
    for node in nodes:
        guest = guests.guests(session, node).get(vmid)
        if guest is not None:
            return Standing(vmid, node, guest, guests.config(session, node, vmid))
    return None


def volumes(session: Session, node: str, storage: str) -> list[str]:
    """Volume ids of the disks in a storage."""
    return guests.volumes(session, node, storage, "images")


def clones_left(session: Session, nodes: Iterable[str]) -> list[str]:
    """The guests that tried a template and were not removed, as "9001 on node2"."""
    return [
        f"{vmid} on {node}"
        for node in nodes
        for vmid, guest in guests.guests(session, node).items()
        if guest.name.startswith(f"{plan.TAG}-try-") and plan.TAG in guest.tagset
    ]


def snippet_of(vmid: int, template: Template) -> tuple[str, str, str]:
    """Where a template's snippet is on every node, what it must hold, and how the template names it."""
    volume = f"vendor={plan.IMAGES}:snippets/{plan.snippet_name(vmid)}"
    return plan.snippet_path(vmid), plan.snippet(template), volume


def keys_asked(lab: Lab, template: Template) -> list[str]:
    """The keys that the lab file gives a template's user."""
    return list(plan.keys_of(lab, template))
