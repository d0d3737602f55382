"""What udev says of a virtual server's NICs and disks, and how the installer's filters choose by it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from zlib import crc32

from virtual_lab.hardware import Drive, Hardware


@dataclass(frozen=True, slots=True)
class Device:
    """A NIC by its name, or a disk by its index as text, with its udev properties."""

    name: str
    properties: Mapping[str, str]


def nics(hardware: Hardware) -> tuple[Device, ...]:
    """The server's NICs, in name order."""
    return tuple(Device(name, _nic(name, mac)) for name, mac in sorted(hardware.nics.items()))


def disks(hardware: Hardware) -> tuple[Device, ...]:
    """The server's disks, in the order of their index."""
    return tuple(Device(str(index), of_drive(drive)) for index, drive in enumerate(hardware.drives))


def of_drive(drive: Drive) -> dict[str, str]:
    """What udev says of a disk, its links among it."""
    properties = {
        "DEVLINKS": " ".join(f"/dev/disk/by-id/{name}" for name in by_id(drive)),
        "DEVNAME": f"/dev/{drive.device}",
        "DEVTYPE": "disk",
        "ID_ATA": "1",
        "ID_BUS": "ata",
        "ID_MODEL": drive.model.replace(" ", "_"),
        "ID_PATH": f"pci-0000:00:17.0-ata-{ord(drive.device[-1]) - ord('a') + 1}",
        "ID_SERIAL": f"{drive.model.replace(' ', '_')}_{drive.serial}",
        "ID_SERIAL_SHORT": drive.serial,
        "ID_TYPE": "disk",
        "ID_WWN": drive.wwn,
        "SUBSYSTEM": "block",
    }
    return properties | ({"ID_ATA_ROTATION_RATE_RPM": str(drive.rpm)} if drive.rpm else {})


def by_id(drive: Drive) -> tuple[str, ...]:
    """The disk's names below /dev/disk/by-id."""
    own = (f"ata-{drive.model.replace(' ', '_')}_{drive.serial}", f"wwn-{drive.wwn}")
    return tuple(dict.fromkeys((*drive.links, *own)))


def first_match(devices: Sequence[Device], filters: Mapping[str, str]) -> Device | None:
    """The first device, in the order of the names as text, of which any key matches."""
    for device in sorted(devices, key=lambda device: device.name):
        if any(_matches(device, key, glob) for key, glob in filters.items()):
            return device
    return None


def all_matches(devices: Sequence[Device], filters: Mapping[str, str], match: str) -> tuple[Device, ...]:
    """The devices of which any key matches, or ("all") no key that they have differs.

    A device that lacks a key is not held against it by "all": so the installer does it.
    """
    if match == "any":
        return tuple(each for each in devices if any(_matches(each, *pair) for pair in filters.items()))
    return tuple(
        each
        for each in devices
        if all(key not in each.properties or _matches(each, key, glob) for key, glob in filters.items())
    )


def listed(devices: Sequence[Device], names: Sequence[str]) -> tuple[Device, ...]:
    """The disks whose path ends with a name of the list; names that fit none are dropped."""
    return tuple(
        each for name in names for each in devices if each.properties.get("DEVNAME", "").endswith(name)
    )


def _nic(name: str, mac: str) -> dict[str, str]:
    slot = crc32(name.encode()) % 0xE0 + 0x10
    properties = {
        "ID_BUS": "pci",
        "ID_NET_NAME_MAC": f"enx{mac.replace(':', '')}",
        "ID_NET_NAME_PATH": f"enp{slot}s0",
        "ID_PATH": f"pci-0000:{slot:02x}:00.0",
        "ID_VENDOR_ID": "0x8086",
        "INTERFACE": name,
        "SUBSYSTEM": "net",
    }
    return properties | ({"ID_NET_NAME_ONBOARD": name} if name.startswith("eno") else {})


def _matches(device: Device, key: str, glob: str) -> bool:
    return key in device.properties and fnmatchcase(device.properties[key], glob)
