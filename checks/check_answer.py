"""What Proxmox's installer will be told, judged without a machine: these checks reach nothing."""

from __future__ import annotations

import pytest

from provision.inventory import Node
from provision.session import SESSION

pytestmark = [pytest.mark.step("server"), pytest.mark.proxmox]


def test_installer_takes_it(pytestconfig: pytest.Config, asked_node: Node) -> None:
    """The answer breaks no rule of the installer and falls into none of its traps; it is shown, too."""
    from provision import answers  # noqa: PLC0415 (collecting needs none)

    lab = pytestconfig.stash[SESSION].written
    print(f"# the answer of {asked_node.name}\n{answers.shown(lab, asked_node)}")
    assert answers.faults(lab, asked_node) == []
