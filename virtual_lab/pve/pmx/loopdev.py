"""Loop devices that free themselves when their last user has ended, however it ended."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
from contextlib import suppress
from pathlib import Path

# <linux/loop.h>
_GET_FREE, _CONFIGURE = 0x4C82, 0x4C0A
_READ_ONLY, _AUTOCLEAR = 1, 4
_CONTROL_DEVICE, _LOOP_MAJOR = (10, 237), 7
_TRIES = 50


class Loop:
    """A block device that shows a part of a file, for as long as it is open here or mounted."""

    def __init__(self, file: Path, *, start: int = 0, size: int = 0, read_only: bool = False) -> None:
        """`start` and `size` in bytes; size 0 is up to the file's end."""
        backing = os.open(file, os.O_RDONLY if read_only else os.O_RDWR)
        try:
            self.device, self._open = _configured(backing, start, size, read_only=read_only)
        finally:
            os.close(backing)

    def close(self) -> None:
        """Let go of it; it is freed once it is mounted nowhere."""
        os.close(self._open)


def _configured(backing: int, start: int, size: int, *, read_only: bool) -> tuple[Path, int]:
    flags = _AUTOCLEAR | (_READ_ONLY if read_only else 0)
    info = struct.pack("=QQQQQIIII", 0, 0, 0, start, size, 0, 0, 0, flags).ljust(232, b"\0")
    order = struct.pack("=II", backing, 0) + info + bytes(64)
    for _ in range(_TRIES):
        device = _free_device()
        opened = os.open(device, os.O_RDONLY if read_only else os.O_RDWR)
        try:
            fcntl.ioctl(opened, _CONFIGURE, order)
        except OSError as taken:
            os.close(opened)
            if taken.errno != errno.EBUSY:  # somebody else was faster
                raise
        else:
            return device, opened
    raise OSError(errno.EBUSY, "no free loop device")


def _free_device() -> Path:
    control = os.open(_node(Path("/dev/loop-control"), stat.S_IFCHR, *_CONTROL_DEVICE), os.O_RDWR)
    try:
        number = fcntl.ioctl(control, _GET_FREE)
    finally:
        os.close(control)
    return _node(Path(f"/dev/loop{number}"), stat.S_IFBLK, _LOOP_MAJOR, number)


def _node(path: Path, kind: int, major: int, minor: int) -> Path:
    """A device node; a node's /dev has only what it was made with."""
    with suppress(FileExistsError):
        os.mknod(path, kind | 0o600, os.makedev(major, minor))
    return path
