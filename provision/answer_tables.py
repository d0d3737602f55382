"""The tables of an answer to the Proxmox VE 9 installer: their keys, and of what kind each value is.

Source: proxmox-installer-types (answer.rs), release 9.2. The installer refuses every key that is not here.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

OLD_NAMES = {
    "global": ("root_password", "root_password_hashed", "reboot_on_error", "reboot_mode", "root_ssh_keys",
               "subscription_key"),
    "disk-setup": ("disk_list", "filter_match"),
    "disk-setup.zfs": ("arc_max",),
    "post-installation-webhook": ("cert_fingerprint", "auth_token"),
    "first-boot": ("cert_fingerprint",),
}  # fmt: skip
"""The names of before 8.4-1 that still parse, by table; Proxmox means to drop them in version 10."""

SINCE = {
    "network.interface-name-pinning": (9, 1),
    "global.subscription-key": (9, 2),
    "post-installation-webhook.auth-token": (9, 2),
}
"""What came after 9.0, by its place: an older installer refuses it as an unknown key."""

FREE = ("network.filter", "disk-setup.filter", "network.interface-name-pinning.mapping")
"""Tables whose keys are not the installer's own words: udev properties, MACs."""

ZFS_RAID = ("raid0", "raid1", "raid10", "raidz-1", "raidz-2", "raidz-3")
BTRFS_RAID = ("raid0", "raid1", "raid10")

Gib = Annotated[float, Field(ge=0, allow_inf_nan=False)]
DiskGib = Annotated[float, Field(ge=2, allow_inf_nan=False)]


def _kebab(name: str) -> str:
    return name.rstrip("_").replace("_", "-")


class Table(BaseModel):
    """A table without keys that nobody knows, and without values of another kind."""

    model_config = ConfigDict(extra="forbid", strict=True, alias_generator=_kebab)


class FqdnFromDhcp(Table):
    """`global.fqdn` as a table."""

    source: Literal["from-dhcp"] = "from-dhcp"
    domain: str | None = None


Fqdn = Annotated[
    Annotated[str, Tag("text")] | Annotated[FqdnFromDhcp, Tag("table")],
    Discriminator(lambda given: "table" if isinstance(given, dict) else "text"),
]


class Global(Table):
    """`[global]`."""

    country: str
    keyboard: str
    timezone: str
    fqdn: Fqdn
    mailto: str
    root_password: str | None = None
    root_password_hashed: str | None = None
    root_ssh_keys: list[str] = []
    reboot_on_error: bool = False
    reboot_mode: Literal["reboot", "power-off"] = "reboot"
    subscription_key: str | None = None


class Pinning(Table):
    """`[network.interface-name-pinning]`; `mapping` is name by MAC."""

    enabled: bool
    mapping: dict[str, str] = {}


class FromDhcp(Table):
    """`[network]` by DHCP."""

    source: Literal["from-dhcp"]
    interface_name_pinning: Pinning | None = None


class FromAnswer(Table):
    """`[network]` as the answer says."""

    source: Literal["from-answer"]
    cidr: str
    dns: str
    gateway: str
    filter: dict[str, str] = {}
    interface_name_pinning: Pinning | None = None


class Zfs(Table):
    """`disk-setup.zfs`; the limits are those of Proxmox's schema, which the installer itself does not try."""

    raid: str | None = None
    ashift: Annotated[int, Field(ge=9, le=16)] | None = None
    arc_max: Annotated[int, Field(ge=64, lt=1 << 32)] | None = None
    checksum: Literal["on", "fletcher4", "sha256"] | None = None
    compress: Literal["on", "off", "lzjb", "lz4", "zle", "gzip", "zstd"] | None = None
    copies: Annotated[int, Field(ge=1, le=3)] | None = None
    hdsize: DiskGib | None = None


class Lvm(Table):
    """`disk-setup.lvm`, in GiB."""

    hdsize: DiskGib | None = None
    swapsize: Gib | None = None
    maxroot: DiskGib | None = None
    maxvz: Gib | None = None
    minfree: Gib | None = None


class Btrfs(Table):
    """`disk-setup.btrfs`."""

    raid: str | None = None
    compress: Literal["on", "off", "zlib", "lzo", "zstd"] | None = None
    hdsize: DiskGib | None = None


class DiskSetup(Table):
    """`[disk-setup]`."""

    filesystem: Literal["ext4", "xfs", "zfs", "btrfs"]
    disk_list: list[str] = []
    filter: dict[str, str] = {}
    filter_match: Literal["any", "all"] | None = None
    zfs: Zfs | None = None
    lvm: Lvm | None = None
    btrfs: Btrfs | None = None


class Webhook(Table):
    """`[post-installation-webhook]`."""

    url: str
    cert_fingerprint: str | None = None
    auth_token: str | None = None


class FirstBoot(Table):
    """`[first-boot]`."""

    source: Literal["from-url", "from-iso"]
    ordering: Literal["before-network", "network-online", "fully-up"] = "fully-up"
    url: str | None = None
    cert_fingerprint: str | None = None


class Tables(Table):
    """A whole answer."""

    global_: Global
    network: Annotated[FromDhcp | FromAnswer, Field(discriminator="source")]
    disk_setup: DiskSetup
    post_installation_webhook: Webhook | None = None
    first_boot: FirstBoot | None = None


def model_at(place: str) -> type[Table] | None:
    """The table at a place such as `disk-setup.zfs`, for the names of its keys."""
    models: dict[str, type[Table]] = {
        "": Tables, "global": Global, "global.fqdn": FqdnFromDhcp, "network": FromAnswer,
        "network.interface-name-pinning": Pinning, "disk-setup": DiskSetup, "disk-setup.zfs": Zfs,
        "disk-setup.lvm": Lvm, "disk-setup.btrfs": Btrfs, "post-installation-webhook": Webhook,
        "first-boot": FirstBoot,
    }  # fmt: skip
    return models.get(place)


def keys_at(place: str) -> list[str]:
    """The keys that the installer knows there."""
    model = model_at(place)
    fields: dict[str, Any] = dict(model.model_fields) if model else {}
    return [info.alias or name for name, info in fields.items()]
