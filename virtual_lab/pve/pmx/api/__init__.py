"""The API's calls, one module per subject; importing a module offers its calls."""

from __future__ import annotations

from . import (
    access,
    ceph,
    cluster,
    content,
    datacenter,
    disks,
    guest_agent,
    nodes,
    osds,
    qemu,
    storage,
)

__all__ = [
    "access",
    "ceph",
    "cluster",
    "content",
    "datacenter",
    "disks",
    "guest_agent",
    "nodes",
    "osds",
    "qemu",
    "storage",
]
