"""A node's network boot by real firmware: what the real chain handed to the kernel, for the played installer.

Runs as root in the network namespace of the node, and in its first process: QEMU ends with that. While it
runs, the node's NIC is no more than the cable between QEMU's and the switch.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import NoReturn

from provision.errors import LabError
from provision.inventory.boot_chains import Target
from provision.wait import Patience
from virtual_lab import bootloader, media
from virtual_lab.hardware import BootDisk, Hardware, RealFirmware, RunInstaller
from virtual_lab.plan import made_up_mac
from virtual_lab.real_firmware import FROM_DISK, Board, Place, boot
from virtual_lab.telling_kernel import DONE, FILES, RELEASE, UP

EMULATED = Patience(600, first=0.1, most=0.3)
"""How long a chain may take. UEFI tries PXE and HTTP, by IPv4 and IPv6, before it turns to its disk."""

_BRIDGE = "fw0"
_ISO = "proxmox.iso"
# ECMA-48: control sequences, other escape sequences; and all control characters but those that end a line.
_CONTROL = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b[ -/]*[0-~]|[\x00-\x09\x0b\x0c\x0e-\x1f\x7f-\x9f]")


@dataclass(frozen=True, slots=True)
class Told:
    """What a telling kernel said of itself."""

    command_line: str
    release: str


def run(
    hardware: Hardware, real: RealFirmware, folder: Path, target: Target = "Pxe"
) -> RunInstaller | BootDisk | None:
    """Boot by real firmware, with `folder` for its files; None when nothing was booted.

    What the firmware, the loaders and the kernel say goes to the node's console.
    """
    board = Board(
        real.kind, hardware.nics[hardware.boot_nic], "http" if target == "UefiHttp" else "tftp",
        disk=bootloader.is_installed(hardware.drive.image), dmi=hardware.dmi,
    )  # fmt: skip
    place = Place(folder, _BRIDGE, real.loaders)
    with _power_button_ends_it(), _as_cable(hardware):
        try:
            console = boot(board, place, (DONE, FROM_DISK), EMULATED, _Line(hardware).hear)
        except LabError as error:
            hardware.console(str(error))
            return None
    if told := told_by(console):
        taken = media_of(told, place.second_line.read_bytes(), folder)
        return RunInstaller(told.command_line, taken)
    return BootDisk() if FROM_DISK in console else None


def told_by(console: str) -> Told | None:
    """What the kernel said on this console; None when no kernel said all of it."""
    lines = readable(console).split("\n")
    command_line, release = _last(UP, lines), _last(RELEASE, lines)
    if command_line is None or release is None or DONE not in lines:
        return None
    return Told(command_line, release)


def readable(console: str) -> str:
    """A console's text without what moves the cursor and sets colours, nor what was written over."""
    lines = _CONTROL.sub("", console).split("\n")
    return "\n".join(line.rstrip("\r").rpartition("\r")[2] for line in lines)


def media_of(told: Told, second_line: bytes, folder: Path) -> dict[str, bytes | Path]:
    """What the kernel handed over, as the played installer takes it; files of its own go into `folder`.

    On the second line came an archive (cpio, newc) of all that its initramfs held. Of one that is broken no
    file is taken.
    """
    archive = second_line.partition(f"{FILES}\n".encode())[2]
    try:
        files = {name.removeprefix("./"): content for name, content in media.cpio_files(archive).items()}
    except media.Unreadable:
        files = {}
    iso = files.pop(_ISO, None)
    # A kernel that runs cannot show its file: what it says of itself is made one.
    taken: dict[str, bytes | Path] = {
        "kernel": media.kernel_image(told.release), "initrd.0": media.initramfs(files)
    }  # fmt: skip
    if iso is not None:
        (folder / _ISO).write_bytes(iso)
        taken[f"/{_ISO}"] = folder / _ISO
    return taken


def _last(word: str, lines: list[str]) -> str | None:
    return next((line.partition(word)[2] for line in reversed(lines) if word in line), None)


class _Line:
    """The serial line as it comes, a line at a time, to the node's console."""

    def __init__(self, hardware: Hardware) -> None:
        self._hardware, self._told = hardware, 0

    def hear(self, console: str) -> None:
        """Write what is new, up to its last whole line."""
        end = console.rfind("\n") + 1
        if end > self._told:
            self._hardware.console(readable(console[self._told : end]))
            self._told = end


@contextmanager
def _as_cable(hardware: Hardware) -> Iterator[None]:
    """Make the boot NIC a port of a bridge, so that QEMU's own NIC can have its MAC; then bare again."""
    nic, mac = hardware.boot_nic, hardware.nics[hardware.boot_nic]
    # A bridge keeps for itself what is sent to the MAC of one of its ports.
    _ip(f"link set {nic} down address {made_up_mac(hardware.name, nic)}")
    _ip(f"link add {_BRIDGE} type bridge stp_state 0 forward_delay 0 mcast_snooping 0")
    try:
        _ip(f"link set {nic} master {_BRIDGE} up")
        _ip(f"link set {_BRIDGE} up")
        yield
    finally:
        _ip(f"link delete {_BRIDGE}")
        _ip(f"link set {nic} down address {mac}")


@contextmanager
def _power_button_ends_it() -> Iterator[None]:
    """Firmware knows no orderly end: the power button ends this process at once, and QEMU with it."""
    before = signal.signal(signal.SIGTERM, _switch_off)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _switch_off(_number: int, _frame: FrameType | None) -> NoReturn:
    os._exit(0)


def _ip(command: str) -> None:
    subprocess.run(["ip", *command.split()], check=True, capture_output=True)
