"""What is in the images: the node's Debian 13, the one that Proxmox VE 9 stands on, and the server's."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

from virtual_lab import pve
from virtual_lab.internet import DEBIAN, SIMPLE
from virtual_lab.plan import INTERNET

SUITE = "trixie"

# What Debian's installer leaves of its required and standard packages, as far as a rack has a use for it.
_BARE = (
    "systemd", "systemd-sysv", "dbus", "udev", "iproute2", "iputils-ping", "procps", "ca-certificates",
    "openssh-server", "ifupdown2", "python3", "bind9-dnsutils",
)  # fmt: skip
_COMMON = (
    "systemd", "systemd-sysv", "dbus", "udev", "iproute2", "iputils-ping", "procps", "ca-certificates",
    "openssh-server", "ifupdown2", "nftables", "chrony", "python3", "openssl", "curl", "jq", "kmod",
    "ethtool",
)  # fmt: skip
_NODE = ("corosync", "bridge-utils", "fuse3", "prometheus-node-exporter")
_UBUNTU = ("cloud-init", "netplan.io", "systemd-resolved", "systemd-timesyncd", "sudo", "locales")
_NOT_UBUNTUS = ("ifupdown2", "chrony")

# A machine may set its own NICs, and its own network's settings, but nothing that all machines share:
# /sys and /proc/sys are read-only otherwise, and the clock is the host's (chronyd -x).
_OWN_NICS = """\
[Unit]
Description=This machine's own NICs can be set through /sys
DefaultDependencies=no
Before=sysinit.target

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/mount --bind /sys/devices/virtual/net /sys/devices/virtual/net
ExecStart=/bin/mount -o remount,bind,rw /sys/devices/virtual/net

[Install]
WantedBy=sysinit.target
"""
# What stands in /sys of disks is the machine's own (virtual_lab/block_devices.py), not this host's.
_OWN_DISKS = """\
[Unit]
Description=This machine's own disks in /sys
DefaultDependencies=no
Before=sysinit.target
ConditionPathExists=/run/rackproof/sys

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/mount --bind /run/rackproof/sys/block /sys/block
ExecStart=/bin/mount --bind /run/rackproof/sys/class /sys/class/block
ExecStart=/bin/mount --bind /run/rackproof/sys/dev /sys/dev/block
ExecStart=/bin/cp -r /run/rackproof/udev /run/

[Install]
WantedBy=sysinit.target
"""
# udev does this when a disk appears: lvm2's rule runs `vgchange -aay` for a volume group that is complete.
_LVM_ACTIVATION = """\
[Unit]
Description=LVM volume groups of the disks that are there at boot
DefaultDependencies=no
After=own-disks.service systemd-tmpfiles-setup-dev.service
Before=local-fs.target
Requires=own-disks.service

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/sbin/vgchange -aay --quiet

[Install]
WantedBy=sysinit.target
"""
_CHRONY_WITHOUT_CLOCK = """\
[Unit]
ConditionCapability=

[Service]
Environment=DAEMON_OPTS=-x
"""
# `netplan apply` has udev read its rules anew; no udev runs in a machine of the rack.
_NO_UDEV = """\
#!/bin/sh
case $1 in control | trigger | settle) exit 0 ;; esac
exec /usr/bin/udevadm "$@"
"""
_UNWANTED = (
    "sys-kernel-debug.mount", "sys-kernel-tracing.mount", "sys-kernel-config.mount", "dev-hugepages.mount",
    "dev-mqueue.mount", "proc-sys-fs-binfmt_misc.automount", "systemd-firstboot.service",
    "systemd-pstore.service", "systemd-udev-load-credentials.service", "apt-daily.timer",
    "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "e2scrub_all.timer", "e2scrub_reap.service",
    "fstrim.timer",
)  # fmt: skip
# Daemons of Ceph and LVM that wait for what this kernel has not, or for a cluster that is not made yet.
_UNWANTED_ON_A_NODE = (
    "ceph-crash.service", "rbdmap.service", "dm-event.socket", "dm-event.service", "lvm2-monitor.service",
    "lvm2-lvmpolld.socket", "lvm2-lvmpolld.service", "blk-availability.service", "smartmontools.service",
    "nvmefc-boot-connections.service", "nvmf-autoconnect.service", "xfs_scrub_all.timer", "uuidd.socket",
)  # fmt: skip
HOLD = "usr/lib/rackproof/held"
"""Below it lies, by its own path, what a fresh node has not; `list` names those paths, one a line."""

# What a fresh Proxmox node has not before `pveceph install`: of Ceph it has ceph-common and ceph-fuse alone.
_HELD = (
    "usr/bin/ceph-bluestore-tool", "usr/bin/ceph-mds", "usr/bin/ceph-mgr", "usr/bin/ceph-mon",
    "usr/bin/ceph-objectstore-tool", "usr/bin/ceph-osd", "usr/sbin/ceph-volume",
    "usr/sbin/ceph-volume-systemd",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Recipe:
    """An image: Debian packages, files by path, what becomes of units.

    `replaced` holds, by path, a text in a package's file and what stands there instead. The files `held` lie
    below HOLD, not in their places.
    """

    name: str
    packages: tuple[str, ...]
    files: dict[str, str] = field(default_factory=dict)
    replaced: dict[str, tuple[str, str]] = field(default_factory=dict)
    removed: tuple[str, ...] = ()
    held: tuple[str, ...] = ()
    enabled: tuple[str, ...] = ()
    disabled: tuple[str, ...] = ()
    masked: tuple[str, ...] = _UNWANTED
    suite: str = SUITE
    architecture: str = field(default_factory=platform.machine)

    @property
    def digest(self) -> str:
        """Changes with anything that the recipe says."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:12]

    @property
    def folder(self) -> str:
        """The image's name on disk."""
        return f"{self.name}-{self.digest}"


_FILES = {
    "etc/systemd/system/own-nics.service": _OWN_NICS,
    "etc/systemd/system/chrony.service.d/without-clock.conf": _CHRONY_WITHOUT_CLOCK,
    "etc/default/chrony": 'DAEMON_OPTS="-x"\n',
    "etc/machine-id": "",
    "etc/hostname": "localhost\n",
}
_NODE_FILES = {
    # Debian's ifupdown2 writes into this directory, which Debian's iproute2 no longer brings.
    "etc/iproute2/rt_tables.d/README": "Routing table names, as in ../rt_tables\n",
    "etc/systemd/system/own-disks.service": _OWN_DISKS,
    "etc/systemd/system/lvm-activation.service": _LVM_ACTIVATION,
}
# Debian's ifupdown2 3.0 hands a `broadcast` line to the kernel as text and fails; Proxmox's 3.3 does not.
_IFUPDOWN2_BROADCAST = {
    "usr/share/ifupdown2/lib/nlcache.py": (
        "packet.add_attribute(Address.IFA_BROADCAST, broadcast)",
        "packet.add_attribute(Address.IFA_BROADCAST, ipaddress.IPv4Address(broadcast))",
    )
}
# The mirror on the played internet is the only one that a server of the rack can reach.
_SOURCES = f"deb [trusted=yes] http://{INTERNET.ip}/{DEBIAN} ./\n"
_PIP_CONF = f"[global]\nindex-url = http://{INTERNET.ip}/{SIMPLE}/\ntrusted-host = {INTERNET.ip}\n"
# Keys and identities belong to a machine, never to an image.
_REMOVED = ("etc/ssh/ssh_host_*", "var/lib/dbus/machine-id", "etc/resolv.conf")


def node() -> Recipe:
    """The node's operating system, with what the played Proxmox layer needs besides."""
    return Recipe(
        "node",
        _distinct((*_COMMON, *_NODE, *pve.packages())),
        files=_FILES | _NODE_FILES,
        replaced=_IFUPDOWN2_BROADCAST,
        # Proxmox's corosync package has no configuration of its own; a node is in no cluster at first.
        removed=(*_REMOVED, "etc/corosync/corosync.conf"),
        held=_HELD,
        # A node has it when its first boot has set it up; the rack reaches no mirror to fetch it from.
        disabled=("prometheus-node-exporter.service",),
        masked=(*_UNWANTED, *_UNWANTED_ON_A_NODE),
        enabled=("own-nics.service", "own-disks.service", "lvm-activation.service"),
    )


def ubuntu() -> Recipe:
    """What plays an installed Ubuntu: Debian's own cloud-init, netplan and networkd, set up as Ubuntu's."""
    return Recipe(
        "ubuntu",
        tuple(package for package in (*_COMMON, *_UBUNTU) if package not in _NOT_UBUNTUS),
        files={
            "etc/systemd/system/own-nics.service": _OWN_NICS,
            "etc/systemd/system/own-disks.service": _OWN_DISKS,
            "usr/local/bin/udevadm": _NO_UDEV,
            "etc/locale.gen": "en_US.UTF-8 UTF-8\n",  # Debian's locale-gen takes no names, Ubuntu's does
            "etc/machine-id": "",
            "etc/hostname": "localhost\n",
        },
        replaced={"etc/cloud/cloud.cfg": ("distro: debian", "distro: ubuntu")},
        removed=_REMOVED,
        masked=(*_UNWANTED, "systemd-time-wait-sync.service"),
        enabled=("own-nics.service", "own-disks.service", "systemd-networkd.service"),
    )


def server() -> Recipe:
    """The provisioning server's system: a bare Debian that is let in by SSH and knows the rack's mirror."""
    return Recipe(
        "server",
        _BARE,
        files=_FILES | {"etc/apt/sources.list": _SOURCES, "etc/pip.conf": _PIP_CONF},
        removed=(*_REMOVED, "etc/apt/sources.list.d/*"),
        enabled=("own-nics.service",),
    )


def _distinct(packages: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(packages))
