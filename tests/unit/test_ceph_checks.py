"""Ceph's checks on recorded answers: a whole cluster passes them all, and each fault fails its check."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from ipaddress import IPv4Address
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import TypeAdapter

from checks import check_ceph, check_ceph_osds, check_ceph_pools, check_migration, check_storages
from checks.ceph_facts import ASKED, CephFacts, is_clean, last_line, moment_of, osds_on, read
from provision import inventory
from provision.errors import LabError
from provision.inventory import Ceph, CephFs, Lab, OsdDisk, Pool
from provision.journal import Evidence
from provision.pve.ceph import Disk
from provision.remote import Output, Remote, Stdin

ROOT = Path(__file__).parents[2]
# What Ceph 18.2.7 answered on a small cluster, without fields that nobody reads; the names of hosts and the device
# class are those of the default lab.
RECORDED = json.loads(Path(__file__).with_name("ceph_reef.json").read_text())
BUILT = 1_795_372_700.0
OLD = "ceph version 18.2.6 (6b0e988052ec84cf2d4a54ff9bbbc5e720b621ad) reef (stable)"
SQUID = """\
Types: deb
URIs: http://download.proxmox.com/debian/ceph-squid
Suites: trixie
Components: no-subscription
Signed-By: /usr/share/keyrings/proxmox-archive-keyring.gpg
"""

Change = Callable[[dict[str, Any]], object]


def facts(*changes: Change) -> CephFacts:
    """What the recorded cluster said, with changes to the answers."""
    answers = copy.deepcopy(RECORDED)
    told = {command: found["answer"] for command, found in answers.items()}
    for change in changes:
        change(told)
    return CephFacts({command: {**answers[command], "answer": told[command]} for command in told}, "node1")


def osd(told: dict[str, Any], number: int) -> Any:
    return next(row for row in told["osd dump"]["osds"] if row["osd"] == number)


def crush(told: dict[str, Any], number: int) -> Any:
    return next(row for row in told["osd tree"]["nodes"] if row["id"] == number)


def rbd(told: dict[str, Any]) -> Any:
    return next(row for row in told["osd dump"]["pools"] if row["pool_name"] == "rbd")


@pytest.fixture(scope="module")
def lab() -> Lab:
    return inventory.load(ROOT / "labs" / "virtual.yaml")


@pytest.fixture(scope="module")
def asked(lab: Lab) -> Ceph:
    assert lab.asked_ceph is not None
    return lab.asked_ceph


@pytest.fixture
def evidence() -> Evidence:
    osds = {
        str(number): {
            "node": f"node{number + 1}",
            "serial": f"RPVOSD000000{number + 1}",
            "device_class": "ssd",
        }
        for number in range(4)
    }
    nodes = {f"node{number + 1}": {"osds": [number], "disks": {}} for number in range(4)}
    return Evidence("virtual", "ceph", "run-1", BUILT, 60.0, [], [], {"osds": osds}, nodes)


def test_every_command_that_is_asked_was_recorded() -> None:
    assert set(RECORDED) == set(ASKED)


def test_a_whole_cluster_passes(lab: Lab, asked: Ceph, evidence: Evidence) -> None:
    ceph = facts()
    for node in lab.nodes.values():
        check_ceph.test_monitor_of_node(node, asked, ceph)
        check_ceph_osds.test_osds_of_node(node, asked, ceph, evidence.nodes[node.name])
        check_ceph_osds.test_osds_are_up_and_in(node, ceph)
        check_ceph_osds.test_device_class(node, asked, ceph)
        check_ceph_osds.test_osd_addresses(node, asked, ceph)
    check_ceph.test_no_monitor_of_a_stranger(lab, ceph)
    check_ceph.test_managers(asked, ceph)
    check_ceph.test_one_version_everywhere(lab, asked, ceph)
    check_ceph.test_clocks_agree(ceph)
    check_ceph.test_no_new_crash(ceph, evidence)
    check_ceph.test_health(asked, ceph)
    check_ceph_osds.test_no_stray_osd(lab, ceph)
    for pool in asked.pools.items():
        check_ceph_pools.test_pool_is_as_asked(pool, ceph)
        check_ceph_pools.test_pool_is_not_changing(pool, ceph)
    check_ceph_pools.test_placement_groups_are_clean(ceph)


# Monitors, managers, metadata servers


def test_a_monitor_outside_the_quorum(lab: Lab, asked: Ceph) -> None:
    ceph = facts(lambda told: told["quorum_status"]["quorum_names"].remove("node3"))
    check_ceph.test_monitor_of_node(lab.nodes["node2"], asked, ceph)
    with pytest.raises(AssertionError, match="not in the quorum"):
        check_ceph.test_monitor_of_node(lab.nodes["node3"], asked, ceph)


def test_a_monitor_on_the_wrong_network(lab: Lab, asked: Ceph) -> None:
    elsewhere = [{"type": "v2", "addr": "10.10.1.21:3300", "nonce": 0}]
    ceph = facts(
        lambda told: told["quorum_status"]["monmap"]["mons"][0]["public_addrs"].update(addrvec=elsewhere)
    )
    assert ceph.monitors["node1"].addresses == {IPv4Address("10.10.1.21")}
    with pytest.raises(AssertionError):
        check_ceph.test_monitor_of_node(lab.nodes["node1"], asked, ceph)


def test_a_monitor_too_many_and_one_too_few(lab: Lab, asked: Ceph) -> None:
    def rename(told: dict[str, Any]) -> None:
        told["quorum_status"]["monmap"]["mons"][1]["name"] = "node4"

    ceph = facts(rename)
    for name, said in (("node4", "nobody asked for"), ("node2", "no monitor of that name")):
        with pytest.raises(AssertionError, match=said):
            check_ceph.test_monitor_of_node(lab.nodes[name], asked, ceph)


def test_a_strangers_monitor(lab: Lab) -> None:
    stranger = {"name": "stranger", "public_addrs": {"addrvec": [{"type": "v2", "addr": "[fd00::9]:3300"}]}}
    with pytest.raises(AssertionError, match="stranger"):
        check_ceph.test_no_monitor_of_a_stranger(
            lab, facts(lambda told: told["quorum_status"]["monmap"]["mons"].append(stranger))
        )


@pytest.mark.parametrize(
    "change",
    [
        lambda told: told["mgr metadata"].pop(),
        lambda told: told["mgr metadata"].append({"name": "node4"}),
        lambda told: told["mgr stat"].update(available=False, active_name=""),
        lambda told: told["mgr stat"].update(available=False),
    ],
    ids=["one gone", "one too many", "none", "not ready"],
)
def test_managers_that_are_not_those_asked_for(asked: Ceph, change: Change) -> None:
    with pytest.raises(AssertionError):
        check_ceph.test_managers(asked, facts(change))


def serving(told: dict[str, Any]) -> None:
    """What Ceph says of a filesystem with one metadata server at work and one standing by."""
    info = {"gid_4151": {"name": "node1", "rank": 0, "state": "up:active", "addr": "10.10.2.21:6811/1"}}
    told["fs dump"] = {
        "standbys": [{"name": "node2", "rank": -1, "state": "up:standby"}],
        "filesystems": [{"id": 1, "mdsmap": {"fs_name": "cephfs", "info": info}}],
    }


def test_metadata_servers(lab: Lab) -> None:
    assert lab.ceph is not None
    asked = lab.model_copy(update={"ceph": lab.ceph.model_copy(update={"cephfs": CephFs()})}).asked_ceph
    assert asked is not None
    assert asked.cephfs is not None and asked.cephfs.mds == ("node1", "node2")
    check_ceph.test_metadata_servers(asked, facts(serving))
    with pytest.raises(AssertionError, match="metadata servers"):
        check_ceph.test_metadata_servers(asked, facts())
    with pytest.raises(AssertionError):
        check_ceph.test_metadata_servers(
            asked, facts(serving, lambda told: told["fs dump"]["standbys"].clear())
        )


# Versions, clocks, crashes, health


def test_two_versions(lab: Lab, asked: Ceph) -> None:
    with pytest.raises(AssertionError, match=r"18\.2\.6"):
        check_ceph.test_one_version_everywhere(
            lab, asked, facts(lambda told: told["versions"]["mgr"].update({OLD: 1}))
        )


def test_the_release_is_judged_on_hardware_alone(lab: Lab, asked: Ceph) -> None:
    hardware = lab.model_copy(update={"virtual": False})
    with pytest.raises(AssertionError):
        check_ceph.test_one_version_everywhere(hardware, asked, facts())
    check_ceph.test_one_version_everywhere(hardware, asked.model_copy(update={"release": "reef"}), facts())


class FakeHost:
    """A node whose only file is ceph.sources."""

    def __init__(self, text: str) -> None:
        self.text = text

    def check_output(self, command: str, *_: str) -> str:
        return self.text.rstrip("\n")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("", ""),
        ("ceph-squid", "ceph-tentacle"),
        ("no-subscription", "enterprise"),
        ("Types: deb\n", "Types: deb\nEnabled: no\n"),
        ("URIs", "#URIs"),
    ],
)
def test_the_source_of_the_packages(asked: Ceph, old: str, new: str) -> None:
    host: Any = FakeHost(SQUID.replace(old, new) if old else SQUID)
    if not old:
        check_ceph.test_packages_are_of_the_release(host, asked)
    else:
        with pytest.raises(AssertionError):
            check_ceph.test_packages_are_of_the_release(host, asked)


@pytest.mark.parametrize(
    "change",
    [
        lambda told: told["time-sync-status"]["time_skew_status"]["node2"].update(health="HEALTH_WARN"),
        lambda told: told["time-sync-status"]["time_skew_status"].pop("node2"),
        lambda told: told["time-sync-status"].pop("time_skew_status"),
    ],
    ids=["skewed", "one not compared", "none compared"],
)
def test_clocks_that_differ_or_were_not_compared(change: Change) -> None:
    with pytest.raises(AssertionError):
        check_ceph.test_clocks_agree(facts(change))


def test_crashes_count_from_the_building_on(evidence: Evidence) -> None:
    def crash(seconds: float) -> CephFacts:
        moment = datetime.fromtimestamp(BUILT + seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        row = {"crash_id": f"{moment}_5f8d1b0e", "timestamp": moment, "entity_name": "osd.3"}
        return facts(lambda told: told["crash ls"].append(row))

    check_ceph.test_no_new_crash(crash(-1), evidence)
    with pytest.raises(AssertionError, match=r"osd\.3"):
        check_ceph.test_no_new_crash(crash(1), evidence)


def test_moments_are_in_utc() -> None:
    expected = datetime(2026, 11, 22, 18, 49, 41, 349033, UTC)
    for text in ("2026-11-22T18:49:41.349033Z", "2026-11-22 18:49:41.349033Z", "2026-11-22T18:49:41.349033"):
        assert moment_of(text) == expected


def complaint(severity: str, *, muted: bool = False) -> Change:
    check = {
        "severity": severity,
        "summary": {"message": "trouble", "count": 1},
        "detail": [],
        "muted": muted,
    }
    return lambda told: told["health"].update(status=severity, checks={"OSD_DOWN": check})


def test_health(asked: Ceph) -> None:
    allowing = asked.model_copy(update={"allowed_warnings": ("OSD_DOWN", "POOL_APP_NOT_ENABLED")})
    check_ceph.test_health(allowing, facts())
    check_ceph.test_health(allowing, facts(complaint("HEALTH_WARN")))
    for lenient, severity, muted in (
        (asked, "HEALTH_WARN", False),
        (asked, "HEALTH_WARN", True),
        (allowing, "HEALTH_ERR", False),
        (asked.model_copy(update={"allowed_warnings": ("MON_DOWN",)}), "HEALTH_WARN", False),
    ):
        with pytest.raises(AssertionError, match="trouble"):
            check_ceph.test_health(lenient, facts(complaint(severity, muted=muted)))


# OSDs


def test_an_osd_that_is_down_or_out(lab: Lab) -> None:
    for change in ({"up": 0}, {"in": 0, "weight": 0}):
        ceph = facts(lambda told, change=change: osd(told, 3).update(change))  # type: ignore[misc]
        check_ceph_osds.test_osds_are_up_and_in(lab.nodes["node1"], ceph)
        with pytest.raises(AssertionError, match="3"):
            check_ceph_osds.test_osds_are_up_and_in(lab.nodes["node4"], ceph)


def stranger(told: dict[str, Any]) -> None:
    """`ceph osd new` alone: an id that no OSD has come for."""
    row = {"osd": 4, "up": 0, "in": 1, "public_addrs": {"addrvec": []}, "state": ["exists", "new"]}
    told["osd dump"]["osds"].append(row)
    told["osd tree"]["stray"].append({"id": 4, "name": "osd.4", "type": "osd", "status": "down"})


def placed(told: dict[str, Any]) -> None:
    """`ceph osd crush add` of it."""
    told["osd tree"]["nodes"].append(told["osd tree"]["stray"].pop())
    next(row for row in told["osd tree"]["nodes"] if row["name"] == "node3")["children"].append(4)


def test_a_stray_osd(lab: Lab, asked: Ceph, evidence: Evidence) -> None:
    with pytest.raises(AssertionError, match="4: None"):
        check_ceph_osds.test_no_stray_osd(lab, facts(stranger))
    ceph = facts(stranger, placed)
    check_ceph_osds.test_no_stray_osd(lab, ceph)
    with pytest.raises(AssertionError):
        check_ceph_osds.test_osds_of_node(lab.nodes["node3"], asked, ceph, evidence.nodes["node3"])


def test_an_osd_of_another_rack(lab: Lab) -> None:
    def rename(told: dict[str, Any]) -> None:
        next(row for row in told["osd tree"]["nodes"] if row["name"] == "node3")["name"] = "attic3"

    with pytest.raises(AssertionError, match="attic3"):
        check_ceph_osds.test_no_stray_osd(lab, facts(rename))


def test_an_osd_that_runs_elsewhere(lab: Lab, asked: Ceph, evidence: Evidence) -> None:
    ceph = facts(lambda told: told["osd metadata"][2].update(hostname="node1"))
    with pytest.raises(AssertionError, match="run elsewhere"):
        check_ceph_osds.test_osds_of_node(lab.nodes["node3"], asked, ceph, evidence.nodes["node3"])


@pytest.mark.parametrize("where", ["node3", "all"])
def test_a_db_device_that_was_asked_for(lab: Lab, asked: Ceph, evidence: Evidence, where: str) -> None:
    osds = asked.osds.model_copy(update={"db": {where: OsdDisk(serial="NVME1")}})
    wanting, node = asked.model_copy(update={"osds": osds}), lab.nodes["node3"]
    with_db = facts(lambda told: told["osd metadata"][2].update(bluefs_dedicated_db="1"))
    check_ceph_osds.test_osds_of_node(node, wanting, with_db, evidence.nodes["node3"])
    for asking, found in ((wanting, facts()), (asked, with_db)):
        with pytest.raises(AssertionError):
            check_ceph_osds.test_osds_of_node(node, asking, found, evidence.nodes["node3"])


def test_device_classes(lab: Lab, asked: Ceph) -> None:
    node = lab.nodes["node2"]
    undecided = asked.model_copy(update={"osds": asked.osds.model_copy(update={"device_class": None})})
    spinning = facts(lambda told: crush(told, 1).update(device_class="hdd"))
    check_ceph_osds.test_device_class(node, undecided, spinning)
    with pytest.raises(AssertionError):
        check_ceph_osds.test_device_class(node, asked, spinning)
    with pytest.raises(AssertionError):
        check_ceph_osds.test_device_class(
            node, undecided, facts(lambda told: crush(told, 1).pop("device_class"))
        )


@pytest.mark.parametrize("kind", ["public", "cluster", "heartbeat_front", "heartbeat_back"])
def test_an_osd_on_the_wrong_network(lab: Lab, asked: Ceph, kind: str) -> None:
    elsewhere = {"addrvec": [{"type": "v2", "addr": "10.10.1.22:6801", "nonce": 1}]}
    ceph = facts(lambda told: osd(told, 1).update({f"{kind}_addrs": elsewhere}))
    check_ceph_osds.test_osd_addresses(lab.nodes["node1"], asked, ceph)
    with pytest.raises(AssertionError):
        check_ceph_osds.test_osd_addresses(lab.nodes["node2"], asked, ceph)


def disk(number: int, **more: Any) -> dict[str, Any]:
    """As Proxmox lists one; JSON made by Perl has numbers as text now and then."""
    serial, device = f"RPVOSD000000{number}", f"/dev/sd{chr(ord('a') + number)}"
    return {"devpath": device, "serial": serial, "used": "LVM", "osdid": -1, **more}


@pytest.mark.parametrize(
    ("told", "osds"),
    [
        ({}, set()),
        ({"osdid-list": None}, set()),
        ({"osdid": "3", "osdid-list": None}, {3}),
        ({"osdid": "3", "osdid-list": ["3", "4"]}, {3, 4}),
    ],
)
def test_osds_on_a_disk(told: dict[str, Any], osds: set[int]) -> None:
    assert osds_on(Disk.model_validate(disk(1, **told))) == osds


class Told:
    """A node's API that answers GET by path alone, spoken to as proxmoxer's resources are."""

    def __init__(self, answers: dict[str, Any], path: str = "") -> None:
        self._answers, self._path = answers, path

    def __getattr__(self, name: str) -> Told:
        return self(name)

    def __call__(self, name: str) -> Told:
        return Told(self._answers, f"{self._path}/{name}")

    def get(self, **_: object) -> Any:
        return self._answers[self._path]


def api_of(answers: dict[str, Any]) -> Callable[[str], Any]:
    """The API of any node, with what it answers by path."""

    def read(shape: Any, data: object) -> Any:
        return TypeAdapter(shape).validate_python(data)

    return lambda node: SimpleNamespace(node=node, api=Told(answers), read=read)


def test_osds_and_their_disks(lab: Lab, asked: Ceph, evidence: Evidence) -> None:
    host: Any = FakeHost("")
    node, proved = lab.nodes["node1"], evidence.nodes["node1"]

    def check(*disks: dict[str, Any]) -> None:
        there = [Disk.model_validate(row) for row in disks]
        check_ceph_osds.test_osds_are_on_their_disks(proved, evidence, there)
        check_ceph_osds.test_disks_of_the_lab_file_have_osds(host, node, asked, there)

    system, own = disk(0, used="partitions"), disk(1, osdid=0, **{"osdid-list": ["0"]})
    check(system, own)
    for wrong in (
        {**own, "osdid": -1, "osdid-list": None},
        {**own, "osdid-list": ["0", "1"]},
        {**own, "serial": "X"},
    ):
        with pytest.raises(AssertionError):
            check(system, wrong)


def test_names_of_disks_in_the_lab_file(lab: Lab, asked: Ceph) -> None:
    host: Any = FakeHost("/dev/sdb")
    node, used = lab.nodes["node1"], disk(1, osdid=0)

    def check(names: dict[str, str], *disks: dict[str, Any]) -> None:
        osds = asked.osds.model_copy(update={"disks": {"all": (OsdDisk.model_validate(names),)}})
        there = [Disk.model_validate(row) for row in (disk(0, used="partitions"), *disks)]
        asking = asked.model_copy(update={"osds": osds})
        check_ceph_osds.test_disks_of_the_lab_file_have_osds(host, node, asking, there)

    for names in ({"serial": "RPVOSD000000?"}, {"by_id": "ata-OSD_1"}):
        check(names, used)
    for names, disks in (
        ({"serial": "RPVOSD0000002"}, (used,)),
        ({"wwn": "0x5000*"}, (used,)),
        ({"serial": "RPVOSD0000001"}, (used, disk(2, osdid=1))),
        ({"serial": "RPVOSD*"}, (used, disk(2, used=None))),
    ):
        with pytest.raises(AssertionError):
            check(names, *disks)


# Pools and placement groups


@pytest.mark.parametrize(
    "change",
    [
        {"size": 2},
        {"min_size": 1},
        {"pg_autoscale_mode": "warn"},
        {"options": {}},
        {"application_metadata": {}},
    ],
)
def test_a_pool_that_is_not_as_asked(asked: Ceph, change: dict[str, Any]) -> None:
    with pytest.raises(AssertionError):
        check_ceph_pools.test_pool_is_as_asked(
            ("rbd", asked.pools["rbd"]), facts(lambda told: rbd(told).update(change))
        )


def test_a_pool_without_a_ratio() -> None:
    none_asked = ("rbd", Pool())
    check_ceph_pools.test_pool_is_as_asked(none_asked, facts(lambda told: rbd(told).pop("options")))
    with pytest.raises(AssertionError):
        check_ceph_pools.test_pool_is_as_asked(none_asked, facts())


@pytest.mark.parametrize("number", ["pg_num_target", "pg_placement_num_target", "pg_placement_num"])
def test_a_pool_that_is_changing(asked: Ceph, number: str) -> None:
    with pytest.raises(AssertionError):
        check_ceph_pools.test_pool_is_not_changing(
            ("rbd", asked.pools["rbd"]), facts(lambda told: rbd(told).update({number: 64}))
        )


@pytest.mark.parametrize(
    ("state", "clean"),
    [
        ("active+clean", True),
        ("active+clean+scrubbing", True),
        ("active+clean+scrubbing+deep", True),
        ("active+clean+snaptrim_wait", True),
        ("active+clean+inconsistent", False),
        ("active+clean+remapped", False),
        ("active+undersized+degraded", False),
        ("stale+active+clean", False),
        ("peering", False),
        ("unknown", False),
    ],
)
def test_states_of_placement_groups(state: str, *, clean: bool) -> None:
    assert is_clean(state) == clean
    ceph = facts(
        lambda told: told["status"]["pgmap"].update(pgs_by_state=[{"state_name": state, "count": 7}])
    )
    assert ceph.unclean == ({} if clean else {state: 7})


def test_no_placement_group_proves_nothing() -> None:
    with pytest.raises(AssertionError):
        check_ceph_pools.test_placement_groups_are_clean(
            facts(lambda told: told["status"].update(pgmap={"num_pgs": 0}))
        )


class Node(Remote):
    """A node that runs no script, but answers for it."""

    def __init__(self, name: str, answers: dict[str, Output]) -> None:
        self.name, self.answers = name, answers
        self.ran: list[str] = []

    def execute(self, command: str, stdin: Stdin, timeout: float) -> Output:
        self.ran.append(command)
        return next(output for word, output in self.answers.items() if word in command)

    def forward_socket(self, remote_socket: str) -> AbstractContextManager[Path]:
        raise NotImplementedError

    def close(self) -> None:
        pass


GOOD, BAD = Output(0, b"0fa8\n", b""), Output(1, b"", b"Traceback\nrbd.Error: I/O\n")


@pytest.mark.parametrize(
    ("reads", "said"),
    [(GOOD, None), (Output(0, b"71c4\n", b""), "71c4"), (BAD, r"node2 cannot read rbd/.*rbd\.Error: I/O")],
)
def test_the_image_goes_away_whatever_happens(lab: Lab, asked: Ceph, reads: Output, said: str | None) -> None:
    nodes = {
        name: Node(name, {" write ": GOOD, " remove ": Output(0, b"", b""), " read ": reads})
        for name in lab.nodes
    }
    machines: Any = SimpleNamespace(node=nodes.__getitem__)
    with pytest.raises(AssertionError, match=said) if said else nullcontext():
        check_ceph_pools.test_an_image_written_on_one_node_is_read_on_another(
            lab, machines, ("rbd", asked.pools["rbd"])
        )
    written, removed = (command.split()[-1] for command in nodes["node1"].ran)
    assert written == removed == nodes["node2"].ran[0].split()[-1]
    assert nodes["node1"].ran[1].startswith("python3 - remove rbd rackproof-proof-")


# Storages and migration


def test_storages_of_a_node(lab: Lab, asked: Ceph) -> None:
    node = lab.nodes["node1"]

    def check(*rows: dict[str, Any]) -> None:
        check_storages.test_storages_are_active(node, asked, api_of({"/nodes/node1/storage": list(rows)}))

    rows = {"storage": "local", "active": 1, "enabled": 1}, {"storage": "rbd", "active": "1", "enabled": 1}
    check(*rows)
    for wrong in ({**rows[1], "active": 0}, {**rows[1], "enabled": 0, "active": 0}, {"storage": "other"}):
        with pytest.raises(AssertionError):
            check(rows[0], wrong)


def test_the_storage_of_a_pool(lab: Lab, asked: Ceph) -> None:
    good = {"storage": "rbd", "type": "rbd", "pool": "rbd", "content": "rootdir,images", "krbd": 0}

    def check(*rows: dict[str, Any]) -> None:
        check_storages.test_storage_of_pool(
            lab, ("rbd", asked.pools["rbd"]), api_of({"/storage": list(rows)})
        )

    check(good)
    for wrong in (
        {**good, "pool": "other"},
        {**good, "type": "dir"},
        {**good, "content": "images"},
        {**good, "storage": "x"},
    ):
        with pytest.raises(AssertionError):
            check(wrong)


def test_storages_that_nobody_asked_for(lab: Lab, asked: Ceph) -> None:
    for pool in (Pool(storage=False), Pool(application="rgw")):
        assert list(check_storages.storages_asked(asked.model_copy(update={"pools": {"rbd": pool}}))) == []
        with pytest.raises(pytest.skip.Exception):
            check_storages.test_storage_of_pool(lab, ("rbd", pool), api_of({}))


@pytest.mark.parametrize(
    ("options", "right"),
    [
        ({"migration": {"type": "secure", "network": "10.10.2.0/24"}}, True),
        ({"migration": "network=10.10.2.0/24"}, True),
        ({"migration": {"type": "insecure", "network": "10.10.2.0/24"}}, False),
        ({"migration": {"network": "10.10.1.0/24"}}, False),
        ({"keyboard": "de"}, False),
    ],
)
def test_the_migration_network(lab: Lab, options: dict[str, Any], *, right: bool) -> None:
    with nullcontext() if right else pytest.raises(AssertionError):
        check_migration.test_migration_network(lab, api_of({"/cluster/options": options}))


# Asking


def test_a_refused_command_spares_what_others_told() -> None:
    refused = {"code": 110, "said": "", "answer": None}
    ceph = CephFacts({**RECORDED, "crash ls": refused}, "node1")
    assert ceph.active_manager == "node2"
    with pytest.raises(LabError, match='node1: Ceph did not answer "crash ls": Connection timed out'):
        assert ceph.crashes


def test_ceph_is_asked_once_for_all() -> None:
    node = Node("node1", {"python3": Output(0, json.dumps(RECORDED).encode(), b"")})
    assert read(node).monitors.keys() == {"node1", "node2", "node3"}
    assert len(node.ran) == 1


def test_a_ceph_that_cannot_be_asked() -> None:
    with pytest.raises(LabError, match="have its monitors a quorum") as caught:
        read(Node("node1", {"python3": Output(1, b"", b"Traceback\nrados.TimedOut: [errno 110]\n")}))
    assert caught.value.last_seen == "rados.TimedOut: [errno 110]"
    assert last_line("") == "nothing"
