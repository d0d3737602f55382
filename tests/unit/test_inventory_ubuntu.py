"""Labs in which some nodes have Ubuntu: what is refused by name, and what goes to Proxmox's nodes alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from provision import inventory
from provision.errors import InventoryError
from provision.inventory import Lab

VIRTUAL = Path(__file__).parents[2] / "labs" / "virtual.yaml"


def mixed(folder: Path, change: Mapping[str, Any] | None = None, **node: Any) -> Lab:
    """The default lab with Ubuntu on its first node, which its cluster does not begin on."""
    lab = yaml.load(VIRTUAL.read_text(), Loader=yaml.BaseLoader)
    lab["nodes"]["node1"] |= {"os": "ubuntu-24.04", **node}
    lab["cluster"]["primary"] = "node2"
    del lab["ceph"]["osds"]["disks"]["node1"]
    for place, value in (change or {}).items():
        *path, last = place.split(".")
        part = lab
        for key in path:
            part = part.setdefault(key, {})
        part[last] = value
    file = folder / "mixed.yaml"
    file.write_text(yaml.safe_dump(lab))
    return inventory.load(file, {})


def told(folder: Path, *arguments: Any, **more: Any) -> list[str]:
    with pytest.raises(InventoryError) as caught:
        mixed(folder, *arguments, **more)
    return [f"{mistake.place}: {mistake.message}" for mistake in caught.value.mistakes]


def test_the_cluster_and_ceph_are_of_proxmoxs_nodes(tmp_path: Path) -> None:
    lab = mixed(tmp_path)
    assert list(lab.proxmox.nodes) == ["node2", "node3", "node4"]
    assert lab.asked_ceph is not None
    assert (lab.asked_ceph.monitors, lab.asked_ceph.managers) == (
        ("node2", "node3", "node4"),
        ("node2", "node3"),
    )
    assert lab.primary.name == "node2"


def test_only_proxmoxs_nodes_need_the_clusters_networks(tmp_path: Path) -> None:
    lab = yaml.load(VIRTUAL.read_text(), Loader=yaml.BaseLoader)
    for key in ("storage", "macs"):
        del lab["nodes"]["node1"][key]
    lab["nodes"]["node1"]["os"] = "ubuntu-24.04"
    lab["cluster"]["primary"] = "node2"
    del lab["ceph"]["osds"]["disks"]["node1"]
    (tmp_path / "narrow.yaml").write_text(yaml.safe_dump(lab))
    assert list(inventory.load(tmp_path / "narrow.yaml", {}).nodes["node1"].addresses) == ["management"]


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        ("cluster.primary", "node1", 'cluster.primary: "node1" has ubuntu-24.04, and cluster is of nodes'),
        ("ceph.monitors", ["node1", "node2", "node3"], 'ceph.monitors: "node1" has ubuntu-24.04, and ceph'),
        ("ceph.osds.disks.node1", [{"serial": "X"}], 'ceph.osds.disks.node1: "node1" has ubuntu-24.04'),
    ],
)
def test_a_node_with_ubuntu_is_no_member(tmp_path: Path, place: str, value: object, said: str) -> None:
    [mistake] = told(tmp_path, {place: value})
    assert mistake.startswith(said)


def test_ceph_counts_proxmoxs_nodes(tmp_path: Path) -> None:
    mistakes = told(
        tmp_path, {"nodes.node3.os": "ubuntu-24.04", "ceph.osds.disks": {"all": [{"wwn": "0x5"}]}}
    )
    assert mistakes == ["ceph: needs at least three nodes; this lab has 2"]


@pytest.mark.parametrize("key", ["packages", "storage_layout"])
def test_what_is_ubuntus_is_refused_on_proxmox(tmp_path: Path, key: str) -> None:
    value: Any = {"packages": ["htop"], "storage_layout": "lvm"}[key]
    assert told(tmp_path, {f"nodes.node2.{key}": value}) == [
        f"nodes.node2.{key}: is for Ubuntu; node2 has proxmox-9 (line {_line(tmp_path, 'os: proxmox-9')})"
    ]
    assert getattr(mixed(tmp_path, **{key: value}).nodes["node1"], key) in (("htop",), "lvm")


@pytest.mark.parametrize(
    ("node", "said"),
    [
        ({"packages": ["Htop"]}, '"Htop" is no package name'),
        ({"packages": ["htop", "htop"]}, '"htop" stands here twice'),
        ({"storage_layout": "zfs"}, "storage_layout"),
    ],
)
def test_words_of_ubuntu_obey_their_rules(tmp_path: Path, node: dict[str, Any], said: str) -> None:
    [mistake] = told(tmp_path, **node)
    assert said in mistake


def _line(folder: Path, text: str) -> int:
    lines = (folder / "mixed.yaml").read_text().splitlines()
    return next(number for number, line in enumerate(lines, 1) if text in line)
