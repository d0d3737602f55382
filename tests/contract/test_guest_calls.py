"""Every call about guests, their volumes and their agents, against Proxmox's own API schema and a second Proxmox.

The played one of the unit tests answers what the step asks; the package fakepve, which knows nothing of ours,
is asked for the same guest's whole life.
"""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fakepve import schema
from fakepve.certs import make_cert
from fakepve.server import FakePve, settle

from provision import template_plan as plan
from provision import templates
from provision.inventory import Lab, Secret
from provision.ledger import Ledger
from provision.pve import ApiRefused, Session, guests
from provision.run import Run
from provision.wait import NotYet, Patience
from tests.contract.test_pve_calls import accepted, calls_in, described, faults, misshapen, same
from tests.unit.guest_api import FakeGuest, GuestRack
from tests.unit.pve_api import Call
from tests.unit.test_templates import SHA, URL, Stage, read_lab

SOURCES = [Path(guests.__file__), *Path(templates.__file__).parent.glob("template*.py")]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return read_lab(tmp_path_factory.mktemp("lab"))


@pytest.fixture(scope="module")
def rack(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GuestRack]:
    """A rack on which the step did all it can do."""
    ledger = Ledger(tmp_path_factory.mktemp("ledger") / "ledger.db")
    rack = GuestRack({name: [str(node.management)] for name, node in lab.nodes.items()})
    rack.web[URL] = SHA
    with rack.serving():
        rack.stand("lab-cluster", *lab.nodes)
        stage = Stage(lab, rack, Run("lab", "run-1", ledger, acting=frozenset({"templates"})))
        use(stage)
        yield rack
    ledger.close()


def use(stage: Stage) -> None:
    stage.make()
    stage.config["memory"] = "64"
    stage.change(disk=8)
    stage.make()
    stage.config["memory"] = "64"
    stage.make()
    stage.make("remove")
    session = stage.open(stage.lab.nodes["node1"], stage.rack.remotes["node1"])
    guests.stop_task(
        session, guests.download(session, "node1", "local", url=URL, filename="a.raw", sha256=SHA)
    )
    stage.rack.guests[300] = FakeGuest(300, "node1")
    session.close()


def test_every_request_obeys_the_schema(rack: GuestRack) -> None:
    wrong = {f"{call.method} {call.path}": found for call in accepted(rack) if (found := faults(call))}
    assert wrong == {}


def test_everything_that_the_source_calls_was_sent(rack: GuestRack) -> None:
    sent = {(call.method, described(call)[0].template) for call in accepted(rack)}
    called = {call for source in SOURCES for call in calls_in(source)}
    assert len(called) >= 20, "the reader of the source finds what there is"
    assert {call for call in called if not any(same(call, other) for other in sent)} == set()


def test_a_delete_has_no_body(rack: GuestRack) -> None:
    """Proxmox answers 501 to one that has; what it is told stands in the query."""
    gone = [call for call in accepted(rack) if call.method == "DELETE" and "/qemu/" in call.path]
    assert gone and all(call.params == {"purge": "1", "destroy-unreferenced-disks": "1"} for call in gone)


def test_keys_that_are_encoded_once_are_refused(lab: Lab) -> None:
    once = {"vmid": "9000", "sshkeys": "ssh-ed25519 AAAA+BBB name"}
    assert "sshkeys" in faults(Call("node1", "POST", "/nodes/node1/qemu", once)), "the judge can say no"
    twice = {**once, "sshkeys": guests.encode_keys(plan.keys_of(lab, lab.templates[9000]))}
    assert faults(Call("node1", "POST", "/nodes/node1/qemu", twice)) == {}


def test_our_own_fake_answers_in_the_schemas_shapes(rack: GuestRack, lab: Lab) -> None:
    """A client proved against answers of another shape would prove nothing."""
    stage = Stage(lab, rack, None)  # type: ignore[arg-type]
    session = stage.open(lab.nodes["node1"], rack.remotes["node1"])
    paths = {
        "/nodes/node1/qemu": session.api.nodes("node1").qemu,
        "/nodes/node1/tasks": session.api.nodes("node1").tasks,
        "/nodes/node1/storage/rbd/status": session.api.nodes("node1").storage("rbd").status,
        "/nodes/node1/storage/local/content": session.api.nodes("node1").storage("local").content,
        "/nodes/node1/qemu/300/config": session.api.nodes("node1").qemu(300).config,
    }
    for path, resource in paths.items():
        returns = schema.load().match(path).methods["GET"]["returns"]
        assert list(misshapen(returns, resource.get(), path)) == [], path
    session.close()


# Another Proxmox, which nobody here has written


class OtherProxmox:
    """fakepve on an event loop of its own, in a thread."""

    def __init__(self, folder: Path) -> None:
        self.certificate, self.key, der = make_cert(str(folder))
        digest = hashlib.sha256(der).hexdigest().upper()
        self.fingerprint = ":".join(digest[at : at + 2] for at in range(0, 64, 2))
        self.pve = FakePve(user="root@pam", password="secret", host="127.0.0.1", port=0)
        self.pve.time_scale = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)

    def __enter__(self) -> OtherProxmox:
        self._thread.start()
        self._call(self.pve.start(self.certificate, self.key))
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._call(settle())
            # A connection whose end the loop has not seen would be reported as left open.
            server = self.pve.runner.server
            Patience(5).until("all gone", lambda: not server.connections or NotYet("somebody is connected"))
            self._call(self.pve.stop())
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    def _call(self, work: Any) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    def session(self, node: str) -> Session:
        secret = Secret.known("secret")
        return Session(node, "127.0.0.1", secret, self.fingerprint, port=self.pve.port)


@pytest.fixture
def proxmox(tmp_path: Path) -> Iterator[OtherProxmox]:
    with OtherProxmox(tmp_path) as proxmox:
        proxmox.pve.add_node("node1")
        yield proxmox


@pytest.fixture
def other(proxmox: OtherProxmox) -> Iterator[Session]:
    """A session with a fake that nobody here has written."""
    session = proxmox.session("node1")
    yield session
    session.close()


def test_a_template_lives_its_whole_life_on_another_proxmox(
    proxmox: OtherProxmox, other: Session, lab: Lab
) -> None:
    soon, template = Patience(20), lab.templates[9000].model_copy(update={"storage": "local-lvm"})

    def finish(upid: str) -> None:
        other.finish(upid, upid, soon)

    guests.set_contents(other, "local", [*guests.contents(other, "local"), "import", "snippets"])
    assert guests.storage(other, "node1", "local").serves("import")
    finish(guests.download(other, "node1", "local", url=URL, filename=plan.image_name(template), sha256=SHA))
    assert guests.volumes(other, "node1", "local", "import") == [plan.image_volume(template)]
    finish(guests.create(other, "node1", 9000, plan.settings(lab, 9000, template) | plan.drives(template)))
    finish(guests.resize(other, "node1", 9000, "scsi0", 8))
    finish(guests.to_template(other, "node1", 9000))
    found = guests.config(other, "node1", 9000)
    assert plan.differences(plan.settings(lab, 9000, template), found) == {}
    assert plan.is_ours(9000, found)
    assert plan.beyond_mending(9000, template, guests.guests(other, "node1")[9000], found) is None
    assert (guests.is_free(other, 9000), guests.is_free(other, 9001)) == (False, True)
    finish(guests.clone(other, "node1", 9000, 9001, name="a-try", description="a try", target="node1"))
    clone = guests.config(other, "node1", 9001)
    assert guests.split_tags(clone["tags"]) == {"rackproof"}, "a clone inherits the tag"
    assert plan.mac_of(clone["net0"]) != plan.mac_of(found["net0"])
    finish(guests.start(other, "node1", 9001))
    assert guests.guests(other, "node1")[9001].status == "running"
    proxmox.pve.vm(9001).agent = {}
    assert [found.ipv4 for found in guests.interfaces(other, "node1", 9001)] == [[], ["192.0.2.10"]]
    guests.read_file(other, "node1", 9001, "/etc/hostname")
    finish(guests.stop(other, "node1", 9001))
    guests.change(other, "node1", 9001, {"memory": "256"})
    for vmid in (9001, 9000):
        finish(guests.destroy(other, "node1", vmid))
    assert guests.guests(other, "node1") == {}
    assert guests.tasks_about(other, "node1", [9000, 9001]) == []


def test_what_another_proxmox_refuses(other: Session) -> None:
    with pytest.raises(ApiRefused, match="9000"):
        guests.config(other, "node1", 9000)
    with pytest.raises(ApiRefused, match="sshkeys"):
        guests.create(other, "node1", 9000, {"sshkeys": "ssh-ed25519 AAAA name"})
    with pytest.raises(ApiRefused, match="nowhere"):
        guests.storage(other, "node1", "nowhere")
