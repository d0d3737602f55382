"""The partition table of a guest's disk: where its root file system is, and room for it to grow."""

from __future__ import annotations

import struct
import uuid
from dataclasses import dataclass
from pathlib import Path

from .run import run

# https://uapi-group.org/specifications/specs/discoverable_partitions_specification/
ROOT = uuid.UUID("4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709")
_SECTOR = 512
_BACKUP = 34  # sectors at the end that belong to the second table
_WORTH_IT = 2048  # sectors; a smaller gain is left alone, as growpart does


@dataclass(frozen=True, slots=True)
class Partition:
    """One partition; `start` and `end` in sectors, the end not included."""

    number: int
    kind: uuid.UUID
    unique: uuid.UUID
    start: int
    end: int

    @property
    def offset(self) -> int:
        """Where it begins, in bytes."""
        return self.start * _SECTOR

    @property
    def size(self) -> int:
        """Bytes."""
        return (self.end - self.start) * _SECTOR


def partitions(disk: Path) -> list[Partition]:
    """The partitions of a disk by their place on it; none when it has no GPT."""
    with disk.open("rb") as file:
        file.seek(_SECTOR)
        header = file.read(_SECTOR)
        if header[:8] != b"EFI PART":
            return []
        table, count, size = struct.unpack_from("<QII", header, 72)
        file.seek(table * _SECTOR)
        rows = [file.read(size) for _ in range(count)]
    found = [_partition(at + 1, row) for at, row in enumerate(rows) if any(row[:16])]
    return sorted(found, key=lambda one: one.start)


def _partition(number: int, row: bytes) -> Partition:
    first, last = struct.unpack_from("<QQ", row, 32)
    return Partition(number, uuid.UUID(bytes_le=row[:16]), uuid.UUID(bytes_le=row[16:32]), first, last + 1)


def root(disk: Path) -> Partition | None:
    """The partition with the root file system: the one of that type, else the largest."""
    found = partitions(disk)
    typed = [one for one in found if one.kind == ROOT]
    return next(iter(typed or sorted(found, key=lambda one: -one.size)), None)


def grow(disk: Path, one: Partition) -> None:
    """Let a partition reach to the disk's end, if it is the last one and there is something to gain."""
    end = disk.stat().st_size // _SECTOR - _BACKUP + 1
    if one != partitions(disk)[-1] or end - one.end < _WORTH_IT:
        return
    at = one.number
    run(["sgdisk", "--move-second-header", f"--delete={at}", f"--new={at}:{one.start}:0",
         f"--typecode={at}:{one.kind}", f"--partition-guid={at}:{one.unique}", str(disk)])  # fmt: skip


def ext4_size(device: Path) -> int:
    """The bytes that an ext4 takes, by its superblock; 0 when there is none."""
    with device.open("rb") as file:
        file.seek(1024)
        block = file.read(1024)
    if block[0x38:0x3A] != b"\x53\xef":
        return 0
    (low,), (log,), (high,) = (struct.unpack_from("<I", block, at) for at in (0x04, 0x18, 0x150))
    return int((high << 32 | low) << (10 + log))
