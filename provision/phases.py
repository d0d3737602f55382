"""What a node goes through while it is installed, and how long each phase may take."""

from __future__ import annotations

from provision.inventory import Lab

PHASES = ("dhcp", "boot-script", "answer", "installed", "first-boot", "registered")
"""The phases in their order, each reported by an event of that kind."""


def deadline_of(lab: Lab, phase: str) -> float:
    """Seconds that the lab allows between a phase and the one before it."""
    return float(getattr(lab.deadlines, phase.replace("-", "_")))


def deadlines_of(lab: Lab) -> dict[str, float]:
    """The same for every phase."""
    return {phase: deadline_of(lab, phase) for phase in PHASES}
