"""Redfish: a node's board through its BMC, who it proves to be, and how its certificate is judged."""

from provision.redfish.board import Board
from provision.redfish.connection import Timing
from provision.redfish.identity import Identity, prove
from provision.redfish.override import BootOverride
from provision.redfish.reset import Reset

__all__ = ["Board", "BootOverride", "Identity", "Reset", "Timing", "prove"]
