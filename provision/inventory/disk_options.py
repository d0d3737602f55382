"""How Proxmox's installer finds and lays out disks: its globs, and the options of each filesystem."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from math import prod
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

SINGLE = ("ext4", "xfs")
"""The filesystems that take one disk, on LVM."""

LEAST_DISKS = {"raid0": 1, "raid1": 2, "raid10": 4, "raidz-1": 3, "raidz-2": 4, "raidz-3": 5}

CLASS = re.compile(r"\[!.[^]]*\]|\[[^!][^]]*\]")
"""A set of characters in the installer's globs; its first character may be the closing bracket."""


def installer_glob(text: str) -> str:
    """A glob that the installer takes; at another it would stop, long after the node was reset."""
    if "**" in text or "[" in CLASS.sub("", text):
        wrong = "**" if "**" in text else "a [ without its ]"
        raise ValueError(f'"{text}" has {wrong}, which the Proxmox installer refuses in a glob')
    return text


def names_one(glob: str) -> bool:
    """Whether the glob fits one text alone."""
    return not set(glob) & set("*?[")


def one_glob(texts: Sequence[str]) -> str:
    """The narrowest glob that fits all these texts, which are of one length."""
    return "".join(_class(column) for column in zip(*texts, strict=True))


def _class(column: Sequence[str]) -> str:
    # A dash stands first: anywhere else in a set it means a range.
    letters = sorted(set(column), key=lambda letter: (letter != "-", letter))
    return letters[0] if len(letters) == 1 else f"[{''.join(letters)}]"


def fits_only(texts: Sequence[str]) -> bool:
    """Whether one glob can say exactly these texts and nothing else."""
    same = len({len(text) for text in texts}) == 1
    return same and prod(len(set(column)) for column in zip(*texts, strict=True)) == len(set(texts))


def _exact(text: str) -> str:
    if not re.fullmatch(r"[\x22-\x29\x2b-\x3e\x40-\x5a\x5c\x5e-\x7e]+", text):
        raise ValueError(f'"{text}" must be a whole serial number: of several, none may be a glob')
    return text


def _udev_key(text: str) -> str:
    if not re.fullmatch("ID_[A-Z0-9_]+|DEVLINKS", text, re.ASCII):
        raise ValueError(f'"{text}" names no disk for good; take one such as ID_PATH, or DEVLINKS')
    return text


Serial = Annotated[str, AfterValidator(_exact)]
UdevKey = Annotated[str, AfterValidator(_udev_key)]
Gib = Annotated[float, Field(ge=0, le=1 << 20, allow_inf_nan=False)]
DiskGib = Annotated[float, Field(ge=2, le=1 << 20, allow_inf_nan=False)]


class Options(BaseModel):
    """Options of a filesystem under the installer's names, with _ for -; what is None is left to it."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Zfs(Options):
    """`arc_max` is in MiB, `hdsize` in GiB."""

    ashift: Annotated[int, Field(ge=9, le=16)] | None = None
    arc_max: Annotated[int, Field(ge=64, lt=1 << 32)] | None = None
    checksum: Literal["on", "fletcher4", "sha256"] | None = None
    compress: Literal["on", "off", "lzjb", "lz4", "zle", "gzip", "zstd"] | None = None
    copies: Annotated[int, Field(ge=1, le=3)] | None = None
    hdsize: DiskGib | None = None


class Lvm(Options):
    """Sizes in GiB; `maxvz: 0` means no thin pool."""

    hdsize: DiskGib | None = None
    swapsize: Gib | None = None
    maxroot: DiskGib | None = None
    maxvz: Gib | None = None
    minfree: Gib | None = None


class Btrfs(Options):
    """`hdsize` is in GiB."""

    compress: Literal["on", "off", "zlib", "lzo", "zstd"] | None = None
    hdsize: DiskGib | None = None


def serials_fault(serials: Sequence[str]) -> str | None:
    """Why the installer, which takes one glob, cannot be told exactly these disks."""
    if fits_only(serials):
        return None
    alike = len({len(serial) for serial in serials}) == 1
    more = f"{one_glob(serials)} fits others, too" if alike else "they are not of one length"
    return (
        f"no single glob says {' and '.join(serials)} and nothing else ({more}), and the installer takes "
        "only one; give a serial, wwn or model that just these disks have, or devices"
    )


def layout_faults(
    filesystem: str, raid: str | None, tables: Mapping[str, Options | None], count: int | None
) -> Iterator[str]:
    """What the installer refuses of a layout; `tables` are all options by table, `count` None if unknown."""
    own = "lvm" if filesystem in SINGLE else filesystem
    if (raid is not None) != (filesystem not in SINGLE):
        yield f"{filesystem} {'has no raid' if raid else 'needs raid, such as raid1'}"
    if filesystem == "btrfs" and str(raid).startswith("raidz"):
        yield f"btrfs has no {raid}"
    for name in tables:
        if name != own and tables[name] is not None:
            yield f"{name} is given, but the options of {filesystem} stand under {own}"
    if count is not None:
        yield from _count_faults(filesystem, raid, count)
    if isinstance(lvm := tables.get("lvm"), Lvm):
        yield from _swap_faults(lvm)


def _count_faults(filesystem: str, raid: str | None, count: int) -> Iterator[str]:
    least = LEAST_DISKS.get(str(raid), 1)
    if filesystem in SINGLE and count > 1:
        yield f"{filesystem} takes one disk, and {count} are given"
    elif count < least:
        yield f"{raid} needs at least {least} disks, and {count} {'is' if count == 1 else 'are'} given"
    elif (filesystem, raid) == ("zfs", "raid10") and count % 2:
        yield f"raid10 needs an even number of disks, and {count} are given"


def _swap_faults(lvm: Lvm) -> Iterator[str]:
    if lvm.swapsize is not None and lvm.hdsize is not None and lvm.swapsize > lvm.hdsize / 2:
        yield f"lvm.swapsize {lvm.swapsize:g} is more than half of lvm.hdsize {lvm.hdsize:g}"
