"""What the first boot sets up on a Proxmox node, as the lab file asks for it under `first_boot:`."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Network
from types import MappingProxyType
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from provision.inventory.words import Package, Part, Storage, listed, matching

TEN_GBIT = MappingProxyType(
    {
        "net.core.rmem_max": "67108864",
        "net.core.wmem_max": "67108864",
        "net.core.netdev_max_backlog": "30000",
        "net.ipv4.tcp_rmem": "4096 131072 33554432",
        "net.ipv4.tcp_wmem": "4096 65536 33554432",
        "net.ipv4.tcp_mtu_probing": "1",
    }
)
"""Kernel settings for networks of 10 Gbit/s and frames of 9000 bytes (ESnet's host tuning)."""


def _network(text: str) -> str:
    try:
        return str(IPv4Network(text))
    except ValueError:
        raise ValueError(f'"{text}" is no IPv4 network; write it as 192.0.2.0/24') from None


SysctlKey = Annotated[
    str,
    AfterValidator(
        matching(r"[a-z0-9_-]+(\.[A-Za-z0-9_-]+)+", "is no kernel setting such as net.core.rmem_max")
    ),
]
SysctlValue = Annotated[
    str, AfterValidator(matching(r"[A-Za-z0-9_.-]+( [A-Za-z0-9_.-]+)*", "is no value of a kernel setting"))
]
Schedule = Annotated[
    str, AfterValidator(matching(r"[a-z0-9*:/., -]+", "is no schedule such as 02:00 or sat 03:30"))
]


class Nvme(Part):
    """How the kernel queues requests to NVMe disks; `requests` is the depth of a queue."""

    scheduler: Literal["none", "mq-deadline", "kyber", "bfq"] = "none"
    requests: Annotated[int, Field(ge=32, le=4096)] | None = None


class Firewall(Part):
    """The cluster's firewall; besides the lab's own networks these may reach its nodes."""

    allow: Annotated[tuple[Annotated[str, AfterValidator(_network)], ...], BeforeValidator(listed)] = ()


class Backup(Part):
    """A nightly backup of all guests: when, to which storage, and how many of each are kept."""

    schedule: Schedule = "02:00"
    storage: Storage = "local"
    keep: Annotated[int, Field(ge=1, le=1000)] = 3


class FirstBoot(Part):
    """What is set up: what is safe and every lab wants, and what else is asked for; `zfs_arc_max` in MiB."""

    repositories: Literal["no-subscription", "enterprise", "test", "none"] = "no-subscription"
    update: bool = False
    packages: Annotated[tuple[Package, ...], BeforeValidator(listed)] = ()
    sysctl: dict[SysctlKey, SysctlValue] = {}
    ten_gbit: bool = True
    nic_tuning: bool = False
    governor: Literal["performance", "powersave", "schedutil", "ondemand", "conservative"] | None = None
    nvme: Nvme | None = None
    zfs_arc_max: Annotated[int, Field(ge=64)] | None = None
    iommu: bool = False
    node_exporter: bool = False
    firewall: Firewall | None = None
    backup: Backup | None = None

    @property
    def kernel_settings(self) -> dict[str, str]:
        """Every kernel setting asked for: those for 10 Gbit/s, and over them the lab file's own."""
        return {**(TEN_GBIT if self.ten_gbit else {}), **self.sysctl}

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts of the first boot that are asked for, in their order."""
        return tuple(self._parts())

    def _parts(self) -> Iterator[str]:
        asked = {
            "packages": self.update or self.packages,
            "sysctl": self.kernel_settings,
            "nics": self.nic_tuning,
            "governor": self.governor,
            "nvme": self.nvme,
            "arc": self.zfs_arc_max,
            "iommu": self.iommu,
            "exporter": self.node_exporter,
            "firewall": self.firewall,
            "backup": self.backup,
        }
        yield from ("networks", "clock", "ssh", "repositories")
        yield from (part for part, wanted in asked.items() if wanted)
        # Last, because it says that all the others are done.
        yield "marker"
