"""The plan of a rack, from a lab file to hardware."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from provision import inventory
from provision.errors import InventoryError
from provision.inventory.models import Lab
from virtual_lab.places import Places
from virtual_lab.plan import RackPlan, differences, hardware, made_up_mac, plan, short

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def lab() -> Lab:
    return inventory.load(ROOT / "labs/virtual.yaml", env={})


def test_machines_have_the_lab_files_addresses_and_macs(lab: Lab) -> None:
    made = plan(lab)
    assert [machine.name for machine in made.machines] == ["server", "node1", "node2", "node3", "node4"]
    node, written = made.nodes[0], lab.nodes["node1"]
    assert [(cable.nic, cable.network) for cable in node.cables] == [
        ("eno1", "management"),
        ("eno3", "storage"),
    ]
    assert node.cables[0].mac == written.mac
    assert node.console is not None
    assert (node.console.address, node.console.mac) == (str(written.bmc.address), written.bmc.mac)
    assert [cable.nic for cable in made.server.cables] == ["lan0", "wan0"]


def test_the_harness_has_the_highest_address_that_is_free(lab: Lab) -> None:
    assert plan(lab).harness == "10.10.1.254"
    node = lab.nodes["node1"]
    moved = node.model_copy(update={"addresses": node.addresses | {"management": lab.management.cidr[254]}})
    assert plan(lab.model_copy(update={"nodes": lab.nodes | {"node1": moved}})).harness == "10.10.1.253"


def test_a_full_network_has_no_room_for_the_harness(lab: Lab) -> None:
    full = lab.management.model_copy(update={"cidr": IPv4Network("10.10.1.20/30"), "dhcp": None})
    taken = {name: node for name, node in lab.nodes.items() if name in ("node1", "node2")}
    server = lab.server.model_copy(update={"address": full.cidr[1]})
    crowded = lab.model_copy(update={"networks": {"management": full}, "nodes": taken, "server": server})
    with pytest.raises(InventoryError, match="no address left for the harness"):
        plan(crowded)


@pytest.mark.parametrize("name", ["server", "lab", "wan"])
def test_a_node_cannot_be_named_like_a_part_of_the_rack(lab: Lab, name: str) -> None:
    node = lab.nodes["node1"].model_copy(update={"name": name})
    with pytest.raises(InventoryError, match=f'a part named "{name}"'):
        plan(lab.model_copy(update={"nodes": {name: node}}))


def test_a_plan_survives_its_file(lab: Lab, tmp_path: Path) -> None:
    made = plan(lab)
    made.save(tmp_path / "plan.json")
    assert RackPlan.load(tmp_path / "plan.json") == made


def test_differences_name_the_machine_and_what_is_other(lab: Lab) -> None:
    before = plan(lab)
    cable = replace(before.nodes[0].cables[0], mac="52:54:00:00:00:01")
    changed = replace(before.nodes[0], cables=(cable, *before.nodes[0].cables[1:]))
    after = replace(before, machines=(before.server, changed, *before.nodes[2:]))
    assert sorted(differences(before, after)) == ["node1: other cables", "node2 is gone"]
    assert list(differences(before, before)) == []


def test_a_nic_without_a_mac_in_the_lab_file_always_gets_the_same_one() -> None:
    mac = made_up_mac("lab", "node1", "eno3")
    assert mac == made_up_mac("lab", "node1", "eno3") != made_up_mac("lab", "node2", "eno3")
    assert int(mac[:2], 16) & 3 == 2  # locally administered, one machine's


def test_interface_names_fit_and_stay_apart() -> None:
    assert short("br-", "management") == "br-management"
    long = [short("node-with-a-long-name-", f"eno{i}") for i in range(8)]
    assert len(set(long)) == 8
    assert all(len(name) <= 15 for name in long)


def test_hardware_says_what_the_lab_file_asks_for(lab: Lab, tmp_path: Path) -> None:
    made = plan(lab)
    node = hardware(Places(tmp_path, "x"), made.nodes[0], (tmp_path,))
    assert (node.boot_nic, node.boot_order) == ("eno1", ("disk", "network"))
    assert node.drive.serial == "RPVDISK0000001"
    assert node.dmi.serial == "RPV0000001"
    other = hardware(Places(tmp_path, "x"), made.nodes[1], (tmp_path,))
    assert {node.dmi.uuid, node.drive.wwn, node.seed}.isdisjoint(
        {other.dmi.uuid, other.drive.wwn, other.seed}
    )


def test_a_rack_of_the_classic_inventory_can_be_planned(tmp_path: Path) -> None:
    classic = tmp_path / "nodes.json"
    entries = [
        f'{{"hostname": "console-n{i}", "console_ip": "10.10.1.1{i}", "console_mac": "ac:1f:6b:6c:58:3{i}",'
        f' "os_ip": "10.10.1.2{i}", "os_mac": "ac:1f:6b:6c:5a:7{i}", "os_hostname": "n{i}",'
        f' "ceph_ip": "10.10.2.2{i}"}}'
        for i in (1, 2, 3)
    ]
    key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPBG18KoYrX7WQA9FQGOZhLgsgpALC2TNGnWxswPJgYZ root@mgmt"
    classic.write_text(f'{{"ssh_keys": {{"root": "{key}"}}, "nodes": [{", ".join(entries)}]}}')
    made = plan(inventory.load(classic, env={}))
    assert [node.name for node in made.nodes] == ["n1", "n2", "n3"]
    assert len({cable.mac for node in made.nodes for cable in node.cables}) == 6
