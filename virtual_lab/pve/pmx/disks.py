"""The node's disks: what is on them, who holds them, and wiping them; read from the devices themselves."""

from __future__ import annotations

import fcntl
import json
import os
import re
import subprocess
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .clock import wait_until
from .errors import Failure
from .run import run

BLOCK = Path("/sys/block")
CLASS = Path("/sys/class/block")
UDEV = Path("/run/udev/data")
LOCK = Path("/run/lock/pve-diskmanage.lck")
LOCK_SECONDS = 10.0
DISK_NAME = re.compile(r"(?:h|s|x?v)d[a-z]+|nvme\d+n\d+")
WIPED_MIB = 200
SECTOR = 512

_BIOS_BOOT = "21686148-6449-6e6f-744e-656564454649"
_EFI = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"


@dataclass(frozen=True, slots=True)
class Contents:
    """What is on the node's block devices, by their paths below /dev."""

    probed: Mapping[str, Mapping[str, Any]]
    physical_volumes: Collection[str]
    ceph: Mapping[str, OsdsOn]
    mounted: Mapping[str, str]

    def usage(self, path: str) -> str | None:
        """What a device is used for, in Proxmox' words."""
        probed = self.probed.get(path, {})
        kind = {_BIOS_BOOT: "BIOS boot", _EFI: "EFI"}.get(probed.get("parttype") or "")
        if path in self.physical_volumes:
            return "LVM"
        return kind or probed.get("fstype") or ("mounted" if path in self.mounted else None)


@dataclass(slots=True)
class OsdsOn:
    """What ceph-volume put onto a device: its OSDs' ids, and how many DB and WAL volumes."""

    osds: list[str] = field(default_factory=list)
    db: int = 0
    wal: int = 0
    encrypted: bool = False


def listing(names: Collection[str] | None = None, *, smart: bool = True,
            partitions: bool = False) -> dict[str, dict[str, Any]]:  # fmt: skip
    """The disks by name (sdb), or those of `names`, with all that `GET nodes/{node}/disks/list` says of them.

    With `partitions` these have rows of their own. Source: pve-storage, src/PVE/Diskmanage.pm, get_disks.
    """
    contents = _contents()
    present = sorted(path.name for path in BLOCK.iterdir() if DISK_NAME.fullmatch(path.name))
    found: dict[str, dict[str, Any]] = {}
    for name in present:
        if names is None or name in names:
            found |= _rows(name, contents, smart=smart, partitions=partitions)
    return found


def path_of(text: str) -> str:
    """The block device that a path, perhaps a link below /dev/disk, leads to; Failure when there is none."""
    path = os.path.realpath(text)
    if not path.startswith("/dev/"):
        raise Failure(f"got unusual device path '{path}'")
    if not Path(path).is_block_device():
        raise Failure("not a valid block device")
    return path


def check_wipeable(path: str) -> None:
    """Failure when the device or a partition of it is mounted, or has a holder."""
    parts = [path, *(f"/dev/{part}" for part in _partitions(Path(path).name))]
    mounted = _mounted()
    for part in parts:
        if part in mounted:
            raise Failure(f"disk/partition '{part}' is mounted")
    for part in parts:
        if any((CLASS / Path(part).name / "holders").iterdir()):
            raise Failure(f"disk/partition '{part}' has a holder")


def wipe(params: Mapping[str, Any]) -> None:
    """The task wipedisk."""
    wipe_device(params["disk"])


def wipe_device(path: str) -> None:
    """Take away all signatures and zero the first 200 MiB, of its partitions first."""
    parts = [f"/dev/{part}" for part in _partitions(Path(path).name)]
    if parts:
        print(f"found child partitions to wipe: {', '.join(parts)}")
    print(f"wiping block device {path}")
    print(run(["wipefs", "--all", *parts, path]).decode(), end="")
    mib = min(_size(CLASS / Path(path).name) >> 20, WIPED_MIB)
    # Zeros as dd would write them, but a sparse file stays sparse.
    run(["blkdiscard", "--force", "--zeroout", "--length", f"{mib}MiB", path])


@contextmanager
def locked() -> Iterator[None]:
    """Hold this node's lock on changes to its disks."""
    LOCK.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if not wait_until(lambda: _try_lock(descriptor), LOCK_SECONDS):
            raise Failure(f"can't lock file '{LOCK}' - got timeout")
        yield
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


# -- one disk


def _rows(name: str, contents: Contents, *, smart: bool, partitions: bool) -> dict[str, dict[str, Any]]:
    disk, parts = _disk(name, contents, smart=smart), _partitions(name)
    rows = {part: _partition(part, disk, contents) for part in parts}
    uses = [rows[part].get("used") for part in parts]
    held = "Device Mapper" if any((BLOCK / name / "holders").iterdir()) else None
    table = "partitions" if parts or (contents.probed.get(disk["devpath"], {}).get("pttype")) else None
    own = contents.usage(disk["devpath"])
    # A disk's use is that of its first partition that has one, when those have no rows of their own.
    use = table if partitions and parts else own or next(filter(None, uses), None) or table or held
    disk.update({"used": use} if use else {})
    return {name: disk, **(rows if partitions else {})}


def _disk(name: str, contents: Contents, *, smart: bool) -> dict[str, Any]:
    sysfs, path = BLOCK / name, f"/dev/{name}"
    said = _udev(sysfs)
    rotates = _line(sysfs / "queue/rotational") == "1"
    rpm = int(said.get("ID_ATA_ROTATION_RATE_RPM", -1)) if rotates else 0
    row: dict[str, Any] = {
        "vendor": _line(sysfs / "device/vendor") or "unknown",
        "model": said.get("ID_MODEL") or _line(sysfs / "device/model") or "unknown",
        "size": _size(sysfs), "serial": said.get("ID_SERIAL_SHORT", "unknown"),
        "gpt": int(contents.probed.get(path, {}).get("pttype") == "gpt"), "rpm": rpm,
        "type": _type(name, rotates=rotates, rpm=rpm), "wwn": said.get("ID_WWN", "unknown"),
        "health": "PASSED" if smart else "UNKNOWN", "devpath": path,
        "wearout": 100 if smart and not rotates else "N/A",
    }  # fmt: skip
    links = [link for link in said.get("DEVLINKS", "").split()
             if re.match(r"/dev/disk/by-id/(?:ata|scsi|nvme(?!-eui))", link)]  # fmt: skip
    row |= ({"by_id_link": links[0]} if links else {}) | ({"mounted": 1} if path in contents.mounted else {})
    return row | _osds(contents.ceph.get(path, OsdsOn()))


def _osds(found: OsdsOn) -> dict[str, Any]:
    row: dict[str, Any] = {"osdid": found.osds[-1] if found.osds else -1, "osdid-list": found.osds or None}
    row |= {"bluestore": 1, "osdencrypted": int(found.encrypted)} if found.osds else {}
    return row | {key: count for key, count in (("db", found.db), ("wal", found.wal)) if count}


def _partition(name: str, disk: Mapping[str, Any], contents: Contents) -> dict[str, Any]:
    path = f"/dev/{name}"
    use = contents.usage(path)
    if use is None and any((CLASS / name / "holders").iterdir()):
        use = "Device Mapper"
    row = {"devpath": path, "parent": disk["devpath"], "gpt": disk["gpt"], "type": "partition",
           "size": _size(CLASS / name), "osdid": -1, "osdid-list": None}  # fmt: skip
    return row | ({"used": use} if use else {}) | ({"mounted": 1} if path in contents.mounted else {})


def _type(name: str, *, rotates: bool, rpm: int) -> str:
    if rotates:
        return "hdd" if rpm != -1 else "unknown"
    return "nvme" if name.startswith("nvme") else "ssd"


def _partitions(name: str) -> list[str]:
    return sorted(path.name for path in (CLASS / name).glob(f"{name}?*") if path.is_dir())


def _size(sysfs: Path) -> int:
    return int(_line(sysfs / "size") or 0) * SECTOR


def _line(file: Path) -> str:
    return file.read_text().strip() if file.exists() else ""


def _udev(sysfs: Path) -> dict[str, str]:
    """What udev recorded of a disk, with DEVLINKS as udevadm shows them."""
    record = UDEV / f"b{_line(sysfs / 'dev')}"
    lines = record.read_text().splitlines() if record.exists() else []
    links = " ".join(f"/dev/{line[2:]}" for line in lines if line.startswith("S:"))
    pairs = (line[2:].partition("=") for line in lines if line.startswith("E:"))
    return {"DEVLINKS": links} | {key: value for key, _, value in pairs}


# -- all of them


def _contents() -> Contents:
    return Contents(_probed(), _physical_volumes(), ceph_volumes(_lvs()), _mounted())


def _probed() -> dict[str, dict[str, Any]]:
    rows = json.loads(run(["lsblk", "--json", "-o", "path,parttype,fstype,pttype"]))["blockdevices"]
    return {row["path"]: row for row in rows}


def _physical_volumes() -> set[str]:
    said = _quiet("pvs", "--noheadings", "--readonly", "-o", "pv_name")
    return {line.strip() for line in said.splitlines()}


def _lvs() -> str:
    fields = ("--readonly", "--noheadings", "--separator", ";", "-o", "devices,lv_name,lv_tags")
    return _quiet("lvs", *fields, "-S", "lv_name=~^osd-")


def _quiet(*command: str) -> str:
    """What LVM prints; it warns of the device mapper that it is not to use."""
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def ceph_volumes(lines: str) -> dict[str, OsdsOn]:
    """Which OSDs lie on which device, from lines `/dev/sdb(0);osd-block-…;ceph.osd_id=0,…` of lvs."""
    found: dict[str, OsdsOn] = {}
    for line in lines.splitlines():
        device, _, rest = line.strip().partition("(")
        fields = rest.split(";")
        on = found.setdefault(device, OsdsOn())
        kind = fields[1].split("-")[1]
        tags = dict(re.findall(r"ceph\.([^=,]+)=([^,]*)", fields[2] if len(fields) > 2 else ""))
        if kind in ("block", "data") and "osd_id" in tags:
            on.osds.append(tags["osd_id"])
            on.encrypted |= tags.get("encrypted") == "1"
        on.db += kind == "db"
        on.wal += kind == "wal"
    return found


def _mounted() -> dict[str, str]:
    rows = (line.split(" ") for line in Path("/proc/mounts").read_text().splitlines())
    return {os.path.realpath(row[0]): row[1] for row in rows if row[0].startswith("/dev/")}
