"""What is in the images: the node's Debian 13, the one that Proxmox VE 9 stands on, and the server's."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from virtual_lab import pve

SUITE = "trixie"
LIBRARY = "opt/rackproof/lib"
REQUIREMENTS = Path(__file__).parent.parent / "provision/boot_service/requirements.txt"

_COMMON = (
    "systemd", "systemd-sysv", "dbus", "udev", "iproute2", "iputils-ping", "procps", "ca-certificates",
    "openssh-server", "ifupdown2", "nftables", "chrony", "python3", "openssl", "curl", "jq", "kmod",
    "ethtool",
)  # fmt: skip
_NODE = ("corosync", "bridge-utils", "fuse3")
_SERVER = ("dnsmasq", "nginx-light", "ipxe", "bind9-dnsutils")

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
_CHRONY_WITHOUT_CLOCK = """\
[Unit]
ConditionCapability=

[Service]
Environment=DAEMON_OPTS=-x
"""
_UNWANTED = (
    "sys-kernel-debug.mount", "sys-kernel-tracing.mount", "sys-kernel-config.mount", "dev-hugepages.mount",
    "dev-mqueue.mount", "proc-sys-fs-binfmt_misc.automount", "systemd-firstboot.service",
    "systemd-pstore.service", "systemd-udev-load-credentials.service", "apt-daily.timer",
    "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "e2scrub_all.timer", "e2scrub_reap.service",
    "fstrim.timer",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Recipe:
    """An image: Debian packages, files by path, what becomes of units, Python packages by a hashed list.

    `replaced` holds, by path, a text in a package's file and what stands there instead.
    """

    name: str
    packages: tuple[str, ...]
    files: dict[str, str] = field(default_factory=dict)
    replaced: dict[str, tuple[str, str]] = field(default_factory=dict)
    removed: tuple[str, ...] = ()
    enabled: tuple[str, ...] = ()
    disabled: tuple[str, ...] = ()
    masked: tuple[str, ...] = _UNWANTED
    suite: str = SUITE
    architecture: str = field(default_factory=platform.machine)
    requirements: str = ""

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
# Debian's ifupdown2 3.0 hands a `broadcast` line to the kernel as text and fails; Proxmox's 3.3 does not.
_IFUPDOWN2_BROADCAST = {
    "usr/share/ifupdown2/lib/nlcache.py": (
        "packet.add_attribute(Address.IFA_BROADCAST, broadcast)",
        "packet.add_attribute(Address.IFA_BROADCAST, ipaddress.IPv4Address(broadcast))",
    )
}
# Keys and identities belong to a machine, never to an image.
_REMOVED = ("etc/ssh/ssh_host_*", "var/lib/dbus/machine-id", "etc/resolv.conf")


def node() -> Recipe:
    """The node's operating system, with what the played Proxmox layer needs besides."""
    return Recipe(
        "node",
        _distinct((*_COMMON, *_NODE, *pve.packages())),
        # Debian's ifupdown2 writes into this directory, which Debian's iproute2 no longer brings.
        files=_FILES | {"etc/iproute2/rt_tables.d/README": "Routing table names, as in ../rt_tables\n"},
        replaced=_IFUPDOWN2_BROADCAST,
        # Proxmox's corosync package has no configuration of its own; a node is in no cluster at first.
        removed=(*_REMOVED, "etc/corosync/corosync.conf"),
        enabled=("own-nics.service",),
    )


def server(requirements: Path = REQUIREMENTS) -> Recipe:
    """The provisioning server's system: everything there, nothing configured, nothing running."""
    return Recipe(
        "server",
        _distinct((*_COMMON, *_SERVER)),
        files=_FILES,
        removed=(*_REMOVED, "etc/nginx/sites-enabled/default"),
        enabled=("own-nics.service",),
        disabled=("dnsmasq.service", "nginx.service", "nftables.service", "chrony.service"),
        requirements=requirements.read_text() if requirements.exists() else "",
    )


def _distinct(packages: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(packages))
