"""Which Proxmox VE the node plays, and what of it is real."""

from __future__ import annotations

import os
import subprocess

RELEASE = "9.2"
MANAGER = "9.2.11"
REPOSITORY_ID = "14a22df0c2b9d5e7"

_PACKAGES = {
    "proxmox-ve": "9.2.0", "pve-manager": MANAGER, "proxmox-kernel-helper": "9.2.1", "corosync": "",
    "criu": "4.1.1-1", "ifupdown2": "3.3.0-1+pmx12", "libjs-extjs": "7.0.0-5",
    "libproxmox-acme-perl": "1.7.0", "libpve-access-control": "9.1.2", "libpve-apiclient-perl": "3.4.2",
    "libpve-cluster-api-perl": "9.1.6", "libpve-cluster-perl": "9.1.6", "libpve-common-perl": "9.2.1",
    "libpve-guest-common-perl": "6.0.3", "libpve-http-server-perl": "6.0.6", "libpve-storage-perl": "9.1.5",
    "lxc-pve": "6.0.5-4", "proxmox-backup-client": "4.1.4-1", "proxmox-mini-journalreader": "1.6",
    "proxmox-widget-toolkit": "5.1.9", "pve-cluster": "9.1.6", "pve-container": "6.1.4", "pve-docs": "9.1.3",
    "pve-edk2-firmware": "4.2025.05-2", "pve-firewall": "6.0.5", "pve-ha-manager": "5.1.3",
    "pve-i18n": "3.7.1", "pve-qemu-kvm": "10.1.2-7", "pve-xtermjs": "5.5.0-3", "qemu-server": "9.2.6",
    "smartmontools": "7.4-pve1", "spiceterm": "3.4.2", "swtpm": "0.8.0+pve3", "zfsutils-linux": "2.4.1-pve1",
}  # fmt: skip


def corosync() -> str:
    """The version of the corosync that runs here, marked as Proxmox marks its own builds."""
    command = ["dpkg-query", "-W", "-f", "${Version}", "corosync"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return f"{done.stdout.partition('-')[0] or 'not correctly installed'}-pve2"


def running_kernel() -> str:
    """The release of the kernel, which is the machine's own."""
    return os.uname().release


def listing() -> list[tuple[str, str]]:
    """Packages and versions, in the order of `pveversion -v`."""
    found = {**_PACKAGES, "corosync": corosync()}
    marks = {"proxmox-ve": f" (running kernel: {running_kernel()})",
             "pve-manager": f" (running version: {MANAGER}/{REPOSITORY_ID})"}  # fmt: skip
    return [(name, version + marks.get(name, "")) for name, version in found.items()]
