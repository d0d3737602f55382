"""The kernel's device mapper, which the machine itself plays: devices that are a stretch of a disk."""

from __future__ import annotations

import json
import os
import socket
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import Failure

SOCKET = Path("/run/rackproof/mapper.sock")
DEV = Path("/dev")
_DISK_GROUP = 6


@dataclass(frozen=True, slots=True)
class Mapped:
    """A device below /dev by its name in the mapper, its kernel name (dm-1), and its disk's (sdb)."""

    name: str
    device: str
    disk: str
    major: int
    minor: int

    @property
    def node(self) -> Path:
        """Its device node."""
        return DEV / self.device


def table() -> dict[str, Mapped]:
    """All devices by their names in the mapper."""
    return {row["name"]: Mapped(**row) for row in _ask({"do": "table"})["mapped"]}


def create(name: str, uuid: str, disk: str, start: int, size: int) -> Mapped:
    """A device of the bytes from `start` on of the disk (sdb); the one that is there already by that name."""
    order = {"do": "map", "name": name, "uuid": uuid, "disk": disk, "start": start, "size": size}
    made = Mapped(**_ask(order))
    made.node.unlink(missing_ok=True)
    os.mknod(made.node, stat.S_IFBLK, os.makedev(made.major, made.minor))
    made.node.chmod(0o660)
    os.chown(made.node, 0, _DISK_GROUP)
    return made


def remove(mapped: Mapped) -> None:
    """Take a device away."""
    _ask({"do": "unmap", "name": mapped.name})
    mapped.node.unlink(missing_ok=True)


def _ask(order: Mapping[str, Any]) -> dict[str, Any]:
    try:
        with socket.socket(socket.AF_UNIX) as peer:
            peer.settimeout(10)
            peer.connect(str(SOCKET))
            peer.sendall(json.dumps(order).encode() + b"\n")
            answer: dict[str, Any] = json.loads(peer.makefile().readline() or "{}")
    except (OSError, ValueError) as error:
        raise Failure(f"/dev/mapper/control: {error}") from None
    if "error" in answer:
        raise Failure(f"device-mapper: {answer['error']}")
    return answer
