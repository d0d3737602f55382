"""Commands of LVM that make logical volumes appear below /dev, or go: the real ones, and a played mapper.

LVM itself works without the device mapper here (lvmlocal.conf: activation=0), and so writes real metadata
onto real disks; only the devices of its volumes come from `mapper`. Such a volume lies in one piece.
"""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import mapper
from .errors import Failure
from .mapper import Mapped

LVM = "/usr/sbin/lvm"
DEV = Path("/dev")
_FIELDS = "pv_name,pe_start,vg_name,vg_uuid,vg_extent_size,pvseg_start,pvseg_size,lv_name,lv_uuid,segtype"
_OFF = ("n", "ln", "en")


@dataclass(frozen=True, slots=True)
class Volume:
    """A logical volume, and the stretch of a disk (sdb) that it is, in bytes."""

    group: str
    name: str
    uuid: str
    disk: str
    start: int
    size: int
    whole: bool = True

    @property
    def mapped_name(self) -> str:
        """Its name in the device mapper."""
        return f"{self.group.replace('-', '--')}-{self.name.replace('-', '--')}"

    @property
    def path(self) -> Path:
        """Where it is found below /dev."""
        return DEV / self.group / self.name

    @property
    def names(self) -> frozenset[str]:
        """What a command may call it, its group's name among it."""
        group = (self.group, f"{DEV}/{self.group}")
        return frozenset((*group, f"{self.group}/{self.name}", str(self.path),
                          f"{DEV}/mapper/{self.mapped_name}"))  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Carry out the LVM command that this program is called as."""
    called, *words = sys.argv if arguments is None else arguments
    command = Path(called).name
    try:
        return {"lvcreate": _lvcreate, "lvchange": _change, "vgchange": _change,
                "lvremove": _remove, "vgremove": _remove}[command](command, words)  # fmt: skip
    except Failure as failed:
        print(f"  {failed.message}", file=sys.stderr)
        return 5


def volumes() -> list[Volume]:
    """All logical volumes of the node's disks."""
    command = [
        LVM,
        "pvs",
        "--segments",
        "--units",
        "b",
        "--nosuffix",
        "--reportformat",
        "json",
        "-o",
        _FIELDS,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Failure(done.stderr.strip() or "pvs failed")
    return of_report(json.loads(done.stdout)["report"][0]["pvseg"])


def of_report(rows: Sequence[dict[str, Any]]) -> list[Volume]:
    """The volumes in the rows of `pvs --segments`; one that lies in several pieces is not `whole`."""
    found: dict[str, Volume] = {}
    for row in rows:
        if row["lv_name"]:
            volume = _volume(row)
            twice = volume.uuid in found or row["segtype"] != "linear"
            found[volume.uuid] = volume if not twice else Volume(*_fields(volume), whole=False)
    return list(found.values())


def _fields(volume: Volume) -> tuple[str, str, str, str, int, int]:
    return volume.group, volume.name, volume.uuid, volume.disk, volume.start, volume.size


def _volume(row: dict[str, Any]) -> Volume:
    extent = int(row["vg_extent_size"])
    uuid = f"LVM-{row['vg_uuid']}{row['lv_uuid']}".replace("-", "").replace("LVM", "LVM-", 1)
    start = int(row["pe_start"]) + int(row["pvseg_start"]) * extent
    # Hidden volumes stand in brackets.
    return Volume(row["vg_name"], row["lv_name"].strip("[]"), uuid, Path(row["pv_name"]).name, start,
                  int(row["pvseg_size"]) * extent)  # fmt: skip


def activate(wanted: Sequence[Volume]) -> None:
    """Make devices of volumes, and links to them as udev makes them."""
    for volume in wanted:
        if not volume.whole:
            text = f"device-mapper: reload ioctl failed: {volume.group}/{volume.name} lies in several pieces"
            raise Failure(f"{text}, which this node's device mapper cannot do")
        made = mapper.create(volume.mapped_name, volume.uuid, volume.disk, volume.start, volume.size)
        for link in (volume.path, DEV / "mapper" / volume.mapped_name):
            link.parent.mkdir(exist_ok=True)
            link.unlink(missing_ok=True)
            link.symlink_to(f"../{made.device}")


def deactivate(wanted: Sequence[Volume], verb: str) -> None:
    """Take the devices of volumes away; Failure, in LVM's words, when one is in use."""
    table = mapper.table()
    active = [(volume, table[volume.mapped_name]) for volume in wanted if volume.mapped_name in table]
    for volume, mapped in active:
        if _is_used(mapped):
            raise Failure(f"Logical volume {volume.group}/{volume.name} {verb}.")
    for volume, mapped in active:
        mapper.remove(mapped)
        for link in (volume.path, DEV / "mapper" / volume.mapped_name):
            link.unlink(missing_ok=True)
        if not any(volume.path.parent.iterdir()):
            volume.path.parent.rmdir()


def _is_used(mapped: Mapped) -> bool:
    """Whether somebody has claimed the device, as a file system does and, by a lock, a Ceph OSD."""
    try:
        descriptor = os.open(mapped.node, os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC)
    except OSError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


# -- the commands


def _lvcreate(command: str, words: Sequence[str]) -> int:
    before = {volume.uuid for volume in volumes()}
    rest, activation = without(words, "-a", "--activate")
    rest, zero = without(rest, "-Z", "--zero")
    rest, wipe = without(rest, "-W", "--wipesignatures")
    done = _lvm(command, [*rest, "-an", "-Zn", "-Wn"])
    if done or activation in _OFF:
        return done
    made = [volume for volume in volumes() if volume.uuid not in before]
    activate(made)
    for volume in made:
        _clear(volume, zero=zero != "n", wipe=wipe != "n")
    return 0


def _clear(volume: Volume, *, zero: bool, wipe: bool) -> None:
    """What lvcreate does to a new volume: no signature is left, and no start of what was there before."""
    if wipe:
        subprocess.run(["wipefs", "--all", "--quiet", str(volume.path)], check=False)
    if zero:
        with volume.path.open("r+b") as device:
            device.write(bytes(4096))


def _change(command: str, words: Sequence[str]) -> int:
    rest, activation = without(words, "-a", "--activate")
    if activation is None:
        return _lvm(command, words)
    named = [volume for volume in volumes() if volume.names & set(rest)]
    chosen = named if any(not word.startswith("-") for word in rest) else volumes()
    if activation in _OFF:
        deactivate(chosen, "contains a filesystem in use" if command == "lvchange" else "in use")
    else:
        activate(chosen)
    return 0


def _remove(command: str, words: Sequence[str]) -> int:
    """Devices go before their volumes; what LVM then refuses to remove has its device again."""
    chosen = [volume for volume in volumes() if volume.names & set(words)]
    deactivate(chosen, "in use")
    done = _lvm(command, words)
    if done:
        left = {volume.uuid for volume in volumes()}
        activate([volume for volume in chosen if volume.uuid in left])
    return done


def without(words: Sequence[str], short: str, long: str) -> tuple[list[str], str | None]:
    """The words of a command line without an option, and the option's value: -an, -a n, --activate[=]n."""
    rest: list[str] = []
    value: str | None = None
    left: Iterator[str] = iter(words)
    for word in left:
        if word in (short, long):
            value = next(left, "")
        elif word.startswith(f"{long}="):
            value = word.partition("=")[2]
        elif word.startswith(short) and not word.startswith("--"):
            value = word.removeprefix(short)
        else:
            rest.append(word)
    return rest, value


def _lvm(command: str, words: Sequence[str]) -> int:
    return subprocess.run([LVM, command, *words], check=False).returncode
