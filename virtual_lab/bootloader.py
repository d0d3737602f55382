"""The boot loader on a virtual server's disk: what the firmware looks for before it boots the disk.

No boot loader runs, so none is installed: its place, the start of the BIOS boot partition, holds a mark. It
is written as the installer's last act, as GRUB is, so a disk whose installation was cut off does not boot.
"""

from __future__ import annotations

import os
from pathlib import Path

from virtual_lab import disk

_AT = 34 * 512  # where virtual_lab.disk begins the BIOS boot partition
_MARK = b"played boot loader: GRUB 2.12-pmx\n"


def install(image: Path) -> None:
    """Write the boot loader, and with it everything before, durably."""
    with image.open("r+b") as file:
        file.seek(_AT)
        file.write(_MARK)
        file.flush()
        os.fsync(file.fileno())


def is_installed(image: Path) -> bool:
    """Whether the disk boots: a GPT with a root partition, and a boot loader."""
    if not image.exists() or disk.root_partition(image) is None:
        return False
    with image.open("rb") as file:
        file.seek(_AT)
        return file.read(len(_MARK)) == _MARK
