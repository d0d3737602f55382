"""What a lab is: networks, provisioning server, nodes, cluster, storage, templates, deadlines."""

from __future__ import annotations

import base64
import binascii
import difflib
import math
import re
import struct
from collections.abc import Callable, Iterable
from ipaddress import AddressValueError, IPv4Address, IPv4Network
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    model_validator,
)

from provision.errors import InventoryError, Mistake
from provision.inventory import ubuntu
from provision.inventory.boot_chains import CHAINS, Firmware, Mode, Target
from provision.inventory.bridge import ServerBridge
from provision.inventory.disk_options import (
    Btrfs,
    Lvm,
    Serial,
    UdevKey,
    Zfs,
    installer_glob,
    layout_faults,
    names_one,
    serials_fault,
)
from provision.inventory.firewall import Firewall
from provision.inventory.first_boot import FirstBoot
from provision.inventory.images import COMBINED
from provision.inventory.inline import has_login
from provision.inventory.secret import Secret, absolute

MANAGEMENT = "management"
SYSTEMS = ("proxmox-9", "ubuntu-24.04")
"""Operating systems that rackproof can install."""

KEYBOARDS = [
    "de",
    "de-ch",
    "dk",
    "en-gb",
    "en-us",
    "es",
    "fi",
    "fr",
    "fr-be",
    "fr-ca",
    "fr-ch",
    "hu",
    "is",
    "it",
    "jp",
    "lt",
    "mk",
    "nl",
    "no",
    "pl",
    "pt",
    "pt-br",
    "se",
    "si",
    "tr",
]
"""What the Proxmox installer knows."""

LABEL = "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"

T = TypeVar("T")


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """`; did you mean "…"?` when something known is close to what was given, else nothing."""
    close = difflib.get_close_matches(given, list(known), n=1)
    return f'; did you mean "{close[0]}"?' if close else ""


# Words of a lab file, each with the rule it obeys


def _matching(pattern: str, rule: str) -> Callable[[str], str]:
    def check(text: str) -> str:
        if not re.fullmatch(pattern, text, re.ASCII):
            raise ValueError(f'"{text}" {rule}')
        return text

    return check


def _label(text: str) -> str:
    """One label of a DNS name, as Proxmox's installer takes it: no underscore, not digits alone."""
    if not re.fullmatch(LABEL, text):
        raise ValueError(f'"{text}" is no host name: lower-case letters, digits and inner dashes, at most 63')
    if text.isdigit():
        raise ValueError(f'"{text}" is no host name: the Proxmox installer refuses one of digits alone')
    return text


def _domain(text: str) -> str:
    labels = text.split(".")
    if len(text) > 253 or not all(re.fullmatch(LABEL, label) for label in labels):
        raise ValueError(f'"{text}" is no domain: labels of lower-case letters, digits and inner dashes')
    return text


def _host(text: str) -> str:
    if re.match(r"ssh:[^@]*:", text) and "@" in text:
        raise ValueError("must be local or ssh:user@host[:port]; a password has no place here")
    parts = re.fullmatch(r"local|ssh:[A-Za-z_][A-Za-z0-9_.-]*@[A-Za-z0-9.-]+(?::([0-9]{1,5}))?", text)
    if parts is None or int(parts[1] or 22) not in range(1, 65536):
        raise ValueError(f'"{text}" must be local or ssh:user@host[:port]')
    return text


def parse_mac(text: str) -> str:
    """A MAC address of one interface in lower case with colons; raises ValueError when it is none."""
    octets = re.split("[:-]", text.strip().lower())
    if len(octets) != 6 or not all(re.fullmatch("[0-9a-f]{2}", octet) for octet in octets):
        raise ValueError(f'"{text}" is no MAC address: six pairs of hex digits, as in ac:1f:6b:6c:5a:76')
    if set(octets) == {"00"}:
        raise ValueError(f'"{text}" is all zeros: no interface has that MAC')
    if int(octets[0], 16) & 1:
        raise ValueError(f'"{text}" is a multicast address: no interface has that MAC')
    return ":".join(octets)


def _address(given: object) -> object:
    """IPv4Address takes numbers too; a lab file has only the dotted form."""
    if not isinstance(given, str):
        return given
    try:
        return IPv4Address(given.strip())
    except AddressValueError:
        raise ValueError(f'"{given}" is no IPv4 address') from None


def _network(given: object) -> object:
    if not isinstance(given, str):
        return given
    if "/" not in given:
        raise ValueError(f'"{given}" has no prefix length; write it as 10.10.1.0/24')
    try:
        loose = IPv4Network(given.strip(), strict=False)
    except ValueError:
        raise ValueError(f'"{given}" is no IPv4 network; write it as 10.10.1.0/24') from None
    if str(loose.network_address) != given.strip().partition("/")[0]:
        raise ValueError(f'"{given}" is an address in a network; did you mean "{loose}"?')
    if not 8 <= loose.prefixlen <= 30:
        raise ValueError(f'"{given}" must have a prefix length from 8 to 30')
    return loose


def _fingerprint(text: str) -> str:
    digits = text.replace(":", "").lower()
    if not re.fullmatch("[0-9a-f]{64}", digits):
        raise ValueError(f'"{text}" is no SHA-256 fingerprint: 64 hex digits, colons as you like')
    return ":".join(digits[i : i + 2] for i in range(0, 64, 2))


def _public_key(text: str) -> str:
    """One OpenSSH public key; its type stands in the text and once more inside the base64."""
    kind, _, rest = text.strip().partition(" ")
    blob = rest.strip().partition(" ")[0]
    try:
        raw = base64.b64decode(blob, validate=True)
        (length,) = struct.unpack(">I", raw[:4])
    except (binascii.Error, struct.error, ValueError):
        raw, length = b"", 0
    if not length or raw[4 : 4 + length] != kind.encode() or not text.isprintable():
        raise ValueError(
            "is not an OpenSSH public key: a line such as ssh-ed25519 AAAA… name, or file:PATH of one"
        )
    return text.strip()


def _seconds(given: object) -> object:
    """Seconds from 15, 1.5, 90s, 6m, 1h or 1h30m."""
    if not isinstance(given, str):
        return given
    parts = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+(?:\.\d+)?)s?)?", given.strip(), re.ASCII)
    if not given.strip() or parts is None:
        raise ValueError(f'"{given}" is no duration; write 90s, 6m or 1h30m')
    hours, minutes, seconds = (float(part or 0) for part in parts.groups())
    return hours * 3600 + minutes * 60 + seconds


def _within_a_day(seconds: float) -> float:
    if not (math.isfinite(seconds) and 0 < seconds <= 86400):
        raise ValueError("a deadline is more than nothing and at most 24h")
    return seconds


def _list(given: object) -> object:
    return [given] if isinstance(given, str) else given


def _path(given: object, info: ValidationInfo) -> object:
    return absolute(given, (info.context or {}).get("base")) if isinstance(given, str) else given


def _keys(given: object, info: ValidationInfo) -> object:
    """Public keys, where an entry `file:PATH` stands for every key of that file."""
    if not isinstance(given, list | tuple):
        return given
    base = (info.context or {}).get("base")
    lines: list[object] = []
    for entry in given:
        if isinstance(entry, str) and entry.startswith("file:"):
            lines += _keys_of(absolute(entry.removeprefix("file:").strip(), base))
        else:
            lines.append(entry)
    return lines


def _keys_of(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not text"
        raise ValueError(f"the public key file {path} cannot be read: {why}") from error
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    if not lines:
        raise ValueError(f"the public key file {path} holds no key")
    return lines


def _distinct(values: tuple[T, ...]) -> tuple[T, ...]:
    twice = [value for i, value in enumerate(values) if value in values[:i]]
    if twice:
        raise ValueError(f'"{twice[0]}" stands here twice')
    return values


def _keyboard(text: str) -> str:
    if text not in KEYBOARDS:
        known = " ".join(KEYBOARDS)
        raise ValueError(f'"{text}" is no keyboard of the Proxmox installer: {known}')
    return text


def _mail(text: str) -> str:
    label = "[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
    if not re.fullmatch(rf"[A-Za-z0-9.!#$%&'*+/=?^_`{{|}}~-]+@{label}(\.{label})*", text):
        raise ValueError(f'"{text}" is no mail address')
    if text == "mail@example.invalid":
        raise ValueError("the Proxmox installer refuses mail@example.invalid")
    return text


def _without_login(given: object) -> object:
    if isinstance(given, str) and has_login(given):
        raise ValueError("has a log-in in it; it must not stand in the lab file: use an address without")
    return given


def _system(text: str) -> str:
    if text not in SYSTEMS:
        raise ValueError(
            f'"{text}" is no operating system that rackproof installs: {", ".join(SYSTEMS)}'
            + did_you_mean(text, SYSTEMS)
        )
    return text


Label = Annotated[str, AfterValidator(_label)]
Host = Annotated[str, AfterValidator(_host)]
Domain = Annotated[str, AfterValidator(_domain)]
Mac = Annotated[str, AfterValidator(parse_mac)]
Address = Annotated[IPv4Address, BeforeValidator(_address)]
Addresses = Annotated[tuple[Address, ...], BeforeValidator(_list)]
Cidr = Annotated[IPv4Network, BeforeValidator(_network)]
Fingerprint = Annotated[str, AfterValidator(_fingerprint)]
PublicKey = Annotated[str, AfterValidator(_public_key)]
PublicKeys = Annotated[
    tuple[PublicKey, ...], AfterValidator(_distinct), BeforeValidator(_keys), BeforeValidator(_list)
]
Seconds = Annotated[float, AfterValidator(_within_a_day), BeforeValidator(_seconds)]
Names = Annotated[tuple[str, ...], AfterValidator(_distinct), BeforeValidator(_list)]
FilePath = Annotated[Path, BeforeValidator(_path)]
Text = Annotated[str, AfterValidator(_matching(r"[^\x00-\x1f\x7f]+", "must be one line of text"))]
Interface = Annotated[
    str,
    AfterValidator(
        _matching("[A-Za-z][A-Za-z0-9_.-]{0,14}", "is no interface name: a letter first, at most 15 in all")
    ),
]
PinnedName = Annotated[
    str,
    # What the installer calls NICs that are not pinned, and what the kernel does before they are.
    AfterValidator(
        _matching(
            "(?!(nic|eth)[0-9]+$)[A-Za-z][A-Za-z0-9_]{1,14}",
            "cannot be pinned: 2 to 15 letters, digits or _, a letter first, and not nic0 or eth0",
        )
    ),
]
Bridge = Annotated[
    str,
    AfterValidator(
        _matching("[A-Za-z][A-Za-z0-9_]{1,14}", "is no bridge name: letters, digits and _, at most 15")
    ),
]
NetworkName = Annotated[
    str,
    # It becomes part of interface names, which have 15 characters.
    AfterValidator(_matching("[a-z][a-z0-9-]{0,11}", "is no network name: a-z, 0-9 and -, at most 12")),
]
ClusterName = Annotated[
    str,
    AfterValidator(
        _matching(
            "[A-Za-z0-9]([A-Za-z0-9-]{0,13}[A-Za-z0-9])?",
            "is no cluster name: letters, digits and inner dashes, at most 15 characters",
        )
    ),
]
Glob = Annotated[
    str,
    AfterValidator(
        _matching(r"(?=.*[^*?])[\x21-\x7e]+", "names no disk: at least one character that is not * or ?")
    ),
]
DiskGlob = Annotated[Glob, AfterValidator(installer_glob)]
Device = Annotated[str, AfterValidator(_matching("[a-z]+[a-z0-9]*", "is no disk name such as sda"))]
System = Annotated[str, AfterValidator(_system)]
Sha256 = Annotated[str, AfterValidator(_matching("[0-9a-f]{64}", "is no SHA-256: 64 lower-case hex digits"))]
Storage = Annotated[str, AfterValidator(_matching("[A-Za-z][A-Za-z0-9_.-]*", "is no storage name"))]
User = Annotated[str, AfterValidator(_matching("[a-z_][a-z0-9_-]{0,31}", "is no user name"))]
Account = Annotated[
    str,
    AfterValidator(
        _matching("[a-z][a-z0-9._-]{0,31}", "is no account name: a-z first, then 0-9 . _ -, at most 32")
    ),
]
Country = Annotated[str, AfterValidator(_matching("[a-z]{2}", "is no country code of two letters"))]
Keyboard = Annotated[str, AfterValidator(_keyboard)]
Timezone = Annotated[str, AfterValidator(_matching("[A-Za-z][A-Za-z0-9_+/-]*", "is no time zone"))]
Mail = Annotated[str, AfterValidator(_mail)]
Mtu = Annotated[int, Field(ge=1280, le=65520)]
Url = Annotated[
    str,
    AfterValidator(_matching(r"https?://[\x21-\x7e]+", "is no http or https address")),
    BeforeValidator(_without_login),
]


class Part(BaseModel):
    """A part of a lab: fixed once read, and without keys that nobody knows."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class DhcpRange(Part):
    """The addresses that strangers may lease, both ends included; in a lab file `start-end`."""

    start: Address
    end: Address

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, given: object) -> object:
        if not isinstance(given, str):
            return given
        start, dash, end = given.partition("-")
        if not dash:
            raise ValueError(f'"{given}" is no range; write it as 10.10.1.100-10.10.1.199')
        return {"start": start.strip(), "end": end.strip()}

    @model_validator(mode="after")
    def _upwards(self) -> DhcpRange:
        if self.end < self.start:
            raise ValueError(f"the range ends at {self.end}, before it starts at {self.start}")
        return self

    def __contains__(self, address: IPv4Address) -> bool:
        return self.start <= address <= self.end

    def __str__(self) -> str:
        return f"{self.start}-{self.end}"


class Network(Part):
    """One of the lab's networks, as every node meets it: a bridge on a NIC."""

    name: NetworkName
    cidr: Cidr
    gateway: Address | None = None
    dns: Addresses = ()
    dhcp: DhcpRange | None = None
    bridge: Bridge
    nic: Interface | None = None
    mtu: Mtu = 1500


class Server(Part):
    """The provisioning server: `host` is `local` or `ssh:user@host[:port]`.

    `iso_tokens` are the bearer tokens of prepared ISOs, each "name:secret", the secrets by their names.
    """

    host: Host = "local"
    name: Label = "server"
    address: Address
    lan: Interface | None = None
    wan: Interface | None = None
    wan_probe: Address | None = None
    firewall: Firewall | None = None
    bridge: ServerBridge | None = None
    node_exporter: bool = False
    host_key: PublicKey | None = None
    identity: FilePath | None = None
    key: FilePath | None = None
    iso_tokens: dict[Account, Secret] = {}


class Bmc(Part):
    """A node's console: its Redfish service, how to log in, and how its certificate is judged."""

    name: Label
    address: Address
    mac: Mac | None = None
    user: Secret
    password: Secret
    trust: Literal["system", "pinned", "ca"] = "system"
    ca: FilePath | None = None
    fingerprint: Fingerprint | None = None
    system: Text | None = None

    @model_validator(mode="after")
    def _trust_has_its_means(self) -> Bmc:
        if self.trust == "ca" and self.ca is None:
            raise ValueError("trust is ca, but ca names no file")
        if self.ca is not None and self.trust != "ca":
            raise ValueError(f"ca is given, but trust is {self.trust}")
        if self.fingerprint is not None and self.trust != "pinned":
            raise ValueError(f"fingerprint is given, but trust is {self.trust}")
        return self


class Disk(Part):
    """The disk that the OS goes to, or the disks, found by one udev property; globs but for `serials`.

    `device` and `devices` are kernel names such as sda and the last resort: they may name other disks after
    a reboot.
    """

    filesystem: Literal["ext4", "xfs", "zfs", "btrfs"] = "ext4"
    raid: Literal["raid0", "raid1", "raid10", "raidz-1", "raidz-2", "raidz-3"] | None = None
    serial: DiskGlob | None = None
    wwn: DiskGlob | None = None
    model: DiskGlob | None = None
    device: Device | None = None
    serials: Annotated[tuple[Serial, ...], AfterValidator(_distinct), Field(min_length=1)] | None = None
    devices: Annotated[tuple[Device, ...], AfterValidator(_distinct), Field(min_length=1)] | None = None
    udev: Annotated[dict[UdevKey, DiskGlob], Field(min_length=1, max_length=1)] | None = None
    zfs: Zfs | None = None
    lvm: Lvm | None = None
    btrfs: Btrfs | None = None

    @property
    def table(self) -> Literal["zfs", "lvm", "btrfs"]:
        """The installer's table of options for this filesystem."""
        tables: dict[str, Literal["zfs", "btrfs"]] = {"zfs": "zfs", "btrfs": "btrfs"}
        return tables.get(self.filesystem, "lvm")

    @property
    def count(self) -> int | None:
        """How many disks are named; None where a glob may fit any number."""
        if listed := self.serials or self.devices:
            return len(listed)
        one = self.device or next((glob for glob in (self.serial, self.wwn) if glob), None)
        return 1 if one is not None and names_one(one) else None

    @model_validator(mode="after")
    def _one_way_to_find_it(self) -> Disk:
        # The installer takes the first disk for which any one of several properties matches.
        given = [key for key in SELECTORS if getattr(self, key) is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} are given; the installer would take either: keep one")
        if self.serials and (fault := serials_fault(self.serials)):
            raise ValueError(fault)
        return self

    @model_validator(mode="after")
    def _layout_is_taken(self) -> Disk:
        tables = {"zfs": self.zfs, "lvm": self.lvm, "btrfs": self.btrfs}
        for fault in layout_faults(self.filesystem, self.raid, tables, self.count):
            raise ValueError(fault)
        return self


SELECTORS = ("serial", "wwn", "model", "device", "serials", "devices", "udev")
"""The keys of Disk that say which disk."""


class Locale(Part):
    """What the installer asks of place and language; the keyboard is one of the Proxmox installer's."""

    country: Country = "us"
    keyboard: Keyboard = "en-us"
    timezone: Timezone = "UTC"


class Node(Part):
    """One bare-metal server; `addresses`, `nics` and `macs` are by network name."""

    name: Label
    domain: Domain
    mac: Mac
    addresses: dict[str, Address]
    nics: dict[str, Interface]
    macs: dict[str, Mac] = {}
    bmc: Bmc
    os: System
    disk: Disk
    root_password: Secret
    ssh_keys: PublicKeys = ()
    serial: Text | None = None
    locale: Locale = Locale()
    mailto: Mail | None = None
    host_keys: Literal["installer", "made-here"] = "installer"
    interface_names: dict[PinnedName, Mac] = {}
    reboot_on_error: bool = False
    subscription: Secret | None = None
    storage_layout: ubuntu.Layout = "direct"
    packages: Annotated[tuple[ubuntu.Package, ...], AfterValidator(_distinct), BeforeValidator(_list)] = ()
    first_boot: FirstBoot = FirstBoot()
    firmware: Firmware = "uefi"

    @model_validator(mode="after")
    def _fqdn_fits(self) -> Node:
        if len(self.fqdn) > 253:
            raise ValueError(f"its full name {self.fqdn} is longer than 253 characters")
        return self

    @property
    def mail(self) -> str:
        """Where the node's own mail goes."""
        return self.mailto or f"root@{self.domain}"

    @property
    def fqdn(self) -> str:
        """The node's full name."""
        return f"{self.name}.{self.domain}"

    @property
    def is_proxmox(self) -> bool:
        """Whether Proxmox is installed on it."""
        return self.os.startswith("proxmox")

    @property
    def management(self) -> IPv4Address:
        """The node's address on the management network."""
        return self.addresses[MANAGEMENT]

    @property
    def network_target(self) -> Target:
        """What its BMC calls the network boot that its firmware is to do."""
        return CHAINS[self.firmware].target

    @property
    def boot_mode(self) -> Mode:
        """What its BMC calls the mode of its firmware."""
        return CHAINS[self.firmware].mode

    @property
    def all_macs(self) -> frozenset[str]:
        """Every MAC of the node's own NICs that the lab file names, the console's not among them."""
        return frozenset([self.mac, *self.macs.values()])


class Cluster(Part):
    """The Proxmox cluster: `links` are network names, link 0 first; `migration` is one too."""

    name: ClusterName
    primary: str
    links: Annotated[Names, Field(min_length=1, max_length=8)] = (MANAGEMENT,)
    migration: str | None = None


class OsdDisk(Part):
    """A disk for Ceph, named by what does not change when disks are moved; serial and WWN may be globs."""

    serial: Glob | None = None
    wwn: Glob | None = None
    by_id: Text | None = None

    @model_validator(mode="before")
    @classmethod
    def _not_by_device_name(cls, given: object) -> object:
        if not isinstance(given, str):
            return given
        if given.startswith("/dev/disk/by-id/"):
            return {"by_id": given.removeprefix("/dev/disk/by-id/")}
        raise ValueError(f'"{given}" may be another disk after a reboot; give its serial, wwn or by_id')

    @model_validator(mode="after")
    def _one_name(self) -> OsdDisk:
        if sum(name is not None for name in (self.serial, self.wwn, self.by_id)) != 1:
            raise ValueError("give exactly one of serial, wwn and by_id")
        return self


class Osds(Part):
    """The disks for Ceph by node name, or under `all` for every node; DB and WAL devices alike."""

    device_class: Annotated[str, AfterValidator(_matching("[a-z0-9_-]+", "is no device class"))] | None = None
    disks: dict[str, tuple[OsdDisk, ...]]
    db: dict[str, OsdDisk] = {}
    wal: dict[str, OsdDisk] = {}


class Pool(Part):
    """A Ceph pool."""

    application: Literal["rbd", "cephfs", "rgw"] = "rbd"
    size: Annotated[int, Field(ge=2, le=7)] = 3
    min_size: Annotated[int, Field(ge=2, le=7)] = 2
    autoscale: Literal["on", "off", "warn"] = "on"
    target_ratio: Annotated[float, Field(gt=0, le=1000)] | None = None
    storage: bool = True

    @model_validator(mode="after")
    def _min_size_can_be_met(self) -> Pool:
        if self.min_size > self.size:
            raise ValueError(f"min_size {self.min_size} is more than size {self.size}")
        return self

    @property
    def is_storage(self) -> bool:
        """Whether it becomes a Proxmox storage: Proxmox has none for what is not RBD."""
        return self.storage and self.application == "rbd"


class CephFs(Part):
    """A Ceph file system and the nodes that run its metadata servers."""

    name: Label = "cephfs"
    mds: Names = ()
    storage: bool = True


class Ceph(Part):
    """Ceph as asked for; `public`, `cluster` are network names, `monitors`, `managers` node names.

    Empty `monitors` and `managers` mean the first three and the first two nodes of Proxmox.
    """

    release: Literal["squid", "tentacle"]
    repository: Literal["enterprise", "no-subscription", "test"] = "no-subscription"
    public: str = "storage"
    cluster: str | None = None
    monitors: Names = ()
    managers: Names = ()
    osds: Osds
    pools: dict[Label, Pool] = {}
    cephfs: CephFs | None = None
    allowed_warnings: Names = ()


class Image(Part):
    """A cloud image: where it is, where else, and its checksum."""

    url: Url
    mirrors: Annotated[tuple[Url, ...], BeforeValidator(_list)] = ()
    sha256: Sha256


class InstallImage(Image):
    """An installer's ISO as its makers publish it; `size` in bytes.

    `grub` asks for one more file: the initrd with the ISO inside, for nodes that GRUB starts.
    """

    size: Annotated[int, Field(ge=1)] | None = None
    grub: bool = False


class Template(Part):
    """A VM template; memory in MiB, disk in GiB, `cloud_init` the text of further cloud-config."""

    name: Annotated[str, AfterValidator(_domain)]
    image: Image
    memory: Annotated[int, Field(ge=128)] = 2048
    cores: Annotated[int, Field(ge=1, le=512)] = 2
    disk: Annotated[int, Field(ge=1)] | None = None
    storage: Storage = "rbd"
    bridge: Bridge = "vmbr0"
    user: User = "ubuntu"
    ssh_keys: PublicKeys = ()
    cloud_init: str | None = None


def _kebab(name: str) -> str:
    return name.replace("_", "-")


class Deadlines(Part):
    """How long each phase may take, in seconds; in a lab file 90s, 6m or 1h30m under kebab-case keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", alias_generator=_kebab, populate_by_name=True)

    server: Seconds = 600.0
    power: Seconds = 300.0
    dhcp: Seconds = 360.0
    boot_script: Seconds = 120.0
    answer: Seconds = 240.0
    installed: Seconds = 1500.0
    first_boot: Seconds = 900.0
    registered: Seconds = 600.0
    cluster: Seconds = 300.0
    join: Seconds = 180.0
    ceph: Seconds = 1200.0
    templates: Seconds = 1800.0
    images: Seconds = 7200.0


def _isos(folder: Path) -> list[Path]:
    try:
        return sorted(folder.glob("*.iso"))
    except OSError:
        # Who only reads a lab needs no media; the server step says what is missing.
        return []


def _first_of(folder: Path, *names: str) -> Path:
    """The first of these files that is there, else the first of all."""
    return next((folder / name for name in names if (folder / name).exists()), folder / names[0])


class InstallMedia(Part):
    """Kernel, initrd and prepared ISO of an installer; in a lab file the folder that holds the three.

    The file names are those that `proxmox-auto-install-assistant prepare-iso --pxe` leaves, or those of
    Ubuntu's netboot files and of casper/ in its ISO. `combined` is the initrd with the ISO inside, which
    GRUB starts.
    """

    vmlinuz: FilePath
    initrd: FilePath
    iso: FilePath
    combined: FilePath | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_folder(cls, given: object, info: ValidationInfo) -> object:
        if not isinstance(given, str | Path):
            return given
        folder = absolute(str(given), (info.context or {}).get("base"))
        isos = _isos(folder)
        return {
            "vmlinuz": _first_of(folder, "vmlinuz", "linux"),
            "initrd": _first_of(folder, "initrd.img", "initrd"),
            "iso": isos[0] if len(isos) == 1 else folder / "proxmox.iso",
            "combined": folder / COMBINED if (folder / COMBINED).exists() else None,
        }


class Person(Part):
    """Somebody who may look at the rack (viewer) or act on it (operator), by a password or an API token."""

    role: Literal["viewer", "operator"]
    password: Secret | None = None
    token: Secret | None = None

    @model_validator(mode="after")
    def _one_secret(self) -> Person:
        if (self.password is None) == (self.token is None):
            raise ValueError("give exactly one of password and token")
        return self

    @property
    def proof(self) -> Literal["password", "token"]:
        """What this person proves to be somebody by."""
        return "token" if self.password is None else "password"

    @property
    def secret(self) -> Secret:
        """The password or the token."""
        secret = self.password or self.token
        assert secret is not None, "the model has one of the two"
        return secret


class Lab(Part):
    """One rack, as its lab file describes it.

    `classic` lets the installers and nodes of a classic lab use its paths, which know no token.
    """

    name: Label
    domain: Domain
    virtual: bool = False
    classic: bool = False
    server: Server
    networks: dict[str, Network]
    nodes: dict[str, Node]
    cluster: Cluster | None = None
    ceph: Ceph | None = None
    templates: dict[Annotated[int, Field(ge=100, le=999_999_999)], Template] = {}
    deadlines: Deadlines = Deadlines()
    media: dict[System, InstallMedia] = {}
    images: dict[System, InstallImage] = {}
    people: dict[Account, Person] = {}

    @property
    def management(self) -> Network:
        """The network that nodes boot from and are reached on."""
        return self.networks[MANAGEMENT]

    @property
    def has_operator(self) -> bool:
        """Whether anybody may act on the rack from the dashboard or by the API."""
        return any(person.role == "operator" for person in self.people.values())

    @property
    def proxmox(self) -> Lab:
        """The lab without the nodes of another system: its cluster, Ceph and templates know none of them."""
        nodes = {name: node for name, node in self.nodes.items() if node.is_proxmox}
        return self.model_copy(update={"nodes": nodes})

    @property
    def link_networks(self) -> list[Network]:
        """The networks of the cluster's links, link 0 first; none without a cluster."""
        return [self.networks[name] for name in self.cluster.links] if self.cluster else []

    @property
    def asked_ceph(self) -> Ceph | None:
        """The Ceph asked for, with the nodes of daemons that the lab file leaves to their defaults."""
        if self.ceph is None:
            return None
        ceph, nodes = self.ceph, tuple(self.proxmox.nodes)
        cephfs = ceph.cephfs and ceph.cephfs.model_copy(update={"mds": ceph.cephfs.mds or nodes[:2]})
        said = {"monitors": ceph.monitors or nodes[:3], "managers": ceph.managers or nodes[:2]}
        return ceph.model_copy(update={**said, "cephfs": cephfs})

    @property
    def primary(self) -> Node:
        """The node that the cluster is created on; raises ValueError for a lab without a cluster."""
        if self.cluster is None:
            raise ValueError(f"lab {self.name} has no cluster, so it has no primary node")
        return self.nodes[self.cluster.primary]

    def only(self, names: Iterable[str]) -> tuple[str, ...]:
        """The given node names, in the lab's order; raises InventoryError naming those that are no nodes."""
        wanted = list(names)
        mistakes = [
            Mistake("--nodes", None, "", f'"{name}" is not a node{did_you_mean(name, self.nodes)}')
            for name in wanted
            if name not in self.nodes
        ]
        if mistakes:
            raise InventoryError(mistakes)
        return tuple(name for name in self.nodes if name in wanted)
