"""Which disks become OSDs, and what is on them: free, an OSD of this cluster, left-over Ceph, or a refusal.

A disk is wiped only when the lab file names it, nothing of it is mounted, the system does not run from it,
and all that is on it are volumes of Ceph that are no OSD of this cluster (docs/ceph.md).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from provision.ceph_survey import Found, Volume
from provision.errors import Refused
from provision.inventory import OsdDisk, Osds
from provision.pve.ceph import UNKNOWN, Disk

Use = Literal["data", "db", "wal"]
LVM = "LVM"
FOREIGN = {
    "ZFS": "part of a ZFS pool",
    "partitions": "a partition table",
    "mounted": "a mounted file system",
    "linux_raid_member": "part of a RAID",
}
"""Proxmox' words for what is on a disk, where they do not speak for themselves."""


@dataclass(frozen=True, slots=True)
class Known:
    """This cluster: its fsid, None before it is made, and its OSDs' UUIDs by id.

    `osds` is None when the monitors have not been asked: every volume of this fsid counts as an OSD's then.
    """

    fsid: str | None = None
    osds: Mapping[int, str] | None = None

    def holds(self, volume: Volume) -> bool:
        """Whether the volume is part of an OSD of this cluster."""
        if self.fsid is None or volume.fsid != self.fsid:
            return False
        return self.osds is None or (volume.osd is not None and self.osds.get(volume.osd) == volume.osd_fsid)


@dataclass(frozen=True, slots=True)
class Chosen:
    """A disk that the lab file names, what for, and what is on it.

    `osds` are the OSDs of this cluster on it: UUIDs by id. `old` are the volumes that are to be zapped,
    `whole` says that they are all there is, so that the disk is zapped and not its volumes one by one.
    """

    disk: Disk
    use: Use
    osds: Mapping[int, str]
    old: tuple[Volume, ...]
    whole: bool

    @property
    def free(self) -> bool:
        """Whether an OSD is to be made of it, once what is old is gone."""
        return self.use == "data" and not self.osds

    @property
    def to_zap(self) -> tuple[str, ...]:
        """What `ceph-volume lvm zap --destroy` has to be told."""
        if not self.old:
            return ()
        return (self.disk.devpath,) if self.whole else tuple(volume.path for volume in self.old)


def choose(asked: Osds, found: Found, disks: Sequence[Disk], known: Known) -> tuple[Chosen, ...]:
    """The disks of one node that the lab file names, and what is on each.

    Raises Refused, naming all that is wrong, when a name in the lab file does not fit the disks there are,
    or when a disk holds what is not Ceph's left-over.
    """
    whole = [disk for disk in disks if disk.parent is None]
    named = _Named(asked, found, whole)
    picked = named.pick()
    faults = list(named.faults)
    chosen = []
    for disk, use in picked:
        parts = [part for part in disks if part.parent == disk.devpath]
        told = _judge(disk, parts, use, found, known)
        if isinstance(told, Chosen):
            chosen.append(told)
        else:
            faults.append(f"{_told(disk)}, which the lab file names for Ceph, {told}")
    if faults:
        raise Refused("; ".join(faults), node=found.node)
    return tuple(chosen)


# Which disks are meant


class _Named:
    def __init__(self, asked: Osds, found: Found, disks: Sequence[Disk]) -> None:
        self.asked, self.found, self.disks = asked, found, disks
        self.faults: list[str] = []
        self.taken: dict[str, OsdDisk] = {}

    def pick(self) -> list[tuple[Disk, Use]]:
        return [(disk, use) for selector, use in self._selectors() for disk in self._matched(selector, use)]

    def _selectors(self) -> Iterator[tuple[OsdDisk, Use]]:
        node = self.found.node
        for selector in (*self.asked.disks.get("all", ()), *self.asked.disks.get(node, ())):
            yield selector, "data"
        if one := self.asked.db.get(node) or self.asked.db.get("all"):
            yield one, "db"
        if one := self.asked.wal.get(node) or self.asked.wal.get("all"):
            yield one, "wal"

    def _matched(self, selector: OsdDisk, use: Use) -> list[Disk]:
        found = [disk for disk in self.disks if self._fits(selector, disk)]
        said = in_words(selector)
        if is_glob(selector):
            # A glob means all disks of a kind; it cannot mean the one that the system runs from.
            found = [disk for disk in found if disk.devpath not in self.found.system]
        if not found:
            self._fault(f"{said} of the lab file matches no disk")
        elif use != "data" and len(found) > 1:
            devices = ", ".join(disk.devpath for disk in found)
            self._fault(f"{said} of the lab file means one {use.upper()} device and matches {devices}")
        return [disk for disk in found if self._is_first(disk, selector)]

    def _is_first(self, disk: Disk, selector: OsdDisk) -> bool:
        before = self.taken.setdefault(disk.devpath, selector)
        if before is not selector:
            twice = f"by {in_words(before)} and by {in_words(selector)}"
            self._fault(f"{_told(disk)} is matched twice, {twice}")
        return before is selector

    def _fits(self, selector: OsdDisk, disk: Disk) -> bool:
        if selector.by_id is not None:
            name = f"/dev/disk/by-id/{selector.by_id}"
            return disk.by_id_link == name or self.found.links.get(selector.by_id) == disk.devpath
        wanted, value = (
            (selector.serial, disk.serial) if selector.serial is not None else (selector.wwn, disk.wwn)
        )
        return bool(wanted and value and value != UNKNOWN and matches(wanted, value))

    def _fault(self, text: str) -> None:
        there = ", ".join(map(_told, self.disks)) or "none"
        self.faults.append(f"{text}; its disks are: {there}")


def matches(glob: str, text: str) -> bool:
    """Whether the text is what the glob says; only `*` and `?` are special."""
    words = {"*": ".*", "?": "."}
    return re.fullmatch("".join(words.get(sign) or re.escape(sign) for sign in glob), text) is not None


def is_glob(selector: OsdDisk) -> bool:
    """Whether it may mean several disks."""
    return any(sign in (selector.serial or selector.wwn or "") for sign in "*?")


def in_words(selector: OsdDisk) -> str:
    """A selector as the lab file writes it: "serial S3Z8*"."""
    named = (("serial", selector.serial), ("wwn", selector.wwn), ("by_id", selector.by_id))
    return next(f"{key} {value}" for key, value in named if value is not None)


def _told(disk: Disk) -> str:
    known = [f"{key} {value}" for key, value in (("serial", disk.serial), ("wwn", disk.wwn)) if value]
    told = [text for text in known if not text.endswith(f" {UNKNOWN}")]
    return f"{disk.devpath} ({', '.join([*told, f'{disk.size / 1e9:.0f} GB'])})"


# What is on them


def _judge(disk: Disk, parts: Sequence[Disk], use: Use, found: Found, known: Known) -> Chosen | str:
    """The disk with its content, or what forbids its use."""
    if disk.devpath in found.system:
        return "is the disk that the system runs from; correct the lab file"
    if mounted := [part.devpath for part in (disk, *parts) if part.mounted]:
        return f"is mounted ({', '.join(mounted)}); unmount it, or correct the lab file"
    if foreign := _foreign(disk, parts):
        return f"holds {foreign}. {_what_to_do(disk, found)}"
    return _of_lvm(disk, use, found, known)


def _foreign(disk: Disk, parts: Sequence[Disk]) -> str | None:
    if parts:
        return "partitions: " + ", ".join(f"{part.devpath} ({part.used or 'unused'})" for part in parts)
    return None if disk.used in {None, LVM} else FOREIGN.get(str(disk.used), f"{disk.used} data")


def _of_lvm(disk: Disk, use: Use, found: Found, known: Known) -> Chosen | str:
    volumes = found.volumes.get(disk.devpath, ())
    if disk.used == LVM and not volumes:
        return f"holds LVM of which pvs tells nothing. {_what_to_do(disk, found)}"
    ours = [volume for volume in volumes if known.holds(volume)]
    old = tuple(volume for volume in volumes if volume not in ours)
    if other := [volume for volume in old if volume.fsid is None and not volume.unfinished]:
        names = ", ".join(volume.path.rstrip("/") for volume in other)
        return f"holds LVM that is not Ceph's: {names}. {_what_to_do(disk, found)}"
    if used := [volume for volume in old if volume.open]:
        return f"holds volumes of Ceph cluster {used[0].fsid} that are in use; stop what uses them first"
    if use == "data" and ours and old:
        return (
            f"holds {_osds(ours)} of this cluster and left-over volumes ({', '.join(v.path for v in old)}); "
            f"remove those by hand: ceph-volume lvm zap --destroy VOLUME"
        )
    osds = {volume.osd: volume.osd_fsid for volume in ours if volume.osd is not None and volume.osd_fsid}
    return Chosen(disk, use, osds, old, whole=not ours)


def _osds(volumes: Sequence[Volume]) -> str:
    return ", ".join(f"osd.{volume.osd}" for volume in volumes)


def _what_to_do(disk: Disk, found: Found) -> str:
    return (
        f"It is left as it is. If its data may be lost, wipe it yourself (on {found.node}: wipefs -a "
        f"{disk.devpath}, its partitions first); otherwise correct the lab file"
    )
