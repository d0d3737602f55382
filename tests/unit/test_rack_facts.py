"""What the scripts on machines read: what they make of it, and that no secret is among it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from checks import ceph_setup, rack_facts
from checks.ceph_facts import ON_NODE
from checks.public_keys import authorised, certificate, fingerprint, host_keys
from provision import inventory
from provision.baseline import CLUSTER

KEY = "AAAAC3NzaC1lZDI1NTE5AAAAIPBG18KoYrX7WQA9FQGOZhLgsgpALC2TNGnWxswPJgYZ"
CANARY = "canary-7Zq4x"
LAB = Path(__file__).parents[2] / "labs" / "virtual.yaml"

COROSYNC = """
nodelist {
  node {
    name: node1
    nodeid: 1
    quorum_votes: 1
    ring0_addr: 10.10.1.21
  }
  node {
    name: node2
    nodeid: 2
    ring0_addr: 10.10.1.22
  }
}
quorum {
  provider: corosync_votequorum
}
totem {
  cluster_name: hall-3
  config_version: 4
  interface {
    linknumber: 0
  }
}
"""
STORAGE = f"""dir: local
\tpath /var/lib/vz
\tcontent vztmpl,iso

cifs: backup
\tserver 10.10.1.9
\tpassword {CANARY}
\tnodes node2,node1
"""
USERS = f"""user:root@pam:1:0:::root@lab.example.net::
user:joe@pve:1:0:Joe:Doe::night shift:x!{CANARY}:
token:joe@pve!ci:0:1:for builds:
acl:1:/vms:@admins:PVEAdmin:
"""
TEMPLATE = f"""#rackproof template 9000
cipassword: {CANARY}
cores: 1
meta: creation-qemu=11.0.0,ctime=1795409507
name: ubuntu-24.04
sshkeys: ssh-ed25519%20{KEY.replace("/", "%2F").replace("+", "%2B")}%20joe
template: 1
vmgenid: 03218d46-75c1-485b-99f1-4130fb3f7f6a

[before]
cores: 4
"""
SHARED = {
    "corosync.conf": COROSYNC, "storage.cfg": STORAGE, "user.cfg": USERS, "ceph.conf": "[global]\n",
    "domains.cfg": f"openid: sso\n\tclient-id rack\n\tclient-key {CANARY}\n",
    "datacenter.cfg": f"http_proxy: http://joe:{CANARY}@proxy:3128\nmigration: type=secure\n",
    "firewall/cluster.fw": "[OPTIONS]\nenable: 1\n\n[RULES]\nIN DROP # last\n",
    "nodes/node1/qemu-server/9000.conf": TEMPLATE, "nodes/node2/qemu-server/101.conf": "cores: 2\n",
    "priv/authorized_keys": f"ssh-ed25519 {KEY} joe\n", "priv/token.cfg": CANARY, "pve-root-ca.pem": "",
}  # fmt: skip


@pytest.fixture
def shared(tmp_path: Path) -> dict[str, Any]:
    """What the script says of a cluster's shared files."""
    for name, content in SHARED.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    script = (ON_NODE / "cluster_facts.py").read_text().replace('Path("/etc/pve")', f'Path("{tmp_path}")')
    done = subprocess.run([sys.executable, "-"], input=script, capture_output=True, text=True, check=True)
    assert CANARY not in done.stdout + done.stderr
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def test_shared_files_of_a_cluster(shared: dict[str, Any]) -> None:
    facts = shared["facts"]
    assert shared["unread"] == {}
    assert shared["ceph"]
    assert facts["cluster"]["nodes"]["node1"] == {
        "nodeid": "1",
        "quorum_votes": "1",
        "ring0_addr": "10.10.1.21",
    }
    assert facts["cluster"]["config version"] == "4"
    assert facts["cluster"]["links"] == ["0"]
    assert facts["cluster"]["datacenter"]["http_proxy"] == "http://proxy:3128"
    assert facts["storages"]["cifs backup"] == {
        "server": "10.10.1.9", "password": "(not told)", "nodes": ["node1", "node2"],
    }  # fmt: skip
    assert facts["access"]["user joe@pve"] == "1, 0, Joe, Doe, night shift"
    assert facts["access"]["token joe@pve!ci"] == "0, 1, for builds"
    assert facts["access"]["acl /vms:@admins:PVEAdmin".replace(":", " ")] == "propagate 1"
    assert facts["firewall"] == {
        "firewall/cluster.fw OPTIONS": ["enable: 1"], "firewall/cluster.fw RULES": ["IN DROP # last"],
    }  # fmt: skip


def test_a_template_by_its_settings(shared: dict[str, Any]) -> None:
    assert set(shared["facts"]["templates"]) == {"9000"}, (
        "a guest that is no template is none of the rack's facts"
    )
    assert rack_facts._template(shared["facts"]["templates"]["9000"]) == {
        "node": "node1", "notes": "rackproof template 9000", "cipassword": "(not told)", "cores": "1",
        "name": "ubuntu-24.04", "template": "1", "sshkeys": [fingerprint(KEY)],
    }  # fmt: skip


def test_this_machine_can_be_read_twice_alike() -> None:
    script = (ON_NODE / "machine_facts.py").read_text()
    first, second = (
        json.loads(
            subprocess.run(
                [sys.executable, "-"], input=script, capture_output=True, text=True, check=True
            ).stdout
        )
        for _ in range(2)
    )
    assert set(first["facts"]) | set(first["unread"]) == set(rack_facts.OF_MACHINE)
    still = ("hardware", "firmware", "kernel", "packages", "repositories", "users", "files")
    assert {name: first["facts"][name] for name in still} == {name: second["facts"][name] for name in still}


def test_authorised_keys_by_account_and_comment() -> None:
    lines = [
        f"ssh-ed25519 {KEY} joe@desk",
        f'command="mail -s {CANARY}",no-pty ssh-ed25519 {KEY}',
        f"# ssh-ed25519 {KEY} gone",
        "nonsense",
    ]
    found = authorised("root", lines)
    assert found["root joe@desk"] == [f"ssh-ed25519 {fingerprint(KEY)}"]
    (limited,) = found["root (no comment)"]
    assert "limited (" in limited
    assert CANARY not in str(found)
    assert len(found) == 2


def test_another_option_is_another_fact() -> None:
    one, other = (
        authorised("root", [f'from="{ip}" ssh-ed25519 {KEY} joe']) for ip in ("10.0.0.1", "10.0.0.2")
    )
    assert one != other


def test_fingerprint_is_ssh_keygens(tmp_path: Path) -> None:
    (tmp_path / "key.pub").write_text(f"ssh-ed25519 {KEY} joe\n")
    said = subprocess.run(
        ["ssh-keygen", "-lf", tmp_path / "key.pub"], capture_output=True, text=True, check=True
    )
    assert fingerprint(KEY) in said.stdout.split()
    assert host_keys([f"ssh-ed25519 {KEY} root@node1"]) == {"ssh-ed25519": fingerprint(KEY)}


@given(st.lists(st.text(max_size=60), max_size=5))
def test_any_text_can_stand_where_keys_are_looked_for(lines: list[str]) -> None:
    authorised("root", lines)
    host_keys(lines)
    certificate("\n".join(lines))


@given(st.text("ABC/+=", max_size=20))
def test_any_word_can_stand_in_the_place_of_a_key(word: str) -> None:
    assert fingerprint(f"AAAA{word}")


def test_subjects_are_of_what_the_lab_has() -> None:
    lab = inventory.load(LAB)
    cases = list(rack_facts.subjects_of(lab, ["node3"]))
    assert ("node3", "packages", "install") in cases
    assert ("server", "files", "server") in cases
    assert (CLUSTER, "ceph", "ceph") in cases
    assert not any(machine == "node1" for machine, *_ in cases)
    without = lab.model_copy(update={"ceph": None})
    assert (CLUSTER, "ceph", "ceph") not in list(rack_facts.subjects_of(without, ["node3"]))


ANSWERS = {
    "quorum_status": {"monmap": {"mons": [
        {"name": "node1", "public_addrs": {"addrvec": [{"type": "v2", "addr": "10.10.2.21:3300", "nonce": 0}]}}]}},
    "mgr metadata": [{"name": "node2"}, {"name": "node1"}],
    "osd dump": {
        "fsid": "661e5cd5", "epoch": 31, "require_osd_release": "squid", "flags_set": ["sortbitwise", "noout"],
        "nearfull_ratio": 0.8500000238, "backfillfull_ratio": 0.9, "full_ratio": 0.95,
        "osds": [{"osd": 3, "in": 1, "up": 1}],
        "pools": [{
            "pool_name": "rbd", "size": 3, "min_size": 2, "crush_rule": 0, "flags_names": "hashpspool",
            "erasure_code_profile": "", "quota_max_bytes": 0, "quota_max_objects": 0, "pg_autoscale_mode": "on",
            "options": {"target_size_ratio": 1}, "application_metadata": {"rbd": {}}, "pg_num_target": 128,
            "last_change": "19",
        }],
    },
    "osd tree": {"nodes": [{"id": 3, "name": "osd.3", "device_class": "ssd", "crush_weight": 0.0097961,
                            "reweight": 1, "primary_affinity": 1}]},
    "osd metadata": [{"id": 3, "hostname": "node2", "device_ids": "sdb=INTEL_RPVOSD0000002",
                      "osd_objectstore": "bluestore", "front_addr": "10.10.2.22:6802/1083547067"}],
    "versions": {"mon": {"ceph version 18.2.7 (6b0e98) reef (stable)": 3}, "overall": {}},
    "config dump": [{"section": "mgr", "mask": "", "name": "mgr/dashboard/jwt_token", "value": CANARY},
                    {"section": "mon", "mask": "", "name": "mon_max_pg_per_osd", "value": "300"}],
    "fs dump": {"filesystems": []},
}  # fmt: skip


def test_ceph_by_what_lasts() -> None:
    facts = ceph_setup.lasting(ANSWERS)
    assert facts["osds"] == {"node2 INTEL_RPVOSD0000002": {
        "class": "ssd", "weight": 0.0098, "reweight": 1, "affinity": 1, "in": True, "store": "bluestore",
    }}  # fmt: skip
    assert facts["pools"]["rbd"]["placement groups, autoscaled"] == 128
    assert facts["settings"] == {
        "mgr mgr/dashboard/jwt_token": "(not told)", "mon mon_max_pg_per_osd": "300",
    }  # fmt: skip
    assert facts["versions"] == {"mon": ["18.2.7"]}
    assert CANARY not in json.dumps(facts)
    assert "1083547067" not in json.dumps(facts)
