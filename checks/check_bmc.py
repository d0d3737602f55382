"""The BMC: it is this node's, the node is on, and the one-time network boot was used up."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from provision.inventory import Node

if TYPE_CHECKING:
    from provision.redfish import Board


@pytest.mark.step("power")
def test_bmc_is_of_this_node(node: Node, board: Board) -> None:
    """Serial and MACs from the BMC are those of the lab file."""
    identity = board.identity()
    assert identity.serial == node.serial or node.serial is None
    assert node.all_macs <= identity.macs or not identity.macs
    assert node.bmc.mac in identity.bmc_macs or not identity.bmc_macs or node.bmc.mac is None


@pytest.mark.step("power")
def test_node_is_on(board: Board) -> None:
    """The node has power."""
    assert board.power_state() == "On"


@pytest.mark.step("install")
def test_network_boot_was_used_up(board: Board) -> None:
    """The next boot is from the disk: nothing reinstalls a node by a reboot."""
    override = board.boot_override()
    assert not override.pending, f"the next boot follows it: {override}"
