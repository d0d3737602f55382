"""What the installer tells over HTTP: of the machine to get its answer, of the installation in the end."""

from __future__ import annotations

from typing import Any

from virtual_lab import media, udev
from virtual_lab.hardware import Hardware
from virtual_lab.installed_root import Installation, Laid
from virtual_lab.live_system import Iso
from virtual_lab.pve.pmx.versions import MANAGER

DEBIAN_VERSION = "13.5"


def system_info(hardware: Hardware, iso: Iso) -> dict[str, Any]:
    """The body of the request for the answer."""
    upper = hardware.release != "9.1"
    links = [
        {"link": name, "mac": mac.upper() if upper else mac} for name, mac in sorted(hardware.nics.items())
    ]
    return {
        "$schema": {"version": "1.0"},
        "product": {"fullname": "Proxmox VE", "product": "pve", "enable_btrfs": True},
        "iso": _iso_release(iso),
        "dmi": _dmi(hardware),
        "network_interfaces": links,
    }


def report(hardware: Hardware, iso: Iso, plan: Installation, laid: Laid) -> dict[str, Any]:
    """The body of the post-installation webhook."""
    setup, hook = plan.answer.disk_setup, plan.answer.post_installation_webhook
    body = {
        "$schema": {"version": "1.2"},
        "debian-version": DEBIAN_VERSION,
        "product": {"fullname": "Proxmox VE", "short": "pve", "version": MANAGER},
        "iso": _iso_release(iso),
        "kernel-version": {
            "sysname": "Linux", "release": media.KERNEL,
            "version": f"#1 SMP PREEMPT_DYNAMIC PMX {media.KERNEL}", "machine": "x86_64",
        },
        "boot-info": {"mode": "efi"},
        "cpu-info": {
            "cores": hardware.cores, "cpus": hardware.cores, "flags": "", "hvm": True,
            "model": "played", "sockets": 1,
        },
        "dmi": _dmi(hardware),
        "filesystem": setup.label,
        "fqdn": plan.fqdn,
        "machine-id": laid.machine_id,
        "disks": _disks(hardware, plan),
        "network-interfaces": [_interface(device, plan, hardware) for device in udev.nics(hardware)],
        "ssh-public-host-keys": dict(laid.host_keys),
        "reboot-mode": plan.answer.global_.reboot_mode,
    }  # fmt: skip
    return body | ({"token": hook.auth_token} if hook and hook.auth_token else {})


def _disks(hardware: Hardware, plan: Installation) -> list[dict[str, Any]]:
    setup = plan.answer.disk_setup
    table = setup.lvm or setup.zfs or setup.btrfs
    # The real report gives the size chosen for the root disk, for every disk.
    size = int(table.hdsize * 2**30) if table and table.hdsize else hardware.drive.size
    chosen = {each.name for each in plan.disks}
    return [
        {"size": size, "udev-properties": dict(each.properties)}
        | ({"is-bootdisk": True} if each.name in chosen else {})
        for each in udev.disks(hardware)
    ]


def _interface(device: udev.Device, plan: Installation, hardware: Hardware) -> dict[str, Any]:
    mac = hardware.nics[device.name]
    entry: dict[str, Any] = {
        "name": plan.names[device.name], "mac": mac, "udev-properties": dict(device.properties)
    }  # fmt: skip
    if device.name == plan.management:
        entry |= {"address": str(plan.address), "is-management": True}
    return entry | ({"is-pinned": True} if mac in plan.links else {})


def _iso_release(iso: Iso) -> dict[str, str]:
    return {"release": iso.info.get("RELEASE", ""), "isorelease": iso.info.get("ISORELEASE", "")}


def _dmi(hardware: Hardware) -> dict[str, dict[str, str]]:
    dmi = hardware.dmi
    return {
        "system": {"serial": dmi.serial, "uuid": dmi.uuid, "name": dmi.product},
        "baseboard": {"serial": dmi.board_serial, "name": dmi.board_product},
        "chassis": {"serial": dmi.chassis_serial},
    }
