"""Disks, logical volumes and OSDs of the played node, from what real tools say of them."""

from __future__ import annotations

from typing import Any

import pytest

from virtual_lab.pve.pmx import api, disks, lvm, osds, router, worker
from virtual_lab.pve.pmx.auth import caller
from virtual_lab.pve.pmx.disks import Contents, OsdsOn
from virtual_lab.pve.pmx.errors import Failure

assert api

MIB = 1 << 20
ROW = {
    "pv_name": "/dev/sdb", "pe_start": "1048576", "vg_name": "ceph-1", "vg_uuid": "abc-def",
    "vg_extent_size": "4194304", "pvseg_start": "0", "pvseg_size": "2559", "lv_name": "osd-block-2",
    "lv_uuid": "ghi-jkl", "segtype": "linear",
}  # fmt: skip


# -- logical volumes


def test_a_volume_is_a_stretch_of_its_disk() -> None:
    free = {**ROW, "lv_name": "", "lv_uuid": "", "segtype": "free"}
    second = {**ROW, "pvseg_start": "2", "pvseg_size": "3", "lv_uuid": "mno", "lv_name": "osd-db-3"}
    first, other = lvm.of_report([ROW, free, second])
    assert (first.disk, first.start, first.size, first.whole) == ("sdb", MIB, 2559 * 4 * MIB, True)
    assert first.uuid == "LVM-abcdefghijkl"
    assert (other.start, other.size) == (9 * MIB, 12 * MIB)


@pytest.mark.parametrize("rows", [[ROW, {**ROW, "pv_name": "/dev/sdc"}], [{**ROW, "segtype": "striped"}]])
def test_a_volume_in_several_pieces_cannot_be_mapped(rows: list[dict[str, Any]]) -> None:
    rows = rows if len(rows) > 1 else [ROW, *rows]
    (volume,) = lvm.of_report(rows)
    assert not volume.whole
    with pytest.raises(Failure, match="ceph-1/osd-block-2 lies in several pieces"):
        lvm.activate([volume])


def test_a_volume_answers_to_all_its_names() -> None:
    (volume,) = lvm.of_report([ROW])
    assert volume.mapped_name == "ceph--1-osd--block--2"
    assert {
        "ceph-1",
        "ceph-1/osd-block-2",
        "/dev/ceph-1/osd-block-2",
        "/dev/mapper/ceph--1-osd--block--2",
    } <= (volume.names)


@pytest.mark.parametrize(
    ("words", "rest", "value"),
    [
        (["-an", "vg"], ["vg"], "n"),
        (["-a", "y", "vg"], ["vg"], "y"),
        (["-aay"], [], "ay"),
        (["--activate", "n", "vg"], ["vg"], "n"),
        (["--activate=ly", "vg"], ["vg"], "ly"),
        (["--addtag", "a", "-A", "n", "vg"], ["--addtag", "a", "-A", "n", "vg"], None),
    ],
)
def test_an_option_is_taken_out_of_a_command_line(
    words: list[str], rest: list[str], value: str | None
) -> None:
    assert lvm.without(words, "-a", "--activate") == (rest, value)


# -- what is on disks


def test_osds_are_known_by_the_tags_of_their_volumes() -> None:
    found = disks.ceph_volumes(
        "  /dev/sdb(0);osd-block-a;ceph.encrypted=0,ceph.osd_id=7,ceph.type=block\n"
        "  /dev/sdc(0);osd-db-b;ceph.osd_id=7,ceph.type=db\n"
        "  /dev/sdc(512);osd-db-c;ceph.osd_id=8\n"
        "  /dev/sdd(0);osd-block-d;\n"
    )
    assert found["/dev/sdb"] == OsdsOn(osds=["7"])
    assert found["/dev/sdc"] == OsdsOn(db=2)
    assert found["/dev/sdd"] == OsdsOn()


@pytest.mark.parametrize(
    ("path", "use"),
    [
        ("/dev/sdb", "LVM"),
        ("/dev/sda1", "BIOS boot"),
        ("/dev/sda2", "EFI"),
        ("/dev/sdc", "xfs"),
        ("/dev/sdd", "mounted"),
        ("/dev/sde", None),
    ],
)
def test_the_use_of_a_device_is_said_in_proxmox_words(path: str, use: str | None) -> None:
    probed: dict[str, dict[str, str | None]] = {
        "/dev/sdb": {"fstype": "LVM2_member"},
        "/dev/sda1": {"parttype": "21686148-6449-6e6f-744e-656564454649", "fstype": None},
        "/dev/sda2": {"parttype": "c12a7328-f81f-11d2-ba4b-00a0c93ec93b", "fstype": "vfat"},
        "/dev/sdc": {"fstype": "xfs", "parttype": None},
        "/dev/sde": {"fstype": None, "parttype": None},
    }
    assert Contents(probed, {"/dev/sdb"}, {}, {"/dev/sdd": "/mnt"}).usage(path) == use


# -- the calls


def refused(method: str, path: str, params: dict[str, str]) -> dict[str, str]:
    endpoint, in_path = router.find(method, path)
    with pytest.raises(Failure) as failure:
        endpoint.run(caller("root@pam"), {**params, **in_path})
    assert failure.value.code == 400
    return failure.value.errors


def test_wipedisk_takes_no_link() -> None:
    link = "/dev/disk/by-id/wwn-0x5000"
    assert refused("PUT", "/nodes/n1/disks/wipedisk", {"disk": link}) == {
        "disk": "value does not match the regex pattern"
    }


def test_an_osds_db_size_needs_a_db_device() -> None:
    params = {"dev": "/dev/sdb", "db_dev_size": "2"}
    assert "db_dev" in refused("POST", "/nodes/n1/ceph/osd", params)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("PUT", "/nodes/n1/disks/wipedisk"),
        ("POST", "/nodes/n1/ceph/osd"),
        ("DELETE", "/nodes/n1/ceph/osd/0"),
    ],
)
def test_what_destroys_data_is_for_root_alone(method: str, path: str) -> None:
    endpoint, _ = router.find(method, path)
    assert (endpoint.right, endpoint.protected) == (router.ROOT, True)


def test_every_task_has_its_job() -> None:
    for kind in ("cephcreateosd", "cephdestroyosd", "wipedisk"):
        module, _, name = worker.JOBS[kind].partition(":")
        assert callable(getattr({"osds": osds, "disks": disks}[module], name))


# -- the tree


def test_the_tree_hangs_osds_below_their_hosts() -> None:
    nodes = [
        {"id": -1, "name": "default", "type": "root", "children": [-2]},
        {"id": -2, "name": "n1", "type": "host", "children": [0]},
        {"id": 0, "name": "osd.0", "type": "osd", "status": "up", "device_class": "ssd"},
        {"id": 1, "name": "osd.1", "type": "osd", "status": "down"},
    ]
    states = [{"osd": 0, "in": 1, "up": 1}, {"osd": 1, "in": 0, "up": 0}]
    usage = [{"osd": 0, "kb": 1000, "kb_used": 100, "perf_stat": {"commit_latency_ms": 3}}]
    said = [{"id": 0, "osd_objectstore": "bluestore", "bluestore_bdev_dev_node": "/dev/dm-1"}]
    root, stray = osds.tree_of(nodes, states, usage, said)
    osd = root["children"][0]["children"][0]
    assert {
        "host": "n1",
        "in": 1,
        "leaf": 1,
        "percent_used": 10.0,
        "blfsdev": "/dev/dm-1",
    }.items() <= osd.items()
    assert (osd["commit_latency_ms"], osd["dbdev"]) == (3, None)
    assert (stray["name"], stray["in"], root["leaf"]) == ("osd.1", 0, 0)
