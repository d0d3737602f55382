"""Files as the kernel shows block devices in /sys, below a folder that a machine mounts over its own /sys.

Below it lie `block` (a folder for each disk, its partitions in it), `class` and `dev` (links to those), for
/sys/block, /sys/class/block and /sys/dev/block.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

SECTOR = 512


@dataclass(frozen=True, slots=True)
class Device:
    """A block device: its kernel name, numbers, size in bytes, and whether it spins or cannot be written."""

    name: str
    major: int
    minor: int
    size: int
    rotational: bool = False
    read_only: bool = False


def add_disk(root: Path, device: Device, model: str, vendor: str = "ATA") -> None:
    """A whole disk."""
    folder = _add(root, root / "block" / device.name, device, kind="disk")
    # The kernel pads a SCSI disk's vendor to 8 characters and its model to 16.
    _write(folder / "device", {"vendor": f"{vendor:8}", "model": f"{model:16.16}", "type": "0",
                               "state": "running", "rev": "0100"})  # fmt: skip


def add_partition(root: Path, disk: str, device: Device, number: int, start: int) -> None:
    """A partition of a disk that is there already, from byte `start` on."""
    folder = _add(root, root / "block" / disk / device.name, device, kind="partition")
    _write(folder, {"partition": str(number), "start": str(start // SECTOR)})


def add_mapped(root: Path, device: Device, name: str, uuid: str, below: str) -> None:
    """A device that the device mapper made of one below; `below` is relative to `block`."""
    folder = _add(root, root / "block" / device.name, device, kind="disk")
    _write(folder / "dm", {"name": name, "uuid": uuid, "suspended": "0"})
    up = "../" * (below.count("/") + 2)
    (root / "block" / below / "holders" / device.name).symlink_to(f"{up}{device.name}")
    (folder / "slaves" / Path(below).name).symlink_to(f"../../{below}")


def remove_mapped(root: Path, device: Device, below: str) -> None:
    """Undo `add_mapped`."""
    (root / "block" / below / "holders" / device.name).unlink()
    (root / "class" / device.name).unlink()
    (root / "dev" / f"{device.major}:{device.minor}").unlink()
    shutil.rmtree(root / "block" / device.name)


def _add(root: Path, folder: Path, device: Device, *, kind: str) -> Path:
    number = f"{device.major}:{device.minor}"
    uevent = f"MAJOR={device.major}\nMINOR={device.minor}\nDEVNAME={device.name}\nDEVTYPE={kind}"
    _write(folder, {"dev": number, "size": str(device.size // SECTOR), "ro": str(int(device.read_only)),
                    "removable": "0", "hidden": "0", "uevent": uevent})  # fmt: skip
    for name in ("holders", "slaves"):
        (folder / name).mkdir()
    if kind == "disk":
        _write(folder / "queue", _queue(device))
    # As the links stand where the folders are mounted: /sys/class/block and /sys/dev/block.
    place = f"../../{folder.relative_to(root)}"
    for link in (root / "class" / device.name, root / "dev" / number):
        link.parent.mkdir(exist_ok=True)
        link.symlink_to(place)
    (folder / "subsystem").symlink_to("/sys/class/block")
    return folder


def _queue(device: Device) -> dict[str, str]:
    return {
        "rotational": str(int(device.rotational)), "logical_block_size": str(SECTOR),
        "physical_block_size": "4096", "hw_sector_size": str(SECTOR), "nr_requests": "64",
        "scheduler": "[none] mq-deadline", "discard_granularity": "4096", "discard_max_bytes": "2147450880",
        "minimum_io_size": "4096", "optimal_io_size": "0", "zoned": "none", "read_ahead_kb": "128",
    }  # fmt: skip


def _write(folder: Path, files: Mapping[str, str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(f"{text}\n")
