"""The installer's live system until the automatic installer starts: is it all there, and of one build?"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from virtual_lab import media
from virtual_lab.hardware import Hardware, RunInstaller

LEAST_MEMORY_MIB = 8 * 1024
ABORTED = "Installation aborted - unable to continue (type exit or CTRL-D to reboot)"


class Stuck(Exception):
    """The installer ends at a shell on the console, whatever the answer says about errors."""


@dataclass(frozen=True, slots=True)
class Iso:
    """The files in the ISO's root folder that the installer looks at."""

    files: Mapping[str, bytes]

    @property
    def info(self) -> dict[str, str]:
        """`.cd-info`: RELEASE, ISORELEASE, PRODUCT, …."""
        pairs = (line.partition("=") for line in self.files.get(".cd-info", b"").decode().splitlines())
        return {name: value.strip("'") for name, _, value in pairs if name}

    @property
    def mode(self) -> Mapping[str, Any]:
        """`auto-installer-mode.toml`. Raises Stuck."""
        try:
            return tomllib.loads(self.files["auto-installer-mode.toml"].decode())
        except (KeyError, ValueError) as error:
            raise Stuck(f"Could not read auto-installer-mode.toml of the ISO: {error}\n{ABORTED}") from error


def boot_media(hardware: Hardware, run: RunInstaller) -> Iso:
    """Start kernel, initrd and ISO as one build. Raises Stuck as the live system would get stuck."""
    no_iso = "[ERROR] no device with valid ISO found, please check your installation medium"
    try:
        release = media.kernel_release(content(run, "kernel"))
        hardware.console(f"Linux version {release}\nCommand line: {run.kernel_args}")
        if hardware.memory_mib < LEAST_MEMORY_MIB:
            hardware.console("Initramfs unpacking failed: write error")
            raise Stuck(f"found proxmox ISO image inside initrd image\n{no_iso}")
        initrd = media.initrd_files(content(run, "initrd.0"))
        if not any(name.startswith(f"lib/modules/{release}/") for name in initrd):
            raise Stuck(
                f"{no_iso}: the initrd has no modules for kernel {release}: they are not of one build"
            )
        iso = _iso(run, no_iso)
    except media.Unreadable as error:
        raise Stuck(f"Kernel panic - not syncing: VFS: Unable to mount root fs: {error}") from error
    if iso.files.get(media.ID_FILE) != initrd.get(media.ID_FILE):
        raise Stuck(f"{no_iso}: the ISO's id is not the initrd's: they are not of one build")
    _check_automatic(hardware, run, iso)
    return iso


def _iso(run: RunInstaller, no_iso: str) -> Iso:
    path = run.media.get("/proxmox.iso")
    if not isinstance(path, Path):
        raise Stuck(f"{no_iso}: the initramfs holds no /proxmox.iso")
    names = (media.ID_FILE, ".cd-info", "auto-installer-capable", "auto-installer-mode.toml")
    try:
        return Iso(media.iso_files(path, *names))
    except media.Unreadable as error:
        raise Stuck(f"{no_iso}: {error}") from error


def _check_automatic(hardware: Hardware, run: RunInstaller, iso: Iso) -> None:
    hardware.console("found proxmox ISO image inside initrd image")
    words = set(run.kernel_args.split())
    automatic = words & {"proxmox-start-auto-installer", "proxauto"}
    if words & {"proxmox-tui-mode", "proxtui"} or not automatic:
        raise Stuck(
            "interactive installer: the kernel command line does not start the automatic one "
            "(proxmox-start-auto-installer)"
        )
    if "auto-installer-capable" not in iso.files:
        raise Stuck(f"The ISO is not able to install automatically\n{ABORTED}")
    hardware.console("Starting automatic installation")


def content(run: RunInstaller, name: str) -> bytes:
    """A file that the firmware loaded; raises media.Unreadable when it has loaded none of that name."""
    found = run.media.get(name)
    if found is None:
        raise media.Unreadable(f"there is no {name}")
    return found if isinstance(found, bytes) else found.read_bytes()
