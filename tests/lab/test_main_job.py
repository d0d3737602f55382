"""The main job on a lab that stands: rebuilt, verified, taken in parts, played from a classic inventory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from provision.run import STEPS
from provision.together import together
from tests.lab_fixtures import INSTANCE, Classic, Lab, raised

IDENTITY = (
    "cat /proc/sys/kernel/random/boot_id /etc/machine-id /etc/ssh/ssh_host_ed25519_key.pub; "
    """sed -n 's/.*"nonce": "\\([^"]*\\)".*/\\1/p' /etc/rackproof/install.json"""
)
CONFIGURATION = (
    "cat /proc/sys/kernel/random/boot_id; find /etc -xdev -type f -print0 | sort -z | xargs -0 sha256sum; "
    "sha256sum /etc/pve/corosync.conf /etc/pve/storage.cfg /etc/pve/priv/authorized_keys 2>/dev/null; "
    "corosync-cmapctl -b totem.config_version 2>/dev/null; nft list ruleset | sha256sum; "
    "ip -o addr show | sed 's/valid_lft.*//'; ip route show"
)


def identities(lab: Lab) -> dict[str, list[str]]:
    """Boot id, machine id, host key and nonce of every node: what another install changes, all of it."""
    return together({node: node for node in lab.nodes}, lambda node: lab.on(node, IDENTITY).splitlines())


def everything(lab: Lab) -> dict[str, Any]:
    """All that a verification must leave as it is."""
    machines = {name: name for name in ("server", *lab.nodes)}
    return {
        "configuration": together(machines, lambda name: lab.on(name, CONFIGURATION, check=False)),
        "boards": {name: lab.board(name) for name in machines},
        "evidence": lab.evidence(),
    }


def steps_that_acted(lab: Lab) -> list[str]:
    return [event["step"] for event in lab.events("step-started")]


def test_a_second_run_rebuilds_the_standing_lab(lab: Lab) -> None:
    before, first = identities(lab), lab.evidence()
    lab.rebuild()
    after, second = identities(lab), lab.evidence()
    for node, old in before.items():
        assert len(old) == 4
        kept = [word for word in old if word in after[node]]
        assert not kept, f"{node} still has {kept}"
    assert second["server"].changed == [], "the server step was to find its work done"
    assert second["server"].unchanged
    assert [name for name, kept in first.items() if kept and kept.run == second[name].run] == []


def test_verify_changes_nothing_and_has_the_same_cases_with_workers(lab: Lab) -> None:
    before = everything(lab)
    assert lab.verify() == set()
    alone = sorted(name for name, _ in lab.cases())
    assert lab.verify("-n", "3") == set()
    assert sorted(name for name, _ in lab.cases()) == alone
    assert len(alone) > 300
    after = everything(lab)
    for what in before:
        assert after[what] == before[what]
    digests = {text.splitlines()[-1] for text in corosync_configurations(lab).values()}
    assert len(digests) == 1, "every node has the same corosync configuration and version"


def corosync_configurations(lab: Lab) -> dict[str, str]:
    command = (
        "v=$(corosync-cmapctl -b totem.config_version); echo $v $(sha256sum </etc/corosync/corosync.conf)"
    )
    return {node: lab.on(node, command) for node in lab.nodes}


def test_a_cluster_that_stands_is_left_as_it_is(lab: Lab) -> None:
    before = identities(lab), corosync_configurations(lab)
    result = lab.provision("--from", "cluster")
    assert result.returncode == 0, result.stdout + result.stderr
    assert steps_that_acted(lab) == ["cluster"]
    assert lab.evidence()["cluster"].changed == []
    assert lab.events("already")
    assert (identities(lab), corosync_configurations(lab)) == before
    lab.whole = True


def test_one_node_is_rebuilt_and_the_cluster_takes_it_back(lab: Lab) -> None:
    before = identities(lab)
    result = lab.provision("--nodes", "node3")
    assert result.returncode == 0, result.stdout + result.stderr
    after = identities(lab)
    assert [node for node in before if before[node] != after[node]] == ["node3"]
    assert not set(before["node3"]) & set(after["node3"])
    assert {event["node"] for event in lab.events("reset")} == {"node3"}
    assert lab.verify() == set()
    lab.whole = True


def test_a_classic_inventory_drives_the_same_run_on_virtual_hardware(classic: Classic) -> None:
    result, lab = classic.result, classic.lab
    assert result.returncode == 0, result.stdout + result.stderr
    assert "sddc-cluster · 3 nodes" in result.stdout
    assert steps_that_acted(lab) == list(STEPS)
    assert "Quorate:          Yes" in lab.on("pve1", "pvecm status")
    assert lab.on("pve3", "hostname -f") == "pve3.lab.local"


def test_a_classic_inventory_is_a_real_lab_without_virtual(classic: Classic) -> None:
    before = identities(classic.lab)
    (inventory,) = [word for word in classic.lab.arguments if word.endswith(".json")]
    result = Lab(classic.lab.folder, classic.lab.env, classic.lab.instance).provision("--lab", inventory)
    assert result.returncode == 4
    assert "--wipe sddc-cluster" in result.stderr
    assert "pve1, pve2, pve3" in result.stderr
    assert identities(classic.lab) == before


def test_two_racks_of_one_lab_side_by_side(lab: Lab, tmp_path: Path) -> None:
    other = raised(tmp_path, f"{INSTANCE}-other")
    before = identities(lab), lab.board("server")
    try:
        result = other.provision("--until", "server")
        assert result.returncode == 0, result.stdout + result.stderr
        assert steps_that_acted(other) == ["server"]
        assert other.evidence()["power"] is None
        assert other.verify("-k", "check_server or check_dns or check_boot_files") == set()
        assert other.on("server", "cat /etc/ssh/ssh_host_ed25519_key.pub") != lab.on(
            "server", "cat /etc/ssh/ssh_host_ed25519_key.pub"
        )
    finally:
        other.down()
    assert not other.places.rack.exists()
    assert not [
        path for path in Path("/run/netns").iterdir() if path.name.startswith(f"rp-{other.instance}-")
    ]
    assert (identities(lab), lab.board("server")) == before
    assert lab.verify("-k", "check_server or check_cluster") == set()
