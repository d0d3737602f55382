"""Real firmware in QEMU, on a cable of its own in a rack's management network: OVMF, with Secure Boot or
without, and SeaBIOS.

It boots from network first, then from a disk that says on the serial console that it was booted. KVM is used
where it works, else QEMU emulates the processor.
"""

from __future__ import annotations

import functools
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from provision.inventory.boot_chains import CHAINS, Firmware
from provision.wait import NotYet, Patience

QEMU, OVMF = "qemu-system-x86_64", Path("/usr/share/OVMF")
FROM_DISK = "BOOTED FROM DISK"
"""What the disk says."""

Way = Literal["tftp", "http"]

_MEMORY_MIB = 1024
# OVMF reads from QEMU whether it has PXE.
_WITHOUT_PXE = tuple(
    word for ip in "46" for word in ("-fw_cfg", f"name=opt/org.tianocore/IPv{ip}PXESupport,string=n")
)
# QEMU's own PXE ROM is an iPXE, and shows itself as one. This plays the ROM of another make: without iPXE's
# user class it starts what DHCP names, by TFTP.
_OTHER_ROM = """#!ipxe
set user-class other
dhcp
chain tftp://${next-server}/${filename} || exit 1
"""
# lodsb; out 0x3f8, al; until a zero; hlt
_BOOT_SECTOR = bytes.fromhex("31c08ed8be157cac84c07406baf803eeebf5f4ebfd")
_DISK_GRUB = f"echo '{FROM_DISK}'\nsleep 600\n"


@dataclass(frozen=True, slots=True)
class Board:
    """A machine with real firmware: its MAC, and whether UEFI asks by TFTP or HTTP.

    A BIOS has QEMU's PXE ROM, which is an iPXE, or with `other_rom` one of another make.
    """

    firmware: Firmware
    mac: str
    way: Way = "tftp"
    other_rom: bool = False


@dataclass(frozen=True, slots=True)
class Place:
    """Where a board runs: its folder, the network namespace and the bridge that it is plugged into.

    `debian` is the root folder of a system with ipxe, shim-signed and grub-efi-amd64-signed.
    """

    folder: Path
    namespace: str
    bridge: str
    debian: Path

    @property
    def console(self) -> Path:
        """What came over the serial line."""
        return self.folder / "console.log"


def boot(board: Board, place: Place, words: tuple[str, ...], patience: Patience) -> str:
    """Power the board on, and off once its console has a line with one of the words; returns the console.

    Raises GaveUp with the console's end.
    """
    shutil.rmtree(place.folder, ignore_errors=True)
    place.folder.mkdir(parents=True)
    with _running(board, place) as machine:
        return patience.until(" or ".join(words), lambda: _said(machine, place, words))


def _said(machine: subprocess.Popen[bytes], place: Place, words: tuple[str, ...]) -> str | NotYet:
    ended = machine.poll() is not None
    text = place.console.read_text(errors="replace") if place.console.exists() else ""
    if any("\n" in text.partition(word)[2] for word in words):
        return text
    return NotYet(f"{'QEMU ended: ' + (place.folder / 'qemu.log').read_text() if ended else ''}{text[-600:]}")


@contextmanager
def _running(board: Board, place: Place) -> Iterator[subprocess.Popen[bytes]]:
    tap = f"fw{board.mac.replace(':', '')[-8:]}"
    with ExitStack() as undo:
        _ip(place, "tuntap", "add", tap, "mode", "tap")
        undo.callback(_ip, place, "link", "delete", tap)
        _ip(place, "link", "set", tap, "master", place.bridge, "up")
        command = ["ip", "netns", "exec", place.namespace, *_command(board, place, tap)]
        log = undo.enter_context((place.folder / "qemu.log").open("wb"))
        machine = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        undo.callback(machine.wait)
        undo.callback(machine.kill)
        yield machine


def _ip(place: Place, *arguments: str) -> None:
    subprocess.run(["ip", "-n", place.namespace, *arguments], check=True)


@functools.cache
def accelerator() -> Literal["kvm", "tcg"]:
    """KVM where a machine can really be made by it: /dev/kvm may be there and fail at the first processor."""
    trial = [QEMU, *_PROCESSORS["kvm"], "-machine", "q35", "-display", "none", "-serial", "none",
             "-monitor", "stdio"]  # fmt: skip
    try:
        done = subprocess.run(trial, input=b"quit\n", capture_output=True, check=False, timeout=10)
    except subprocess.TimeoutExpired:
        return "tcg"
    return "kvm" if done.returncode == 0 else "tcg"


_PROCESSORS = {
    "kvm": ("-accel", "kvm", "-cpu", "host"),
    "tcg": ("-accel", "tcg,thread=multi", "-cpu", "max"),
}


def _command(board: Board, place: Place, tap: str) -> list[str]:
    bios = CHAINS[board.firmware].mode == "Legacy"
    return [
        QEMU, *_PROCESSORS[accelerator()], "-m", str(_MEMORY_MIB), "-no-reboot", "-nodefaults",
        "-display", "none", "-monitor", "none", "-serial", f"file:{place.console}",
        "-device", "virtio-rng-pci", "-netdev", f"tap,id=cable,ifname={tap},script=no,downscript=no",
        *(_bios(board, place) if bios else _uefi(board, place)),
        "-device", "virtio-blk-pci,drive=disk,bootindex=2",
    ]  # fmt: skip


def _card(board: Board, *, rom: bool) -> list[str]:
    own = "" if rom else ",romfile="
    return ["-device", f"virtio-net-pci,netdev=cable,mac={board.mac},bootindex=1{own}"]


def _bios(board: Board, place: Place) -> list[str]:
    disk, script = place.folder / "disk.img", place.folder / "rom.ipxe"
    sector = (_BOOT_SECTOR + f"{FROM_DISK}\r\n\0".encode()).ljust(510, b"\0") + b"\x55\xaa"
    disk.write_bytes(sector.ljust(1 << 20, b"\0"))
    script.write_text(_OTHER_ROM)
    rom = ["-kernel", str(place.debian / "usr/lib/ipxe/ipxe.lkrn"), "-initrd", str(script)]
    return [
        # Without graphics SeaBIOS writes to the serial line.
        "-machine", "q35,graphics=off", *_card(board, rom=not board.other_rom),
        *(rom if board.other_rom else ()), "-drive", f"if=none,id=disk,format=raw,file={disk}",
    ]  # fmt: skip


def _uefi(board: Board, place: Place) -> list[str]:
    secure = board.firmware == "secure-boot"
    variables = place.folder / "variables.fd"
    # The variables of .ms.fd have Microsoft's keys, and Secure Boot on.
    shutil.copyfile(OVMF / ("OVMF_VARS_4M.ms.fd" if secure else "OVMF_VARS_4M.fd"), variables)
    code = OVMF / ("OVMF_CODE_4M.secboot.fd" if secure else "OVMF_CODE_4M.fd")
    return [
        "-machine", "q35,smm=on" if secure else "q35",
        *(("-global", "driver=cfi.pflash01,property=secure,value=on") if secure else ()),
        "-drive", f"if=pflash,format=raw,readonly=on,file={code}",
        "-drive", f"if=pflash,format=raw,file={variables}",
        *(_WITHOUT_PXE if board.way == "http" else ()), *_card(board, rom=False),
        # QEMU shows the folder as a disk with a FAT file system.
        "-drive", f"if=none,id=disk,format=raw,read-only=on,file=fat:{_efi_disk(place)}",
    ]  # fmt: skip


def _efi_disk(place: Place) -> Path:
    """A folder as an installed Debian's EFI partition: shim where firmware looks, and GRUB beside it."""
    disk, signed = place.folder / "disk", place.debian / "usr/lib/grub/x86_64-efi-signed"
    files = {
        "EFI/BOOT/BOOTX64.EFI": (place.debian / "usr/lib/shim/shimx64.efi.signed").read_bytes(),
        "EFI/BOOT/grubx64.efi": (signed / "grubx64.efi.signed").read_bytes(),
        "EFI/debian/grub.cfg": _DISK_GRUB.encode(),
    }
    for name, content in files.items():
        (disk / name).parent.mkdir(parents=True, exist_ok=True)
        (disk / name).write_bytes(content)
    return disk
