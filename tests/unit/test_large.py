"""Large racks: the lab files that are written for them, and how many pairs of their nodes are asked."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections import Counter
from itertools import permutations
from pathlib import Path

import pytest

from checks.fixtures import MOST_PAIRED, paired
from labs.large import MOST, written
from provision.errors import InventoryError
from provision.inventory import Lab, load
from virtual_lab.plan import plan

ROOT = Path(__file__).parents[2]


def read(folder: Path, nodes: int, kind: str) -> Lab:
    path = folder / "large.yaml"
    path.write_text(written(nodes, kind))
    return load(path, {})


@pytest.mark.parametrize(
    ("nodes", "kind"),
    [(1, "light"), (64, "light"), (256, "light"), (1000, "light"), (8, "full"), (16, "full")],
)
def test_the_lab_file_of_a_large_rack_is_right(tmp_path: Path, nodes: int, kind: str) -> None:
    lab = read(tmp_path, nodes, kind)
    assert len(lab.nodes) == nodes
    assert lab.is_light == (kind == "light")
    assert (lab.cluster is not None, lab.ceph is not None) == (kind == "full",) * 2
    # Strangers have addresses, and so has the harness: plan() raises where none is left.
    assert lab.management.dhcp is not None
    assert plan(lab).lab == f"{kind}-{nodes}"


@pytest.mark.parametrize("nodes", [60, 80, 250, 256, 1000])
def test_a_network_is_no_larger_than_its_machines_need(tmp_path: Path, nodes: int) -> None:
    cidr = read(tmp_path, nodes, "light").management.cidr
    assert cidr.prefixlen == 24 or 3 * nodes + 12 >= cidr.num_addresses // 2


def test_a_full_node_has_a_disk_for_ceph(tmp_path: Path) -> None:
    lab = read(tmp_path, 8, "full")
    assert lab.ceph is not None
    assert list(lab.ceph.osds.disks) == list(lab.nodes)
    assert lab.primary.name == "node1"


@pytest.mark.parametrize(("nodes", "kind"), [("0", "light"), ("1001", "light"), ("17", "full")])
def test_a_rack_that_cannot_stand_is_refused(nodes: str, kind: str) -> None:
    command = [sys.executable, "-m", "labs.large", "--nodes", nodes, "--kind", kind]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"a rack has 1 to {MOST[kind]} {kind} nodes" in done.stderr


def test_a_thousand_nodes_are_read_in_no_time(tmp_path: Path) -> None:
    path = tmp_path / "large.yaml"
    path.write_text(written(1000, "light"))
    began = time.process_time()
    load(path, {})
    assert time.process_time() - began < 5


LIGHT = written(2, "light", "small")


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ("virtual: true", "virtual: false", "defaults.kind: \"light\" is for virtual racks"),
        ("    serial: RPV0000002", "    kind: full", "nodes.node2: is full beside light nodes"),
        ("os: proxmox-9", "os: ubuntu-24.04", "\"light\" nodes are like those of Proxmox alone"),
        ("nodes:", "cluster: {name: small, primary: node1}\nnodes:", "cluster: needs nodes that are installed"),
        ("kind: light", "kind: tiny", "\"tiny\" must be 'full' or 'light'"),
    ],
)  # fmt: skip
def test_what_light_nodes_cannot_be_is_refused(tmp_path: Path, before: str, after: str, told: str) -> None:
    path = tmp_path / "small.yaml"
    assert before in LIGHT
    path.write_text(LIGHT.replace(before, after, 1))
    with pytest.raises(InventoryError, match=re.escape(told)):
        load(path, {})


def test_light_nodes_are_never_installed(tmp_path: Path) -> None:
    path = tmp_path / "small.yaml"
    path.write_text(LIGHT)
    command = [sys.executable, "-m", "pytest", "-c", "pyproject.toml", "-m", "provision", "--lab", str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 4
    assert f"{path}: its nodes are light, which are never installed" in done.stderr


def names(count: int) -> list[str]:
    return [f"node{number}" for number in range(count)]


def test_in_a_small_lab_every_pair_is_asked() -> None:
    for count in (0, 1, 4, MOST_PAIRED):
        assert paired(names(count)) == list(permutations(names(count), 2))


@pytest.mark.parametrize("count", [MOST_PAIRED + 1, 64, 255, 256])
def test_in_a_large_lab_each_node_is_twice_at_either_end(count: int) -> None:
    pairs = paired(names(count))
    assert len(set(pairs)) == len(pairs) == 2 * count
    assert all(node != peer for node, peer in pairs)
    for end in (0, 1):
        assert set(Counter(pair[end] for pair in pairs).values()) == {2}


@pytest.mark.parametrize("cut", [1, 9, 32, 63])
def test_whatever_parts_a_large_lab_lies_between_two_that_are_asked(cut: int) -> None:
    """A trunk between two rows of racks: wherever it is, several pairs are asked through it."""
    left = set(names(64)[:cut])
    assert sum((node in left) != (peer in left) for node, peer in paired(names(64))) >= 4


def test_a_check_is_asked_of_light_nodes_if_it_says_so(tmp_path: Path) -> None:
    path = tmp_path / "large.yaml"
    path.write_text(written(20, "light"))
    command = [sys.executable, "-m", "pytest", "-c", "pyproject.toml", "-m", "verify", "--collect-only", "-q"]
    done = subprocess.run(
        [*command, "--lab", str(path)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    cases = [line for line in done.stdout.splitlines() if line.startswith("checks/")]
    subjects = {case.partition("::")[0].removeprefix("checks/check_") for case in cases}
    assert subjects == {"broadcast.py", "install.py", "mtu.py", "network.py", "ssh.py"}
    assert sum("test_largest_packet_passes" in case for case in cases) == 2 * 2 * 20
    assert sum("node07" in case for case in cases) == 37 + 2 * 2 * 2
