"""Ceph, its disks and its storages, by the Proxmox VE API.

Calls and answers: pve-manager's `API2/Ceph.pm`, `API2/Ceph/*.pm` and `API2/Cluster/Ceph.pm`, pve-storage's
`API2/Disks.pm` and `API2/Storage/Config.pm`. All functions raise what a Session raises; those that begin a
task return its UPID, and those that act on a node act on the session's own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from pydantic import Field

from provision.pve.session import Reply, Session

UNKNOWN = "unknown"
"""What Proxmox says in place of a serial number or WWN that a disk does not tell."""

# Reading


class Disk(Reply):
    """A disk, or a partition of the disk `parent`, in `GET /nodes/{node}/disks/list`; `size` in bytes.

    `used` is None for a free one, else LVM, ZFS, partitions, mounted, Device Mapper or a file system's name.
    """

    devpath: str
    size: int = 0
    serial: str | None = None
    wwn: str | None = None
    model: str | None = None
    by_id_link: str | None = None
    used: str | None = None
    mounted: bool = False
    parent: str | None = None

    @property
    def name(self) -> str:
        """What it is known by: its serial number, else its WWN, else its device."""
        return next((text for text in (self.serial, self.wwn) if text and text != UNKNOWN), self.devpath)


class Check(Reply):
    """A health check of Ceph; `message` is its summary."""

    severity: str = ""
    muted: bool = False
    summary: dict[str, Any] = Field(default_factory=dict)

    @property
    def message(self) -> str:
        """Its summary in words."""
        return str(self.summary.get("message", ""))


class Health(Reply):
    """Ceph's health: HEALTH_OK, HEALTH_WARN or HEALTH_ERR, and the checks that say so, by name."""

    status: str
    checks: dict[str, Check] = Field(default_factory=dict)


class OsdMap(Reply):
    """How many OSDs there are."""

    num_osds: int = 0
    num_up_osds: int = 0
    num_in_osds: int = 0


class PgMap(Reply):
    """Placement groups and usage; sizes in bytes."""

    num_pgs: int = 0
    num_pools: int = 0
    num_objects: int = 0
    pgs_by_state: tuple[dict[str, Any], ...] = ()
    data_bytes: int = 0
    bytes_used: int = 0
    bytes_avail: int = 0
    bytes_total: int = 0

    @property
    def states(self) -> dict[str, int]:
        """How many placement groups are in which state, such as "active+clean"."""
        return {str(entry["state_name"]): int(entry["count"]) for entry in self.pgs_by_state}


class MgrMap(Reply):
    """The managers."""

    available: bool = False
    active_name: str = ""
    standbys: tuple[dict[str, Any], ...] = ()

    @property
    def names(self) -> frozenset[str]:
        """The active one and those that stand by."""
        standing_by = {str(entry["name"]) for entry in self.standbys}
        return frozenset(standing_by | ({self.active_name} if self.active_name else set()))


class MonMap(Reply):
    """The monitors that belong to the cluster, whether they run or not."""

    mons: tuple[dict[str, Any], ...] = ()

    @property
    def addresses(self) -> dict[str, str]:
        """Each monitor's address, without port, by its name."""
        return {str(entry["name"]): _address(entry) for entry in self.mons}


class Status(Reply):
    """`GET /cluster/ceph/status`: that of `ceph status`, with the whole maps of monitors and managers."""

    fsid: str
    health: Health
    quorum_names: tuple[str, ...] = ()
    monmap: MonMap = MonMap()
    mgrmap: MgrMap = MgrMap()
    osdmap: OsdMap = OsdMap()
    pgmap: PgMap = PgMap()


class Osd(Reply):
    """An OSD in the CRUSH tree; `up` and `in_` are Ceph's words for running and for holding data."""

    id: int
    host: str = ""
    status: str = ""
    in_: bool = Field(default=False, alias="in")
    device_class: str = ""

    @property
    def up(self) -> bool:
        """Whether it runs, as the monitors see it."""
        return self.status == "up"


class Autoscale(Reply):
    """What the autoscaler says of a pool: how many PGs it will have soon, and whether that will change."""

    pg_num_target: int
    pg_num_final: int
    would_adjust: bool = False


class Pool(Reply):
    """A pool in `GET /nodes/{node}/ceph/pool`; `autoscale_status` is None while no autoscaler answers.

    Without it, Proxmox does not tell `target_size_ratio` either.
    """

    pool_name: str
    size: int
    min_size: int
    pg_num: int
    pg_autoscale_mode: str | None = None
    target_size_ratio: float | None = None
    autoscale_status: Autoscale | None = None
    application_metadata: dict[str, Any] = Field(default_factory=dict)


class FileSystem(Reply):
    """A CephFS."""

    name: str


class Mds(Reply):
    """A metadata server; `state` is up:active, up:standby and the like."""

    name: str
    state: str = ""
    fs_name: str | None = None


class Storage(Reply):
    """An entry of the cluster's storage configuration; `content` is a list with commas."""

    storage: str
    type: str
    content: str = ""
    pool: str | None = None
    krbd: bool = False

    @property
    def contents(self) -> frozenset[str]:
        """What may be stored there."""
        return frozenset(filter(None, self.content.split(",")))


class Safety(Reply):
    """Whether Ceph holds an act for harmless, and why (not)."""

    safe: bool
    status: str = ""


class TaskRow(Reply):
    """A task in a node's list; one that runs has no end."""

    upid: str
    type: str
    endtime: int | None = None


def disks(session: Session) -> list[Disk]:
    """The node's disks and their partitions, without asking for their health."""
    asked = {"include-partitions": 1, "skipsmart": 1}
    return session.read(list[Disk], session.api.nodes(session.node).disks.list.get(**asked))


def running_tasks(session: Session) -> list[TaskRow]:
    """The tasks about Ceph that run on the node now."""
    rows = session.read(list[TaskRow], session.api.nodes(session.node).tasks.get(source="active", limit=500))
    return [row for row in rows if row.type.startswith("ceph") and row.endtime is None]


def status(session: Session) -> Status:
    """The cluster's state; an error of status 500 without a quorum of monitors."""
    return session.read(Status, session.api.cluster.ceph.status.get())


def osds(session: Session) -> dict[int, Osd]:
    """The OSDs in the CRUSH tree, by id."""
    tree = session.read(dict[str, Any], session.api.nodes(session.node).ceph.osd.get())
    found = session.read(list[Osd], list(_leaves(tree.get("root") or {})))
    return {osd.id: osd for osd in found}


def pools(session: Session) -> list[Pool]:
    """All pools, Ceph's own among them."""
    return session.read(list[Pool], session.api.nodes(session.node).ceph.pool.get())


def file_systems(session: Session) -> list[FileSystem]:
    """All CephFS."""
    return session.read(list[FileSystem], session.api.nodes(session.node).ceph.fs.get())


def metadata_servers(session: Session) -> dict[str, Mds]:
    """The metadata servers by name."""
    found = session.read(list[Mds], session.api.nodes(session.node).ceph.mds.get())
    return {mds.name: mds for mds in found}


def safe_to_destroy(session: Session, service: Literal["osd", "mon"], name: str) -> Safety:
    """Whether a monitor or OSD can be destroyed without harm, in Ceph's own judgement."""
    asked = {"service": service, "id": name, "action": "destroy"}
    return session.read(Safety, session.api.nodes(session.node).ceph("cmd-safety").get(**asked))


def storages(session: Session) -> dict[str, Storage]:
    """The cluster's storages by name."""
    found = session.read(list[Storage], session.api.storage.get())
    return {entry.storage: entry for entry in found}


def migration(session: Session) -> dict[str, str]:
    """How guests migrate, as `datacenter.cfg` says: "type" and "network"; empty when it says nothing."""
    options = session.read(dict[str, Any], session.api.cluster.options.get())
    told = options.get("migration") or {}
    if isinstance(told, str):
        words = (word.partition("=") for word in told.split(","))
        return {key if is_pair else "type": value if is_pair else key for key, is_pair, value in words}
    return {str(key): str(value) for key, value in session.read(dict[str, Any], told).items()}


# Changing


def init(session: Session, network: str | None = None, cluster_network: str | None = None) -> None:
    """Write ceph.conf, where there is none, with these networks (CIDR), and let the node see it.

    May be repeated: fsid and keys stay; networks that are given replace those that are written there.
    """
    fields = {"network": network, "cluster-network": cluster_network}
    given = {name: value for name, value in fields.items() if value}
    session.api.nodes(session.node).ceph.init.post(**given)


def create_monitor(session: Session, address: str) -> str:
    """Begin a monitor at this address of the node; the first one brings a manager along."""
    api = session.api.nodes(session.node).ceph.mon(session.node)
    return session.upid(api.post(**{"mon-address": address}))


def destroy_monitor(session: Session) -> str:
    """Begin to take the node's monitor out of the cluster."""
    return session.upid(session.api.nodes(session.node).ceph.mon(session.node).delete())


def create_manager(session: Session) -> str:
    """Begin a manager on the node."""
    return session.upid(session.api.nodes(session.node).ceph.mgr(session.node).post())


def destroy_manager(session: Session) -> str:
    """Begin to remove the node's manager."""
    return session.upid(session.api.nodes(session.node).ceph.mgr(session.node).delete())


def create_metadata_server(session: Session) -> str:
    """Begin a metadata server on the node."""
    return session.upid(session.api.nodes(session.node).ceph.mds(session.node).post())


def destroy_metadata_server(session: Session) -> str:
    """Begin to remove the node's metadata server."""
    return session.upid(session.api.nodes(session.node).ceph.mds(session.node).delete())


def start(session: Session, service: str) -> str:
    """Begin to start a daemon of the node: "mon.node1", "osd.3"."""
    return session.upid(session.api.nodes(session.node).ceph.start.post(service=service))


def create_osd(
    session: Session, device: str, *, device_class: str | None, db: str | None, wal: str | None
) -> str:
    """Begin an OSD on a free disk, with DB and WAL on volumes of other disks; for root@pam alone."""
    fields = {"dev": device, "crush-device-class": device_class, "db_dev": db, "wal_dev": wal}
    given = {name: value for name, value in fields.items() if value}
    return session.upid(session.api.nodes(session.node).ceph.osd.post(**given))


def destroy_osd(session: Session, osd: int) -> str:
    """Begin to remove an OSD, which is down and out, from the cluster; for root@pam alone."""
    return session.upid(session.api.nodes(session.node).ceph.osd(osd).delete())


def take_in(session: Session, osd: int) -> None:
    """Let an OSD hold data."""
    session.api.nodes(session.node).ceph.osd(osd)("in").post()


def take_out(session: Session, osd: int) -> None:
    """Let an OSD hold no data any more."""
    session.api.nodes(session.node).ceph.osd(osd).out.post()


def create_pool(session: Session, name: str, settings: Mapping[str, Any]) -> str:
    """Begin a replicated pool; `settings` in the API's words, such as size and pg_autoscale_mode."""
    return session.upid(session.api.nodes(session.node).ceph.pool.post(name=name, add_storages=0, **settings))


def change_pool(session: Session, name: str, settings: Mapping[str, Any]) -> str:
    """Begin to change these settings of a pool."""
    return session.upid(session.api.nodes(session.node).ceph.pool(name).put(**settings))


def create_file_system(session: Session, name: str, pg_num: int) -> str:
    """Begin a CephFS with pools of its own; needs a metadata server that stands by."""
    return session.upid(session.api.nodes(session.node).ceph.fs(name).post(pg_num=pg_num))


def add_storage(session: Session, name: str, kind: str, settings: Mapping[str, Any]) -> None:
    """Add a storage of that type to the cluster's configuration."""
    session.api.storage.post(storage=name, type=kind, **settings)


def change_storage(session: Session, name: str, settings: Mapping[str, Any]) -> None:
    """Change these settings of a storage."""
    session.api.storage(name).put(**settings)


def set_migration(session: Session, network: str) -> None:
    """Let guests migrate, encrypted, over the network (CIDR)."""
    session.api.cluster.options.put(migration=f"type=secure,network={network}")


def _address(entry: Mapping[str, Any]) -> str:
    vector = (entry.get("public_addrs") or {}).get("addrvec") or [{}]
    text = str(vector[0].get("addr") or entry.get("public_addr") or entry.get("addr") or "")
    return text.partition("/")[0].rpartition(":")[0].strip("[]")


def _leaves(entry: Mapping[str, Any], host: str = "") -> Iterator[dict[str, Any]]:
    """The OSDs below an entry of the tree, each with the host that it hangs from."""
    inside = str(entry.get("name")) if entry.get("type") == "host" else host
    if entry.get("type") == "osd":
        yield {"host": inside, **entry}
    for child in entry.get("children") or ():
        yield from _leaves(child, inside)
