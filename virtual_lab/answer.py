"""The answer file of the Proxmox VE 9 automatic installer, read as strictly as the installer reads it.

Rules and error texts: proxmox-installer-types (answer.rs) and proxmox-auto-installer (utils.rs), release 9.2.
"""

from __future__ import annotations

import functools
import json
import re
import tomllib
from collections.abc import Callable, Mapping
from importlib import resources
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface, ip_address, ip_interface
from typing import Annotated, Any, Literal, NoReturn

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

_KEYBOARDS = """
de de-ch dk en-gb en-us es fi fr fr-be fr-ca fr-ch hu is it jp lt mk nl no pl pt pt-br se si tr
"""
_COUNTRIES = """
ad ae af ag ai al am ao aq ar as at au aw ax az ba bb bd be bf bg bh bi bj bl bm bn bo bq br bs bt
bv bw by bz ca cc cd cf cg ch ci ck cl cm cn co cr cu cv cw cx cy cz de dj dk dm do dz ec ee eg eh
er es et fi fj fk fm fo fr ga gb gd ge gf gg gh gi gl gm gn gp gq gr gs gt gu gw gy hk hm hn hr ht
hu id ie il im in io iq ir is it je jm jo jp ke kg kh ki km kn kp kr kw ky kz la lb lc li lk lr ls
lt lu lv ly ma mc md me mf mg mh mk ml mm mn mo mp mq mr ms mt mu mv mw mx my mz na nc ne nf ng ni
nl no np nr nu nz om pa pe pf pg ph pk pl pm pn pr ps pt pw py qa re ro rs ru rw sa sb sc sd se sg
sh si sj sk sl sm sn so sr ss st sv sx sy sz tc td tf tg th tj tk tl tm tn to tr tt tv tw tz ua ug
um us uy uz va vc ve vg vi vn vu wf ws ye yt za zm zw
"""
KEYBOARDS, COUNTRIES = frozenset(_KEYBOARDS.split()), frozenset(_COUNTRIES.split())
_MAIL = re.compile(
    r"[a-zA-Z0-9.!#$%&'*+/=?^_`{|}~-]+@[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?"
    r"(?:\.[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?)*"
)
_LABEL = re.compile(r"[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?")
_NIC_NAME = re.compile(r"[a-zA-Z][a-zA-Z0-9_]{1,14}")
_SUBSCRIPTION = re.compile(r"pve[0-9]+[cbsp]-[0-9a-f]{10}")
_BTRFS_RAID = frozenset({"raid0", "raid1", "raid10"})
_LEAST_DISKS = {"raid0": 1, "raid1": 2, "raid10": 4, "raidz-1": 3, "raidz-2": 4, "raidz-3": 5}

# The snake_case names of before 8.4-1 that still parse, by table (`disk-setup.zfs` as "zfs").
_OLD_NAMES = {
    "global": {"root_password", "root_password_hashed", "reboot_on_error", "reboot_mode", "root_ssh_keys",
               "subscription_key"},
    "disk-setup": {"disk_list", "filter_match"},
    "zfs": {"arc_max"},
    "post-installation-webhook": {"cert_fingerprint", "auth_token"},
    "first-boot": {"cert_fingerprint"},
}  # fmt: skip


class InvalidAnswer(Exception):
    """The installer refuses this answer."""


def _refuse(why: str) -> NoReturn:
    raise ValueError(why)


def _from_text(parse: Callable[[str], Any], what: str) -> BeforeValidator:
    def read(value: object) -> object:
        if not isinstance(value, str):
            _refuse(f"invalid type, expected {what}")
        try:
            return parse(value)
        except ValueError:
            _refuse(f"invalid {what}: {value!r}")

    return BeforeValidator(read)


def _known(check: Callable[[str], bool], complaint: str) -> BeforeValidator:
    def read(value: object) -> object:
        if not isinstance(value, str) or not check(value):
            _refuse(complaint.format(value))
        return value

    return BeforeValidator(read)


def _country(value: str) -> bool:
    return value in COUNTRIES


@functools.cache
def _zones() -> frozenset[str]:
    """The installer's list is made of the tz database's zones by country (country.pl)."""
    table = resources.files("tzdata").joinpath("zoneinfo", "zone.tab").read_text()
    return frozenset(line.split("\t")[2] for line in table.splitlines() if not line.startswith("#"))


def _timezone(value: str) -> bool:
    return value == "UTC" or value in _zones()


def _glob(value: str) -> bool:
    """As Rust's glob crate has it: no `**` inside a name, no set that is left open."""
    rest = value
    while (start := rest.find("[")) >= 0:
        first = start + 2 if rest[start + 1 : start + 2] == "!" else start + 1
        end = rest.find("]", first + 1)
        if end < 0:
            return False
        rest = rest[end + 1 :]
    return "**" not in value


def _mail(value: str) -> bool:
    return bool(_MAIL.fullmatch(value)) and value != "mail@example.invalid"


def _url(value: str) -> bool:
    return bool(re.fullmatch(r"https?://[^\s/]+(/\S*)?", value))


def fqdn_fault(name: str) -> str | None:
    """What is wrong with a fully qualified name; None when nothing is."""
    labels = name.split(".")
    if len(name) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        return f"invalid FQDN {name!r}: labels are letters, digits and inner dashes, at most 63 long"
    if len(labels) < 2:
        return f"FQDN {name!r} must consist of a host name and a domain"
    if labels[0].isdigit():
        return f"FQDN {name!r}: the host name cannot be purely numeric"
    return None


def _kebab(name: str) -> str:
    return name.replace("_", "-")


Glob = Annotated[str, _known(_glob, "invalid glob in selection: {!r}")]
Url = Annotated[str, _known(_url, "invalid URL {!r}")]
Address = Annotated[IPv4Address | IPv6Address, _from_text(ip_address, "IP address")]
# Validators before the type run from the last to the first. A level is written in one case throughout.
_LOWERED = BeforeValidator(
    lambda value: value.lower() if isinstance(value, str) and value.isupper() else value
)
Gib = Annotated[float, Field(ge=0)]


class _Table(BaseModel):
    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, alias_generator=_kebab, arbitrary_types_allowed=True
    )


class FqdnFromDhcp(_Table):
    """`fqdn.source`: the host name that DHCP gives, with `domain` when DHCP gives none."""

    source: Literal["from-dhcp"] = "from-dhcp"
    domain: str | None = None


class Global(_Table):
    """`[global]`."""

    country: Annotated[str, _known(_country, "country code {!r} is not valid")]
    keyboard: Annotated[str, _known(KEYBOARDS.__contains__, "unknown keyboard layout {!r}")]
    timezone: Annotated[str, _known(_timezone, "timezone {!r} is not valid")]
    fqdn: str | FqdnFromDhcp
    mailto: Annotated[str, _known(_mail, "{!r} is not a valid email address")]
    root_password: str | None = None
    root_password_hashed: str | None = None
    root_ssh_keys: tuple[str, ...] = Field(default=(), strict=False)
    reboot_on_error: bool = False
    reboot_mode: Literal["reboot", "power-off"] = "reboot"
    subscription_key: str | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Global:
        if self.root_password is not None and self.root_password_hashed is not None:
            _refuse("`global.root-password` and `global.root-password-hashed` cannot be set at the same time")
        if self.root_password is None and self.root_password_hashed is None:
            _refuse("One of `global.root-password` or `global.root-password-hashed` must be set")
        if self.root_password is not None and len(self.root_password) < 8:
            _refuse("`global.root-password`: password too short, must be at least 8 characters long")
        if isinstance(self.fqdn, str) and (fault := fqdn_fault(self.fqdn)):
            _refuse(fault)
        if self.subscription_key is not None and not _SUBSCRIPTION.fullmatch(self.subscription_key):
            _refuse("`global.subscription-key` is not the key of a Proxmox VE subscription")
        return self


class Pinning(_Table):
    """`[network.interface-name-pinning]`; `mapping` is name by MAC. `enabled` is read, and not heeded."""

    enabled: bool
    mapping: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _names(self) -> Pinning:
        for name in self.mapping.values():
            if not _NIC_NAME.fullmatch(name):
                _refuse(f"interface name {name!r}: 2 to 15 letters, digits or underscores, a letter first")
        if len(set(self.mapping.values())) != len(self.mapping):
            _refuse("duplicate interface name mapping")
        return self

    def name_of(self, mac: str) -> str | None:
        """The name that the mapping gives a NIC (releases since 9.1.7 compare MACs in lower case)."""
        return next((name for key, name in self.mapping.items() if key.lower() == mac), None)


class Network(_Table):
    """`[network]`."""

    source: Literal["from-dhcp", "from-answer"]
    cidr: Annotated[IPv4Interface | IPv6Interface, _from_text(ip_interface, "CIDR")] | None = None
    dns: Address | None = None
    gateway: Address | None = None
    filter: dict[str, Glob] = Field(default_factory=dict)
    interface_name_pinning: Pinning | None = None

    @model_validator(mode="before")
    @classmethod
    def _prefix_is_given(cls, table: object) -> object:
        cidr = table.get("cidr") if isinstance(table, dict) else None
        if isinstance(cidr, str) and not re.search("/[0-9]{1,3}$", cidr):
            _refuse(f"invalid CIDR: {cidr!r}")
        return table

    @model_validator(mode="after")
    def _complete(self) -> Network:
        given = {name for name in ("cidr", "dns", "gateway", "filter") if getattr(self, name)}
        if self.source == "from-dhcp" and given:
            _refuse(f'unknown field `{sorted(given)[0]}` with `network.source = "from-dhcp"`')
        if self.source == "from-answer":
            for name in ("cidr", "dns", "gateway"):
                if name not in given:
                    _refuse(f"missing field `{name}`")
            if not self.filter:
                _refuse("no filter defined")
        return self


class Zfs(_Table):
    """`disk-setup.zfs`."""

    raid: Annotated[str, _known(_LEAST_DISKS.__contains__, "unknown ZFS RAID level {!r}"), _LOWERED]
    ashift: int | None = Field(default=None, ge=9, le=16)
    arc_max: int | None = Field(default=None, ge=64)
    checksum: Literal["on", "fletcher4", "sha256"] | None = None
    compress: Literal["on", "off", "lzjb", "lz4", "zle", "gzip", "zstd"] | None = None
    copies: int | None = Field(default=None, ge=1, le=3)
    hdsize: Gib | None = None


class Btrfs(_Table):
    """`disk-setup.btrfs`."""

    raid: Annotated[str, _known(_BTRFS_RAID.__contains__, "unknown BTRFS RAID level {!r}"), _LOWERED]
    compress: Literal["on", "off", "zlib", "lzo", "zstd"] | None = None
    hdsize: Gib | None = None


class Lvm(_Table):
    """`disk-setup.lvm`, in GiB."""

    hdsize: Gib | None = None
    swapsize: Gib | None = None
    maxroot: Gib | None = None
    maxvz: Gib | None = None
    minfree: Gib | None = None


class DiskSetup(_Table):
    """`[disk-setup]`."""

    filesystem: Literal["ext4", "xfs", "zfs", "btrfs"]
    disk_list: tuple[str, ...] = Field(default=(), strict=False)
    filter: dict[str, Glob] = Field(default_factory=dict)
    filter_match: Literal["any", "all"] | None = None
    zfs: Zfs | None = None
    lvm: Lvm | None = None
    btrfs: Btrfs | None = None

    @property
    def raid(self) -> str | None:
        """The RAID level, for zfs and btrfs only."""
        table = {"zfs": self.zfs, "btrfs": self.btrfs}.get(self.filesystem)
        return table.raid if table else None

    @property
    def label(self) -> str:
        """The file system as the webhook names it."""
        return f"{self.filesystem} ({self.raid.upper()})" if self.raid else self.filesystem

    @model_validator(mode="after")
    def _consistent(self) -> DiskSetup:
        if self.disk_list and self.filter:
            _refuse("Cannot use both, 'disk-list' and 'filter'")
        if not self.disk_list and not self.filter:
            _refuse("Need either 'disk-list' or 'filter' set")
        if len(set(self.disk_list)) != len(self.disk_list):
            _refuse("duplicate disks in 'disk-list'")
        self._own_options_only()
        self._disk_count()
        if self.lvm and self.lvm.swapsize and self.lvm.hdsize and self.lvm.swapsize > self.lvm.hdsize / 2:
            _refuse("'swapsize' cannot be larger than half of 'hdsize'")
        return self

    def _own_options_only(self) -> None:
        own = "lvm" if self.filesystem in ("ext4", "xfs") else self.filesystem
        others = [name for name in ("zfs", "lvm", "btrfs") if name != own and getattr(self, name) is not None]
        if others:
            _refuse(f"make sure only '{own}' options are set")
        if own != "lvm" and getattr(self, own) is None:
            _refuse(f"'{own}.raid' must be set for {self.filesystem}")

    def _disk_count(self) -> None:
        if self.disk_list:
            check_disk_count(self, len(self.disk_list))


class Webhook(_Table):
    """`[post-installation-webhook]`."""

    url: Url
    cert_fingerprint: str | None = None
    auth_token: str | None = None


class FirstBoot(_Table):
    """`[first-boot]`."""

    source: Literal["from-url", "from-iso"]
    ordering: Literal["before-network", "network-online", "fully-up"] = "fully-up"
    url: Url | None = None
    cert_fingerprint: str | None = None

    @model_validator(mode="after")
    def _has_url(self) -> FirstBoot:
        if self.source == "from-url" and self.url is None:
            _refuse("first-boot executable URL missing")
        return self


class Answer(_Table):
    """A whole answer that the installer accepts."""

    global_: Global = Field(alias="global")
    network: Network
    disk_setup: DiskSetup
    post_installation_webhook: Webhook | None = None
    first_boot: FirstBoot | None = None


def read(text: bytes, content_type: str) -> Answer:
    """Read an answer: JSON when `content_type` begins so, TOML otherwise. Raises InvalidAnswer."""
    try:
        if content_type.startswith("application/json"):
            raw = json.loads(text)
        else:
            raw = tomllib.loads(text.decode())
        return Answer.model_validate(_with_new_names(raw))
    except ValidationError as error:
        raise InvalidAnswer(_told(error)) from error
    except ValueError as error:  # of either parser, of decoding, of old names
        raise InvalidAnswer(f"could not parse the answer: {error}") from error


def check_disk_count(setup: DiskSetup, count: int) -> None:
    """Raises ValueError when `count` disks do not suit the file system."""
    if setup.raid is None:
        if count != 1:
            _refuse(f"{setup.filesystem} takes exactly one disk, {count} are given")
        return
    least = _LEAST_DISKS[setup.raid]
    if count < least:
        _refuse(f"{setup.raid} needs at least {least} disks, {count} are given")
    if setup.label == "zfs (RAID10)" and count % 2:
        _refuse("RAID10 needs an even number of disks")


def _with_new_names(raw: object) -> object:
    """The tables with kebab-case names only; raises ValueError when a key is there under both names."""
    if not isinstance(raw, dict):
        _refuse("invalid type, expected a table")
    tables = {name: _renamed(name, table) for name, table in raw.items()}
    setup = tables.get("disk-setup")
    if isinstance(setup, dict) and "zfs" in setup:
        tables["disk-setup"] = setup | {"zfs": _renamed("zfs", setup["zfs"])}
    return tables


def _renamed(name: str, table: object) -> object:
    if not isinstance(table, dict):
        return table
    old = _OLD_NAMES.get(name, set())
    both = [key for key in table if key in old and _kebab(key) in table]
    if both:
        _refuse(f"duplicate field `{_kebab(both[0])}`")
    return {_kebab(key) if key in old else key: value for key, value in table.items()}


def _told(error: ValidationError) -> str:
    """The first complaint, with its place, as serde words it."""
    first: Mapping[str, Any] = error.errors(include_url=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return f"unknown field `{first['loc'][-1]}` in {place.rpartition('.')[0] or 'the answer'}"
    if first["type"] == "missing":
        return f"missing field `{first['loc'][-1]}` in {place.rpartition('.')[0] or 'the answer'}"
    return f"{place}: {str(first['msg']).removeprefix('Value error, ')}"
