"""The cluster step against fake nodes that join as real ones do, on a clock that only waiting moves."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from provision import cluster, inventory
from provision.errors import GaveUp, LabError, NodesFailed, Refused, Unreachable
from provision.inventory import Lab, Node, Secret
from provision.ledger import Event, Ledger
from provision.pve import Session, TaskFailed, fingerprint_of
from provision.remote import Remote
from provision.run import Done, Run
from provision.wait import NotYet
from tests.unit.pve_api import LOCK, FakeRack

KEYS = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPBG18KoYrX7WQA9FQGOZhLgsgpALC2TNGnWxswPJgYZ root@mgmt"
LAB = """
name: lab
domain: lab.example.net
networks:
  management: {cidr: 10.10.1.0/24, gateway: 10.10.1.1, dns: [10.10.1.1], bridge: vmbr0, nic: eno1}
  storage: {cidr: 10.10.2.0/24, mtu: 9000, bridge: vmbr1, nic: eno3}
defaults:
  os: proxmox-9
  bmc: {user: env:BMC_USER, password: env:BMC_PASSWORD}
  root_password: env:ROOT_PASSWORD
  disk: {serial: "S*"}
nodes:
"""
NODE = """
  node{n}:
    mac: "52:54:00:a1:01:2{n}"
    management: 10.10.1.2{n}
    storage: 10.10.2.2{n}
    bmc: {{address: 10.10.1.1{n}, mac: "52:54:00:a1:01:1{n}"}}
"""
CLUSTER = "cluster: {name: lab-cluster, primary: node1, links: [management, storage]}\n"
CREATE, JOIN = "/cluster/config", "/cluster/config/join"


def read_lab(folder: Path, nodes: int = 3) -> Lab:
    file = folder / "lab.yaml"
    file.write_text(LAB + "".join(NODE.format(n=n) for n in range(1, nodes + 1)) + CLUSTER)
    lab = inventory.load(file, {})
    named = {
        name: node.model_copy(update={"root_password": secret_of(name)}) for name, node in lab.nodes.items()
    }
    return lab.model_copy(update={"nodes": named})


def secret_of(name: str) -> Secret:
    return Secret.known(f"secret of {name}")


class Stage:
    """A lab, its fake nodes and a run."""

    def __init__(self, lab: Lab, rack: FakeRack, run: Run) -> None:
        self.lab, self.rack, self.run = lab, rack, run

    def form(self, lab: Lab | None = None) -> Done:
        patience = self.rack.clock.patience
        return cluster.form(
            lab or self.lab, self.rack.remotes, self.run, open_session=self.open, patience=patience
        )

    def open(self, node: Node, remote: Remote) -> Session:
        port, now = self.rack.ports[node.name], self.rack.clock.now
        return Session(node.name, "127.0.0.1", node.root_password, fingerprint_of(remote), port=port, now=now)

    def told(self, kind: str) -> list[Event]:
        return [event for event in self.run.events if event.kind == kind]

    def refused(self, kind: type[LabError] = LabError, match: str = ".") -> LabError:
        """The error of a step that changed nothing."""
        with pytest.raises(kind, match=match) as caught:
            self.form()
        assert self.rack.writes() == []
        return caught.value


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    yield from staged(tmp_path, 3)


@pytest.fixture
def large_stage(tmp_path: Path) -> Iterator[Stage]:
    yield from staged(tmp_path, 4)


def staged(folder: Path, nodes: int) -> Iterator[Stage]:
    lab = read_lab(folder, nodes)
    addresses = {
        name: [str(node.addresses[net]) for net in ("management", "storage")]
        for name, node in lab.nodes.items()
    }
    ledger = Ledger(folder / "ledger.db")
    with FakeRack(addresses).serving() as rack:
        yield Stage(lab, rack, Run("lab", "run-1", ledger, acting=frozenset({"cluster"})))
    ledger.close()


# The way it should go


def test_four_fresh_nodes(large_stage: Stage) -> None:
    stage = large_stage
    done = stage.form()
    assert stage.rack.writes() == [
        ("node1", "POST", CREATE), ("node2", "POST", JOIN), ("node3", "POST", JOIN), ("node4", "POST", JOIN),
    ]  # fmt: skip
    assert done.changed == [
        "cluster lab-cluster created on node1", *(f"node{n} joined through node1" for n in (2, 3, 4))
    ]  # fmt: skip
    assert done.unchanged == []
    assert done.facts == {"name": "lab-cluster", "quorate": True, "nodes": 4, "primary": "node1",
                          "config_version": 4, "config_digest": "0" * 40}  # fmt: skip
    assert list(done.nodes["node3"]["links"]) == ["10.10.1.23", "10.10.2.23"]
    assert done.nodes["node3"]["fingerprint"] == stage.rack.nodes["node3"].fingerprint, "the renewed one"
    assert [event.node for event in stage.told("cluster-created")] == ["node1"]
    assert [event.node for event in stage.told("node-joined")] == ["node2", "node3", "node4"]
    assert all(event.step == "cluster" and event.facts["seconds"] >= 0 for event in stage.told("node-joined"))


def test_what_a_joiner_is_asked(stage: Stage) -> None:
    stage.form()
    asked = {
        call.node: call.params for call in stage.rack.calls if call.method == "POST" and call.path == JOIN
    }
    assert asked["node2"] == {
        "hostname": "10.10.1.21",
        "fingerprint": stage.rack.nodes["node1"].fingerprint,
        "password": "secret of node1",
        "link0": "10.10.1.22",
        "link1": "10.10.2.22",
    }


def test_each_join_is_begun_when_the_one_before_is_done(stage: Stage) -> None:
    stage.form()
    joins = [
        place for place, call in enumerate(stage.rack.calls) if call.method == "POST" and call.path == JOIN
    ]
    between = stage.rack.calls[joins[0] : joins[1]]
    judges = {call.node for call in between if call.path == "/cluster/status"}
    assert "node1" in judges, "another member judges the join"
    assert any(
        call.node == "node2" and call.path == "/access/ticket" and call.status == 200 for call in between
    )
    assert stage.rack.overlaps == [], "no join is begun while another task is running"


def test_the_other_members_all_judge_a_join(stage: Stage) -> None:
    stage.rack.stand("lab-cluster", "node1", "node2")
    stage.form()
    first = next(
        place for place, call in enumerate(stage.rack.calls) if call.path == JOIN and call.method == "POST"
    )
    assert {"node1", "node2"} <= {
        call.node for call in stage.rack.calls[first:] if call.path == "/cluster/status"
    }


def test_already_formed(stage: Stage) -> None:
    stage.rack.stand("lab-cluster", "node1", "node2", "node3")
    done = stage.form()
    assert stage.rack.writes() == []
    assert done.changed == []
    assert done.unchanged == [f"node{n} in cluster lab-cluster" for n in (1, 2, 3)]
    assert (
        stage.told("already")[0].text
        == "cluster lab-cluster stands with node1, node2, node3, as the lab file asks"
    )
    assert done.facts["config_version"] == 3


def test_a_second_time_finds_its_work_done(stage: Stage) -> None:
    stage.form()
    before = len(stage.rack.writes())
    assert stage.form().changed == []
    assert len(stage.rack.writes()) == before


def test_partly_formed_goes_on_with_the_missing(stage: Stage) -> None:
    stage.rack.stand("lab-cluster", "node1", "node3")
    done = stage.form()
    assert stage.rack.writes() == [("node2", "POST", JOIN)]
    assert done.changed == ["node2 joined through node1"]
    assert done.unchanged == ["node1 in cluster lab-cluster", "node3 in cluster lab-cluster"]
    assert "; node2 will join" in stage.told("already")[0].text


def test_no_cluster_is_asked_for(stage: Stage) -> None:
    done = stage.form(stage.lab.model_copy(update={"cluster": None}))
    assert done.unchanged
    assert stage.rack.calls == []


# A node that was reinstalled alone


@pytest.mark.parametrize(("name", "through"), [("node3", "node1"), ("node1", "node2")])
def test_a_reinstalled_node_joins_again(large_stage: Stage, name: str, through: str) -> None:
    stage = large_stage
    stage.rack.stand("lab-cluster", *stage.lab.nodes)
    keys = f"ssh-rsa AAAA-old root@{name}\n{KEYS}\nssh-rsa AAAA root@node4\n"
    stage.rack.nodes[through].keys = keys
    stage.rack.nodes[name].reinstall()
    done = stage.form()
    assert stage.rack.writes() == [
        (through, "DELETE", f"/cluster/config/nodes/{name}"), (name, "POST", JOIN)
    ]  # fmt: skip
    assert done.changed == [
        f"old entry of {name} taken out of the cluster",
        f"{name} joined through {through}",
    ]
    assert stage.rack.nodes[through].keys == f"{KEYS}\nssh-rsa AAAA root@node4\n"
    assert "pvecm updatecerts" in stage.rack.nodes[name].commands
    assert done.nodes[name]["fingerprint"] == stage.rack.nodes[name].fingerprint


def test_a_key_of_the_lab_file_stays_whatever_its_comment(stage: Stage) -> None:
    own = f"{KEYS.removesuffix('root@mgmt')}root@node3"
    nodes = {name: node.model_copy(update={"ssh_keys": (own,)}) for name, node in stage.lab.nodes.items()}
    stage.rack.stand("lab-cluster", *stage.lab.nodes)
    stage.rack.nodes["node1"].keys = f"{own}\nssh-rsa AAAA-old root@node3\n"
    stage.rack.nodes["node3"].reinstall()
    stage.form(stage.lab.model_copy(update={"nodes": nodes}))
    assert stage.rack.nodes["node1"].keys == f"{own}\n"


def test_without_quorum_no_entry_is_removed(stage: Stage) -> None:
    stage.rack.stand("lab-cluster", *stage.lab.nodes)
    stage.rack.nodes["node2"].reinstall()
    stage.rack.nodes["node3"].reinstall()
    error = stage.refused(match="no node of the cluster is quorate")
    assert error.node == "node1"
    assert "docs/cluster.md" in str(error)


# The pains of Proxmox


def test_a_lock_that_is_held_is_waited_for(stage: Stage) -> None:
    stage.rack.nodes["node1"].locked_until = stage.rack.clock.now() + 15
    stage.rack.nodes["node3"].locked_until = stage.rack.clock.now() + 60
    stage.form()
    assert stage.rack.writes().count(("node1", "POST", CREATE)) == 3, "the last one when it is free"
    assert stage.rack.writes().count(("node3", "POST", JOIN)) >= 2


def test_a_lock_that_is_held_for_ever(stage: Stage) -> None:
    stage.rack.nodes["node1"].locked_until = float("inf")
    with pytest.raises(GaveUp, match="creation of cluster lab-cluster: not reached within 300 s") as caught:
        stage.form()
    assert LOCK in (caught.value.last_seen or "")


@pytest.mark.parametrize("path", [CREATE, JOIN])
def test_a_lost_answer_is_not_asked_again(stage: Stage, path: str) -> None:
    node = "node1" if path == CREATE else "node2"
    stage.rack.nodes[node].lose_answer_to = path
    stage.form()
    assert stage.rack.writes().count((node, "POST", path)) == 1


def test_a_member_may_restart_its_api_meanwhile(stage: Stage) -> None:
    stage.rack.stand("lab-cluster", "node1")
    peer = stage.rack.nodes["node1"]
    stage.rack.later(2.0, lambda: setattr(peer, "down", True))
    stage.rack.later(4.0, lambda: setattr(peer, "down", False))
    assert len(stage.form().changed) == 2


def test_a_join_that_fails_late_is_named_by_its_own_log(stage: Stage) -> None:
    stage.rack.nodes[
        "node2"
    ].join_fails = "corosync: link 1 specified for new node doesn't exist in cluster config"
    with pytest.raises(
        TaskFailed, match="node2: join of node2 to cluster lab-cluster failed: corosync: link 1"
    ) as caught:
        stage.form()
    assert "TASK ERROR: corosync: link 1" in (caught.value.last_seen or "")
    assert ("node3", "POST", JOIN) not in stage.rack.writes(), "nobody joins after a failure"


def test_the_other_members_judge_not_the_task(stage: Stage) -> None:
    stage.rack.nodes["node2"].join_ends = "command 'systemctl reload pveproxy' failed"
    stage.form()
    assert [event.node for event in stage.told("join-task")] == ["node2"]
    assert "systemctl reload pveproxy" in stage.told("join-task")[0].text


def test_a_joiner_that_never_comes_up(stage: Stage) -> None:
    stage.rack.nodes["node2"].never_online = True
    with pytest.raises(
        GaveUp, match="node2: join of node2 to cluster lab-cluster: not done within 180 s"
    ) as caught:
        stage.form()
    assert "node1 is without quorum and sees node1 online" in (caught.value.last_seen or "")
    assert "UDP ports 5405 to 5412" in (caught.value.likely or "")
    stage.rack.calls.clear()
    error = stage.refused(NodesFailed)
    assert isinstance(error, NodesFailed)
    assert set(error.errors) == {"node1", "node2"}
    assert "found /etc/corosync/authkey, /etc/pve/corosync.conf, a running corosync" in str(
        error.errors["node2"]
    )


def test_a_join_that_a_killed_run_left_under_way_is_waited_for(stage: Stage) -> None:
    stage.rack.stand("lab-cluster", "node1")
    session = stage.open(stage.lab.nodes["node2"], stage.rack.remotes["node2"])
    peer = stage.rack.nodes["node1"]
    session.join_cluster("10.10.1.21", peer.fingerprint, secret_of("node1"), ["10.10.1.22", "10.10.2.22"])
    session.close()
    stage.rack.clock.sleep(2.0)
    stage.rack.calls.clear()
    stage.form()
    assert stage.rack.writes() == [("node3", "POST", JOIN)]
    assert stage.told("settling")[0].text == "node1, node2 may be joining still; looking again for 30 s"


# Half-joined nodes


def test_leftovers_of_an_unlisted_node(stage: Stage) -> None:
    stage.rack.stand("lab-cluster", "node1", "node2")
    stage.rack.nodes["node3"].files = {"/etc/corosync/authkey"}
    error = stage.refused(
        match="node3: half-joined: found /etc/corosync/authkey, but node1's nodelist does not name it"
    )
    assert "reinstall it (pytest -m provision --nodes node3)" in str(error)


def test_a_corosync_conf_alone_does_not_stop_a_join(stage: Stage) -> None:
    """pvecm refuses a key, a cluster's own configuration and a running corosync: this file it replaces."""
    stage.rack.nodes["node3"].files = {"/etc/corosync/corosync.conf"}
    stage.rack.nodes["node3"]._join_error = lambda *_: None  # type: ignore[method-assign]
    assert len(stage.form().changed) == 3


def test_leftovers_everywhere(stage: Stage) -> None:
    stage.rack.nodes["node2"].files = {"/etc/corosync/authkey"}
    assert stage.refused(match="no node of the cluster is quorate").node == "node2"


def test_a_listed_node_that_is_offline(stage: Stage) -> None:
    made = stage.rack.stand("lab-cluster", "node1", "node2", "node3")
    made.online.discard("node3")
    stage.rack.nodes["node3"].corosync = False
    stage.refused(match="node3: half-joined or stopped: .* and node1 lists it but sees it offline")


def test_a_member_whose_api_does_not_serve(stage: Stage) -> None:
    stage.rack.stand("lab-cluster", "node1", "node2", "node3")
    stage.rack.nodes["node2"].down = True
    stage.refused(match="node2: half-joined: .* node1 sees it online, but its API does not serve: POST ")


def test_a_member_that_lost_a_file(stage: Stage) -> None:
    stage.rack.stand("lab-cluster", "node1", "node2", "node3")
    stage.rack.nodes["node2"].files.remove("/etc/corosync/authkey")
    stage.refused(match="node2: half-joined: .* but its cluster configuration is incomplete")


# Foreign clusters


def test_a_cluster_of_another_name(stage: Stage) -> None:
    stage.rack.stand("production", "node2")
    error = stage.refused(Refused, 'node2: stands in cluster "production" with node2; this lab\'s cluster is')
    assert "left alone" in str(error)


def test_a_cluster_with_unknown_members(stage: Stage) -> None:
    made = stage.rack.stand("lab-cluster", "node1", "node2")
    made.add("db7", {"link0": "10.10.1.77", "link1": "10.10.2.77"})
    error = stage.refused(NodesFailed, "with node1, node2, db7")
    assert isinstance(error, NodesFailed)
    assert set(error.errors) == {"node1", "node2"}


def test_another_cluster_of_the_same_name(stage: Stage) -> None:
    stage.rack.stand("lab-cluster", "node1", "node3")
    stage.rack.stand("lab-cluster", "node2")
    stage.refused(match="node2: half-joined: .* but node1's nodelist does not name it")


def test_members_with_other_links(stage: Stage) -> None:
    made = stage.rack.stand("lab-cluster", "node1", "node2")
    made.nodelist["node2"]["ring1_addr"] = "10.10.1.99"
    stage.refused(
        Refused, "node2: is a member with link0 10.10.1.22, link1 10.10.1.99, but the lab file gives it"
    )


def test_members_with_fewer_links(stage: Stage) -> None:
    made = stage.rack.stand("lab-cluster", "node1", "node2", "node3")
    for entry in made.nodelist.values():
        del entry["ring1_addr"]
    stage.refused(
        NodesFailed, "is a member with link0 10.10.1.21, but the lab file gives it link0 10.10.1.21, link1"
    )


def test_a_link_that_does_not_connect(stage: Stage) -> None:
    stage.rack.nodes["node2"].dead_links.add(1)
    with pytest.raises(GaveUp, match="node2: every link connected: not reached within 30 s") as caught:
        stage.form()
    assert caught.value.last_seen == "corosync-cfgtool -n on node1: not connected: link1 (storage) to node2"
    assert ("node3", "POST", JOIN) not in stage.rack.writes()


# Preconditions


def breaks(node: str, **what: object) -> Callable[[FakeRack], None]:
    def plant(rack: FakeRack) -> None:
        for name, value in what.items():
            setattr(rack.nodes[node], name, value)

    return plant


@pytest.mark.parametrize(("plant", "match"), [
    (breaks("node1", hostname="localhost"), 'node1: its host name is "localhost", not "node1"'),
    (breaks("node2", resolved="127.0.1.1"), "node2: its host name resolves to 127.0.1.1, .* write 10.10.1"),
    (breaks("node2", resolved="10.10.1.99"), "node2: its host name resolves to 10.10.1.99"),
    (breaks("node2", resolved=""), "node2: its host name resolves to nothing"),
    (breaks("node3", addresses=["10.10.1.23"]), r"node3: 10.10.2.23 of link1 \(storage\) is not configured"),
    (breaks("node2", guests=["100", "101"]), r"node2: it has guests \(100, 101\), and no node with"),
    (breaks("node3", version="pve-manager/9.0.3/1"), "node3: it runs pve-manager/9.0.3/1 and node1 pve-"),
    (breaks("node3", version=""), "node3: it runs no pve-manager"),
])  # fmt: skip
def test_a_precondition_stops_everything(stage: Stage, plant: Callable[[FakeRack], None], match: str) -> None:
    plant(stage.rack)
    stage.refused(match=match)


def test_all_faults_of_all_nodes_are_told_at_once(stage: Stage) -> None:
    breaks("node2", guests=["100"], resolved="127.0.1.1")(stage.rack)
    breaks("node3", clock_offset=600.0)(stage.rack)
    error = stage.refused(NodesFailed)
    assert isinstance(error, NodesFailed)
    assert set(error.errors) == {"node2", "node3"}
    assert "guests" in str(error)
    assert "127.0.1.1" in str(error)
    assert re.search(r"node3: its clock is (599|600)\.\d s ahead of node1's", str(error))


def test_small_differences_are_fine(stage: Stage) -> None:
    breaks("node1", guests=["100"])(stage.rack)
    breaks("node2", clock_offset=3.0)(stage.rack)
    assert len(stage.form().changed) == 3


# Nodes that are not ready yet


def test_a_wrong_root_password(stage: Stage) -> None:
    stage.rack.nodes["node3"].password = "another"
    with pytest.raises(GaveUp, match="node3: its API serving: not reached within 180 s") as caught:
        stage.form()
    assert "POST /access/ticket was refused: 401 authentication failure" in (caught.value.last_seen or "")
    assert "secret of" not in str(caught.value)
    assert joined(stage) == ["node2"], "it holds no other node up"


@pytest.mark.parametrize(("offset", "way"), [(60.0, "ahead of"), (-60.0, "behind")])
def test_a_clock_that_does_not_come_into_step(stage: Stage, offset: float, way: str) -> None:
    stage.rack.nodes["node2"].clock_offset = offset
    with pytest.raises(GaveUp, match="node2: its clock in step: not reached within 180 s") as caught:
        stage.form()
    assert re.match(rf"its clock is (59|60)\.\d s {way} node1's", caught.value.last_seen or "")
    assert joined(stage) == ["node3"]


def test_an_api_that_is_still_starting_is_waited_for(stage: Stage) -> None:
    for node in stage.rack.nodes.values():
        node.down = True
        stage.rack.later(5.0, partial(setattr, node, "down", False))
    assert len(stage.form().changed) == 3
    assert stage.told("not-ready") == [], "nobody went before another"


def test_a_node_whose_api_starts_late_joins_last_and_holds_nobody_up(large_stage: Stage) -> None:
    stage = large_stage
    slow = stage.rack.nodes["node2"]
    slow.down = True
    stage.run.subscribe(
        lambda event: setattr(slow, "down", False) if (event.kind, event.node) == JOINED_LAST else None
    )
    done = stage.form()
    assert joined(stage) == ["node3", "node4", "node2"]
    assert len(done.changed) == 4 and set(done.nodes) == set(stage.lab.nodes)
    (told,) = stage.told("not-ready")
    assert (told.node, told.text.startswith("joins later: ")) == ("node2", True)


def test_a_node_whose_clock_comes_into_step_late_joins_last(large_stage: Stage) -> None:
    stage = large_stage
    slow = stage.rack.nodes["node3"]
    slow.clock_offset = 30.0
    stage.run.subscribe(
        lambda event: setattr(slow, "clock_offset", 0.0) if (event.kind, event.node) == JOINED_LAST else None
    )
    stage.form()
    assert joined(stage) == ["node2", "node4", "node3"]


def test_nobody_joins_before_the_node_that_creates_the_cluster_is_ready(stage: Stage) -> None:
    primary = stage.rack.nodes["node1"]
    primary.down = True
    stage.rack.later(5.0, partial(setattr, primary, "down", False))
    stage.form()
    assert [event.kind for event in stage.run.events] == ["cluster-created", "node-joined", "node-joined"]
    assert stage.rack.writes()[0] == ("node1", "POST", CREATE)


def test_a_primary_that_never_serves_is_named_alone_and_nothing_changed(stage: Stage) -> None:
    for node in stage.rack.nodes.values():
        node.down = True
    assert stage.refused(GaveUp, "node1: its API serving: not reached within 180 s").node == "node1"


JOINED_LAST = ("node-joined", "node4")


def joined(stage: Stage) -> list[str | None]:
    return [event.node for event in stage.told("node-joined")]


def test_a_peer_whose_certificate_the_cluster_does_not_know(stage: Stage) -> None:
    made = stage.rack.stand("lab-cluster", "node1", "node2")
    made.stale_fingerprints["node1"] = stage.rack.nodes["node2"].fingerprint
    stage.refused(
        Unreachable, "node1: the cluster says that its API has certificate .* run pvecm updatecerts --force"
    )


def test_no_secret_is_kept(stage: Stage, tmp_path: Path) -> None:
    stage.form()
    kept = b"".join(file.read_bytes() for file in tmp_path.glob("ledger.db*"))
    assert b"node-joined" in kept
    assert b"secret of" not in kept


# What is read from a node


def test_the_survey_runs_on_a_machine_without_proxmox() -> None:
    before = time.time()
    ran = subprocess.run(["/bin/sh", "-c", cluster.SURVEY], capture_output=True, text=True, check=True)
    found = cluster.parse_survey("here", ran.stdout, before, time.time())
    assert before - 1 <= found.clock <= time.time() + 1
    assert found.hostname
    assert "127.0.0.1" in found.addresses
    assert found.version == ""


def test_a_survey_that_came_back_incomplete() -> None:
    with pytest.raises(LabError, match="node1: its survey came back incomplete"):
        cluster.parse_survey("node1", "clock=1\nhostname=node1\n", 0.0, 1.0)


def test_clocks_are_only_told_apart_by_what_is_certain(stage: Stage) -> None:
    text = stage.rack.nodes["node1"].survey()
    quick = cluster.parse_survey("a", text.replace("clock=", "clock=1000\nwas="), 990.0, 990.1)
    slow = cluster.parse_survey("b", text.replace("clock=", "clock=1000\nwas="), 980.0, 995.0)
    assert quick.apart(slow) == 0.0, "a slow answer is not a wrong clock"
    assert (
        quick.apart(cluster.parse_survey("c", text.replace("clock=", "clock=900\nwas="), 990.0, 990.1)) > 99
    )


def test_links_of_cfgtool() -> None:
    output = """Local node ID 1, transport knet
nodeid: 2 reachable   onwire (min/max/cur): 0, 1, 1
   LINK: 0 udp (10.10.1.21->10.10.1.22) enabled connected mtu: 1397
   LINK: 1 udp (10.10.2.21->10.10.2.22) enabled disconnected mtu: 8885

nodeid: 4 reachable   onwire (min/max/cur): 0, 1, 1
   LINK: 0 udp (10.10.1.21->10.10.1.24) enabled connected mtu: 1397
   LINK: 1 udp (10.10.2.21->10.10.2.24) enabled connected mtu: 8885
"""
    assert cluster.connected_links(output) == {2: {0}, 4: {0, 1}}


def test_not_every_failed_task_is_a_lock() -> None:
    def failed(log: list[str]) -> bool:
        raise TaskFailed("node1", "join", "exit code 255", log)

    assert cluster._unless_locked(lambda: failed([LOCK])) == NotYet("join failed: exit code 255")
    with pytest.raises(TaskFailed):
        cluster._unless_locked(lambda: failed(["got a cold"]))
