"""How fast a lab's nodes may be reset, by what they load of their installers and the link that brings it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from provision.inventory import Lab, Node
from provision.inventory.boot_chains import CHAINS
from provision.remote import Remote, script
from provision.run import Run
from provision.server_plan import medium

Media = Mapping[str, Mapping[str, int]]

PAYLOAD = 0.94
"""What is left of a link for the content of TCP in Ethernet frames of 1500 bytes."""

SPEED = """device=$(ip -o -4 address show to "$1" | awk '{print $2; exit}')
cat "/sys/class/net/${device%%@*}/speed" 2>/dev/null
"""
"""Megabits a second; nothing, or -1, where the driver knows of none (Documentation/ABI, sysfs-class-net)."""


@dataclass(frozen=True, slots=True)
class Pace:
    """`loads` are the seconds for which each node's medium fills the link; 0.0 where that holds nobody back.

    Resets are `apart` seconds from one another at least. At most `at_once` nodes are under way to their
    installers, and none is reset while `fed` of them load. A node has lost its place when it is not heard of
    within `silent` seconds of its turn, or has not loaded all within `loading` from there.
    """

    loads: Mapping[str, float]
    apart: float = 0.0
    at_once: float = math.inf
    fed: float = math.inf
    silent: float = math.inf
    loading: float = math.inf
    why: str = ""

    @property
    def holds(self) -> bool:
        """Whether any node has to wait for others."""
        return self.apart > 0 or self.at_once < len(self.loads) or any(self.loads.values())

    def __str__(self) -> str:
        """In words, with the time of the last reset where that is known before."""
        parts = [self.why] if any(self.loads.values()) else []
        parts += [f"{self.apart:g} s apart"] if self.apart else []
        most = min(self.at_once, self.fed)
        parts += [f"at most {most:g} at once"] if most < len(self.loads) else []
        last = max(sum(list(self.loads.values())[:-1]), (len(self.loads) - 1) * self.apart)
        parts += [f"last reset after about {last:.0f} s"] if last else []
        return f"{len(self.loads)} nodes: {', '.join(parts)}"


def known(lab: Lab, run: Run, server: Remote) -> Pace:
    """The pace for the lab's nodes, by the media that step `server` left and its word of its link."""
    media: Media = run.recall("server").facts.get("media", {})
    return pace(lab, media, None if lab.server.link or len(lab.nodes) == 1 else measured(lab, server))


def pace(lab: Lab, media: Media, speed: float | None) -> Pace:
    """The pace for the lab's nodes; `media` has bytes by system and file, `speed` bits a second.

    The link holds nobody back when it brings all that is loaded well within the deadline of one node.
    """
    limits, link = lab.deadlines, lab.server.link or speed
    sizes = {name: loaded(node, media.get(node.os, {})) for name, node in lab.nodes.items()}
    loads = {name: 8 * size / (link * PAYLOAD) if link else 0.0 for name, size in sizes.items()}
    # The other half of the deadline is for the installer's kernel to start.
    patience = limits.answer / 2
    if sum(loads.values()) <= patience:
        loads = dict.fromkeys(loads, 0.0)
    longest = max(loads.values(), default=0.0)
    return Pace(
        loads,
        apart=lab.power.stagger or 0.0,
        at_once=lab.power.at_once or math.inf,
        fed=max(2, patience // longest) if longest else math.inf,
        silent=limits.power + limits.dhcp,
        loading=limits.boot_script + limits.answer,
        why=f"up to {max(sizes.values(), default=0) / 1e9:.2g} GB each over {(link or 0) / 1e9:g} Gbit/s",
    )


def loaded(node: Node, files: Mapping[str, int]) -> int:
    """How many bytes a node loads of its system's medium, whose files have these sizes."""
    names = medium(node.os)
    in_one = node.is_proxmox and CHAINS[node.firmware].loader == "GRUB"
    parts = (names.vmlinuz, names.combined) if in_one else (names.vmlinuz, names.initrd, names.iso)
    return sum(files.get(part, 0) for part in parts)


def measured(lab: Lab, server: Remote) -> float | None:
    """Bits a second of the server's interface to the nodes, None where it does not say."""
    said = server.run(script(SPEED, str(lab.server.address))).stdout.strip()
    return float(said) * 1e6 if said.isdecimal() and int(said) else None
