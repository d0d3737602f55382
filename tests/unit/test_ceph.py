"""The Ceph step against fake nodes with the traps of real ones, on a clock that only waiting moves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from provision import ceph, ceph_disks, ceph_pools, inventory
from provision.ceph_daemons import clock_is_set
from provision.ceph_survey import parse
from provision.errors import GaveUp, LabError, NodesFailed, Refused
from provision.inventory import Lab, Node, Pool
from provision.ledger import Event, Ledger
from provision.pve import Session, TaskFailed, fingerprint_of
from provision.remote import CommandFailed, Remote
from provision.run import Done, Run
from provision.wait import NotYet
from tests.unit.ceph_api import OTHER_FSID, CephRack, FakeDisk, FakeOsd, FakeVolume
from tests.unit.pve_api import LOCK
from tests.unit.test_cluster import LAB, NODE, secret_of

CEPH = """
cluster: {name: lab-cluster, primary: node1, links: [management, storage], migration: storage}
ceph:
  release: squid
  osds: {device_class: ssd, disks: {all: [{serial: "OSD?"}]}}
  pools: {rbd: {application: rbd, target_ratio: 1}}
"""
CEPHFS = CEPH + "  cephfs: {name: files, mds: [node2, node3]}\n"
TASKS = ("POST", "DELETE", "PUT")


def read_lab(folder: Path, nodes: int = 4, part: str = CEPH) -> Lab:
    file = folder / "lab.yaml"
    file.write_text(LAB + "".join(NODE.format(n=n) for n in range(1, nodes + 1)) + part)
    lab = inventory.load(file, {})
    named = {
        name: node.model_copy(update={"root_password": secret_of(name)}) for name, node in lab.nodes.items()
    }
    return lab.model_copy(update={"nodes": named})


class Stage:
    """A lab, its fake nodes and a run."""

    def __init__(self, lab: Lab, rack: CephRack, run: Run) -> None:
        self.lab, self.rack, self.run = lab, rack, run

    def build(self, lab: Lab | None = None) -> Done:
        self.rack.calls.clear()
        for node in self.rack.nodes.values():
            node.commands.clear()
        patience = self.rack.clock.patience
        return ceph.build(
            lab or self.lab, self.rack.remotes, self.run, open_session=self.open, patience=patience
        )

    def open(self, node: Node, remote: Remote) -> Session:
        port, now = self.rack.ports[node.name], self.rack.clock.now
        return Session(node.name, "127.0.0.1", node.root_password, fingerprint_of(remote), port=port, now=now)

    def asking(self, **what: Any) -> Lab:
        """The lab with a Ceph that is asked for differently."""
        assert self.lab.ceph is not None
        given = self.lab.ceph.model_dump(mode="python") | what
        return self.lab.model_copy(update={"ceph": type(self.lab.ceph).model_validate(given)})

    def told(self, kind: str) -> list[Event]:
        return [event for event in self.run.events if event.kind == kind]

    def commands(self, word: str) -> list[str]:
        return [command for node in self.rack.nodes.values() for command in node.commands if word in command]

    def changes(self) -> list[str]:
        """All that was changed on any node."""
        said = [
            f"{node}: {method} {path}"
            for node, method, path in self.rack.writes()
            if not path.endswith("/ceph/init")
        ]
        words = ("pveceph", "zap", "activate", "crush", "mkdir", "purge")
        return said + [command for word in words for command in self.commands(word)]

    def refused(self, match: str, kind: type[LabError] = LabError, lab: Lab | None = None) -> LabError:
        """The error of a step that changed nothing."""
        with pytest.raises(kind, match=match) as caught:
            self.build(lab)
        assert self.changes() == []
        return caught.value


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    yield from staged(tmp_path)


@pytest.fixture
def stage_with_files(tmp_path: Path) -> Iterator[Stage]:
    yield from staged(tmp_path, CEPHFS)


def staged(folder: Path, part: str = CEPH) -> Iterator[Stage]:
    lab = read_lab(folder, part=part)
    addresses = {
        name: [str(node.addresses[net]) for net in ("management", "storage")]
        for name, node in lab.nodes.items()
    }
    ledger = Ledger(folder / "ledger.db")
    with CephRack(addresses).serving() as rack:
        rack.stand("lab-cluster", *lab.nodes)
        yield Stage(lab, rack, Run("lab", "run-1", ledger, acting=frozenset({"ceph"})))  # type: ignore[arg-type]
    ledger.close()


# The way it should go


def test_four_fresh_nodes(stage: Stage) -> None:
    done = stage.build()
    rack = stage.rack
    assert rack.mons == {f"node{n}": f"10.10.2.2{n}" for n in (1, 2, 3)}
    assert rack.daemons("mgr") == ["node1", "node2"]
    assert {osd.host for osd in rack.osds.values()} == {"node1", "node2", "node3", "node4"}
    assert {osd.device_class for osd in rack.osds.values()} == {"ssd"}
    del rack.pools["rbd"]["autoscale_status"]
    assert rack.pools["rbd"] == {
        "size": 3, "min_size": 2, "pg_num": 128, "target_size_ratio": 1.0, "pg_autoscale_mode": "on",
        "application_metadata": {"rbd": {}},
    }  # fmt: skip
    assert rack.storages["rbd"] == {"type": "rbd", "pool": "rbd", "content": "images,rootdir", "krbd": "0"}
    assert rack.migration == {"type": "secure", "network": "10.10.2.0/24"}
    assert all(node.linked for node in rack.nodes.values()), "also where no daemon runs"
    assert rack.overlaps == []
    assert "OSD created on /dev/sdb (OSD3) on node3" in done.changed


def test_what_is_kept_as_evidence(stage: Stage) -> None:
    done = stage.build()
    assert done.facts["fsid"] == (stage.rack.conf or {})["fsid"]
    assert done.facts["release"] == "squid" and done.facts["version"] == "19.2.3"
    assert done.facts["monitors"] == {f"node{n}": f"10.10.2.2{n}" for n in (1, 2, 3)}
    assert done.facts["managers"] == ["node1", "node2"]
    assert done.facts["pools"] == ["rbd"] and done.facts["storages"] == ["rbd"]
    ids = done.nodes["node3"]["osds"]
    assert done.facts["osds"][str(ids[0])] == {
        "node": "node3", "serial": "OSD3", "device_class": "ssd", "device": "/dev/sdb"
    }  # fmt: skip
    assert done.nodes["node3"]["disks"] == {"OSD3": "/dev/sdb"}


def test_the_order(stage: Stage) -> None:
    stage.build()
    writes = [f"{method} {path.split('/ceph/')[-1]}" for _, method, path in stage.rack.writes()]
    places = {
        word: [at for at, said in enumerate(writes) if word in said] for word in ("mon/", "osd", "pool")
    }
    assert writes[0] == "POST init" and writes.count("POST init") == 4
    assert [writes[at] for at in places["mon/"]] == [f"POST mon/node{n}" for n in (1, 2, 3)]
    assert max(places["mon/"]) < min(places["osd"]) and max(places["osd"]) < min(places["pool"])
    first, second = (stage.rack.calls.index(call) for call in stage.rack.calls if call.path.endswith("/mon/node1")
                     or call.path.endswith("/mon/node2"))  # fmt: skip
    between = [call.path for call in stage.rack.calls[first:second]]
    assert "/cluster/ceph/status" in between, "the first one is in the quorum before the second is made"


def test_what_pveceph_is_fed(stage: Stage) -> None:
    stage.build()
    installs = stage.commands("pveceph install")
    assert len(installs) == 4
    assert all("--repository no-subscription --version squid" in command for command in installs)


def test_a_second_time_changes_nothing(stage: Stage) -> None:
    first = stage.build()
    done = stage.build()
    assert done.changed == []
    assert stage.rack.writes() == []
    assert stage.changes() == []
    assert done.facts == first.facts and done.nodes == first.nodes
    assert "pool rbd" in done.unchanged and "monitor on node2" in done.unchanged
    assert len([text for text in done.unchanged if text.startswith("osd.")]) == 4


def test_the_standing_cluster_is_found_by_every_node(stage: Stage) -> None:
    stage.build()
    stage.rack.nodes["node1"].active.discard("mon.node1")
    done = stage.build()
    assert done.changed == ["mon.node1 started on node1"]


def test_a_file_system(stage_with_files: Stage) -> None:
    stage = stage_with_files
    done = stage.build()
    assert stage.rack.daemons("mds") == ["node2", "node3"]
    assert stage.rack.file_systems == ["files"]
    assert stage.rack.storages["files"] == {
        "type": "cephfs", "fs-name": "files", "content": "vztmpl,iso,backup,snippets,import"
    }  # fmt: skip
    assert done.facts["storages"] == ["rbd", "files"]
    assert stage.build().changed == []


def test_no_ceph_is_asked_for(stage: Stage) -> None:
    done = stage.build(stage.lab.model_copy(update={"ceph": None}))
    assert done.changed == ["migration network set to storage (10.10.2.0/24)"]
    assert [path for _, _, path in stage.rack.writes()] == ["/cluster/options"]
    assert stage.build(stage.lab.model_copy(update={"ceph": None})).changed == []


def test_other_monitors_and_managers(stage: Stage) -> None:
    asked = stage.asking(monitors=("node2", "node3", "node4"), managers=("node3", "node4"))
    stage.build(asked)
    assert set(stage.rack.mons) == {"node2", "node3", "node4"}
    assert stage.rack.daemons("mgr") == ["node3", "node4"]
    assert stage.rack.writes()[0][0] == "node3", "the first monitor's manager is one that is asked for"


def test_a_cluster_network_of_its_own(stage: Stage) -> None:
    stage.build(stage.asking(cluster="management"))
    assert (stage.rack.conf or {})["cluster_network"] == "10.10.1.0/24"
    assert stage.build(stage.asking(cluster="management")).changed == []


def test_db_and_wal_devices(stage: Stage) -> None:
    for node in stage.rack.nodes.values():
        node.disks += [FakeDisk("/dev/nvme0n1", "FAST"), FakeDisk("/dev/sdc", "MORE")]
    asked = {"disks": {"all": ({"serial": "OSD?"}, {"serial": "MORE"})}, "db": {"all": {"serial": "FAST"}}}
    done = stage.build(stage.asking(osds=asked))
    assert len(stage.rack.osds) == 8
    assert len(stage.rack.nodes["node1"].disk("/dev/nvme0n1").volumes or []) == 2
    assert done.nodes["node1"]["disks"] == {"OSD1": "/dev/sdb", "MORE": "/dev/sdc", "FAST": "/dev/nvme0n1"}
    assert stage.rack.overlaps == [], "one OSD after the other on a node"
    assert stage.build(stage.asking(osds=asked)).changed == []


# What differs is mended


def test_settings_that_differ_are_mended(stage: Stage) -> None:
    stage.build()
    rack = stage.rack
    rack.pools["rbd"] |= {"size": 2, "pg_autoscale_mode": "warn"}
    rack.storages["rbd"]["content"] = "images"
    rack.migration = None
    next(iter(rack.osds.values())).device_class = "hdd"
    done = stage.build()
    assert done.changed == [
        "osd.0: device class hdd is now ssd",
        "pool rbd changed: size 3, pg_autoscale_mode on",
        "storage rbd changed: content",
        "migration network set to storage (10.10.2.0/24)",
    ]
    assert rack.pools["rbd"]["size"] == 3 and rack.storages["rbd"]["content"] == "images,rootdir"
    assert stage.build().changed == []


def test_an_osd_that_is_out_is_taken_in(stage: Stage) -> None:
    stage.build()
    stage.rack.osds[2].in_ = False
    assert stage.build().changed == ["osd.2 taken in"]


def test_monitors_that_nobody_asks_for_are_removed(stage: Stage) -> None:
    stage.build()
    done = stage.build(stage.asking(monitors=("node1", "node2", "node4"), managers=("node1", "node4")))
    assert set(stage.rack.mons) == {"node1", "node2", "node4"}
    assert stage.rack.daemons("mgr") == ["node1", "node4"]
    assert "monitor removed, which the lab file does not ask for on node3" in done.changed


def test_a_storage_of_that_name_on_something_else(stage: Stage) -> None:
    stage.rack.storages["rbd"] = {"type": "dir", "content": "iso"}
    with pytest.raises(Refused, match='storage "rbd" is there already, of type dir on no pool; remove it'):
        stage.build()


# Disks


def test_old_volumes_are_zapped(stage: Stage) -> None:
    for number, node in enumerate(stage.rack.nodes.values()):
        node.disk("/dev/sdb").leave(OTHER_FSID, number)
    done = stage.build()
    assert len(stage.commands("zap")) == 4
    assert f"left-over Ceph volumes ({OTHER_FSID}) removed from /dev/sdb on node2" in done.changed
    assert len(stage.rack.osds) == 4


def test_what_an_interrupted_ceph_volume_left_is_zapped(stage: Stage) -> None:
    group = "ceph-00000000-1111-2222-3333-444444444444"
    name = "osd-block-00000000-1111-2222-3333-444444444444"
    stage.rack.nodes["node1"].disk("/dev/sdb").volumes = [FakeVolume(group, "")]
    stage.rack.nodes["node2"].disk("/dev/sdb").volumes = [FakeVolume(group, name)]
    stage.rack.nodes["node3"].disk("/dev/sdb").volumes = [FakeVolume(group, name, {"cluster_fsid": "null"})]
    stage.rack.nodes["node4"].disk("/dev/sdb").volumes = [FakeVolume("", "")]
    stage.build()
    assert len(stage.commands("zap")) == 4


def test_a_volume_of_this_cluster_whose_osd_is_unknown_is_zapped(stage: Stage) -> None:
    stage.build()
    node = stage.rack.nodes["node3"]
    osd = next(osd for osd, found in stage.rack.osds.items() if found.host == "node3")
    gone = stage.rack.osds.pop(osd)
    node.active.discard(f"osd.{osd}")
    done = stage.build()
    assert len(stage.commands("zap")) == 1
    assert any(text.startswith("OSD created on /dev/sdb") for text in done.changed)
    assert stage.rack.osds[osd].uuid != gone.uuid, "an id may come again, a UUID never does"


def test_an_old_db_volume_goes_and_a_new_one_stays(stage: Stage) -> None:
    node = stage.rack.nodes["node1"]
    node.disks += [FakeDisk("/dev/nvme0n1", "FAST"), FakeDisk("/dev/sdc", "MORE")]
    asked = {"disks": {"all": ({"serial": "OSD?"},)}, "db": {"node1": {"serial": "FAST"}}}
    stage.build(stage.asking(osds=asked))
    old = node.disk("/dev/nvme0n1").leave(OTHER_FSID, 9, part="db")
    stage.build(stage.asking(osds=asked))
    assert [command for command in stage.commands("zap") if f"{old.group}/{old.name}" in command]
    assert len(node.disk("/dev/nvme0n1").volumes or []) == 1


def plants(node: str, devpath: str = "/dev/sdb", **what: object) -> Callable[[CephRack], None]:
    def plant(rack: CephRack) -> None:
        for name, value in {"volumes": None, **what}.items():
            setattr(rack.nodes[node].disk(devpath), name, value)

    return plant


def plants_part(rack: CephRack) -> None:
    rack.nodes["node2"].disk("/dev/sdb").volumes = None
    rack.nodes["node2"].disks.append(FakeDisk("/dev/sdb1", "OSD2", used="xfs", parent="/dev/sdb"))
    rack.nodes["node2"].disk("/dev/sdb").used = "partitions"


FOREIGN = [FakeVolume("pve", "data")]
IN_USE = [FakeVolume("ceph-x", "osd-block-x", {"cluster_fsid": OTHER_FSID, "osd_id": "1"}, open=True)]


@pytest.mark.parametrize(("plant", "match"), [
    (plants("node2", used="ext4"), r"node2: /dev/sdb \(serial OSD2, wwn 0x50025382, 10 GB\), .* holds ext4 data"),
    (plants("node3", used="ZFS"), "node3: /dev/sdb .* holds part of a ZFS pool. It is left as it is"),
    (plants("node3", used="linux_raid_member"), r"node3: .* part of a RAID\. .*on node3: wipefs -a /dev/sdb"),
    (plants("node1", used="LVM"), "node1: .* holds LVM of which pvs tells nothing"),
    (plants("node1", volumes=FOREIGN), "node1: .* holds LVM that is not Ceph's: pve/data"),
    (plants("node4", volumes=IN_USE), f"node4: .* volumes of Ceph cluster {OTHER_FSID} that are in use"),
    (plants("node1", used="ext4", mounted=True), r"node1: .* is mounted \(/dev/sdb\)"),
    (plants("node1", serial="unknown", wwn="unknown"), r"node1: serial OSD\? of the lab file matches no disk; its "
     r"disks are: /dev/sda \(serial SYSTEM1, 10 GB\), /dev/sdb \(10 GB\)"),
    (plants_part, r"node2: .* holds partitions: /dev/sdb1 \(xfs\)"),
])  # fmt: skip
def test_a_disk_that_must_not_be_wiped(stage: Stage, plant: Callable[[CephRack], None], match: str) -> None:
    for node in stage.rack.nodes.values():
        node.disk("/dev/sdb").leave(OTHER_FSID, 7)
    plant(stage.rack)
    error = stage.refused(match, Refused)
    assert "nothing was changed on any node" in str(error)


def test_all_nodes_disks_are_told_at_once(stage: Stage) -> None:
    plants("node2", used="ext4")(stage.rack)
    plants("node4", used="xfs")(stage.rack)
    error = stage.refused("ext4", NodesFailed)
    assert isinstance(error, NodesFailed) and set(error.errors) == {"node2", "node4"}


def test_the_system_disk_by_name(stage: Stage) -> None:
    asked = {"disks": {"node1": ({"serial": "SYSTEM1"},)}}
    stage.refused("/dev/sda .* is the disk that the system runs from", Refused, stage.asking(osds=asked))


def test_a_glob_never_means_the_system_disk(stage: Stage) -> None:
    for number, node in enumerate(stage.rack.nodes.values(), 1):
        node.disk("/dev/sda").serial = f"OSD{number}9"
    stage.build(stage.asking(osds={"disks": {"all": ({"serial": "OSD*"},)}}))
    assert len(stage.rack.osds) == 4


@pytest.mark.parametrize(("asked", "match"), [
    ({"disks": {"all": ({"serial": "OSD1"},)}}, "serial OSD1 of the lab file matches no disk"),
    ({"disks": {"all": ({"serial": "OSD?"}, {"wwn": "0x5*"})}},
     r"/dev/sdb .* is matched twice, by serial OSD\? and by wwn 0x5\*"),
    ({"disks": {"all": ({"by_id": "ata-MORE"},)}, "db": {"all": {"serial": "?SD?"}}},
     r"serial \?SD\? of the lab file means one DB device and matches /dev/sdb, /dev/sdc"),
    ({"disks": {"all": ({"serial": "OSD?"},)}, "wal": {"all": {"serial": "NONE"}}}, "serial NONE .* matches no"),
])  # fmt: skip
def test_names_that_do_not_fit(stage: Stage, asked: dict[str, Any], match: str) -> None:
    for node in stage.rack.nodes.values():
        node.disks += [FakeDisk("/dev/sdc", "SSD1"), FakeDisk("/dev/sdd", "MORE")]
    stage.refused(match, NodesFailed, stage.asking(osds=asked))


@pytest.mark.parametrize("by", [{"by_id": "ata-OSD1"}, {"wwn": "0x50025381"}, {"serial": "OSD1"}])
def test_ways_to_name_a_disk(stage: Stage, by: dict[str, str]) -> None:
    lab = stage.asking(osds={"disks": {"node1": (by,)}}, pools={})
    done = stage.build(lab)
    assert done.nodes["node1"]["osds"] == [0] and done.nodes["node2"]["osds"] == []


# What an earlier run has left


def test_tasks_of_a_killed_run_are_waited_for(stage: Stage) -> None:
    node = stage.rack.nodes["node1"]
    node.installed = node.linked = True
    node.sources = ["http://download.proxmox.com/debian/ceph-squid", "no-subscription"]
    stage.rack.init({"network": "10.10.2.0/24"})
    node._create_mon({"mon-address": "10.10.2.21"})
    done = stage.build()
    assert "monitor created on node1" not in done.changed
    assert set(stage.rack.mons) == {"node1", "node2", "node3"}


def test_packages_that_are_being_installed_are_waited_for(stage: Stage) -> None:
    stage.rack.nodes["node2"].apt_locked_until = stage.rack.clock.now() + 30
    stage.build()
    assert len(stage.commands("pveceph install")) > 4


def test_packages_that_cannot_be_installed(stage: Stage) -> None:
    stage.rack.nodes[
        "node3"
    ].install_fails = "E: The repository 'https://enterprise.proxmox.com' is not signed."
    with pytest.raises(CommandFailed, match=r"node3: .* ended with 25\n.*is not signed"):
        stage.build()


def test_only_missing_monitors_and_osds_are_made(stage: Stage) -> None:
    stage.build()
    rack = stage.rack
    del rack.mons["node3"]
    assert rack.conf is not None
    rack.conf["sections"].discard("mon.node3")
    rack.nodes["node3"].homes.discard("mon.node3")
    rack.nodes["node3"].active.discard("mon.node3")
    assert stage.build().changed == ["monitor created on node3"]


def test_a_half_made_first_monitor_is_started(stage: Stage) -> None:
    node = stage.rack.nodes["node1"]
    node.installed = True
    stage.rack.init({"network": "10.10.2.0/24"})
    stage.rack.add_mon(node, "10.10.2.21")
    done = stage.build()
    assert done.changed[0] == "mon.node1 started on node1"
    assert set(stage.rack.mons) == {"node1", "node2", "node3"}
    assert stage.rack.daemons("mgr") == ["node1", "node2"]


def test_a_monitor_directory_that_nobody_knows(stage: Stage) -> None:
    stage.build()
    rack = stage.rack
    del rack.mons["node3"]
    assert rack.conf is not None
    rack.conf["sections"].discard("mon.node3")
    with pytest.raises(
        Refused, match=r"node3: it has .*ceph-node3, and the cluster knows .* \(rm -r /var/lib/"
    ):
        stage.build()


def test_all_monitors_are_gone(stage: Stage) -> None:
    stage.build()
    for node in stage.rack.nodes.values():
        node.reinstalled()
    stage.refused(
        "names monitors .* but no node has one any more: .*docs/ceph.md, All monitors are gone", Refused
    )


def test_no_quorum(stage: Stage) -> None:
    stage.build()
    for name in ("node2", "node3"):
        stage.rack.nodes[name].reinstalled()
    error = stage.refused("node1: Ceph's monitors do not answer", GaveUp)
    assert "got timeout" in (error.last_seen or "") and "docs/ceph.md, No quorum" in (error.likely or "")


def test_a_lost_ceph_conf_never_costs_an_osd(stage: Stage) -> None:
    stage.build()
    assert stage.rack.conf is not None
    stage.rack.conf["mon_host"].clear()
    stage.refused("ceph.conf names no monitor, but .* volumes of this very cluster", Refused)


# A node that was reinstalled alone


@pytest.mark.parametrize("name", ["node1", "node3"])
def test_a_reinstalled_node_gets_its_monitor_anew_and_keeps_its_data(stage: Stage, name: str) -> None:
    stage.build()
    before = {osd: found.uuid for osd, found in stage.rack.osds.items()}
    stage.rack.nodes[name].reinstalled()
    done = stage.build()
    osd = next(osd for osd, found in stage.rack.osds.items() if found.host == name)
    assert done.changed[:3] == [
        f"Ceph squid installed on {name}", f"dead monitor of the earlier install removed on {name}",
        f"monitor created on {name}",
    ]  # fmt: skip
    assert f"osd.{osd} activated with the data it had on {name}" in done.changed
    assert stage.commands("zap") == []
    assert {osd: found.uuid for osd, found in stage.rack.osds.items()} == before
    assert set(stage.rack.mons) == {"node1", "node2", "node3"}
    assert stage.rack.daemons("mgr") == ["node1", "node2"]


def test_a_reinstalled_metadata_server(stage_with_files: Stage) -> None:
    stage = stage_with_files
    stage.build()
    stage.rack.nodes["node2"].reinstalled()
    assert "metadata server created on node2" in stage.build().changed


def test_a_disk_that_was_replaced(stage: Stage) -> None:
    stage.build()
    node = stage.rack.nodes["node4"]
    osd = next(osd for osd, found in stage.rack.osds.items() if found.host == "node4")
    stage.rack.osds[osd].up = False
    node.active.discard(f"osd.{osd}")
    node.disk("/dev/sdb").volumes = None
    stage.rack.unsafe = ["OSD(s) 3 have no reported stats, and not all PGs are active+clean"]
    done = stage.build()
    assert "OSD created on /dev/sdb (OSD4) on node4" in done.changed
    assert done.changed[-1] == f"osd.{osd} removed, whose disk is gone"
    assert len(stage.rack.osds) == 4 and osd not in stage.rack.osds


def test_an_osd_that_never_ran_is_purged(stage: Stage) -> None:
    stage.build()
    stage.rack.osds[9] = FakeOsd(stage.rack.new_uuid(), "", "")
    assert stage.build().changed == ["osd.9 removed, whose disk is gone"]
    assert stage.commands("purge")


def test_an_osd_that_ceph_cannot_do_without(stage: Stage) -> None:
    stage.build()
    stage.rack.osds[9] = FakeOsd(stage.rack.new_uuid(), "node1", "ssd")
    stage.rack.unsafe = ["not all PGs are active+clean"] * 10_000
    with pytest.raises(GaveUp, match=r"osd\.9, whose disk is gone, safe to destroy: not .* 1200 s") as caught:
        stage.build()
    assert caught.value.last_seen == "not all PGs are active+clean"
    assert 9 in stage.rack.osds


def test_an_osd_that_does_not_start(stage: Stage) -> None:
    stage.rack.osds_start = False
    with pytest.raises(
        GaveUp, match="all 4 OSDs up: not reached within the 1200 s of the lab's deadline"
    ) as caught:
        stage.build()
    assert caught.value.last_seen == "down: osd.0, osd.1, osd.2, osd.3"


# The pains of Proxmox and Ceph


def test_a_lock_that_is_held_is_waited_for(stage: Stage) -> None:
    stage.rack.busy = [LOCK, "error with cfs lock 'file-ceph_conf': got lock request timeout"]
    stage.build()
    assert len(stage.rack.osds) == 4


def test_a_task_that_fails_is_named_by_its_own_log(stage: Stage) -> None:
    stage.rack.nodes["node2"].osd_fails = "command 'ceph-volume lvm create' failed: exit code 1"
    with pytest.raises(
        TaskFailed, match="node2: creation of an OSD on /dev/sdb failed: command 'ceph-volume"
    ):
        stage.build()


def test_a_lost_answer_is_not_asked_again(stage: Stage) -> None:
    stage.rack.nodes["node2"].lose_answer_to = "/nodes/node2/ceph/mon/node2"
    stage.build()
    assert stage.rack.writes().count(("node2", "POST", "/nodes/node2/ceph/mon/node2")) == 1


def test_monitors_wait_for_the_clock(stage: Stage) -> None:
    node = stage.rack.nodes["node2"]
    node.leap = "Not synchronised"
    stage.rack.later(20.0, lambda: setattr(node, "leap", "Normal"))
    stage.build()
    assert len([command for command in node.commands if command == "chronyc -c tracking"]) > 3


def test_a_clock_that_is_never_set(stage: Stage) -> None:
    stage.rack.nodes["node3"].offset = -0.7
    with pytest.raises(GaveUp, match="node3: its clock set by chrony") as caught:
        stage.build()
    assert caught.value.last_seen == "its clock is 0.700 s off its time source 10.10.1.1"


def test_new_placement_groups_are_waited_for(stage: Stage) -> None:
    stage.build()
    assert stage.rack.status()["pgmap"] == {
        "num_pgs": 128, "pgs_by_state": [{"state_name": "active+clean", "count": 128}]
    }  # fmt: skip
    assert stage.told("healthy")[0].text == "HEALTH_OK, 4 OSDs, 128 PGs"


def test_an_osd_that_is_on_no_disk_is_named(stage: Stage) -> None:
    stage.rack.forgets_disks_of = "node2"
    with pytest.raises(
        LabError, match=r"^node2: /dev/sd\w \(.+\) holds no OSD although .*run the step again"
    ):
        stage.build()


def test_figures_from_before_the_last_change_are_not_believed(stage: Stage) -> None:
    """An OSD that came up moves placement groups, which the managers tell as clean for some seconds more."""
    stage.build()
    stage.rack.nodes["node3"].reinstalled()
    reports = stage.rack.reports
    stage.build()
    assert stage.rack.reports == reports + 2, "healthy is said after they have peered, not before"
    assert stage.rack.creating == 0


def test_a_pool_that_is_being_resized_is_waited_for(stage: Stage) -> None:
    stage.build()
    scaling = stage.rack.pools["rbd"]["autoscale_status"]
    scaling["pg_num_target"] = 64
    with pytest.raises(GaveUp, match="Ceph healthy") as caught:
        stage.build()
    assert caught.value.last_seen == "pool rbd has 128 PGs on the way to 64"
    scaling |= {"pg_num_target": 128, "pg_num_final": 512, "would_adjust": True}
    with pytest.raises(GaveUp, match="Ceph healthy") as caught:
        stage.build()
    assert caught.value.last_seen == "pool rbd will be given 512 PGs by the autoscaler"
    stage.rack.later(60.0, lambda: scaling.update(would_adjust=False))
    assert stage.build().changed == []


def test_without_an_autoscaler_no_ratio_is_told(stage: Stage) -> None:
    stage.build()
    del stage.rack.pools["rbd"]["autoscale_status"], stage.rack.pools["rbd"]["target_size_ratio"]
    assert stage.build().changed == []


def test_health_is_waited_for(stage: Stage) -> None:
    warning = {"severity": "HEALTH_WARN", "summary": {"message": "1 pool(s) have no app", "count": 1}}
    stage.rack.checks = {"POOL_APP_NOT_ENABLED": {**warning, "muted": False}}
    with pytest.raises(GaveUp, match="Ceph healthy: not reached within the 1200 s") as caught:
        stage.build()
    assert caught.value.last_seen == "POOL_APP_NOT_ENABLED (HEALTH_WARN): 1 pool(s) have no app"
    assert 90 < len([event for event in stage.told("waiting") if "POOL_APP" in event.text]) < 120
    allowed = stage.asking(allowed_warnings=("POOL_APP_NOT_ENABLED",))
    assert stage.build(allowed).changed == []
    stage.rack.checks["POOL_APP_NOT_ENABLED"]["severity"] = "HEALTH_ERR"
    with pytest.raises(GaveUp, match="Ceph healthy"):
        stage.build(allowed)


def test_another_release_is_not_installed_over_a_standing_one(stage: Stage) -> None:
    stage.build()
    lab = stage.asking(release="tentacle")
    stage.refused(
        r"node1: it runs Ceph 19.2.3 \(squid\), and the lab file asks for tentacle", NodesFailed, lab
    )


def test_another_network_is_refused(stage: Stage) -> None:
    stage.build()
    lab = stage.asking(public="management")
    stage.refused("node1: Ceph's public network is 10.10.2.0/24, and .* asks for management", Refused, lab)


def test_a_monitor_at_another_address(stage: Stage) -> None:
    stage.build()
    stage.rack.mons["node2"] = "10.10.2.99"
    stage.refused("node2: its monitor is at 10.10.2.99, and the lab file gives it 10.10.2.22", Refused)


# Small parts


@pytest.mark.parametrize(("ratio", "others", "osds", "pgs"), [
    (1.0, {}, 4, 128), (1.0, {}, 3, 128), (1.0, {}, 24, 1024), (None, {}, 24, 32), (1.0, {"b": 3.0}, 24, 256),
])  # fmt: skip
def test_the_autoscaler_has_nothing_to_change(
    ratio: float | None, others: dict[str, float], osds: int, pgs: int
) -> None:
    pools = {"a": Pool(target_ratio=ratio)} | {
        name: Pool(target_ratio=other) for name, other in others.items()
    }
    assert ceph_pools.pg_num(pools["a"], pools, osds) == pgs


def test_globs_know_two_signs_alone() -> None:
    assert ceph_disks.matches("S3Z*[1]?", "S3Z8[1]x")
    assert not ceph_disks.matches("S3Z8", "S3Z80")


def test_a_survey_that_came_back_incomplete() -> None:
    with pytest.raises(LabError, match="node1: its Ceph survey came back incomplete"):
        parse("node1", "programs=\nversion=\n")


def test_words_of_chrony() -> None:
    line = "0A0A0101,10.10.1.1,3,1763836000.1,-0.000012,0.1,0.1,1.0,0.0,0.0,0.1,0.1,64.2,Normal"
    assert clock_is_set(line) is True
    assert isinstance(clock_is_set("506 Cannot talk to daemon"), NotYet)
    assert isinstance(clock_is_set(line.replace("Normal", "Not synchronised")), NotYet)
