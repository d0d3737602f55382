"""What a lab is: networks, provisioning server, nodes, cluster, storage, templates, deadlines."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
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
    layout_faults,
    names_one,
    serials_fault,
)
from provision.inventory.firewall import Firewall
from provision.inventory.first_boot import FirstBoot
from provision.inventory.images import COMBINED
from provision.inventory.light import LIGHT, Kind
from provision.inventory.pace import Link, Power
from provision.inventory.secret import Secret, absolute
from provision.inventory.words import (
    MANAGEMENT,
    Account,
    Address,
    Addresses,
    Bridge,
    Cidr,
    ClusterName,
    Country,
    Device,
    DiskGlob,
    Domain,
    FilePath,
    Fingerprint,
    Glob,
    Host,
    Interface,
    Keyboard,
    Label,
    Mac,
    Mail,
    Mtu,
    Names,
    NetworkName,
    Package,
    Part,
    PinnedName,
    PublicKey,
    PublicKeys,
    Seconds,
    Sha256,
    Storage,
    System,
    Text,
    Timezone,
    Url,
    User,
    did_you_mean,
    distinct,
    listed,
    matching,
)


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
    """The provisioning server: `host` is `local` or `ssh:user@host[:port]`, `link` in bits a second.

    `iso_tokens` are the bearer tokens of prepared ISOs, each "name:secret", the secrets by their names.
    """

    host: Host = "local"
    name: Label = "server"
    address: Address
    lan: Interface | None = None
    link: Link | None = None
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
    serials: Annotated[tuple[Serial, ...], AfterValidator(distinct), Field(min_length=1)] | None = None
    devices: Annotated[tuple[Device, ...], AfterValidator(distinct), Field(min_length=1)] | None = None
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
    packages: Annotated[tuple[Package, ...], AfterValidator(distinct), BeforeValidator(listed)] = ()
    first_boot: FirstBoot = FirstBoot()
    firmware: Firmware = "uefi"
    kind: Kind = "full"
    host_key: PublicKey | None = None
    real_firmware: bool = False

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

    device_class: Annotated[str, AfterValidator(matching("[a-z0-9_-]+", "is no device class"))] | None = None
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
    mirrors: Annotated[tuple[Url, ...], BeforeValidator(listed)] = ()
    sha256: Sha256


class InstallImage(Image):
    """An installer's ISO as its makers publish it; `size` in bytes.

    `grub` asks for one more file: the initrd with the ISO inside, for nodes that GRUB starts.
    """

    size: Annotated[int, Field(ge=1)] | None = None
    grub: bool = False


class Template(Part):
    """A VM template; memory in MiB, disk in GiB, `cloud_init` the text of further cloud-config."""

    name: Domain
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
    power: Power = Power()
    deadlines: Deadlines = Deadlines()
    media: dict[System, InstallMedia] = {}
    images: dict[System, InstallImage] = {}
    people: dict[Account, Person] = {}

    @property
    def management(self) -> Network:
        """The network that nodes boot from and are reached on."""
        return self.networks[MANAGEMENT]

    @property
    def is_light(self) -> bool:
        """Whether its nodes stand as they are and are never installed; of such nodes it has no others."""
        return any(node.kind == LIGHT for node in self.nodes.values())

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
