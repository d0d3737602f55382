"""Real firmware in QEMU, on a cable of its own in a rack's management network: OVMF, with Secure Boot or
without, and SeaBIOS.

It boots from network first, then from a disk that says on the serial console that it was booted. KVM is used
where it works, else QEMU emulates the processor.
"""

from __future__ import annotations

import functools
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from provision.errors import LabError
from provision.inventory.boot_chains import CHAINS, Firmware
from provision.wait import NotYet, Patience
from virtual_lab.hardware import Dmi

QEMU, OVMF = "qemu-system-x86_64", Path("/usr/share/OVMF")
SHIM, GRUB, IPXE_ROM = "shimx64.efi", "grubx64.efi", "ipxe.lkrn"
"""Debian's signed boot loaders for a disk, and its iPXE as a kernel; in the folder Place.loaders."""
FROM_DISK = "BOOTED FROM DISK"
"""What the disk says."""
NOWHERE = (
    "UEFI Interactive Shell", "No bootable option or device was found", "<Enter>=Select Entry",
    "No bootable device",
)  # fmt: skip
"""What is on the console when nothing boots: OVMF's shell, without one, its menu; SeaBIOS' last word."""

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

    A BIOS has QEMU's PXE ROM, which is an iPXE, or with `other_rom` one of another make. `disk`: whether its
    disk has a boot loader. `dmi`: what it says of itself, which QEMU decides without.
    """

    firmware: Firmware
    mac: str
    way: Way = "tftp"
    other_rom: bool = False
    disk: bool = True
    dmi: Dmi | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """Where a board runs: its folder, the network namespace and the bridge that it is plugged into.

    Without `namespace` that is this process's own. `loaders` holds SHIM, GRUB and IPXE_ROM.
    """

    folder: Path
    bridge: str
    loaders: Path
    namespace: str | None = None

    @property
    def console(self) -> Path:
        """What came over the serial line."""
        return self.folder / "console.log"

    @property
    def second_line(self) -> Path:
        """What came over the second serial line: the files that a telling kernel hands over."""
        return self.folder / "second-line"


Hear = Callable[[str], None]


def boot(
    board: Board, place: Place, words: tuple[str, ...], patience: Patience, hear: Hear = lambda _console: None
) -> str:
    """Power the board on, and off once its console has a line with one of the words; returns the console.

    It ends, too, when nothing boots (NOWHERE). `hear` is told the whole console again and again meanwhile.
    Raises GaveUp with the console's end, and LabError when QEMU ended.
    """
    shutil.rmtree(place.folder, ignore_errors=True)
    place.folder.mkdir(parents=True)
    with _running(board, place) as machine:
        return patience.until(" or ".join(words), lambda: _said(machine, place, words, hear))


def _said(machine: subprocess.Popen[bytes], place: Place, words: tuple[str, ...], hear: Hear) -> str | NotYet:
    ended = machine.poll() is not None
    # As it came: a pair of line ends may be read in halves.
    text = place.console.read_bytes().decode(errors="replace") if place.console.exists() else ""
    hear(text)
    if any("\n" in text.partition(word)[2] for word in words) or any(word in text for word in NOWHERE):
        return text
    if ended:
        raise LabError("QEMU ended", last_seen=(place.folder / "qemu.log").read_text() or text[-600:])
    return NotYet(text[-600:])


@contextmanager
def _running(board: Board, place: Place) -> Iterator[subprocess.Popen[bytes]]:
    tap = f"fw{board.mac.replace(':', '')[-8:]}"
    inside = ["ip", "netns", "exec", place.namespace] if place.namespace else []
    with ExitStack() as undo:
        _ip(place, "tuntap", "add", tap, "mode", "tap")
        undo.callback(_ip, place, "link", "delete", tap)
        _ip(place, "link", "set", tap, "master", place.bridge, "up")
        log = undo.enter_context((place.folder / "qemu.log").open("wb"))
        command = [*inside, *_command(board, place, tap)]
        machine = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        undo.callback(machine.wait)
        undo.callback(machine.kill)
        yield machine


def _ip(place: Place, *arguments: str) -> None:
    inside = ["-n", place.namespace] if place.namespace else []
    subprocess.run(["ip", *inside, *arguments], check=True)


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
        "-serial", f"file:{place.second_line}", *(_identity(board.dmi) if board.dmi else ()),
        "-device", "virtio-rng-pci", "-netdev", f"tap,id=cable,ifname={tap},script=no,downscript=no",
        *(_bios(board, place) if bios else _uefi(board, place)),
        "-device", "virtio-blk-pci,drive=disk,bootindex=2",
    ]  # fmt: skip


def _identity(dmi: Dmi) -> list[str]:
    """What the board says of itself, by SMBIOS tables 1 and 2."""
    maker = {"manufacturer": dmi.manufacturer}
    system = {**maker, "product": dmi.product, "serial": dmi.serial, "uuid": dmi.uuid}
    board = {**maker, "product": dmi.board_product, "serial": dmi.board_serial}
    return ["-smbios", _smbios("1", system), "-smbios", _smbios("2", board)]


def _smbios(table: str, values: Mapping[str, str]) -> str:
    # In QEMU's options a comma in a value is written twice.
    return ",".join(f"{key}={value.replace(',', ',,')}" for key, value in {"type": table, **values}.items())


def _card(board: Board, *, rom: bool) -> list[str]:
    own = "" if rom else ",romfile="
    return ["-device", f"virtio-net-pci,netdev=cable,mac={board.mac},bootindex=1{own}"]


def _bios(board: Board, place: Place) -> list[str]:
    disk, script = place.folder / "disk.img", place.folder / "rom.ipxe"
    sector = (_BOOT_SECTOR + f"{FROM_DISK}\r\n\0".encode()).ljust(510, b"\0") + b"\x55\xaa"
    disk.write_bytes((sector if board.disk else b"").ljust(1 << 20, b"\0"))
    script.write_text(_OTHER_ROM)
    rom = ["-kernel", str(place.loaders / IPXE_ROM), "-initrd", str(script)]
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
        "-drive", f"if=none,id=disk,format=raw,read-only=on,file=fat:{_efi_disk(board, place)}",
    ]  # fmt: skip


def _efi_disk(board: Board, place: Place) -> Path:
    """A folder as an installed Debian's EFI partition: shim where firmware looks, and GRUB beside it."""
    disk = place.folder / "disk"
    disk.mkdir()
    files = {
        "EFI/BOOT/BOOTX64.EFI": (place.loaders / SHIM).read_bytes(),
        "EFI/BOOT/grubx64.efi": (place.loaders / GRUB).read_bytes(),
        "EFI/debian/grub.cfg": _DISK_GRUB.encode(),
    }
    for name, content in files.items() if board.disk else ():
        (disk / name).parent.mkdir(parents=True, exist_ok=True)
        (disk / name).write_bytes(content)
    return disk
