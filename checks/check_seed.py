"""What Ubuntu's installer will be told, judged without a machine: this check reaches nothing."""

from __future__ import annotations

import pytest

from provision.inventory import Node
from provision.session import SESSION

pytestmark = [pytest.mark.step("server"), pytest.mark.ubuntu]


def test_installer_takes_it_as_its_answer(pytestconfig: pytest.Config, asked_node: Node) -> None:
    """The autoinstall breaks no rule of the installer or of cloud-init; it is shown, too."""
    from provision import autoinstall_rules, ubuntu_seed  # noqa: PLC0415 (collecting needs none)

    text = ubuntu_seed.preview(pytestconfig.stash[SESSION].written, asked_node)
    print(f"# the seed of {asked_node.name}\n{text}")
    assert autoinstall_rules.faults(text) == []
