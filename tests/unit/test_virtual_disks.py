"""A machine's disks: what the plan makes of the lab file, and what the kernel is played to show of them."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from provision import inventory
from provision.errors import Refused
from provision.inventory.models import Lab, OsdDisk, Osds
from virtual_lab import control, sysfs, udev
from virtual_lab.block_devices import SOCKET, BlockDevices
from virtual_lab.disk import ROOT_X86_64, Extent
from virtual_lab.drives import OSD_SIZE
from virtual_lab.hardware import Drive, Hardware
from virtual_lab.loop import Loop
from virtual_lab.places import Places
from virtual_lab.plan import RackPlan, hardware, plan

ROOT = Path(__file__).parents[2]
MIB = 1 << 20


@pytest.fixture(scope="module")
def lab() -> Lab:
    return inventory.load(ROOT / "labs/virtual.yaml", env={})


def with_osds(lab: Lab, osds: Osds) -> Lab:
    assert lab.ceph is not None
    return lab.model_copy(update={"ceph": lab.ceph.model_copy(update={"osds": osds})})


def machine(lab: Lab, tmp_path: Path, number: int = 0) -> Hardware:
    return hardware(Places(tmp_path, "x"), plan(lab).nodes[number], ())


# -- from the lab file


def test_every_osd_disk_is_a_drive_with_the_serial_asked_for(lab: Lab, tmp_path: Path) -> None:
    node = machine(lab, tmp_path)
    (drive,) = node.osd_drives
    assert (drive.serial, drive.device, drive.size, drive.rpm) == ("RPVOSD0000001", "sdb", OSD_SIZE, 0)
    assert drive.image.name == "sdb.img"
    assert [each.device for each in node.drives] == ["sda", "sdb"]
    assert plan(lab).server.osd_drives == ()


def test_disks_of_all_nodes_db_and_wal_devices_are_there_once(lab: Lab, tmp_path: Path) -> None:
    fast = OsdDisk(serial="FAST1")
    osds = Osds(
        disks={"all": (OsdDisk(serial="ALL-*"),), "node1": (OsdDisk(wwn="0x5000c50?"),)},
        db={"node1": fast, "all": OsdDisk(serial="SLOW")}, wal={"node1": fast},
    )  # fmt: skip
    first, second = (machine(with_osds(lab, osds), tmp_path, number) for number in (0, 1))
    assert [drive.device for drive in first.osd_drives] == ["sdb", "sdc", "sdd"]
    assert first.osd_drives[1].wwn == "0x5000c500"
    assert first.osd_drives[2].serial == "FAST1"
    assert [drive.serial for drive in second.osd_drives][1:] == ["SLOW"]
    serials = {node.osd_drives[0].serial for node in (first, second)}
    assert len(serials) == 2
    assert all(serial.startswith("ALL-") and "*" not in serial for serial in serials)


def test_device_names_are_those_that_the_systems_disk_leaves(lab: Lab, tmp_path: Path) -> None:
    node = lab.nodes["node1"]
    disk = node.disk.model_copy(update={"serial": None, "device": "sdb"})
    moved = lab.model_copy(update={"nodes": lab.nodes | {"node1": node.model_copy(update={"disk": disk})}})
    made = machine(moved, tmp_path)
    assert (made.drive.device, made.osd_drives[0].device) == ("sdb", "sda")


@pytest.mark.parametrize(
    ("asked", "field", "value"),
    [
        ({"serials": ("S1", "S2")}, "serial", "S1"),
        ({"serial": "S[12]*"}, "serial", "S10"),
        ({"udev": {"ID_WWN": "0x5?"}}, "wwn", "0x50"),
        ({"devices": ("nvme0n1", "sdb")}, "device", "nvme0n1"),
    ],
)  # fmt: skip
def test_the_systems_disk_is_what_the_lab_file_asks_for(
    asked: dict[str, Any], field: str, value: str, lab: Lab, tmp_path: Path
) -> None:
    node = lab.nodes["node1"]
    disk = node.disk.model_copy(update={"serial": None, **asked})
    asking = lab.model_copy(update={"nodes": lab.nodes | {"node1": node.model_copy(update={"disk": disk})}})
    assert getattr(machine(asking, tmp_path).drive, field) == value


@pytest.mark.parametrize(
    ("by_id", "field", "value"),
    [
        ("ata-WDC_WD10EZEX_WD-1", "serial", "WD-1"),
        ("ata-WDC_WD10EZEX_WD-1", "model", "WDC_WD10EZEX"),
        ("wwn-0x5000c5001234", "wwn", "0x5000c5001234"),
        ("nvme-eui.0025", "links", ("nvme-eui.0025",)),
    ],
)
def test_a_disk_named_by_its_link_has_that_link(
    lab: Lab, tmp_path: Path, by_id: str, field: str, value: object
) -> None:
    osds = Osds(disks={"node1": (OsdDisk(by_id=by_id),)})
    (drive,) = machine(with_osds(lab, osds), tmp_path).osd_drives
    assert getattr(drive, field) == value
    assert by_id in udev.by_id(drive)


def test_hdds_turn(lab: Lab, tmp_path: Path) -> None:
    osds = Osds(device_class="hdd", disks={"node1": (OsdDisk(serial="H1"),)})
    (drive,) = machine(with_osds(lab, osds), tmp_path).osd_drives
    assert drive.rpm == 7200
    assert udev.of_drive(drive)["ID_ATA_ROTATION_RATE_RPM"] == "7200"


def test_other_disks_are_another_plan_and_survive_its_file(lab: Lab, tmp_path: Path) -> None:
    made = plan(lab)
    made.save(tmp_path / "plan.json")
    assert RackPlan.load(tmp_path / "plan.json") == made
    assert made.nodes[0] != plan(with_osds(lab, Osds(disks={"node1": (OsdDisk(serial="H1"),)}))).nodes[0]


# -- what the kernel shows


class Loops:
    """Loop devices that are plain files."""

    def __init__(self) -> None:
        self.attached: list[Loop] = []
        self.asked: list[dict[str, object]] = []

    def attach(self, image: Path, node: Path, **options: object) -> Loop:
        node.touch()
        self.asked.append({"image": image.name, **options})
        self.attached.append(Loop(node, len(self.asked), os.open(node, os.O_RDWR)))
        return self.attached[-1]

    def held(self) -> list[str]:
        return [loop.node.name for loop in self.attached if loop.node.exists()]


@pytest.fixture
def drive(tmp_path: Path) -> Drive:
    return Drive(tmp_path / "sdb.img", 64 * MIB, "SER1", "INTEL SSD", "0x55cd2e4", "sdb")


@pytest.fixture
def loops() -> Loops:
    return Loops()


@pytest.fixture
def kernel(tmp_path: Path, loops: Loops, drive: Drive) -> BlockDevices:
    made = BlockDevices(tmp_path / "run", loops.attach, tmp_path / "no-sysfs")
    made.add(drive)
    return made


MAP = {"do": "map", "name": "vg-lv", "uuid": "LVM-1", "disk": "sdb", "start": MIB, "size": 4 * MIB}


def test_a_disk_is_shown_as_the_kernel_and_udev_show_it(kernel: BlockDevices, tmp_path: Path) -> None:
    run = tmp_path / "run"
    block = run / "sys/block/sdb"
    assert (block / "size").read_text() == f"{64 * MIB // 512}\n"
    assert (block / "dev").read_text() == "7:1\n"
    assert (block / "device/model").read_text().strip() == "INTEL SSD"
    assert (run / "sys/dev/7:1").readlink() == Path("../../block/sdb")
    assert (run / "dev/disk/by-id/ata-INTEL_SSD_SER1").readlink() == Path("../../sdb")
    record = (run / "udev/data/b7:1").read_text()
    assert "E:ID_SERIAL_SHORT=SER1\n" in record
    assert "S:disk/by-id/wwn-0x55cd2e4\n" in record
    assert (run / "dev/sdb", Path("/dev/sdb")) in kernel.binds()
    assert (run, Path("/run/rackproof")) in kernel.binds()


def test_the_systems_disk_can_only_be_read_and_is_held(
    kernel: BlockDevices, loops: Loops, drive: Drive, tmp_path: Path
) -> None:
    parts = [Extent(MIB, MIB, "X"), Extent(2 * MIB, 8 * MIB, ROOT_X86_64)]
    kernel.add_system(replace(drive, device="sda"), parts)
    assert all(asked["read_only"] for asked in loops.asked[1:])
    block = tmp_path / "run/sys/block/sda"
    assert (block / "sda2/start").read_text() == f"{2 * MIB // 512}\n"
    assert (block / "sda2/partition").read_text() == "2\n"
    assert (tmp_path / "run/dev/disk/by-id/ata-INTEL_SSD_SER1").readlink() == Path("../../sda")
    assert [path.name for path in (block / "sda2/holders").iterdir()] == ["dm-0"]
    assert (block / "sda2/holders/dm-0").resolve() == (tmp_path / "run/sys/block/dm-0").resolve()


def test_a_mapped_device_holds_its_disk_until_it_is_gone(
    kernel: BlockDevices, loops: Loops, tmp_path: Path
) -> None:
    made = kernel.answer(MAP)
    assert made == {"name": "vg-lv", "device": "dm-1", "major": 7, "minor": 2, "disk": "sdb"}
    assert loops.asked[-1] == {"image": "sdb.img", "start": MIB, "size": 4 * MIB}
    assert kernel.answer(MAP) == made
    block = tmp_path / "run/sys/block"
    assert (block / "dm-1/dm/name").read_text() == "vg-lv\n"
    assert (block / "sdb/holders/dm-1").resolve() == (block / "dm-1").resolve()
    assert (block / "dm-1/slaves/sdb").resolve() == (block / "sdb").resolve()
    assert kernel.answer({"do": "table"}) == {"mapped": [made]}
    assert kernel.answer({"do": "unmap", "name": "vg-lv"}) == {}
    assert list((block / "sdb/holders").iterdir()) == []
    assert loops.held() == ["sdb"]


def test_devices_have_names_of_their_own(kernel: BlockDevices) -> None:
    names = [kernel.answer({**MAP, "name": name})["device"] for name in ("a", "b")]
    kernel.answer({"do": "unmap", "name": "a"})
    assert [*names, kernel.answer({**MAP, "name": "c"})["device"]] == ["dm-1", "dm-2", "dm-1"]


@pytest.mark.parametrize(
    "wrong", [{"do": "unmap", "name": "none"}, {**MAP, "disk": "sdz"}, {"do": "map"}, {"do": "what"}]
)
def test_a_wrong_request_is_answered(kernel: BlockDevices, wrong: dict[str, object]) -> None:
    assert "error" in kernel.answer(wrong)


def test_the_mapper_answers_until_it_is_closed(kernel: BlockDevices, loops: Loops, tmp_path: Path) -> None:
    kernel.serve()
    socket = tmp_path / "run" / SOCKET
    assert control.ask(socket, dict(MAP))["device"] == "dm-1"
    with pytest.raises(Refused, match="a request says do"):
        control.ask(socket, {"do": "dance"})
    kernel.close()
    assert loops.held() == []


def test_a_partition_of_a_disk_is_found_by_its_number(tmp_path: Path) -> None:
    sysfs.add_disk(tmp_path, sysfs.Device("sda", 7, 1, 64 * MIB, rotational=True), "M" * 20)
    sysfs.add_partition(tmp_path, "sda", sysfs.Device("sda1", 7, 2, MIB), 1, MIB)
    assert (tmp_path / "dev/7:2").readlink() == Path("../../block/sda/sda1")
    assert (tmp_path / "block/sda/queue/rotational").read_text() == "1\n"
    assert (tmp_path / "block/sda/device/model").read_text() == "M" * 16 + "\n"
    assert not (tmp_path / "block/sda/sda1/queue").exists()
