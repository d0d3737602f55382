"""The disks of a planned machine: what the lab file says of them, and what is made up besides."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from string import ascii_lowercase

from provision.inventory.models import Lab, Node, OsdDisk
from virtual_lab.hardware import Drive

GIB = 1024**3
SYSTEM_SIZE = 32 * GIB
OSD_SIZE = 10 * GIB
SYSTEM_DEVICE = "sda"
UDEV_WORDS = {"ID_SERIAL_SHORT": "serial", "ID_WWN": "wwn", "ID_MODEL": "model"}

Asked = Mapping[str, str]
"""What the lab file says of a disk, its globs made plain: keys of Drive, and `link` for a by-id name."""


def system_asked_for(node: Node) -> dict[str, str]:
    """The disk that the node's system goes to; of several the first, which is all that a rack has."""
    disk = node.disk
    asked = disk.model_dump(include={"serial", "wwn", "model", "device"}, exclude_none=True)
    asked |= {UDEV_WORDS[key]: glob for key, glob in (disk.udev or {}).items() if key in UDEV_WORDS}
    asked |= {"serial": disk.serials[0]} if disk.serials else {}
    asked |= {"device": disk.devices[0]} if disk.devices else {}
    return {key: _first_fit(str(value)) for key, value in asked.items()}


def _first_fit(glob: str) -> str:
    """A text that the glob fits."""
    return re.sub(r"\[([^!])[^]]*\]", r"\1", glob).replace("*", "0").replace("?", "0")


def osds_asked_for(lab: Lab, node: Node) -> Iterator[dict[str, str]]:
    """The node's disks for Ceph, by the kernel names that the system's disk leaves free."""
    if lab.ceph is None or not node.is_proxmox:
        return
    own = system_asked_for(node).get("device", SYSTEM_DEVICE)
    free = (f"sd{letter}" for letter in ascii_lowercase if f"sd{letter}" != own)
    rpm = {"rpm": "7200"} if lab.ceph.osds.device_class == "hdd" else {}
    # A DB device may be the WAL device, too.
    disks = dict.fromkeys(_named_for(lab, node))
    for index, (asked, device) in enumerate(zip(disks, free, strict=False)):
        yield {**_plain(asked, f"{index}{_digest(lab.name, node.name)[:6]}"), **rpm, "device": device}


def _named_for(lab: Lab, node: Node) -> Iterator[OsdDisk]:
    assert lab.ceph is not None
    osds = lab.ceph.osds
    yield from osds.disks.get("all", ())
    yield from osds.disks.get(node.name, ())
    for devices in (osds.db, osds.wal):
        one = devices.get(node.name) or devices.get("all")
        if one is not None:
            yield one


def _plain(asked: OsdDisk, own: str) -> dict[str, str]:
    """Globs made into a text that they match and that, by `own`, no other disk of the lab has."""
    if asked.by_id is not None:
        return _from_link(asked.by_id)
    key, glob = ("serial", asked.serial) if asked.serial is not None else ("wwn", str(asked.wwn))
    return {key: glob.replace("*", own, 1).replace("*", "").replace("?", "0")}


def _from_link(name: str) -> dict[str, str]:
    """The disk that has this name below /dev/disk/by-id, as udev makes such names."""
    if name.startswith("wwn-"):
        return {"wwn": name.removeprefix("wwn-")}
    model, _, serial = name.removeprefix("ata-").rpartition("_")
    return {"model": model, "serial": serial} if name.startswith("ata-") and model else {"link": name}


def system(seed: str, asked: Asked, folder: Path) -> Drive:
    """The system's disk of the machine that `seed` names."""
    digits = _digest(seed, "drive").upper()
    return Drive(
        image=folder / "disk.img", size=SYSTEM_SIZE, serial=asked.get("serial", f"S3Z8NX0{digits[:8]}"),
        model=asked.get("model", "SAMSUNG MZ7LH960HAJR-00005"), device=asked.get("device", SYSTEM_DEVICE),
        wwn=asked.get("wwn", f"0x5002538{digits[8:17].lower()}"),
    )  # fmt: skip


def osd(seed: str, asked: Asked, folder: Path) -> Drive:
    """A disk for Ceph of the machine that `seed` names."""
    device = asked["device"]
    digits = _digest(seed, device)
    model = "ST4000NM000A-2HZ100" if "rpm" in asked else "INTEL SSDSC2KB480G8"
    return Drive(
        image=folder / f"{device}.img", size=OSD_SIZE, device=device, model=asked.get("model", model),
        serial=asked.get("serial", f"PHYF{digits[:10].upper()}"),
        wwn=asked.get("wwn", f"0x55cd2e4{digits[10:19]}"), rpm=int(asked.get("rpm", 0)),
        links=(asked["link"],) if "link" in asked else (),
    )  # fmt: skip


def _digest(*parts: str) -> str:
    return hashlib.sha256("/".join(parts).encode()).hexdigest()
