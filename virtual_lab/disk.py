"""The disk of a virtual server: a sparse file with a real partition table and a real file system.

The root file system holds only what the node itself wrote (`upper`, `work`); under it lie the image's layers.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from provision.errors import LabError
from virtual_lab import loop
from virtual_lab.hardware import Hardware

# GPT partition types: https://uapi-group.org/specifications/specs/discoverable_partitions_specification/
ESP = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"
ROOT_X86_64 = "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709"


class DiskFailed(LabError):
    """A disk's file could not be partitioned, formatted or mounted."""


@dataclass(frozen=True, slots=True)
class Extent:
    """Where a partition lies in the disk's file, in bytes; `type` is its GPT type."""

    start: int
    size: int
    type: str


def blank(image: Path, size: int) -> None:
    """A new, empty disk of `size` bytes; what was there is gone."""
    image.unlink(missing_ok=True)
    with image.open("wb") as file:
        file.truncate(size)


def is_slow(image: Path) -> bool:
    """Whether the disk plays a dying one: a file disk.slow lies beside its own."""
    return image.with_suffix(".slow").exists()


def partition(image: Path, *, esp_mib: int = 1024) -> Extent:
    """A new GPT with a BIOS boot partition, an ESP and the root partition; returns where root lies."""
    table = (
        "label: gpt\nfirst-lba: 34\n"
        "size=1007KiB, start=34, type=21686148-6449-6E6F-744E-656564454649\n"
        f"start=1MiB, size={esp_mib}MiB, type={ESP}\n"
        f"type={ROOT_X86_64}, name=root\n"
    )
    _run("sfdisk", "--quiet", "--wipe=always", str(image), stdin=table)
    extent = root_partition(image)
    assert extent is not None
    return extent


def make_filesystem(image: Path, extent: Extent, *, uuid: str | None = None) -> None:
    """A new ext4 in a partition."""
    options = ["-q", "-F", "-m", "0", "-E", f"offset={extent.start},lazy_itable_init=1,nodiscard"]
    options += ["-U", uuid] if uuid else []
    _run("mkfs.ext4", *options, str(image), f"{extent.size // 1024}k")


def root_partition(image: Path) -> Extent | None:
    """Where the root partition lies, or None when the disk has no readable GPT with one."""
    return next((extent for extent in partitions(image) if extent.type == ROOT_X86_64), None)


def partitions(image: Path) -> list[Extent]:
    """The partitions, in order; none when the disk has no readable GPT."""
    done = subprocess.run(["sfdisk", "--json", str(image)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        return []
    table = json.loads(done.stdout)["partitiontable"]
    sector = table.get("sectorsize", 512)
    return [
        Extent(entry["start"] * sector, entry["size"] * sector, entry["type"].upper())
        for entry in table.get("partitions", [])
    ]


def mount_root(hardware: Hardware, extent: Extent) -> None:
    """Mount the machine's root on `hardware.target`; call it in a mount namespace of its own.

    The disk itself is then at `<target>/../disk`. Both vanish with the mount namespace at the latest.
    """
    disk = _disk_mount(hardware)
    for directory in (disk, hardware.target):
        directory.mkdir(parents=True, exist_ok=True)
    where = f"loop,offset={extent.start},sizelimit={extent.size}"
    _run("mount", "-t", "ext4", "-o", where, str(hardware.drive.image), str(disk))
    for name in ("upper", "work"):
        (disk / name).mkdir(mode=0o755, exist_ok=True)
    lower = ":".join(str(layer) for layer in hardware.layers)
    overlay = f"lowerdir={lower},upperdir={disk / 'upper'},workdir={disk / 'work'}"
    _run("mount", "-t", "overlay", hardware.name, "-o", overlay, str(hardware.target))


def unmount_root(hardware: Hardware) -> None:
    """Undo `mount_root`; everything written is then in the disk's file."""
    _run("umount", str(hardware.target))
    _run("umount", str(_disk_mount(hardware)))


@contextmanager
def mounted_root(hardware: Hardware, extent: Extent) -> Iterator[Path]:
    """The machine's root, mounted while inside."""
    mount_root(hardware, extent)
    try:
        yield hardware.target
    finally:
        unmount_root(hardware)


def in_use(folder: Path) -> list[str]:
    """The loop devices that hold a disk of this folder, by name."""
    held = []
    for file in Path("/sys/block").glob("loop*/loop/backing_file"):
        with suppress(
            OSError
        ):  # the device has just let go of its file, or never was one of this container's
            image, name = Path(file.read_text().rstrip("\n")), file.parts[3]
            if image.is_relative_to(folder) and _holds(Path("/dev", name), image):
                held.append(name)
    return held


def _holds(device: Path, image: Path) -> bool:
    """Whether that is this very file: a container's file may have the same path as one outside."""
    about = image.stat()
    return loop.backing_file(device) == (about.st_dev, about.st_ino)


def _disk_mount(hardware: Hardware) -> Path:
    return hardware.target.parent / "disk"


def _run(*command: str, stdin: str | None = None) -> None:
    done = subprocess.run(command, input=stdin, text=True, check=False, capture_output=True)
    if done.returncode != 0:
        raise DiskFailed(f"{' '.join(command)}: {done.stderr.strip()}")
