"""All that a node is handed while it is installed: boot scripts, answer, first-boot script."""

from __future__ import annotations

from typing import Any

from provision import boot_scripts, proxmox_answer, ubuntu_seed
from provision.certificate import Certificate
from provision.inventory import Lab
from provision.permit import Permit

PHASES = ("dhcp", "boot-script", "answer", "installed", "first-boot", "registered")
"""What a node goes through while it is installed, each reported by an event of that kind."""


def deadline_of(lab: Lab, phase: str) -> float:
    """Seconds that the lab allows between a phase and the one before it."""
    return float(getattr(lab.deadlines, phase.replace("-", "_")))


def deadlines(lab: Lab) -> dict[str, float]:
    """Those seconds by phase."""
    return {phase: deadline_of(lab, phase) for phase in PHASES}


def handed(lab: Lab, permit: Permit, certificate: Certificate) -> dict[str, Any]:
    """What a Grant and a StandingOrder carry of texts, by their fields' names."""
    boot = boot_scripts.install(lab, permit.node, permit.run, permit.answer_token)
    return {
        "boot_script": boot.ipxe(lab),
        "grub_script": boot.grub(lab),
        **(_proxmox if permit.node.is_proxmox else _ubuntu)(lab, permit, certificate),
    }


def _proxmox(lab: Lab, permit: Permit, certificate: Certificate) -> dict[str, Any]:
    answer = proxmox_answer.answer(lab, permit, certificate)
    return {
        "system": "proxmox",
        "answer": proxmox_answer.as_toml(answer),
        "answer_json": proxmox_answer.as_json(answer, permit.hook_token, permit.node.subscription),
        "first_boot": proxmox_answer.first_boot(lab, permit, certificate),
    }


def _ubuntu(lab: Lab, permit: Permit, certificate: Certificate) -> dict[str, Any]:
    return {
        "system": "ubuntu",
        "private_boot": True,
        "answer": ubuntu_seed.user_data(lab, permit, certificate),
        "first_boot": ubuntu_seed.first_boot(lab, permit, certificate),
    }
