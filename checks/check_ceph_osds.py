"""OSDs: on every node exactly those of the lab file's disks, up, in, of their class and on their networks."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from testinfra.host import Host

from checks.ceph_facts import CephFacts, osds_on
from provision.inventory import Ceph, Lab, Node, OsdDisk
from provision.journal import Evidence

if TYPE_CHECKING:
    from provision.pve import Session
    from provision.pve.ceph import Disk

pytestmark = [pytest.mark.step("ceph"), pytest.mark.ceph]


@pytest.fixture(scope="session")
def disks(node: Node, api_of: Callable[[str], Session]) -> list[Disk]:
    """The node's disks, without their partitions, as Proxmox lists them."""
    from provision.pve import ceph  # noqa: PLC0415 (collecting needs no API)

    return [disk for disk in ceph.disks(api_of(node.name)) if disk.parent is None]


def test_osds_of_node(node: Node, asked: Ceph, ceph: CephFacts, proved: dict[str, Any]) -> None:
    """The node has exactly the OSDs that were made on it, with the DB and WAL devices of the lab file."""
    found = ceph.osds_of(node.name)
    assert set(found) == set(proved["osds"])
    assert {osd.hostname for osd in found.values()} <= {node.name}, "CRUSH has OSDs here that run elsewhere"
    own_db, own_wal = ({node.name, "all"} & given.keys() for given in (asked.osds.db, asked.osds.wal))
    assert {(osd.own_db, osd.own_wal) for osd in found.values()} <= {(bool(own_db), bool(own_wal))}


def test_osds_are_up_and_in(node: Node, ceph: CephFacts) -> None:
    """Every OSD of the node runs, and is given data."""
    found = ceph.osds_of(node.name)
    idle = [f"osd.{number}" for number, osd in found.items() if not (osd.up and osd.taken_in)]
    assert not idle, f"{', '.join(idle)} down or out"


def test_osds_are_on_their_disks(proved: dict[str, Any], evidence: Evidence, disks: list[Disk]) -> None:
    """Each OSD of the node is on the disk, by its serial number, that it was made on."""
    osds, made = evidence.facts.get("osds"), dict[str, set[int]]()
    assert osds, "not read back since a node was rebuilt; run pytest -m provision --from ceph"
    for number in proved["osds"]:
        made.setdefault(osds[str(number)]["serial"], set()).add(number)
    assert {disk.name: osds_on(disk) for disk in disks if osds_on(disk)} == made


def test_disks_of_the_lab_file_have_osds(host: Host, node: Node, asked: Ceph, disks: list[Disk]) -> None:
    """Every disk that the lab file names for data has an OSD, and no other disk of the node has one."""
    from provision.ceph_disks import in_words  # noqa: PLC0415 (collecting needs no step)

    names = [*asked.osds.disks.get("all", ()), *asked.osds.disks.get(node.name, ())]
    named = {in_words(name): [disk for disk in disks if means(host, name, disk)] for name in names}
    # A glob may mean the system's disk too, which is none for Ceph, and in use.
    right = {disk.devpath for found in named.values() for disk in found if osds_on(disk) or disk.used is None}
    assert [name for name, found in named.items() if not any(map(osds_on, found))] == []
    assert {disk.devpath for disk in disks if osds_on(disk)} == right


def test_device_class(node: Node, asked: Ceph, ceph: CephFacts) -> None:
    """The OSDs of the node are of the class that was asked for, or of the one that Ceph chose."""
    classes = {osd.device_class for osd in ceph.osds_of(node.name).values()}
    assert classes <= {asked.osds.device_class} if asked.osds.device_class else None not in classes


def test_osd_addresses(node: Node, asked: Ceph, ceph: CephFacts) -> None:
    """Each OSD that runs is reached at the node's public address, by other OSDs at its cluster address."""
    front, back = node.addresses[asked.public], node.addresses[asked.cluster or asked.public]
    running = [osd for osd in ceph.osds_of(node.name).values() if osd.up]
    assert {osd.id: osd.public for osd in running} == {osd.id: frozenset({front}) for osd in running}
    assert {osd.id: osd.cluster for osd in running} == {osd.id: frozenset({back}) for osd in running}


def test_no_stray_osd(lab: Lab, ceph: CephFacts) -> None:
    """Every OSD has its place in CRUSH, on a node of the lab."""
    places = {number: osd.host for number, osd in ceph.osds.items()}
    assert {number: host for number, host in places.items() if host not in lab.proxmox.nodes} == {}


def means(host: Host, name: OsdDisk, disk: Disk) -> bool:
    """Whether a name in the lab file means that disk of the node."""
    from provision.ceph_disks import matches  # noqa: PLC0415 (as above)

    if name.by_id is not None:
        return str(host.check_output("readlink -f %s", f"/dev/disk/by-id/{name.by_id}")) == disk.devpath
    glob, text = (name.serial, disk.serial) if name.serial is not None else (name.wwn, disk.wwn)
    return matches(glob or "", text or "")
