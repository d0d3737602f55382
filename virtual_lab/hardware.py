"""What a virtual server is made of, and the words in which its board, firmware and installer speak.

The board (board.py) powers a machine (machine.py), which runs in turn, in one process of its own inside the
node's network namespace: `firmware.boot(hardware, override) -> Boot`, then what that says: the disk's system,
`installer.install(hardware, RunInstaller) -> Outcome`, or nothing.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from provision.inventory.boot_chains import Firmware

PowerState = Literal["On", "Off"]
OverrideTarget = Literal["None", "Pxe", "UefiHttp", "Hdd"]
OverrideEnabled = Literal["Disabled", "Once", "Continuous"]
BootMode = Literal["UEFI", "Legacy"]
BootDevice = Literal["disk", "network"]

SHARED = ("sys_time", "sys_module")
"""Capabilities that no machine of a rack has: this host's clock and kernel modules are not theirs."""


@dataclass(frozen=True, slots=True)
class Drive:
    """A disk: a sparse image file of `size` bytes and what it says of itself; `device` is its kernel name.

    `rpm` is 0 for an SSD. `links` are names below /dev/disk/by-id beside those that udev makes of the rest.
    """

    image: Path
    size: int
    serial: str
    model: str
    wwn: str
    device: str = "sda"
    rpm: int = 0
    links: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Dmi:
    """What the board says of itself; the fields of SMBIOS types 0 to 3."""

    manufacturer: str
    product: str
    serial: str
    uuid: str
    bios_version: str
    board_product: str
    board_serial: str
    chassis_serial: str


@dataclass(frozen=True, slots=True)
class RealFirmware:
    """Real firmware in place of the played one: its kind, and the folder of a telling_kernel.Telling."""

    kind: Firmware
    loaders: Path


@dataclass(frozen=True, slots=True)
class Hardware:
    """One virtual server.

    `nics`: MAC (lower case, colons) by NIC name; the first one is the one that boots by network.
    `layers`: the directories under the node's own disk, topmost first (a played layer, the OS image).
    `target`: an empty directory on which the machine's root is mounted (virtual_lab.disk.mounted_root).
    `seed`: of every played delay and choice, so that a rack behaves the same twice.
    `release`: which Proxmox installer is played: "9.2" or "9.1".
    `osd_drives`: the disks beside the system's `drive`; an installation leaves them alone.
    `real_firmware`: what boots it from network; None plays UEFI.
    """

    name: str
    nics: Mapping[str, str]
    drive: Drive
    dmi: Dmi
    memory_mib: int
    cores: int
    console_log: Path
    layers: tuple[Path, ...]
    target: Path
    boot_order: tuple[BootDevice, ...] = ("disk", "network")
    seed: int = 0
    release: str = "9.2"
    osd_drives: tuple[Drive, ...] = ()
    real_firmware: RealFirmware | None = None

    @property
    def drives(self) -> tuple[Drive, ...]:
        """All disks, by their kernel names."""
        return tuple(sorted((self.drive, *self.osd_drives), key=lambda drive: drive.device))

    @property
    def boot_nic(self) -> str:
        """Name of the NIC that boots by network."""
        return next(iter(self.nics))

    def console(self, text: str) -> None:
        """Write a line to the serial console."""
        with self.console_log.open("a", encoding="utf-8", errors="replace") as log:
            log.write(text if text.endswith("\n") else text + "\n")

    def chance(self, purpose: str) -> random.Random:
        """A generator for one purpose, the same at every start of this rack."""
        return random.Random(f"{self.seed}/{self.name}/{purpose}")  # noqa: S311 (played, not secret)


@dataclass(frozen=True, slots=True)
class Override:
    """A boot source override as Redfish has it; "Once" is used up by the next boot."""

    target: OverrideTarget = "None"
    enabled: OverrideEnabled = "Disabled"
    mode: BootMode = "UEFI"

    @property
    def active(self) -> bool:
        """Whether the next boot heeds it."""
        return self.enabled != "Disabled" and self.target != "None"


@dataclass(frozen=True, slots=True)
class BootDisk:
    """The firmware hands over to the boot loader on the disk."""


@dataclass(frozen=True, slots=True)
class RunInstaller:
    """The firmware hands over to an installer's kernel: its command line, and its files by name."""

    kernel_args: str
    media: Mapping[str, bytes | Path]


@dataclass(frozen=True, slots=True)
class NoBootDevice:
    """Nothing to boot: the machine stays on and stands still."""

    why: str


Boot = BootDisk | RunInstaller | NoBootDevice


@dataclass(frozen=True, slots=True)
class Reboot:
    """The machine starts again, from the firmware."""


@dataclass(frozen=True, slots=True)
class PowerOff:
    """The machine switched itself off."""


@dataclass(frozen=True, slots=True)
class Hang:
    """The machine stands still, as at a prompt on the console, until somebody resets it."""

    why: str


Outcome = Reboot | PowerOff | Hang
