"""A cluster of played Proxmox nodes on real corosync: made, joined, cut apart, healed, and refused."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.lab.pve_nodes import PASSWORD, Answer, Api, Node, Rig, eventually


@dataclass
class Formed:
    """Three members, a fourth node that stands alone, and what was seen while the cluster was made."""

    nodes: list[Node]
    spare: Node
    alone: Answer
    first_fingerprints: tuple[str, str]
    create: tuple[str, str]
    join: tuple[str, str]
    added: tuple[int, str]
    old_ticket: Api
    old_fingerprint: str
    seconds: float

    @property
    def first(self) -> Node:
        return self.nodes[0]


def join(joiner: Node, peer: Node, **others: str) -> tuple[str, str]:
    told = {
        "hostname": peer.address,
        "password": PASSWORD,
        "fingerprint": peer.api().fingerprint(),
        **joiner.links,
    }
    api = joiner.logged_in()
    started = api("POST", "/cluster/config/join", **{**told, **joiner.links, **others})
    assert started.code == 200, started
    return api.ended(started.data)


def is_member(joiner: Node, peer: Api) -> bool:
    rows = {row["name"]: row for row in peer("GET", "/cluster/status").data or []}
    return bool(rows.get("lab", {}).get("quorate")) and rows.get(joiner.name, {}).get("online") == 1


@pytest.fixture(scope="module")
def formed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Formed]:
    rig = Rig(tmp_path_factory.mktemp("pve"), 4)
    try:
        rig.up()
        yield _form(*rig.nodes)
    finally:
        rig.down()


def _form(first: Node, second: Node, third: Node, spare: Node) -> Formed:
    api = first.logged_in()
    alone, before = api("GET", "/cluster/status"), api.fingerprint()
    began = time.monotonic()
    created = api.ended(api("POST", "/cluster/config", clustername="lab", **first.links).data)
    eventually("a quorate cluster of one", lambda: is_member(first, api))
    old, old_fingerprint = second.logged_in(), second.api().fingerprint()
    joined = join(second, first)
    eventually("pve2 in the cluster", lambda: is_member(second, api))
    added = third.at_a_terminal(
        f"pvecm add {first.address} --link0 {third.links['link0']} --link1 {third.links['link1']}",
        {"(yes/no)? ": "yes", f"password for '{first.address}': ": PASSWORD},
    )
    eventually("pve3 in the cluster", lambda: is_member(third, api))
    seconds = time.monotonic() - began
    return Formed([first, second, third], spare, alone, (before, api.fingerprint()), created, joined, added,
                  old, old_fingerprint, seconds)  # fmt: skip


def test_a_lone_node_is_no_cluster(formed: Formed) -> None:
    [row] = formed.alone.data
    assert (row["type"], row["nodeid"], row["name"]) == ("node", 0, "pve1")
    api = formed.spare.logged_in()
    answer = api("GET", "/cluster/config/join")
    assert (answer.code, answer.reason) == (424, "node is not in a cluster, no join info available!")
    assert formed.spare.on("pvecm status", check=False).startswith("Error: Corosync config")
    assert formed.spare.on("systemctl is-active corosync", check=False) == "inactive"


def test_creation_goes_its_steps_and_keeps_the_certificate(formed: Formed) -> None:
    status, log = formed.create
    assert status == "OK"
    assert log.splitlines()[-3:] == ["Writing corosync config to /etc/pve/corosync.conf",
                                     "Restart corosync and cluster filesystem", "TASK OK"]  # fmt: skip
    before, after = formed.first_fingerprints
    assert before == after


def test_a_join_goes_its_steps(formed: Formed) -> None:
    status, log = formed.join
    assert status == "OK"
    steps = ["Login succeeded", "Request addition", "stopping pve-cluster", "backup old database",
             "(re)generate", "generate new node certificate", "successfully added node 'pve2'"]  # fmt: skip
    places = [log.find(step) for step in steps]
    assert -1 not in places
    assert places == sorted(places)


def test_pvecm_add_asks_and_says_what_it_does(formed: Formed) -> None:
    code, shown = formed.added
    assert code == 0, shown
    assert f"X509 SHA256 key fingerprint is {formed.first_fingerprints[0]}." in shown
    assert "successfully added node 'pve3' to cluster." in shown
    assert PASSWORD not in shown


def test_a_joiner_loses_its_ticket_its_certificate_its_keys_and_its_storages(formed: Formed) -> None:
    second = formed.nodes[1]
    assert formed.old_ticket("GET", "/version").reason == "permission denied - invalid PVE ticket"
    fingerprint = second.api().fingerprint()
    assert fingerprint != formed.old_fingerprint
    told = formed.first.logged_in()("GET", "/cluster/config/join").data
    assert {row["name"]: row["pve_fp"] for row in told["nodelist"]}["pve2"] == fingerprint
    keys = second.on("cat /root/.ssh/authorized_keys")
    assert "only-on-pve1" in keys
    assert "only-on-pve2" not in keys
    storages = {row["storage"] for row in second.logged_in()("GET", "/storage").data}
    assert storages == {"local", "of-pve1"}, "`local` is there even when storage.cfg does not name it"
    assert second.on("ls /var/lib/pve-cluster/backup").endswith(".sql.gz")


def test_every_certificate_is_the_cluster_ca_s(formed: Formed) -> None:
    for node in formed.nodes:
        command = "openssl verify -x509_strict -CAfile /etc/pve/pve-root-ca.pem /etc/pve/local/pve-ssl.pem"
        assert node.on(command).endswith("OK")
        names = node.on("openssl x509 -in /etc/pve/local/pve-ssl.pem -noout -ext subjectAltName")
        for name in (
            node.address,
            f"DNS:{node.name},",
            f"DNS:{node.name}.lab.test",
            "127.0.0.1",
            "DNS:localhost",
        ):
            assert name in f"{names},"


def test_members_agree(formed: Formed) -> None:
    digests = {node.on("sha256sum < /etc/pve/corosync.conf; sha256sum < /etc/corosync/corosync.conf")
               for node in formed.nodes}  # fmt: skip
    assert len(digests) == 1
    assert len(set(digests.pop().splitlines())) == 1
    for node in formed.nodes:
        assert "Config Version:   3" in node.on("pvecm status")
        assert node.on("corosync-cfgtool -s").count("\tconnected") == 4
    assert (
        len({node.on("find /etc/pve -type f ! -name '.*' | sort | xargs sha256sum") for node in formed.nodes})
        == 1
    )


def test_a_ticket_is_good_on_every_member_and_calls_reach_other_nodes(formed: Formed) -> None:
    api = formed.first.logged_in()
    elsewhere = Api(formed.nodes[1], api.headers)
    assert elsewhere("GET", "/nodes/pve3/status").code == 200
    formed.first.on("echo '10.10.1.22 other.name' >> /etc/hosts")
    answer = api("GET", "/nodes/other.name/status")
    assert (answer.code, answer.reason) == (596, "tls_process_server_certificate: certificate verify failed")


def test_a_write_needs_its_csrf_token_and_a_wrong_password_waits(formed: Formed) -> None:
    api = formed.first.logged_in()
    api.headers.pop("CSRFPreventionToken")
    assert api("POST", "/cluster/config", clustername="x").reason == "Permission denied - invalid csrf token"
    began = time.monotonic()
    answer = formed.first.api().login("wrong")
    assert (answer.code, answer.reason) == (401, "authentication failure")
    assert time.monotonic() - began >= 3
    assert formed.first.api()("GET", "/version").reason == "No ticket"


def test_a_token_reads_but_makes_no_cluster(formed: Formed) -> None:
    api = formed.spare.logged_in()
    made = api("POST", "/access/users/root@pam/token/ci", privsep="0").data
    token = Api(formed.spare, {"Authorization": f"PVEAPIToken=root@pam!ci={made['value']}"})
    assert token("GET", "/cluster/status").code == 200
    answer = token("POST", "/cluster/config", clustername="x")
    assert (answer.code, answer.reason) == (403, "Permission check failed (user != root@pam)")


def test_a_second_cluster_is_refused_at_once(formed: Formed) -> None:
    answer = formed.first.logged_in()("POST", "/cluster/config", clustername="again")
    assert (answer.code, answer.reason) == (500, "cluster config '/etc/pve/corosync.conf' already exists")


@pytest.mark.parametrize(
    ("others", "complaint"),
    [
        ({"password": "wrong"}, "401 authentication failure"),
        ({"fingerprint": ":".join(["AB"] * 32)}, "not verified, abort!"),
        ({"hostname": "10.10.1.99"}, "500 Can't connect to 10.10.1.99:8006"),
        ({"link1": "10.10.2.99"}, "link1: cannot use IP '10.10.2.99', not found on local node!"),
        (
            {"link0": "10.10.2.24", "link1": "10.10.1.24", "link2": "10.10.1.24"},
            "link 2 specified for new node",
        ),
    ],
)
def test_a_join_that_cannot_be_leaves_no_trace(
    formed: Formed, others: dict[str, str], complaint: str
) -> None:
    status, log = join(formed.spare, formed.first, **others)
    assert status not in ("OK", "unexpected status")
    assert complaint in log
    assert formed.spare.on("ls /etc/corosync") == "uidgid.d"
    assert formed.spare.name not in formed.first.on("cat /etc/pve/corosync.conf")


def test_a_join_must_name_every_link(formed: Formed) -> None:
    api, first = formed.spare.logged_in(), formed.first
    told = {"hostname": first.address, "password": PASSWORD, "fingerprint": first.api().fingerprint()}
    _, log = api.ended(api("POST", "/cluster/config/join", **told, link0="10.10.1.24").data)
    assert "link 1 exists in cluster config but wasn't specified for new node" in log
    _, log = api.ended(api("POST", "/cluster/config/join", **told).data)
    assert "no links given but multiple links found on other nodes" in log


def test_what_one_member_writes_all_read_and_only_root_writes(formed: Formed) -> None:
    one, other, _ = formed.nodes
    one.on("echo hello > /etc/pve/hello")
    assert other.on("cat /etc/pve/hello; stat -c %U:%G:%a /etc/pve/hello") == "hello\nroot:www-data:640"
    assert "Permission denied" in other.on("su -s /bin/sh www-data -c 'echo x > /etc/pve/hello'", check=False)
    assert "Permission denied" in other.on("su -s /bin/sh www-data -c 'ls /etc/pve/priv'", check=False)
    assert "Operation not permitted" in other.on("chmod 600 /etc/pve/hello", check=False)
    assert "File too large" in other.on("head -c 1048577 /dev/zero > /etc/pve/hello", check=False)
    other.on("rm /etc/pve/hello")
    assert "No such file" in one.on("cat /etc/pve/hello", check=False)


def test_of_many_who_take_a_lock_one_has_it(formed: Formed) -> None:
    taken = [
        node.on("mkdir /etc/pve/priv/lock/one 2>/dev/null && echo got", check=False) for node in formed.nodes
    ]
    assert taken == ["got", "", ""]
    formed.first.on("rmdir /etc/pve/priv/lock/one")


@pytest.mark.parametrize(
    ("take", "give_back", "complaint"),
    [
        ("mkdir /etc/pve/priv/lock/file-corosync_conf", "rmdir /etc/pve/priv/lock/file-corosync_conf",
         "cfs-lock 'file-corosync_conf' error: got lock request timeout"),
        ("exec 9>/var/lock/pvecm.lock; flock 9; sleep 30 >/dev/null 2>&1 & echo $! > /tmp/holder",
         "kill $(cat /tmp/holder)", "can't lock file '/var/lock/pvecm.lock' - got timeout"),
    ],
)  # fmt: skip
def test_a_lock_is_waited_for_ten_seconds(formed: Formed, take: str, give_back: str, complaint: str) -> None:
    api = formed.first.logged_in()
    formed.first.on(take)
    began = time.monotonic()
    try:
        answer = api("DELETE", "/cluster/config/nodes/pve3")
    finally:
        formed.first.on(give_back, check=False)
    assert (answer.code, answer.reason) == (500, complaint)
    assert 9 < time.monotonic() - began < 15


def test_a_node_cut_off_is_read_only_and_catches_up(formed: Formed) -> None:
    lost, first = formed.nodes[2], formed.first
    lost.plug("down")
    try:
        eventually("pve3 without quorum", lambda: not lost.writable())
        assert "Permission denied" in lost.on("echo x > /etc/pve/x", check=False)
        assert "Permission denied" in lost.on("rm /etc/pve/storage.cfg", check=False)
        assert lost.on("stat -c %a /etc/pve/storage.cfg") == "440"
        assert "of-pve1" in lost.on("cat /etc/pve/storage.cfg")
        first.on("echo meanwhile > /etc/pve/meanwhile")
    finally:
        lost.plug("up")
    eventually("pve3 with quorum", lost.writable)
    eventually("what it missed", lambda: lost.on("cat /etc/pve/meanwhile", check=False) == "meanwhile")
    lost.on("rm /etc/pve/meanwhile")
    assert "No such file" in first.on("cat /etc/pve/meanwhile", check=False)


def test_one_link_is_enough(formed: Formed) -> None:
    second = formed.nodes[1]
    second.on("ip link set eno3 down")
    eventually("link 1 lost", lambda: second.on("corosync-cfgtool -s").count("disconnected") == 2)
    assert second.writable()
    second.on("ip link set eno3 up")
    eventually("link 1 back", lambda: second.on("corosync-cfgtool -s").count("\tconnected") == 4)


def test_without_corosync_a_member_is_read_only_and_pmxcfs_survives_being_killed(formed: Formed) -> None:
    second = formed.nodes[1]
    second.on("systemctl stop corosync")
    eventually("pve2 without quorum", lambda: not second.writable(), 5)
    second.on("systemctl start corosync")
    eventually("pve2 with quorum", second.writable)
    second.on("kill -9 $(cat /run/pve-cluster.pid)")
    eventually("pmxcfs again", second.writable)
    assert "of-pve1" in second.on("cat /etc/pve/storage.cfg")


def test_services_are_seen_stopped_and_started(formed: Formed) -> None:
    first, third = formed.first.logged_in(), formed.nodes[2]
    third.on("systemctl stop pvedaemon")
    assert Api(third, first.headers)("GET", "/nodes/pve3/status").code == 595
    assert Api(third, first.headers)("GET", "/version").code == 200
    third.on("systemctl start pvedaemon; systemctl stop pveproxy")
    assert first("GET", "/nodes/pve3/status").code == 595
    third.on("systemctl start pveproxy")
    assert first("GET", "/nodes/pve3/status").code == 200


def test_the_command_line(formed: Formed) -> None:
    first = formed.first
    assert re.match(r"pve-manager/9\.2\.\d+/\w+ \(running kernel: ", first.on("pveversion"))
    assert re.search(r"^corosync: 3\.1\.\d+-pve\d$", first.on("pveversion -v"), re.MULTILINE)
    assert '"quorate": 1' in first.on("pvesh get /cluster/status --output-format json")
    assert '"release": "9.2"' in first.on("pvesh get /nodes/pve2/version --output-format json")
    assert first.on("pvecm apiver") == "1"
    assert "Cannot delete myself from cluster!" in first.on("pvecm delnode pve1", check=False)
    assert "Navigate out of /etc/pve" in first.on("cd /etc/pve && pvecm add 10.10.1.22", check=False)


def test_a_killed_node_is_offline_and_comes_back(formed: Formed) -> None:
    third, api = formed.nodes[2], formed.first.logged_in()
    third.cut_power()
    eventually("pve3 offline", lambda: not is_member(third, api))
    assert formed.first.writable()
    third.boot()
    eventually("pve3 online", lambda: is_member(third, api))


def test_a_join_whose_packets_are_dropped_waits_for_ever_and_blocks_nobody_s_majority(formed: Formed) -> None:
    spare, first = formed.spare, formed.first
    spare.on("nft 'add table inet cut; add chain inet cut in { type filter hook input priority 0; }; "
             "add rule inet cut in udp dport 5405-5412 drop'")  # fmt: skip
    told = {"hostname": first.address, "password": PASSWORD, "fingerprint": first.api().fingerprint()}
    upid = spare.logged_in()("POST", "/cluster/config/join", **told, **spare.links).data
    eventually(
        "the endless wait", lambda: "waiting for quorum..." in spare.on(f"cat /var/log/pve/tasks/?/{upid}")
    )
    assert "name: pve4" in first.on("cat /etc/pve/corosync.conf")
    assert first.writable()
    assert spare.on("ls /etc/corosync").split() == ["authkey", "corosync.conf", "uidgid.d"]
    # The cut ends, and so does the wait.
    spare.on("nft delete table inet cut")
    eventually("pve4 in the cluster", lambda: is_member(spare, first.logged_in()))
    eventually("the task's end", lambda: "TASK OK" in spare.on(f"cat /var/log/pve/tasks/?/{upid}"))


def test_a_node_that_was_let_go_is_no_member(formed: Formed) -> None:
    first = formed.first
    first.on("pvecm delnode pve4")
    assert "pve4" not in first.on("cat /etc/pve/corosync.conf")
    eventually("three members", lambda: first.on("corosync-quorumtool -l", check=False).count("pve") == 3)
    again = formed.spare.on("pvecm add 10.10.1.21 </dev/null", check=False)
    assert "successfully" not in again


def test_four_nodes_would_be_formed_in_time(formed: Formed) -> None:
    assert formed.seconds < 30
