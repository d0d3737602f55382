"""What this machine must offer before a rack can stand on it."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from provision.errors import LabError
from virtual_lab import cgroups, kernel
from virtual_lab.real_firmware import OVMF, QEMU

_TOOLS = {
    "ip": "iproute2", "systemd-nspawn": "systemd-container", "nsenter": "util-linux", "setpriv": "util-linux",
    "sfdisk": "fdisk", "mkfs.ext4": "e2fsprogs", "mount": "mount", "mmdebstrap": "mmdebstrap",
}  # fmt: skip
WATCHERS = 7
"""inotify instances of one machine's systemd and services; a kernel allows a user 128 by default."""
_FILESYSTEMS = ("overlay", "fuse", "ext4")
# Debian 13 is signed by the automatic keys of Debian 12 and 13; Ubuntu 24.04's package has the former alone.
_KEYS = [
    f"debian-archive-{suite}-automatic.{kind}" for suite in ("bookworm", "trixie") for kind in ("gpg", "pgp")
]


def check(*, real_firmware: bool = False) -> None:
    """Raise LabError with one line that names everything that is missing."""
    missing = [*_missing(), *(_missing_firmware() if real_firmware else ())]
    if missing:
        raise LabError(f"a virtual rack cannot stand on this machine: {'; '.join(missing)}")


def need_watchers(machines: int) -> None:
    """Raise LabError when so many machines cannot run, for every systemd takes inotify instances."""
    wanted = machines * WATCHERS
    found = kernel.watchers(wanted)
    if found < wanted:
        raise LabError(
            f"{machines} machines take {wanted} inotify instances, and this user may have {found} more; "
            "take another rack down, or allow more: sysctl -w fs.inotify.max_user_instances=1024"
        )


def has_systemd() -> bool:
    """Whether systemd runs this machine, and so owns its control groups (sd_booted(3))."""
    return Path("/run/systemd/system").is_dir()


def _missing() -> Iterator[str]:
    if os.geteuid() != 0:
        yield "it needs root; run it with sudo"
        return
    packages = sorted({package for tool, package in _TOOLS.items() if shutil.which(tool) is None})
    if packages:
        yield f"packages are missing: apt-get install {' '.join(packages)}"
    if not any(Path("/usr/share/keyrings", name).exists() for name in _KEYS):
        yield "Debian 13's archive keys are missing: apt-get install debian-archive-keyring, of 2023 or later"
    yield from (f"the kernel has no {name} file system" for name in _FILESYSTEMS if not _has(name))
    if not cgroups.hierarchies():
        yield "no control group file system is mounted; mount cgroup2 on /sys/fs/cgroup"


def _missing_firmware() -> Iterator[str]:
    parts = {"qemu-system-x86": shutil.which(QEMU), "ovmf": OVMF.is_dir()}
    if packages := [package for package, found in parts.items() if not found]:
        yield f"a node has real firmware, and packages are missing: apt-get install {' '.join(packages)}"


def _has(filesystem: str, known: Path = Path("/proc/filesystems")) -> bool:
    if filesystem in known.read_text().split():
        return True
    if shutil.which("modprobe"):
        subprocess.run(["modprobe", "--quiet", filesystem], check=False)
    return filesystem in known.read_text().split()
