"""Light nodes of a virtual rack: a network, SSH, the tools that checks read with, and never an installer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from provision.inventory.document import Place

Kind = Literal["full", "light"]

LIGHT: Kind = "light"
Told = tuple[Place, str, Place | None]

_OF_INSTALLED_NODES = ("cluster", "ceph", "templates")
_TRUE = frozenset({"1", "on", "t", "true", "y", "yes"})
"""What the models read as true."""


def light_rules(given: Mapping[str, Any], nodes: Mapping[str, Mapping[str, Any]]) -> Iterator[Told]:
    """Every rule that a lab with light nodes breaks."""
    kinds = {name: ("nodes", name, "kind") for name, body in nodes.items() if body.get("kind") == LIGHT}
    if not kinds:
        return
    first = next(iter(kinds.values()))
    if str(given.get("virtual")).lower() not in _TRUE:
        yield first, '"light" is for virtual racks: metal is full; or say virtual: true', None
    for name in [name for name in nodes if name not in kinds]:
        yield ("nodes", name), "is full beside light nodes: make two labs of them", first
    for name in kinds:
        if str(nodes[name].get("os", "")).startswith("ubuntu"):
            yield ("nodes", name, "os"), '"light" nodes are like those of Proxmox alone', first
    for part in _OF_INSTALLED_NODES:
        if given.get(part):
            yield (part,), "needs nodes that are installed, and light ones never are", first
