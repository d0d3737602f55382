"""What a lab file may ask of the first boot, what follows from it, and which mistakes are told."""

from __future__ import annotations

from pathlib import Path

import pytest

from provision.errors import InventoryError
from provision.inventory import FirstBoot, Lab, load

VIRTUAL = (Path(__file__).parents[2] / "labs" / "virtual.yaml").read_text()


def read(folder: Path, asked: str, node1: str = "") -> Lab:
    """The default lab, which asks this of every node's first boot, and that of node1's."""
    before, _, rest = VIRTUAL.partition("defaults:\n")
    kept, _, nodes = rest.partition("nodes:\n")
    text = f"{before}defaults:\n{kept.partition('  first_boot:')[0]}  first_boot: {asked}\nnodes:\n{nodes}"
    text = text.replace("  node1:\n", f"  node1:\n    first_boot: {node1}\n" if node1 else "  node1:\n")
    path = folder / "lab.yaml"
    path.write_text(text)
    return load(path, {})


def mistakes(folder: Path, asked: str, node1: str = "") -> str:
    with pytest.raises(InventoryError) as caught:
        read(folder, asked, node1)
    return "\n".join(str(mistake) for mistake in caught.value.mistakes)


def test_what_is_safe_and_wanted_by_all_is_on_and_nothing_else() -> None:
    assert FirstBoot().parts == ("networks", "clock", "ssh", "repositories", "sysctl", "marker")


def test_a_node_has_the_labs_wishes_and_its_own_over_them(tmp_path: Path) -> None:
    lab = read(tmp_path, "{governor: performance, sysctl: {vm.swappiness: 10}}", "{governor: powersave}")
    asked = {name: node.first_boot for name, node in lab.nodes.items()}
    assert (asked["node1"].governor, asked["node2"].governor) == ("powersave", "performance")
    assert asked["node1"].sysctl == {"vm.swappiness": "10"}


def test_a_kernel_setting_of_the_lab_file_counts_over_the_one_for_10_gbit() -> None:
    asked = FirstBoot(sysctl={"net.ipv4.tcp_mtu_probing": "2"})
    assert asked.kernel_settings["net.ipv4.tcp_mtu_probing"] == "2"
    assert asked.kernel_settings["net.core.rmem_max"] == "67108864"
    assert FirstBoot(ten_gbit=False).kernel_settings == {}
    assert "sysctl" not in FirstBoot(ten_gbit=False).parts


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("{repositories: nosub}", '"nosub" must be'),
        ("{packages: [tmux, a;b]}", '"a;b" is no package name'),
        ("{sysctl: {swappiness: 10}}", '"swappiness" is no kernel setting'),
        ("{sysctl: {vm.swappiness: '1; id'}}", '"1; id" is no value of a kernel setting'),
        ("{governor: fast}", '"fast" must be'),
        ("{zfs_arc_max: 8}", "zfs_arc_max"),
        ("{firewall: {allow: 192.0.2.1/24}}", '"192.0.2.1/24" is no IPv4 network'),
        ("{backup: {schedule: $(id)}}", '"$(id)" is no schedule'),
        ("{backup: {keep: 0}}", "keep"),
        ("{goveror: performance}", 'did you mean "governor"?'),
    ],
)
def test_a_mistake_is_told_with_its_place(tmp_path: Path, asked: str, said: str) -> None:
    told = mistakes(tmp_path, asked)
    assert said in told
    assert "lab.yaml:" in told


@pytest.mark.parametrize("key", ["firewall", "backup"])
def test_what_is_the_clusters_is_the_same_on_every_node(tmp_path: Path, key: str) -> None:
    own = "{firewall: {allow: 192.0.2.0/24}}" if key == "firewall" else "{backup: {keep: 9}}"
    told = mistakes(tmp_path, f"{{{key}: {{}}}}", own)
    assert f"first_boot.{key}: is the whole cluster's, and node1 and node2 ask for different ones" in told


def test_a_firewall_that_may_lock_the_harness_out_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "lab.yaml"
    path.write_text(VIRTUAL.replace("host: local", "host: ssh:root@10.10.1.1"))
    with pytest.raises(InventoryError, match="may lock out this machine"):
        load(path, {})
    path.write_text(path.read_text().replace("firewall: {}", "firewall: {allow: 192.0.2.0/24}"))
    assert load(path, {}).nodes["node1"].first_boot.firewall is not None


def test_the_default_lab_asks_for_all_that_its_machines_can_do(tmp_path: Path) -> None:
    path = tmp_path / "lab.yaml"
    path.write_text(VIRTUAL)
    assert {"packages", "nics", "firewall", "backup"} <= set(load(path, {}).nodes["node1"].first_boot.parts)
