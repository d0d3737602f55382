"""The templates step against a fake Proxmox whose guests boot as slowly as real ones, on a clock of its own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from provision import inventory, templates
from provision import template_plan as plan
from provision.errors import GaveUp, InventoryError, LabError, Refused
from provision.inventory import Lab, Node, Secret
from provision.ledger import Event, Ledger
from provision.pve import Session, TaskFailed, fingerprint_of, guests
from provision.remote import Remote
from provision.run import Done, Run
from provision.template_trial import Clone, parse_status
from tests.unit.guest_api import CLEAN, GIB, HOST_KEY, IMAGE_SIZE, FakeGuest, GuestRack

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPBG18KoYrX7WQA9FQGOZhLgsgpALC2TNGnWxswPJgYZ"
SHA, OTHER = "a" * 64, "b" * 64
URL, MIRROR = "http://images.example.net/noble.img", "http://mirror.example.net/noble.img"
LAB = f"""
name: lab
domain: lab.example.net
networks:
  management: {{cidr: 10.10.1.0/24, gateway: 10.10.1.1, dns: [10.10.1.1], bridge: vmbr0, nic: eno1}}
  storage: {{cidr: 10.10.2.0/24, mtu: 9000, bridge: vmbr1, nic: eno3}}
defaults:
  os: proxmox-9
  bmc: {{user: env:BMC_USER, password: env:BMC_PASSWORD}}
  root_password: env:ROOT_PASSWORD
  disk: {{serial: "S*"}}
  ssh_keys: ["{KEY} root@mgmt"]
nodes:
"""
NODE = """
  node{n}:
    mac: "52:54:00:a1:01:2{n}"
    management: 10.10.1.2{n}
    storage: 10.10.2.2{n}
    bmc: {{address: 10.10.1.1{n}, mac: "52:54:00:a1:01:1{n}"}}
"""
END = f"""
cluster: {{name: lab-cluster, primary: node1, links: [management, storage]}}
ceph: {{release: squid, osds: {{disks: {{all: [{{serial: "O*"}}]}}}}, pools: {{rbd: {{}}}}}}
templates:
  9000: {{name: ubuntu-24.04, image: {{url: "{URL}", sha256: {SHA}}}, memory: 512, cores: 1}}
"""


def read_lab(folder: Path, end: str = END) -> Lab:
    file = folder / "lab.yaml"
    file.write_text(LAB + "".join(NODE.format(n=n) for n in (1, 2, 3)) + end)
    lab = inventory.load(file, {})
    named = {
        name: node.model_copy(update={"root_password": Secret.known(f"secret of {name}")})
        for name, node in lab.nodes.items()
    }
    return lab.model_copy(update={"nodes": named})


class Stage:
    """A lab, its fake nodes and a run."""

    def __init__(self, lab: Lab, rack: GuestRack, run: Run) -> None:
        self.lab, self.rack, self.run = lab, rack, run

    def make(self, deed: str = "create") -> Done:
        return templates.make(
            self.lab, self.rack.remotes, self.run, deed,
            open_session=self.open, patience=self.rack.clock.patience, reach=self.rack.reach,
        )  # fmt: skip

    def open(self, node: Node, remote: Remote) -> Session:
        port, now = self.rack.ports[node.name], self.rack.clock.now
        return Session(node.name, "127.0.0.1", node.root_password, fingerprint_of(remote), port=port, now=now)

    def told(self, kind: str) -> list[Event]:
        return [event for event in self.run.events if event.kind == kind]

    def change(self, **template: Any) -> None:
        """Ask for another template 9000."""
        new = self.lab.templates[9000].model_copy(update=template)
        self.lab = self.lab.model_copy(update={"templates": {**self.lab.templates, 9000: new}})

    @property
    def config(self) -> dict[str, str]:
        return self.rack.guests[9000].config

    @property
    def ids(self) -> list[int]:
        return sorted(self.rack.guests)


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    lab = read_lab(tmp_path)
    addresses = {name: [str(node.management)] for name, node in lab.nodes.items()}
    ledger = Ledger(tmp_path / "ledger.db")
    rack = GuestRack(addresses)
    rack.web[URL] = SHA
    with rack.serving():
        rack.stand("lab-cluster", *lab.nodes)
        yield Stage(lab, rack, Run("lab", "run-1", ledger, acting=frozenset({"templates"})))
    ledger.close()


@pytest.fixture
def standing(stage: Stage) -> Stage:
    """A stage whose template stands; what was told and asked on the way is forgotten."""
    stage.make()
    stage.run.events.clear()
    stage.rack.calls.clear()
    stage.rack.targets.clear()
    return stage


# The way it should go


def test_from_nothing(stage: Stage) -> None:
    done = stage.make()
    assert done.changed == [
        "storage local keeps import, snippets", "snippet of template 9000 on node1, node2, node3",
        f"image rackproof-{'a' * 24}.qcow2 downloaded", "template 9000 ubuntu-24.04 made on node1",
    ]  # fmt: skip
    made = dict(done.facts["templates"]["9000"])
    tested = made.pop("tested")
    assert made == {
        "node": "node1",
        "name": "ubuntu-24.04",
        "image_sha256": SHA,
        "volume": "rbd:base-9000-disk-1",
    }
    assert tested.pop("seconds") >= 0
    assert tested == {"clone": 9001, "node": "node2", "address": "10.10.1.150"}
    assert stage.ids == [9000], "the clone is gone"
    assert stage.rack.closed == 1, "and so is the connection to it"
    kinds = ["image", "template-made", "clone-started", "template-tried"]
    assert [event.kind for event in stage.run.events] == kinds
    stage.run.unwind()
    assert stage.told("undone") == [], "nothing was left to undo"


def test_what_a_template_is_created_with(stage: Stage) -> None:
    stage.make()
    (asked,) = stage.rack.sent("POST", "/nodes/node1/qemu")
    assert asked == {
        "vmid": "9000", "name": "ubuntu-24.04", "memory": "512", "cores": "1", "cpu": "x86-64-v2-AES", "ostype": "l26",
        "machine": "q35", "bios": "ovmf", "scsihw": "virtio-scsi-single", "boot": "order=scsi0", "serial0": "socket",
        "vga": "serial0", "agent": "enabled=1", "net0": "virtio,bridge=vmbr0", "ipconfig0": "ip=dhcp",
        "ciuser": "ubuntu", "sshkeys": KEY.replace(" ", "%20") + "%20root%40mgmt", "ciupgrade": "0",
        "cicustom": "vendor=local:snippets/rackproof-9000.yaml", "tags": "rackproof",
        "description": f"rackproof template 9000, image sha256:{SHA}",
        "efidisk0": "rbd:1,efitype=4m,pre-enrolled-keys=0", "scsi1": "rbd:cloudinit",
        "scsi0": f"rbd:0,import-from=local:import/rackproof-{'a' * 24}.qcow2,discard=on,ssd=1,iothread=1",
    }  # fmt: skip


def test_how_the_image_is_asked_for(stage: Stage) -> None:
    stage.make()
    (asked,) = stage.rack.sent("POST", "download-url")
    assert asked == {
        "content": "import", "url": URL, "filename": f"rackproof-{'a' * 24}.qcow2", "checksum": SHA,
        "checksum-algorithm": "sha256",
    }  # fmt: skip


def test_the_guest_must_prove_the_key_that_its_agent_told(stage: Stage) -> None:
    stage.make()
    (target,) = stage.rack.targets
    assert (target.address, target.user, target.host_keys) == ("10.10.1.150", "ubuntu", (HOST_KEY,))
    assert target.identity is stage.lab.server.identity


def test_a_second_time_changes_nothing_and_tries_again(standing: Stage) -> None:
    done = standing.make()
    assert (list(done.changed), list(done.unchanged)) == ([], ["template 9000 ubuntu-24.04 on node1"])
    assert [event.kind for event in standing.run.events] == ["already", "clone-started", "template-tried"]
    changes = {
        call.path.split("/qemu")[-1]
        for call in standing.rack.calls
        if call.method != "GET" and "/qemu" in call.path
    }
    assert changes == {"/9000/clone", "/9001/status/start", "/9001/status/stop", "/9001"}


def test_on_storage_that_is_not_shared_the_clone_stays_beside_its_template(stage: Stage) -> None:
    stage.change(storage="local")
    stage.rack.storages["local"]["content"] = ["iso"]
    done = stage.make()
    assert done.facts["templates"]["9000"]["tested"]["node"] == "node1"
    assert "target" not in stage.rack.sent("POST", "clone")[0]
    assert stage.rack.storages["local"]["content"] == ["iso", "import", "snippets", "images"]


def test_only_trying(standing: Stage) -> None:
    done = standing.make("test")
    assert list(done.changed) == []
    assert done.facts["templates"]["9000"]["tested"]["clone"] == 9001
    assert standing.rack.sent("POST", "/qemu") == []


def test_trying_what_is_not_there(stage: Stage) -> None:
    with pytest.raises(LabError, match="there is no template 9000; make it with --templates create"):
        stage.make("test")


def test_all_anew(standing: Stage) -> None:
    done = standing.make("recreate")
    assert done.changed == [
        "template 9000 destroyed: it was asked for", "template 9000 ubuntu-24.04 made on node1",
    ]  # fmt: skip
    assert standing.ids == [9000]


def test_removing(standing: Stage) -> None:
    done = standing.make("remove")
    assert (standing.ids, standing.rack.images) == ([], {})
    assert done.facts == {"templates": {}}
    assert all(not remote.files for remote in standing.rack.remotes.values())
    assert standing.make("remove").unchanged == ["there is no template 9000"]


def test_a_lab_without_templates(stage: Stage) -> None:
    stage.lab = stage.lab.model_copy(update={"templates": {}})
    assert list(stage.make().unchanged) == ["no templates: the lab file asks for none"]
    assert stage.rack.calls == []


def test_two_templates_of_one_image(stage: Stage) -> None:
    second = stage.lab.templates[9000].model_copy(update={"name": "small", "memory": 256})
    stage.lab = stage.lab.model_copy(update={"templates": {**stage.lab.templates, 9001: second}})
    done = stage.make()
    assert len(stage.rack.sent("POST", "download-url")) == 1
    assert {vmid: facts["tested"]["clone"] for vmid, facts in done.facts["templates"].items()} == {
        "9000": 9002, "9001": 9002,
    }  # fmt: skip


# Mending


@pytest.mark.parametrize(
    ("key", "value", "mended"),
    [
        ("agent", "0", "enabled=1"),
        ("agent", "enabled=0,type=virtio", "enabled=1"),
        ("memory", "4096", "512"),
        ("boot", "order=net0", "order=scsi0"),
        ("net0", "virtio=BC:24:11:00:23:28,bridge=vmbr1", "virtio=BC:24:11:00:23:28,bridge=vmbr0"),
        ("net0", "virtio=BC:24:11:00:23:28,bridge=vmbr0,tag=9", "virtio=BC:24:11:00:23:28,bridge=vmbr0"),
        ("sshkeys", "ssh-rsa%20AAAA", KEY.replace(" ", "%20") + "%20root%40mgmt"),
        ("ciupgrade", "1", "0"),
    ],
)
def test_what_can_be_set_is_mended(standing: Stage, key: str, value: str, mended: str) -> None:
    standing.config[key] = value
    done = standing.make()
    assert done.changed == [f"template 9000 mended: {key}"]
    assert standing.rack.sent("PUT", "9000/config") == [{key: mended}]
    assert standing.config[key] == mended


@pytest.mark.parametrize(("key", "value"), [("agent", "1"), ("agent", "enabled=1,fstrim_cloned_disks=1"),
                                            ("tags", "golden;rackproof"), ("tags", "rackproof,golden")])  # fmt: skip
def test_the_same_in_other_words_is_left_alone(standing: Stage, key: str, value: str) -> None:
    standing.config[key] = value
    assert list(standing.make().changed) == []


def test_a_missing_cloud_init_drive_is_mended(standing: Stage) -> None:
    del standing.config["scsi1"]
    assert standing.make().changed == ["template 9000 mended: scsi1"]
    assert standing.config["scsi1"] == "rbd:vm-9000-cloudinit,media=cdrom"


def test_a_cloud_init_drive_that_the_configuration_lost_is_taken_again(standing: Stage) -> None:
    """Proxmox gives it always the same name, and fails when that is taken."""
    del standing.config["scsi1"]
    standing.rack.volumes = ["rbd:vm-9001-cloudinit", "rbd:base-9000-disk-1", "rbd:vm-9000-cloudinit"]
    standing.make()
    assert standing.rack.sent("PUT", "9000/config") == [{"scsi1": "rbd:vm-9000-cloudinit,media=cdrom"}]


def test_a_lock_that_somebody_holds_is_waited_for(standing: Stage) -> None:
    standing.config["memory"] = "64"
    standing.rack.locked_until = standing.rack.clock.now() + 20
    assert standing.make().changed == ["template 9000 mended: memory"]


# Making anew


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [
        ("efidisk0", None, "it has no efidisk0"),
        ("scsi0", "local:9000/base-9000-disk-1.raw,size=3G", "its scsi0 is on storage local"),
        ("template", "0", "it was left half made"),
        (
            "description",
            f"rackproof template 9000, image sha256:{OTHER}",
            f"it is of the image sha256:{OTHER}",
        ),
    ],
)
def test_what_cannot_be_mended_is_made_anew(standing: Stage, key: str, value: str | None, why: str) -> None:
    if value is None:
        del standing.config[key]
    else:
        standing.config[key] = value
    done = standing.make()
    assert done.changed == [f"template 9000 destroyed: {why}", "template 9000 ubuntu-24.04 made on node1"]
    assert standing.config["template"] == "1"


def test_a_disk_that_is_gone(standing: Stage) -> None:
    standing.rack.lost = ["rbd:base-9000-disk-1"]
    done = standing.make()
    assert done.changed[0] == "template 9000 destroyed: its scsi0, rbd:base-9000-disk-1, is gone"


def test_another_disk_size(standing: Stage) -> None:
    standing.change(disk=20)
    done = standing.make()
    assert done.changed[0] == f"template 9000 destroyed: its disk has {IMAGE_SIZE} GiB"
    assert standing.rack.sent("PUT", "resize") == [{"disk": "scsi0", "size": "20G"}]
    assert plan.size_of(standing.config) == 20 * GIB
    assert list(standing.make().changed) == []


def test_a_disk_smaller_than_the_image(stage: Stage) -> None:
    stage.change(disk=2)
    with pytest.raises(Refused, match="is to have a disk of 2 GiB, but its image has 3; correct disk:"):
        stage.make()


def test_a_new_image_whose_download_fails_leaves_the_old_template(standing: Stage) -> None:
    standing.change(image=standing.lab.templates[9000].image.model_copy(update={"sha256": OTHER}))
    with pytest.raises(LabError, match="no address gave the image"):
        standing.make()
    assert plan.image_of(9000, standing.config) == SHA
    assert standing.rack.guests[9000].template


def test_a_template_that_is_in_use_is_not_destroyed(standing: Stage) -> None:
    standing.rack.guests[120] = FakeGuest(120, "node3", {"scsi0": "rbd:base-9000-disk-1/vm-120-disk-0"})
    with pytest.raises(Refused, match="guests cloned from it still use its disk"):
        standing.make("recreate")
    assert standing.ids == [120, 9000]


# What is not ours


@pytest.mark.parametrize(
    "config",
    [
        {"name": "database"},
        {"name": "database", "tags": "rackproof"},
        {
            "name": "database",
            "tags": "rackproof",
            "description": f"rackproof template 8000, image sha256:{SHA}\n",
        },
        {"name": "ubuntu-24.04", "description": f"rackproof template 9000, image sha256:{SHA}\n"},
    ],
    ids=["a stranger", "the tag alone", "a clone of another template", "the tag was taken off"],
)
@pytest.mark.parametrize("deed", ["create", "recreate", "remove", "test"])
def test_a_guest_that_is_not_ours_is_refused_by_name(stage: Stage, deed: str, config: dict[str, str]) -> None:
    stage.rack.guests[9000] = FakeGuest(9000, "node2", dict(config))
    with pytest.raises(
        Refused, match=f'9000 is the id of "{config["name"]}" on node2: rackproof has not made'
    ):
        stage.make(deed)
    assert stage.config == config
    assert [call for call in stage.rack.calls if call.method != "GET" and "ticket" not in call.path] == []


def test_a_guest_with_a_clones_name_that_is_not_ours_is_left(stage: Stage) -> None:
    stage.rack.guests[9001] = FakeGuest(9001, "node2", {"name": "rackproof-try-9000", "tags": "rackproof"})
    done = stage.make()
    assert done.facts["templates"]["9000"]["tested"]["clone"] == 9002
    assert 9001 in stage.rack.guests


# Images


def test_a_mirror_is_asked_when_the_address_fails(stage: Stage) -> None:
    stage.change(image=stage.lab.templates[9000].image.model_copy(update={"mirrors": (MIRROR,)}))
    stage.rack.web = {URL: OTHER, MIRROR: SHA}
    stage.make()
    assert [asked["url"] for asked in stage.rack.sent("POST", "download-url")] == [URL, MIRROR]
    assert "checksum mismatch" in stage.told("image-failed")[0].text
    assert stage.told("image")[0].text.endswith(f"from {MIRROR}")


def test_every_address_that_failed_is_named(stage: Stage) -> None:
    stage.change(image=stage.lab.templates[9000].image.model_copy(update={"mirrors": (MIRROR,)}))
    stage.rack.web = {URL: OTHER}
    with pytest.raises(LabError, match="no address gave the image of template ubuntu") as caught:
        stage.make()
    seen = str(caught.value.last_seen)
    assert seen.splitlines() == [
        f"{URL}: checksum mismatch: got '{OTHER}' != expect '{SHA}' (download begins)",
        f"{MIRROR}: download failed: wget: unable to resolve {MIRROR} (download begins)",
    ]
    assert stage.ids == []


def test_an_address_that_hangs_leaves_time_for_its_mirror(stage: Stage) -> None:
    stage.change(image=stage.lab.templates[9000].image.model_copy(update={"mirrors": (MIRROR,)}))
    stage.rack.download_takes = stage.lab.deadlines.templates
    with pytest.raises(LabError) as caught:
        stage.make()
    assert f"{MIRROR}: not reached within 900 s (task download is running)" in str(caught.value.last_seen)
    assert len(stage.rack.sent("DELETE", "/tasks/.*download.*")) == 2, "both downloads were stopped"


def test_a_spoilt_image_file_is_fetched_again(standing: Stage) -> None:
    name = plan.image_name(standing.lab.templates[9000])
    standing.rack.images[name] = OTHER
    done = standing.make("recreate")
    assert done.changed[0] == f"image {name} downloaded"
    assert standing.rack.images == {name: SHA}


# Trying


def test_an_id_that_somebody_else_takes_at_that_moment(stage: Stage) -> None:
    stage.rack.guests[9001] = FakeGuest(9001, "node3", {"name": "a rival"})
    stage.rack.hidden = {9001}
    assert stage.make().facts["templates"]["9000"]["tested"]["clone"] == 9002
    stage.run.unwind()
    assert stage.ids == [9000, 9001], "the rival is no clone of ours"


def test_no_agent(stage: Stage) -> None:
    stage.rack.agent_after = 1e9
    with pytest.raises(
        GaveUp, match="address of clone 9001 from its agent: not reached within 1800 s"
    ) as caught:
        stage.make()
    assert "QEMU guest agent is not running" in str(caught.value.last_seen)
    assert 9001 in stage.rack.guests
    stage.run.unwind()
    assert stage.ids == [9000]
    assert [event.text for event in stage.told("undone")] == ["clone 9001 of template 9000"]


def test_a_guest_that_dies_is_not_waited_for(stage: Stage) -> None:
    stage.rack.dies = True
    before = stage.rack.clock.now()
    with pytest.raises(GaveUp, match="the guest has stopped by itself"):
        stage.make()
    assert stage.rack.clock.now() < before + 60


def test_cloud_init_that_failed(stage: Stage) -> None:
    stage.rack.cloud_init = json.dumps({"status": "error", "errors": ["('scripts_user', RuntimeError())"]})
    with pytest.raises(LabError, match="cloud-init of clone 9001 ended with error") as caught:
        stage.make()
    assert "scripts_user" in str(caught.value.last_seen)
    stage.run.unwind()
    assert stage.ids == [9000]


def test_what_cloud_init_only_warns_of(stage: Stage) -> None:
    passed = {"DEPRECATED": ["a key is old"], "WARNING": ["no swap", "no swap"]}
    stage.rack.cloud_init = json.dumps({"status": "done", "errors": [], "recoverable_errors": passed})
    stage.make()
    assert [event.text for event in stage.told("cloud-init-warning")] == ["WARNING: no swap"]


def test_an_old_cloud_init_without_json() -> None:
    assert parse_status("status: done\n") == ("", [], [])
    assert parse_status(CLEAN) == ("done", [], [])


def test_a_host_key_that_is_made_late_is_asked_for_again(stage: Stage) -> None:
    stage.rack.refuses_logins = 3
    stage.make()
    assert len(stage.rack.targets) == 4


def test_a_log_in_that_never_works(stage: Stage) -> None:
    stage.rack.refuses_logins = 10**6
    with pytest.raises(GaveUp, match="log-in of ubuntu to clone 9001") as caught:
        stage.make()
    assert caught.value.last_seen == "it accepts no key"


def test_the_labs_own_key_is_given_to_the_clone_alone(stage: Stage, tmp_path: Path) -> None:
    identity = tmp_path / "id_ed25519"
    identity.with_name("id_ed25519.pub").write_text("ssh-ed25519 AAAAown rackproof\n")
    server = stage.lab.server.model_copy(update={"identity": identity})
    stage.lab = stage.lab.model_copy(update={"server": server})
    stage.make()
    (given,) = stage.rack.sent("PUT", "9001/config")
    assert guests.decode_keys(given["sshkeys"]) == [f"{KEY} root@mgmt", "ssh-ed25519 AAAAown rackproof"]
    assert guests.decode_keys(stage.config["sshkeys"]) == [f"{KEY} root@mgmt"]


def test_a_templates_own_keys_stand_in_the_place_of_the_nodes(stage: Stage) -> None:
    stage.change(ssh_keys=("ssh-ed25519 AAAAops ops",))
    stage.make()
    assert guests.decode_keys(stage.config["sshkeys"]) == ["ssh-ed25519 AAAAops ops"]


# Runs that were killed


def test_a_clone_left_by_a_killed_run_is_removed(standing: Stage) -> None:
    left = Clone(9001, 9000, "node2")
    config = {"name": left.name, "tags": "rackproof", "description": left.note + "\n",
              "scsi0": "rbd:base-9000-disk-1/vm-9001-disk-1"}  # fmt: skip
    standing.rack.guests[9001] = FakeGuest(9001, "node2", config, started=1.0)
    done = standing.make("recreate")
    assert done.changed[0] == "clone 9001 of template 9000, left by an earlier run, removed"
    assert standing.ids == [9000]


def test_a_killed_runs_task_is_let_end(stage: Stage) -> None:
    """Its guest has neither name nor tag until then."""
    session = stage.open(stage.lab.nodes["node1"], stage.rack.remotes["node1"])
    guests.set_contents(session, "local", ["import"])
    stage.rack.images[plan.image_name(stage.lab.templates[9000])] = SHA
    template = stage.lab.templates[9000]
    guests.create(
        session, "node1", 9000, plan.settings(stage.lab, 9000, template) | plan.drives(template)
    )  # fmt: skip
    session.close()
    assert stage.make().changed[-2:] == [
        "template 9000 destroyed: it was left half made", "template 9000 ubuntu-24.04 made on node1",
    ]  # fmt: skip


def test_an_interrupted_clone_is_found_when_its_task_is_over(standing: Stage) -> None:
    clone = Clone(9001, 9000, "node2")
    session = standing.open(standing.lab.nodes["node1"], standing.rack.remotes["node1"])
    guests.clone(session, "node1", 9000, 9001, name=clone.name, description=clone.note, target="node2")
    session.close()
    assert 9001 in standing.rack.guests and standing.rack.guests[9001].config == {}
    standing.make("test")
    assert standing.ids == [9000]


def test_a_creation_that_fails(stage: Stage) -> None:
    stage.rack.create_fails = "unable to create VM 9000 - rbd error: pool full"
    with pytest.raises(TaskFailed, match=r"creation of VM 9000 for a template failed: .*pool full"):
        stage.make()


def test_a_storage_that_is_not_there(stage: Stage) -> None:
    del stage.rack.storages["rbd"]
    with pytest.raises(Refused, match=r"storage \"rbd\" for templates: .*storage 'rbd' does not exist"):
        stage.make()


def test_a_storage_that_holds_no_disks(stage: Stage) -> None:
    stage.rack.storages["rbd"]["content"] = ["rootdir"]
    with pytest.raises(Refused, match='storage "rbd" cannot hold the disks of templates'):
        stage.make()


# Plans


def test_a_snippet_installs_the_agent_and_adds_what_the_lab_file_says(stage: Stage) -> None:
    stage.change(cloud_init="packages: [tmux]\nruncmd:\n- [touch, /done]\n")
    stage.make()
    text = stage.rack.remotes["node3"].files["/var/lib/vz/snippets/rackproof-9000.yaml"]
    assert text.startswith("#cloud-config\n")
    data = yaml.safe_load(text)
    assert data["packages"] == ["tmux"]
    assert data["runcmd"] == [["sh", "-c", plan.INSTALL_AGENT], ["touch", "/done"]]


@pytest.mark.parametrize(("url", "suffix"), [("http://x/a.img", ".qcow2"), ("http://x/a.qcow2?b=c.raw", ".qcow2"),
                                             ("http://x/a.RAW", ".raw"), ("http://x/a.vmdk", ".vmdk")])  # fmt: skip
def test_image_names_are_such_as_proxmox_imports(stage: Stage, url: str, suffix: str) -> None:
    stage.change(image=stage.lab.templates[9000].image.model_copy(update={"url": url}))
    assert plan.image_name(stage.lab.templates[9000]) == f"rackproof-{'a' * 24}{suffix}"


@pytest.mark.parametrize(
    ("more", "place", "message"),
    [
        ("cloud_init: '- a list'", "cloud_init", "must be a YAML mapping of cloud-config keys"),
        ('cloud_init: "a: [1"', "cloud_init", "is no YAML: "),
        ("cloud_init: 'runcmd: reboot'", "cloud_init", "has a runcmd that is no list"),
        ("storage: bulk", "storage", '"bulk" is a pool that is no storage'),
    ],
)
def test_mistakes_in_a_template_are_told_with_their_line(
    tmp_path: Path, more: str, place: str, message: str
) -> None:
    end = END.replace("memory: 512", more).replace(
        "pools: {rbd: {}}", "pools: {rbd: {}, bulk: {storage: no}}"
    )
    with pytest.raises(InventoryError) as caught:
        read_lab(tmp_path, end)
    (mistake,) = caught.value.mistakes
    assert mistake.place == f"templates.9000.{place}" and mistake.line
    assert mistake.message.startswith(message)


def test_a_packed_image_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(InventoryError, match=r"templates\.9000\.image\.url: .*noble\.img\.xz\" is packed"):
        read_lab(tmp_path, END.replace("noble.img", "noble.img.xz"))


def test_a_template_in_a_lab_without_ceph_says_where_it_goes(tmp_path: Path) -> None:
    end = "".join(line for line in END.splitlines(keepends=True) if not line.startswith("ceph:"))
    with pytest.raises(InventoryError, match=r'storage: is "rbd" unless it is given, and this lab has no'):
        read_lab(tmp_path, end)
    assert read_lab(tmp_path, end.replace("memory: 512", "storage: local")).templates[9000].storage == "local"


def test_sizes() -> None:
    assert [guests.in_bytes(size) for size in ("528K", "4M", "3G", "1.5G", "7")] == [
        528 << 10, 4 << 20, 3 * GIB, 3 * GIB // 2, 7,
    ]  # fmt: skip
    with pytest.raises(ValueError, match="is no size"):
        guests.in_bytes("large")
