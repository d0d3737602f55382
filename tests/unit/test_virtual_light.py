"""What a light node is made of: taken from the lab file, kept with the rack's plan, and written as installed."""

from __future__ import annotations

from pathlib import Path

import pytest

from checks.probe import parse_stanzas
from labs.large import written
from provision.inventory import load
from virtual_lab import light, network
from virtual_lab.places import SERVER, Places
from virtual_lab.plan import RackPlan, differences, plan


@pytest.fixture
def rack(tmp_path: Path) -> RackPlan:
    path = tmp_path / "light.yaml"
    path.write_text(written(3, "light"))
    return plan(load(path, {}))


def test_a_rack_of_light_nodes_has_neither_server_nor_consoles_nor_an_internet(rack: RackPlan) -> None:
    assert network.parts(rack) == ["lab", "node1", "node2", "node3"]
    assert rack.is_light
    assert rack.nodes == ()
    assert rack.machine(SERVER) is None


def test_its_plan_is_read_as_it_was_kept(tmp_path: Path, rack: RackPlan) -> None:
    rack.save(tmp_path / "plan.json")
    assert RackPlan.load(tmp_path / "plan.json") == rack
    assert list(differences(RackPlan.load(tmp_path / "plan.json"), rack)) == []


def test_its_network_is_set_up_as_it_is_persisted(rack: RackPlan) -> None:
    own = rack.machines[1].light
    assert own is not None
    stanzas = parse_stanzas(light.files(own, "node2.lab.example.net")["etc/network/interfaces"])
    assert stanzas["vmbr1"] == {
        "method": "static", "auto": "yes", "address": "10.20.0.15/24", "broadcast": "10.20.0.255",
        "bridge-ports": "eno3", "bridge-stp": "off", "bridge-fd": "0", "mtu": "9000",
    }  # fmt: skip
    assert stanzas["eno3"] == {"method": "manual", "auto": "yes", "mtu": "9000"}
    assert [name for name, stanza in stanzas.items() if "gateway" in stanza] == ["vmbr0"]
    lines = list(light.links(own))
    assert "addr add 10.20.0.15/24 broadcast + dev vmbr1" in lines
    assert "link set vmbr1 mtu 9000 up" in lines
    assert [line for line in lines if "route" in line] == ["route add default via 10.10.0.1 dev vmbr0"]


def test_it_goes_by_its_full_name(rack: RackPlan) -> None:
    own = rack.machines[0].light
    assert own is not None
    written_files = light.files(own, "node1.lab.example.net")
    assert "10.10.0.14 node1.lab.example.net node1" in written_files["etc/hosts"].splitlines()
    assert written_files["etc/hostname"] == "node1\n"
    assert written_files["etc/resolv.conf"] == "nameserver 10.10.0.1\n"


def test_places_of_a_light_node_are_below_the_racks(tmp_path: Path) -> None:
    places = Places(tmp_path, "small")
    assert (places.machine("node1") / light.HOST_KEY).is_relative_to(places.rack)
