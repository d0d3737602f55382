"""What a machine's kernel shows of its disks: device nodes, /sys/block, udev's records, and a device mapper.

The disks are loop devices of this host under other names; everything here ends with the process that made it.
The folder is bound into the machine as /run/rackproof, and its parts over the places that they stand for
(machine.py, and own-disks.service in recipes.py).
"""

from __future__ import annotations

import os
import selectors
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Thread
from typing import Any

from virtual_lab import disk, loop, sysfs, udev
from virtual_lab.control import ControlSocket
from virtual_lab.disk import Extent
from virtual_lab.hardware import Drive, Hardware
from virtual_lab.loop import Loop

IN_THE_MACHINE = Path("/run/rackproof")
SOCKET = "mapper.sock"
SYSTEM_HOLDER = "pve-root"
"""What holds the system's partition on a node that was installed with LVM."""

Attach = Callable[..., Loop]


@contextmanager
def shown(hardware: Hardware, folder: Path) -> Iterator[list[tuple[Path, Path]]]:
    """The machine's disks while inside, made if they are not there; yields what is to be bound where."""
    kernel = BlockDevices(folder)
    for drive in hardware.osd_drives:
        if not drive.image.exists():
            disk.blank(drive.image, drive.size)
        kernel.add(drive)
    kernel.add_system(hardware.drive, disk.partitions(hardware.drive.image))
    kernel.serve()
    try:
        yield kernel.binds()
    finally:
        kernel.close()


@dataclass(slots=True)
class _Disk:
    """A disk; while devices are mapped onto it, `claim` is open, so that nobody else may claim it."""

    drive: Drive
    loop: Loop
    mapped: set[str] = field(default_factory=set)
    claim: int | None = None


@dataclass(frozen=True, slots=True)
class _Mapped:
    name: str
    device: sysfs.Device
    disk: str
    loop: Loop


class BlockDevices:
    """The kernel's block devices, as one machine sees them, in `folder`."""

    def __init__(self, folder: Path, attach: Attach = loop.attach, real_sysfs: Path = Path("/sys")) -> None:
        self._folder, self._attach, self._real_sysfs = folder, attach, real_sysfs
        self._disks: dict[str, _Disk] = {}
        self._partitions: list[Loop] = []
        self._mapped: dict[str, _Mapped] = {}
        self._closing: Callable[[], None] = lambda: None
        for name in ("dev/disk/by-id", "udev/data", "sys/block", "sys/class", "sys/dev", "mapped"):
            (folder / name).mkdir(parents=True, exist_ok=True)

    def add(self, drive: Drive) -> None:
        """A disk that the machine may read and write."""
        attached = self._attach(drive.image, self._folder / "dev" / drive.device)
        self._without_flushes(attached)
        self._show(drive, attached, read_only=False)

    def add_system(self, drive: Drive, partitions: Sequence[Extent]) -> None:
        """The system's disk, to be read alone: what runs on it writes by another way (disk.mount_root)."""
        attached = self._attach(drive.image, self._folder / "dev" / drive.device, read_only=True)
        self._show(drive, attached, read_only=True)
        for number, extent in enumerate(partitions, start=1):
            self._add_partition(drive, number, extent)
        if partitions:
            last = f"{drive.device}/{drive.device}{len(partitions)}"
            held = sysfs.Device("dm-0", 253, 0, partitions[-1].size)
            sysfs.add_mapped(self._folder / "sys", held, SYSTEM_HOLDER, "LVM-system", last)

    def binds(self) -> list[tuple[Path, Path]]:
        """What is to be bound, and where."""
        nodes = sorted((self._folder / "dev").iterdir())
        return [(self._folder, IN_THE_MACHINE), *((node, Path("/dev") / node.name) for node in nodes)]

    # -- the device mapper

    def serve(self) -> None:
        """Answer at SOCKET, in a thread."""
        selector = selectors.DefaultSelector()
        end, ending = os.pipe2(os.O_CLOEXEC)
        ControlSocket(self._folder / SOCKET, selector, self.answer)
        selector.register(end, selectors.EVENT_READ, None)
        thread = Thread(target=_serve, args=(selector,), name="device mapper", daemon=True)
        thread.start()

        def close() -> None:
            os.close(ending)
            thread.join()
            os.close(end)

        self._closing = close

    def close(self) -> None:
        """Let go of all devices."""
        self._closing()
        for mapped in list(self._mapped.values()):
            self._unmap(mapped)
        for attached in (*self._partitions, *(one.loop for one in self._disks.values())):
            attached.detach()

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Carry out a request; an answer with `error` when it cannot be."""
        try:
            match request:
                case {"do": "map", "name": str(name), "uuid": str(uuid), "disk": str(below),
                      "start": int(start), "size": int(size)}:  # fmt: skip
                    return _row(self._map(name, uuid, below, start, size))
                case {"do": "unmap", "name": str(name)}:
                    self._unmap(self._mapped[name])
                    return {}
                case {"do": "table"}:
                    return {"mapped": [_row(mapped) for mapped in self._mapped.values()]}
        except KeyError as missing:
            return {"error": f"there is no device {missing}"}
        except OSError as error:
            return {"error": str(error)}
        return {"error": "a request says do: map, unmap or table"}

    def _map(self, name: str, uuid: str, below: str, start: int, size: int) -> _Mapped:
        if name in self._mapped:
            return self._mapped[name]
        one = self._disks[below]
        if one.claim is None:
            one.claim = os.open(one.loop.node, os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC)
        kernel_name = self._free_name()
        node = self._folder / "mapped" / kernel_name
        attached = self._attach(one.drive.image, node, start=start, size=size)
        self._without_flushes(attached)
        device = sysfs.Device(kernel_name, loop.MAJOR, attached.number, size, bool(one.drive.rpm))
        sysfs.add_mapped(self._folder / "sys", device, name, uuid, below)
        one.mapped.add(name)
        self._mapped[name] = _Mapped(name, device, below, attached)
        return self._mapped[name]

    def _unmap(self, mapped: _Mapped) -> None:
        one = self._disks[mapped.disk]
        sysfs.remove_mapped(self._folder / "sys", mapped.device, mapped.disk)
        mapped.loop.detach()
        del self._mapped[mapped.name]
        one.mapped.discard(mapped.name)
        if not one.mapped and one.claim is not None:
            os.close(one.claim)
            one.claim = None

    def _free_name(self) -> str:
        taken = {mapped.device.name for mapped in self._mapped.values()}
        return next(name for name in (f"dm-{number}" for number in range(1, 999)) if name not in taken)

    # -- what is shown

    def _show(self, drive: Drive, attached: Loop, *, read_only: bool) -> None:
        device = sysfs.Device(
            drive.device, loop.MAJOR, attached.number, drive.size, bool(drive.rpm), read_only
        )
        sysfs.add_disk(self._folder / "sys", device, drive.model)
        names = udev.by_id(drive)
        for name in names:
            link = self._folder / "dev/disk/by-id" / name
            # Of two disks that say the same of themselves, udev links the later one.
            link.unlink(missing_ok=True)
            link.symlink_to(f"../../{drive.device}")
        record = [f"S:disk/by-id/{name}" for name in names]
        record += [f"E:{key}={value}" for key, value in udev.of_drive(drive).items() if key.startswith("ID_")]
        number = f"b{device.major}:{device.minor}"
        (self._folder / "udev/data" / number).write_text("".join(f"{line}\n" for line in record))
        self._disks[drive.device] = _Disk(drive, attached)

    def _add_partition(self, drive: Drive, number: int, extent: Extent) -> None:
        name = f"{drive.device}{number}"
        node = self._folder / "dev" / name
        attached = self._attach(drive.image, node, start=extent.start, size=extent.size, read_only=True)
        device = sysfs.Device(name, loop.MAJOR, attached.number, extent.size, bool(drive.rpm), read_only=True)
        sysfs.add_partition(self._folder / "sys", drive.device, device, number, extent.start)
        self._partitions.append(attached)

    def _without_flushes(self, attached: Loop) -> None:
        """Writes to the file reach this host's cache, which outlives the machine: no disk needs to wait."""
        cache = self._real_sysfs / "block" / f"loop{attached.number}" / "queue/write_cache"
        with suppress(OSError):  # where /sys cannot be written, the disks are only slower
            cache.write_text("write through")


def _serve(selector: selectors.BaseSelector) -> None:
    """Answer until the other end of the pipe without data is closed."""
    answers = [key.data for key, _ in selector.select()]
    while all(answers):
        for answer in answers:
            answer()
        answers = [key.data for key, _ in selector.select()]
    for key in selector.get_map().values():
        # All but the pipe.
        if isinstance(key.fileobj, socket.socket):
            key.fileobj.close()
    selector.close()


def _row(mapped: _Mapped) -> dict[str, Any]:
    device = mapped.device
    return {"name": mapped.name, "device": device.name, "major": device.major, "minor": device.minor,
            "disk": mapped.disk}  # fmt: skip
