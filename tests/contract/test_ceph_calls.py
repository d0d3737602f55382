"""Every call about Ceph, disks and storages, as it goes over the wire, against Proxmox's own API schema."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fakepve import schema

from provision import pve
from provision.ledger import Ledger
from provision.pve import Session
from provision.pve import ceph as api
from provision.run import Run
from tests.contract.test_pve_calls import accepted, calls_in, described, faults, misshapen, same
from tests.unit.ceph_api import CephRack, FakeOsd
from tests.unit.pve_api import Call
from tests.unit.test_ceph import CEPHFS, Stage, read_lab

SOURCES = [Path(pve.__file__).with_name("ceph.py")]
ROOT_ALONE = {("POST", "/nodes/{node}/ceph/osd"), ("DELETE", "/nodes/{node}/ceph/osd/{osdid}")}


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """A rack on which the step did all it can do."""
    folder = tmp_path_factory.mktemp("lab")
    lab, ledger = read_lab(folder, part=CEPHFS), Ledger(folder / "ledger.db")
    rack = CephRack({name: [str(net) for net in node.addresses.values()] for name, node in lab.nodes.items()})
    with rack.serving():
        rack.stand("lab-cluster", *lab.nodes)
        stage = Stage(lab, rack, Run("lab", "run-1", ledger, acting=frozenset({"ceph"})))
        use(stage)
        yield stage
    ledger.close()


def use(stage: Stage) -> None:
    """Everything once; `build` forgets the calls of the time before, so that they are kept here."""
    sent: list[Call] = []
    rack = stage.rack
    stage.build()
    sent += rack.calls
    rack.nodes["node2"].reinstalled()
    rack.osds[1].in_ = False
    rack.osds[9] = FakeOsd(rack.new_uuid(), "node1", "ssd")
    rack.pools["rbd"]["size"] = 2
    rack.storages["rbd"]["content"] = "images"
    rack.nodes["node3"].active.discard("mds.node3")
    stage.build()
    sent += rack.calls
    stage.build(stage.asking(managers=("node1", "node3")))
    rack.calls[:0] = sent


def session_of(stage: Stage) -> Session:
    return stage.open(stage.lab.nodes["node1"], stage.rack.remotes["node1"])


def test_every_request_obeys_the_schema(stage: Stage) -> None:
    wrong = {f"{call.method} {call.path}": found for call in accepted(stage.rack) if (found := faults(call))}
    assert wrong == {}


def test_everything_that_the_source_calls_was_sent(stage: Stage) -> None:
    sent = {(call.method, described(call)[0].template) for call in accepted(stage.rack)}
    called = {call for source in SOURCES for call in calls_in(source)}
    assert len(called) == 27, "the reader of the source finds what there is"
    assert {call for call in called if not any(same(call, other) for other in sent)} == set()


def test_what_changes_osds_is_for_root_alone(stage: Stage) -> None:
    """No permission entry in the schema: root@pam with a ticket, and no API token."""
    sent = {(call.method, described(call)[0].template): described(call)[1] for call in accepted(stage.rack)}
    assert {key for key, info in sent.items() if not info.get("permissions") and key[0] != "GET"} - {
        ("POST", "/access/ticket")
    } == ROOT_ALONE


def test_the_judge_can_say_no() -> None:
    path = "/nodes/node1/ceph/osd"
    assert faults(Call("node1", "POST", path, {"dev": "/dev/sdb", "crush-device-class": "ssd"})) == {}
    assert "device_class" in faults(Call("node1", "POST", path, {"dev": "/dev/sdb", "device_class": "ssd"}))
    pool = {"name": "rbd", "pg_autoscale_mode": "always"}
    assert "pg_autoscale_mode" in faults(Call("node1", "POST", "/nodes/node1/ceph/pool", pool))


def test_migration_may_be_written_in_both_ways(stage: Stage) -> None:
    session, rack = session_of(stage), stage.rack
    assert api.migration(session) == {"type": "secure", "network": "10.10.2.0/24"}
    rack.migration = "insecure,network=10.10.1.0/24"  # type: ignore[assignment]
    assert api.migration(session) == {"type": "insecure", "network": "10.10.1.0/24"}
    rack.migration = {"type": "secure", "network": "10.10.2.0/24"}
    session.close()


def test_our_own_fake_answers_in_the_schemas_shapes(stage: Stage) -> None:
    """A client proved against answers of another shape would prove nothing.

    Not /cluster/options: the schema calls its property strings text, and Proxmox sends them taken apart.
    """
    session = session_of(stage)
    node = session.api.nodes("node1")
    paths = {
        "/cluster/ceph/status": session.api.cluster.ceph.status,
        "/storage": session.api.storage,
        "/nodes/node1/disks/list": node.disks("list"),
        "/nodes/node1/tasks": node.tasks,
        "/nodes/node1/ceph/osd": node.ceph.osd,
        "/nodes/node1/ceph/pool": node.ceph.pool,
        "/nodes/node1/ceph/fs": node.ceph.fs,
        "/nodes/node1/ceph/mds": node.ceph.mds,
    }
    for path, resource in paths.items():
        returns = schema.load().match(path).methods["GET"]["returns"]
        assert list(misshapen(returns, resource.get(), path)) == [], path
    session.close()
