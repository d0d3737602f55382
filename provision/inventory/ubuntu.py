"""What a lab file says of a node with Ubuntu alone."""

from __future__ import annotations

from typing import Literal

Layout = Literal["direct", "lvm"]
"""How subiquity lays out the disk: one ext4 on a partition, or on a logical volume that takes all of it."""

KEYS = ("storage_layout", "packages")
"""The keys of a node that Proxmox's installer has no use for."""
