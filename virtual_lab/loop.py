"""Loop devices that free themselves when nobody has them open any more, however the last process ended."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
from dataclasses import dataclass
from pathlib import Path

# <linux/loop.h>
LOOP_GET_STATUS64 = 0x4C05
LOOP_CONFIGURE = 0x4C0A
LOOP_CTL_GET_FREE = 0x4C82
LO_FLAGS_READ_ONLY = 1
LO_FLAGS_AUTOCLEAR = 4
MAJOR = 7

DISK_GROUP = 6
"""Debian's group `disk`."""


@dataclass(frozen=True, slots=True)
class Loop:
    """An attached loop device, held open by `descriptor`; `node` is a device node for it."""

    node: Path
    number: int
    descriptor: int

    def detach(self) -> None:
        """Let go of it; it is free when nobody else has it open either."""
        os.close(self.descriptor)
        self.node.unlink(missing_ok=True)


def attach(image: Path, node: Path, *, start: int = 0, size: int = 0, read_only: bool = False) -> Loop:
    """Make the bytes of a file from `start` on a block device at `node`; `size` 0 means to the file's end.

    Raises OSError.
    """
    flags = LO_FLAGS_AUTOCLEAR | (LO_FLAGS_READ_ONLY if read_only else 0)
    backing = os.open(image, (os.O_RDONLY if read_only else os.O_RDWR) | os.O_CLOEXEC)
    try:
        while True:
            loop = _open_free(node, read_only=read_only)
            if _configured(loop, struct.pack("=II5Q4I", backing, 0, 0, 0, 0, start, size, 0, 0, 0, flags)):
                return loop
    finally:
        os.close(backing)


def _open_free(node: Path, *, read_only: bool) -> Loop:
    control = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
    try:
        number = fcntl.ioctl(control, LOOP_CTL_GET_FREE)
    finally:
        os.close(control)
    make_node(node, MAJOR, number)
    mode = os.O_RDONLY if read_only else os.O_RDWR
    return Loop(node, number, os.open(node, mode | os.O_CLOEXEC))


def _configured(loop: Loop, config: bytes) -> bool:
    """Whether it was still free when it was given its file; `config` is the start of a struct loop_config."""
    try:
        fcntl.ioctl(loop.descriptor, LOOP_CONFIGURE, config.ljust(304, b"\0"))
    except OSError as error:
        loop.detach()
        if error.errno != errno.EBUSY:
            raise
        return False
    return True


def make_node(path: Path, major: int, minor: int) -> None:
    """A block device node for root and the group `disk`, in place of what was there."""
    path.unlink(missing_ok=True)
    os.mknod(path, stat.S_IFBLK, os.makedev(major, minor))
    path.chmod(0o660)
    os.chown(path, 0, DISK_GROUP)


def backing_file(device: Path) -> tuple[int, int]:
    """Device and inode number of the file behind a loop device. Raises OSError when there is none."""
    with device.open("rb") as loop:
        status = fcntl.ioctl(loop, LOOP_GET_STATUS64, bytes(232))
    device_number, inode = struct.unpack("=QQ", status[:16])
    return device_number, inode
