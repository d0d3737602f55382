"""Ceph for the fake Proxmox VE of pve_api.py, judged by Proxmox's own API schema, with the traps of the real one.

Daemons come up on the rack's own clock; what pveceph and the API refuse is refused here.
"""

from __future__ import annotations

import base64
import itertools
import json
import re
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from provision.ceph import OSD_DUMP
from provision.ceph_daemons import TRACKING
from provision.ceph_survey import PROGRAMS, SURVEY
from provision.pve import FINGERPRINT_COMMAND
from provision.remote import Output, Remote, Stdin
from tests.unit.guest_api import judge
from tests.unit.pve_api import ApiError, FakeNode, FakeRack

OTHER_FSID = "11111111-2222-3333-4444-555555555555"
GB = 10**9


@dataclass
class FakeVolume:
    """A logical volume of ceph-volume, or of somebody else when it has no tags."""

    group: str
    name: str
    tags: dict[str, str] = field(default_factory=dict)
    open: bool = False


@dataclass
class FakeDisk:
    """A disk or a partition; None for `volumes` is one that LVM does not know."""

    devpath: str
    serial: str
    wwn: str = "unknown"
    used: str | None = None
    mounted: bool = False
    parent: str | None = None
    volumes: list[FakeVolume] | None = None
    content: str = ""

    @property
    def usage(self) -> str | None:
        return self.used or (None if self.volumes is None else "LVM")

    def leave(self, fsid: str, osd: int, osd_fsid: str | None = None, part: str = "block") -> FakeVolume:
        """A volume as ceph-volume makes it."""
        tags = {
            "cluster_fsid": fsid,
            "osd_id": str(osd),
            "osd_fsid": osd_fsid or str(uuid.uuid4()),
            "type": part,
        }
        volume = FakeVolume(f"ceph-{uuid.uuid4()}", f"osd-{part}-{uuid.uuid4()}", tags)
        self.volumes = [*(self.volumes or []), volume]
        return volume


@dataclass
class FakeOsd:
    uuid: str
    host: str
    device_class: str
    up: bool = False
    in_: bool = True


class CephNode(FakeNode):
    """A node with disks and, once it is installed, Ceph."""

    rack: CephRack

    def __init__(self, rack: CephRack, name: str, addresses: list[str]) -> None:
        super().__init__(rack, name, addresses)
        number = int(name[-1])
        system = FakeDisk("/dev/sda", f"SYSTEM{number}", mounted=True, used="partitions")
        self.disks = [system, FakeDisk("/dev/sda2", f"SYSTEM{number}", used="EFI", parent="/dev/sda"),
                      FakeDisk("/dev/sdb", f"OSD{number}", wwn=f"0x5002538{number}")]  # fmt: skip
        self.installed, self.sources, self.release = False, ["enterprise"], "squid"
        self.linked = False
        self.homes: set[str] = set()
        self.active: set[str] = set()
        self.leap, self.offset = "Normal", 0.0001
        # Faults that a test plants
        self.apt_locked_until = 0.0
        self.install_fails: str | None = None
        self.osd_fails: str | None = None

    def disk(self, devpath: str) -> FakeDisk:
        return next(disk for disk in self.disks if disk.devpath == devpath)

    def reinstalled(self) -> None:
        """Fresh system disk; what is on the others stays, and the cluster remembers the node."""
        self.installed, self.sources, self.linked = False, ["enterprise"], False
        self.homes, self.active = set(), set()
        for osd in self.rack.osds.values():
            if osd.host == self.name:
                osd.up = False

    # What it says over SSH

    def ceph_survey(self) -> str:
        said = {
            "programs": " ".join(PROGRAMS) if self.installed else "",
            "installing": "",
            "version": f"ceph version 19.2.3 (abc) {self.release} (stable)" if self.installed else "",
            "sources": " ".join(self.sources),
            "linked": "/etc/pve/ceph.conf" if self.linked else "",
            "conf": base64.b64encode(self.rack.conf_text().encode()).decode(),
            "homes": " ".join(home.replace(".", "/ceph-") for home in sorted(self.homes)),
            "active": " ".join(f"ceph-{name.replace('.', '@')}.service" for name in sorted(self.active)),
            "system": "/dev/sda",
            "links": " ".join(f"ata-{disk.serial}={disk.devpath}" for disk in self.disks),
            "volumes": json.dumps({"report": [{"pv": list(self._pvs())}]}),
        }
        return "".join(f"{key}={value}\n" for key, value in said.items())

    def _pvs(self) -> Iterator[dict[str, str]]:
        for disk in self.disks:
            for volume in disk.volumes if disk.volumes is not None else ():
                tags = ",".join(f"ceph.{key}={value}" for key, value in volume.tags.items())
                attr = f"-wi-a{'o' if volume.open else '-'}----"
                yield {"pv_name": disk.devpath, "vg_name": volume.group, "lv_name": volume.name,
                       "lv_tags": tags, "lv_attr": attr if volume.name else ""}  # fmt: skip

    # The API

    def answer(self, method: str, path: str, params: dict[str, str], headers: Mapping[str, str]) -> Any:
        if self.answers_with:
            raise ApiError(*self.answers_with)
        for verb, pattern, name in ROUTES:
            if verb == method and (found := re.fullmatch(pattern, path)):
                self._authorize(method, headers)
                judge(method, path, params)
                return getattr(self, f"_{name}")(params, **found.groupdict())
        return super().answer(method, path, params, headers)

    def _began(self, kind: str, about: object, seconds: float, act: Callable[[], object]) -> str:
        if self.rack.busy:
            return self._end_later(1.0, self._task(kind, str(about)), self.rack.busy.pop())
        task = self._task(kind, str(about))

        def end() -> None:
            try:
                act()
                task.exitstatus = "OK"
            except ApiError as error:
                task.exitstatus = error.message
            task.log.append(f"TASK {task.exitstatus}")

        self.rack.later(seconds, end)
        return task.upid

    def _tasks(self, _: dict[str, str]) -> Any:
        return [
            {"upid": task.upid, "node": self.name, "type": task.upid.split(":")[5], "starttime": 1, "id": "x",
             "pid": 1, "pstart": 1, "user": "root@pam", **({"endtime": 2} if task.exitstatus else {})}
            for task in self.tasks.values()
        ]  # fmt: skip

    def _disk_list(self, _: dict[str, str]) -> Any:
        return [
            {"devpath": disk.devpath, "serial": disk.serial, "wwn": disk.wwn, "size": 10 * GB, "gpt": 0,
             "mounted": int(disk.mounted), "osdid": -1, "osdid-list": [],
             **{key: value for key, value in (("used", disk.usage), ("parent", disk.parent)) if value}}
            for disk in self.disks
        ]  # fmt: skip

    def _need_ceph(self) -> None:
        if not self.installed:
            raise ApiError(500, "binary not installed: /usr/bin/ceph-mon")
        if self.rack.conf is None:
            raise ApiError(500, "pveceph configuration not initialized - missing '/etc/pve/ceph.conf'")

    def _need_quorum(self) -> None:
        self._need_ceph()
        if not self.rack.quorum():
            raise ApiError(500, "got timeout")

    def _status(self, _: dict[str, str]) -> Any:
        self._need_quorum()
        return self.rack.status()

    def _init(self, params: dict[str, str]) -> None:
        if not self.installed:
            raise ApiError(500, "Ceph Nautilus required - please run 'pveceph install'")
        self.rack.init(params)
        self.linked = True

    def _create_mon(self, params: dict[str, str]) -> Any:
        self._need_ceph()
        assert self.rack.conf is not None
        first = not self.rack.conf["mon_host"]
        if not first and not self.rack.quorum():
            raise ApiError(500, "Could not connect to ceph cluster despite configured monitors")
        if self.name in self.rack.mons or f"mon.{self.name}" in self.rack.conf["sections"]:
            raise ApiError(500, f"monitor '{self.name}' already exists")
        address = params["mon-address"]
        if address not in self.addresses:
            raise ApiError(500, f"Specified monitor IP '{address}' not configured or up on {self.name}!")

        def made() -> None:
            self.rack.add_mon(self, address)
            self.rack.later(2.0, lambda: self.active.add(f"mon.{self.name}"))
            if first:
                self._raise_mgr()

        return self._began("cephcreatemon", f"mon.{self.name}", 1.5, made)

    def _destroy_mon(self, _: dict[str, str]) -> Any:
        self._need_quorum()
        assert self.rack.conf is not None
        if f"mon.{self.name}" not in self.homes:
            raise ApiError(
                500, f"monitor filesystem '/var/lib/ceph/mon/ceph-{self.name}' does not exist on this node"
            )

        def gone() -> None:
            assert self.rack.conf is not None
            self.rack.mons.pop(self.name, None)
            self.rack.conf["sections"].discard(f"mon.{self.name}")
            self.homes.discard(f"mon.{self.name}")
            self.active.discard(f"mon.{self.name}")

        return self._began("cephdestroymon", f"mon.{self.name}", 1.0, gone)

    def _raise_mgr(self) -> None:
        if f"mgr.{self.name}" in self.homes:
            raise ApiError(500, f"ceph manager directory '/var/lib/ceph/mgr/ceph-{self.name}' already exists")
        self.homes.add(f"mgr.{self.name}")
        self.rack.later(1.0, lambda: self.active.add(f"mgr.{self.name}"))

    def _create_mgr(self, _: dict[str, str]) -> Any:
        self._need_quorum()
        return self._began("cephcreatemgr", f"mgr.{self.name}", 1.0, self._raise_mgr)

    def _drop(self, daemon: str) -> None:
        self.homes.discard(daemon)
        self.active.discard(daemon)
        assert self.rack.conf is not None
        self.rack.conf["sections"].discard(daemon)

    def _destroy_mgr(self, _: dict[str, str]) -> Any:
        self._need_quorum()
        return self._began("cephdestroymgr", f"mgr.{self.name}", 1.0, lambda: self._drop(f"mgr.{self.name}"))

    def _destroy_mds(self, _: dict[str, str]) -> Any:
        self._need_quorum()
        return self._began("cephdestroymds", f"mds.{self.name}", 1.0, lambda: self._drop(f"mds.{self.name}"))

    def _create_mds(self, _: dict[str, str]) -> Any:
        self._need_quorum()

        def made() -> None:
            assert self.rack.conf is not None
            if f"mds.{self.name}" in self.rack.conf["sections"]:
                raise ApiError(500, f"MDS 'mds.{self.name}' already referenced in ceph config, abort!")
            self.rack.conf["sections"].add(f"mds.{self.name}")
            self.homes.add(f"mds.{self.name}")
            self.rack.later(1.0, lambda: self.active.add(f"mds.{self.name}"))

        return self._began("cephcreatemds", f"mds.{self.name}", 1.0, made)

    def _start(self, params: dict[str, str]) -> Any:
        self._need_ceph()
        service = params["service"]
        assert service in self.homes, service
        return self._began("srvstart", service, 0.5, lambda: self.active.add(service))

    def _create_osd(self, params: dict[str, str]) -> Any:
        self._need_quorum()
        disk = self.disk(params["dev"])
        if disk.usage:
            raise ApiError(500, f"device '{disk.devpath}' is already in use")
        running = [task for task in self.tasks.values() if not task.exitstatus and "createosd" in task.upid]
        self.rack.overlaps += [f"{self.name} while {task.upid}" for task in running]

        def made() -> None:
            if self.osd_fails:
                raise ApiError(500, self.osd_fails)
            self.rack.add_osd(self, disk, params)

        return self._began("cephcreateosd", disk.devpath[5:], 4.0, made)

    def _osd_tree(self, _: dict[str, str]) -> Any:
        self._need_quorum()
        return {"flags": "sortbitwise", "root": {"leaf": 0, "children": [self.rack.tree()]}}

    def _osd(self, osd: str) -> FakeOsd:
        self._need_quorum()
        if int(osd) not in self.rack.osds:
            raise ApiError(500, f"no such OSD '{osd}'")
        return self.rack.osds[int(osd)]

    def _osd_in(self, _: dict[str, str], osd: str) -> None:
        self._osd(osd).in_ = True

    def _osd_out(self, _: dict[str, str], osd: str) -> None:
        self._osd(osd).in_ = False

    def _destroy_osd(self, _: dict[str, str], osd: str) -> Any:
        found = self._osd(osd)
        if found.host != self.name:
            raise ApiError(500, f"OSD osd.{osd} does not belong to node {self.name}!")
        if found.in_ or found.up:
            raise ApiError(500, "osd is in use (in == 1)" if found.in_ else "osd is still running (up == 1)")
        return self._began("cephdestroyosd", f"osd.{osd}", 1.0, lambda: self.rack.osds.pop(int(osd)))

    def _safety(self, params: dict[str, str]) -> Any:
        self._need_quorum()
        if self.rack.unsafe:
            return {"safe": False, "status": self.rack.unsafe.pop()}
        return {"safe": True}

    def _pools(self, _: dict[str, str]) -> Any:
        self._need_quorum()
        return [{"pool_name": name, "pool": number, "type": "replicated", "crush_rule": 0, **pool}
                for number, (name, pool) in enumerate(self.rack.pools.items(), 1)]  # fmt: skip

    def _create_pool(self, params: dict[str, str]) -> Any:
        self._need_quorum()
        assert params["add_storages"] == "0"
        name = params["name"]
        return self._began("cephcreatepool", name, 1.0, lambda: self.rack.add_pool(name, params))

    def _change_pool(self, params: dict[str, str], name: str) -> Any:
        self._need_quorum()
        return self._began("cephsetpool", name, 1.0, lambda: self.rack.set_pool(name, params))

    def _file_systems(self, _: dict[str, str]) -> Any:
        self._need_quorum()
        return [{"name": name, "metadata_pool": f"{name}_metadata", "data_pool": f"{name}_data"}
                for name in self.rack.file_systems]  # fmt: skip

    def _create_fs(self, params: dict[str, str], name: str) -> Any:
        self._need_quorum()
        if not self.rack.daemons("mds"):
            raise ApiError(500, "no standby Metadata Server (MDS) found!")
        return self._began("cephfscreate", name, 1.0, lambda: self.rack.file_systems.append(name))

    def _mds_list(self, _: dict[str, str]) -> Any:
        self._need_quorum()
        active = len(self.rack.file_systems)
        return [{"name": name, "state": "up:active" if number < active else "up:standby"}
                for number, name in enumerate(self.rack.daemons("mds"))]  # fmt: skip

    def _storages(self, _: dict[str, str]) -> Any:
        return [{"storage": name, **entry} for name, entry in self.rack.storages.items()]

    def _add_storage(self, params: dict[str, str]) -> Any:
        name = params["storage"]
        self.rack.storages[name] = {key: value for key, value in params.items() if key != "storage"}
        return {"storage": name, "type": params["type"]}

    def _change_storage(self, params: dict[str, str], name: str) -> Any:
        self.rack.storages[name] |= params
        return {"storage": name, "type": self.rack.storages[name]["type"]}

    def _options(self, _: dict[str, str]) -> Any:
        return {"migration": self.rack.migration} if self.rack.migration else {}

    def _set_options(self, params: dict[str, str]) -> None:
        words = (word.partition("=") for word in params["migration"].split(","))
        self.rack.migration = {key: value for key, _, value in words}


NODE = r"/nodes/[^/]+"
ROUTES = (
    ("GET", f"{NODE}/tasks", "tasks"),
    ("GET", f"{NODE}/disks/list", "disk_list"),
    ("GET", "/cluster/ceph/status", "status"),
    ("POST", f"{NODE}/ceph/init", "init"),
    ("POST", f"{NODE}/ceph/start", "start"),
    ("POST", f"{NODE}/ceph/mon/[^/]+", "create_mon"),
    ("DELETE", f"{NODE}/ceph/mon/[^/]+", "destroy_mon"),
    ("POST", f"{NODE}/ceph/mgr/[^/]+", "create_mgr"),
    ("DELETE", f"{NODE}/ceph/mgr/[^/]+", "destroy_mgr"),
    ("GET", f"{NODE}/ceph/mds", "mds_list"),
    ("POST", f"{NODE}/ceph/mds/[^/]+", "create_mds"),
    ("DELETE", f"{NODE}/ceph/mds/[^/]+", "destroy_mds"),
    ("GET", f"{NODE}/ceph/osd", "osd_tree"),
    ("POST", f"{NODE}/ceph/osd", "create_osd"),
    ("DELETE", f"{NODE}/ceph/osd/(?P<osd>\\d+)", "destroy_osd"),
    ("POST", f"{NODE}/ceph/osd/(?P<osd>\\d+)/in", "osd_in"),
    ("POST", f"{NODE}/ceph/osd/(?P<osd>\\d+)/out", "osd_out"),
    ("GET", f"{NODE}/ceph/cmd-safety", "safety"),
    ("GET", f"{NODE}/ceph/pool", "pools"),
    ("POST", f"{NODE}/ceph/pool", "create_pool"),
    ("PUT", f"{NODE}/ceph/pool/(?P<name>[^/]+)", "change_pool"),
    ("GET", f"{NODE}/ceph/fs", "file_systems"),
    ("POST", f"{NODE}/ceph/fs/(?P<name>[^/]+)", "create_fs"),
    ("GET", "/storage", "storages"),
    ("POST", "/storage", "add_storage"),
    ("PUT", "/storage/(?P<name>[^/]+)", "change_storage"),
    ("GET", "/cluster/options", "options"),
    ("PUT", "/cluster/options", "set_options"),
)


class CephRemote(Remote):
    """SSH to a node: the commands that the step runs, and no others."""

    def __init__(self, node: CephNode) -> None:
        self.node, self.name = node, node.name

    def execute(self, command: str, stdin: Stdin, timeout: float) -> Output:
        with self.node.rack.lock:
            self.node.rack.happen()
            self.node.commands.append(command)
            for pattern, act in COMMANDS:
                if found := re.fullmatch(pattern, command, re.DOTALL):
                    return act(self.node, stdin, **found.groupdict())
        raise AssertionError(f"an unexpected command: {command}")

    def forward_socket(self, remote_socket: str) -> Any:
        raise NotImplementedError

    def close(self) -> None:
        pass


def _said(text: str = "") -> Output:
    return Output(0, text.encode(), b"")


def _install(node: CephNode, stdin: Stdin, repository: str, release: str) -> Output:
    if stdin != "y\n":
        return Output(
            1, b"", b"Do you want to continue? [Y/n] Abort.\napt failed during ceph installation (256)"
        )
    if node.rack.clock.now() < node.apt_locked_until:
        return Output(100, b"", b"E: Could not get lock /var/lib/dpkg/lock-frontend. It is held by process 7")
    if node.install_fails:
        return Output(25, b"", node.install_fails.encode())
    node.installed = True
    node.sources = [f"http://download.proxmox.com/debian/ceph-{release}", repository]
    node.answers_with = (596, "Connection refused")
    node.rack.later(1.0, lambda: setattr(node, "answers_with", None))
    return _said()


def _zap(node: CephNode, _: Stdin, what: str) -> Output:
    if not node.installed:
        return Output(127, b"", b"ceph-volume: command not found")
    for word in what.split():
        for disk in node.disks:
            for volume in disk.volumes or ():
                assert not volume.open, "a volume in use was zapped"
            if word == disk.devpath:
                disk.volumes = None
            elif disk.volumes:
                disk.volumes = [v for v in disk.volumes if word != f"{v.group}/{v.name}"] or None
    return _said()


def _activate(node: CephNode, _: Stdin, osd: str, uuid: str) -> Output:
    volumes = [volume for disk in node.disks for volume in disk.volumes or ()]
    if not any(volume.tags.get("osd_fsid") == uuid for volume in volumes):
        return Output(1, b"", b"RuntimeError: could not find osd")
    node.rack.later(1.0, lambda: node.rack.raise_osd(node, int(osd)))
    return _said()


def _tracking(node: CephNode, _: Stdin) -> Output:
    fields = ["0A0A0101", "10.10.1.1", "3", "1.0", f"{node.offset:.9f}", *["0"] * 8, node.leap]
    return _said(",".join(fields) + "\n")


def _osd_dump(node: CephNode, _: Stdin) -> Output:
    osds = [{"osd": osd, "uuid": found.uuid, "up": int(found.up), "in": int(found.in_)}
            for osd, found in node.rack.osds.items()]  # fmt: skip
    return _said(json.dumps({"osds": osds}))


def _reclassify(node: CephNode, _: Stdin, osd: str, name: str) -> Output:
    node.rack.osds[int(osd)].device_class = name
    return _said()


def _purge(node: CephNode, _: Stdin, osd: str) -> Output:
    node.rack.osds.pop(int(osd))
    return _said()


def _make_mon_home(node: CephNode, _: Stdin) -> Output:
    node.homes.add(f"mon.{node.name}")
    return _said()


COMMANDS: tuple[tuple[str, Callable[..., Output]], ...] = (
    (re.escape(SURVEY), lambda node, _: _said(node.ceph_survey())),
    (re.escape(FINGERPRINT_COMMAND), lambda node, _: _said(f"sha256 Fingerprint={node.fingerprint}\n")),
    (re.escape(TRACKING), _tracking),
    (re.escape(OSD_DUMP), _osd_dump),
    (r".*pveceph install --repository (?P<repository>\S+) --version (?P<release>\S+) .*", _install),
    (r"for what in (?P<what>[^;]+); do.*ceph-volume lvm zap --destroy \$what.*", _zap),
    (r"ceph-volume lvm activate (?P<osd>\d+) (?P<uuid>\S+)", _activate),
    (r"ceph osd crush rm-device-class osd\.\d+ && "
     r"ceph osd crush set-device-class (?P<name>\S+) osd\.(?P<osd>\d+)", _reclassify),
    (r"ceph osd purge (?P<osd>\d+) --yes-i-really-mean-it", _purge),
    (r"mkdir -p /var/lib/ceph/mon/ceph-\S+", _make_mon_home),
)  # fmt: skip


class CephRack(FakeRack):
    """Nodes, and the Ceph that they share."""

    nodes: dict[str, CephNode]  # type: ignore[assignment]
    remotes: dict[str, CephRemote]  # type: ignore[assignment]

    def __init__(self, addresses: Mapping[str, list[str]]) -> None:
        super().__init__(addresses)
        self.nodes = {name: CephNode(self, name, links) for name, links in addresses.items()}
        self.remotes = {name: CephRemote(node) for name, node in self.nodes.items()}
        self.conf: dict[str, Any] | None = None
        self.mons: dict[str, str] = {}
        self.osds: dict[int, FakeOsd] = {}
        self.pools: dict[str, dict[str, Any]] = {}
        self.file_systems: list[str] = []
        self.storages: dict[str, dict[str, Any]] = {"local": {"type": "dir", "content": "iso"}}
        self.migration: dict[str, str] | None = None
        self.reported = self.creating = self.reports = 0
        self.checks: dict[str, dict[str, Any]] = {}
        # Faults that a test plants
        self.busy: list[str] = []
        self.unsafe: list[str] = []
        self.osds_start = True
        self.forgets_disks_of = ""
        self._uuids = (f"00000000-0000-0000-0000-{number:012d}" for number in itertools.count(1))

    def new_uuid(self) -> str:
        return next(self._uuids)

    def daemons(self, kind: str) -> list[str]:
        """The nodes on which a daemon of that kind runs."""
        return [name for name, node in self.nodes.items() if f"{kind}.{name}" in node.active]

    def quorum(self) -> list[str]:
        running = [name for name in self.daemons("mon") if name in self.mons]
        return running if len(running) * 2 > len(self.mons) else []

    def conf_text(self) -> str:
        if self.conf is None:
            return ""
        values = {key: value for key, value in self.conf.items() if key != "sections" and value}
        values["mon_host"] = " ".join(self.conf["mon_host"])
        lines = [f"\t{key} = {value}" for key, value in values.items() if value]
        sections = [f"[{name}]\n\thost = x" for name in sorted(self.conf["sections"])]
        return "\n".join(["[global]", *lines, *sections, ""])

    def init(self, params: Mapping[str, str]) -> None:
        if self.conf is None:
            self.conf = {"fsid": self.new_uuid(), "mon_host": [], "sections": set()}
        if network := params.get("network"):
            self.conf |= {
                "public_network": network,
                "cluster_network": params.get("cluster-network", network),
            }

    def add_mon(self, node: CephNode, address: str) -> None:
        assert self.conf is not None
        self.conf["mon_host"].append(address)
        self.conf["sections"].add(f"mon.{node.name}")
        node.homes.add(f"mon.{node.name}")
        node.linked = True
        self.mons[node.name] = address

    def add_osd(self, node: CephNode, disk: FakeDisk, params: Mapping[str, str]) -> None:
        assert self.conf is not None
        osd = next(number for number in itertools.count() if number not in self.osds)
        osd_uuid = self.new_uuid()
        if node.name != self.forgets_disks_of:
            disk.leave(self.conf["fsid"], osd, osd_uuid)
        for part in ("db", "wal"):
            if device := params.get(f"{part}_dev"):
                node.disk(device).leave(self.conf["fsid"], osd, osd_uuid, part)
        self.osds[osd] = FakeOsd(osd_uuid, node.name, params.get("crush-device-class", "hdd"))
        node.linked = True
        if self.osds_start:
            self.later(2.0, lambda: self.raise_osd(node, osd))

    def raise_osd(self, node: CephNode, osd: int) -> None:
        node.active.add(f"osd.{osd}")
        self.osds[osd].up = True
        if self.reported:
            # Placement groups that were clean peer anew; the managers tell of it some seconds later.
            self.later(4.0, lambda: self._report(creating=self.reported // 2))
            self.later(7.0, lambda: self._report(creating=0))

    def add_pool(self, name: str, params: Mapping[str, str]) -> None:
        self.pools[name] = {}
        self.set_pool(name, params)
        # The managers tell of them later, and not as clean at first.
        self.later(2.0, lambda: self._report(creating=self.pools[name]["pg_num"]))
        self.later(5.0, lambda: self._report(creating=0))

    def _report(self, *, creating: int) -> None:
        self.reports += 1
        self.reported = sum(pool["pg_num"] for pool in self.pools.values())
        self.creating = creating

    def set_pool(self, name: str, params: Mapping[str, str]) -> None:
        pool = self.pools[name]
        pool |= {key: int(params[key]) for key in ("size", "min_size", "pg_num") if key in params}
        pool["autoscale_status"] = {
            "pg_num_target": pool["pg_num"], "pg_num_final": pool["pg_num"], "would_adjust": False
        }  # fmt: skip
        if "target_size_ratio" in params:
            pool["target_size_ratio"] = float(params["target_size_ratio"])
        if "pg_autoscale_mode" in params:
            pool["pg_autoscale_mode"] = params["pg_autoscale_mode"]
        if "application" in params:
            pool["application_metadata"] = {params["application"]: {}}

    def tree(self) -> dict[str, Any]:
        hosts: dict[str, list[dict[str, Any]]] = {}
        for osd, found in self.osds.items():
            entry = {"id": osd, "name": f"osd.{osd}", "type": "osd", "leaf": 1, "in": int(found.in_),
                     "status": "up" if found.up else "down", "device_class": found.device_class}  # fmt: skip
            hosts.setdefault(found.host, []).append(entry)
        children = [{"id": -number, "name": host, "type": "host", "children": there}
                    for number, (host, there) in enumerate(hosts.items(), 2)]  # fmt: skip
        return {"id": -1, "name": "default", "type": "root", "children": children}

    def status(self) -> dict[str, Any]:
        managers = self.daemons("mgr")
        quorum = self.quorum()
        by_state = {"active+clean": self.reported - self.creating, "creating+peering": self.creating}
        mons = [{"name": name, "public_addr": f"{address}:6789/0",
                 "public_addrs": {"addrvec": [{"type": "v2", "addr": f"{address}:3300", "nonce": 0},
                                              {"type": "v1", "addr": f"{address}:6789", "nonce": 0}]}}
                for name, address in self.mons.items()]  # fmt: skip
        return {
            "fsid": (self.conf or {}).get("fsid"),
            "health": {"status": "HEALTH_WARN" if self.checks else "HEALTH_OK", "checks": self.checks},
            "quorum_names": quorum,
            "monmap": {"mons": mons},
            "mgrmap": {"available": bool(managers), "active_name": managers[0] if managers else "",
                       "standbys": [{"name": name} for name in managers[1:]]},
            "osdmap": {"num_osds": len(self.osds), "num_up_osds": sum(osd.up for osd in self.osds.values()),
                       "num_in_osds": sum(osd.in_ for osd in self.osds.values())},
            "pgmap": {"num_pgs": self.reported, "pgs_by_state": [{"state_name": state, "count": count}
                                                       for state, count in by_state.items() if count]},
        }  # fmt: skip
