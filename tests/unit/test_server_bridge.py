"""`server.bridge`: what is read of it, and the files that are written for netplan and for ifupdown."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from provision import ifupdown, netplan, server_network
from provision.errors import InventoryError, LabError
from provision.ifupdown import Wanted
from provision.inventory import load
from provision.remote import Output, Stdin
from provision.server_bridge import ARMED, Bridging, Link, bridging, parse, wanted_of, wrong
from tests.unit.test_server_templates import LAB_FILE, Script, _secrets

__all__ = ["_secrets"]

WANTED = Wanted("br-lab", "10.10.1.1/24", ("lan0",), 9000)
MACS = {"lan0": "02:00:00:00:00:01", "lan1": "02:00:00:00:00:02"}
STATIC = """\
# The loopback network interface
auto lo
iface lo inet loopback

# The lab
auto lan0 wan0
iface lan0 inet static
	address 10.10.1.1
	netmask 255.255.255.0
	gateway 10.10.1.254
	dns-nameservers 10.10.1.254 \\
    192.0.2.53
iface lan0 inet6 static
	address 2001:db8::1/64

# The outside
iface wan0 inet dhcp

source /etc/network/interfaces.d/*
"""
BRIDGED = """\
# The loopback network interface
auto lo
iface lo inet loopback

# The lab
auto lan0
iface lan0 inet manual
	mtu 9000

auto br-lab
iface br-lab inet static
	address 10.10.1.1/24
	bridge-ports lan0
	bridge-stp off
	bridge-fd 0
	mtu 9000
	gateway 10.10.1.254
	dns-nameservers 10.10.1.254 192.0.2.53

iface br-lab inet6 static
	address 2001:db8::1/64

auto wan0

# The outside
iface wan0 inet dhcp

source /etc/network/interfaces.d/*
"""
INSTALLER = """\
network:
  version: 2
  ethernets:
    lan0:
      match: {macaddress: "02:00:00:00:00:01"}
      set-name: lan0
      addresses: [10.10.1.1/24, "2001:db8::1/64"]
      routes: [{to: default, via: 10.10.1.254}]
      nameservers: {addresses: [10.10.1.254]}
    wan0: {dhcp4: true}
"""


def lab_file(folder: Path, bridge: str) -> Path:
    file = folder / "lab.yaml"
    file.write_text(LAB_FILE.read_text().replace("  lan: lan0\n", f"  lan: lan0\n  bridge: {bridge}\n"))
    return file


def test_the_mtu_is_the_management_networks_unless_it_is_given(tmp_path: Path) -> None:
    plain = load(lab_file(tmp_path, "{name: br-lab, ports: lan0}"), {})
    assert wanted_of(plain) == Wanted("br-lab", "10.10.1.1/24", ("lan0",), 1500)
    assert wanted_of(load(lab_file(tmp_path, "{name: br-lab, ports: [lan0], mtu: 9000}"), {})) == WANTED
    assert wanted_of(load(LAB_FILE, {})) is None


@pytest.mark.parametrize(
    ("bridge", "wrong"),
    [
        ("{name: br-lab, ports: []}", "at least 1 item"),
        ("{name: br-lab, ports: [br-lab]}", "names an interface twice"),
        ("{name: br-lab, ports: [lan0, lan0]}", "names an interface twice"),
        ("{name: br lab, ports: [lan0]}", "is no interface name"),
        ("{name: br-lab, ports: [lan0, wan0]}", "the interface to the outside"),
        ("{name: br-lab, ports: [lan0], mtu: 900}", "1280"),
    ],
)
def test_what_is_no_bridge_is_a_mistake_with_its_place(tmp_path: Path, bridge: str, wrong: str) -> None:
    with pytest.raises(InventoryError, match=rf"lab\.yaml:\d+: server\.bridge[^\0]*{wrong}"):
        load(lab_file(tmp_path, bridge), {})


def test_an_interfaces_file_gets_the_bridge_with_all_that_the_port_had() -> None:
    assert ifupdown.edited({ifupdown.FILE: STATIC}, WANTED) == {ifupdown.FILE: BRIDGED}


def test_an_interfaces_file_with_the_bridge_stays() -> None:
    assert ifupdown.edited({ifupdown.FILE: BRIDGED}, WANTED) == {ifupdown.FILE: BRIDGED}


def test_a_ports_stanza_is_changed_where_it_stands() -> None:
    texts = {
        ifupdown.FILE: "source interfaces.d/*\n",
        "/etc/network/interfaces.d/lan": "iface lan0 inet dhcp\n",
    }
    made = ifupdown.edited(texts, WANTED)
    assert made[ifupdown.FILE] == texts[ifupdown.FILE]
    assert "iface br-lab inet dhcp\n" in made["/etc/network/interfaces.d/lan"]
    assert "iface lan0 inet manual\n\tmtu 9000\n" in made["/etc/network/interfaces.d/lan"]


def test_the_address_leaves_an_interface_that_is_no_port() -> None:
    made = ifupdown.edited({ifupdown.FILE: STATIC}, replace(WANTED, ports=("lan1",)))[ifupdown.FILE]
    assert "iface lan0 inet manual\n" in made
    assert made.count("10.10.1.1/24") == 1
    assert "bridge-ports lan1\n" in made


def test_a_port_of_another_bridge_is_told() -> None:
    texts = {ifupdown.FILE: "iface vmbr0 inet static\n\tbridge-ports lan0 lan1\n"}
    assert ifupdown.holder_of(texts, "lan0", "br-lab") == (ifupdown.FILE, "vmbr0")
    assert ifupdown.holder_of({ifupdown.FILE: BRIDGED}, "lan0", "br-lab") is None


LINES = st.sampled_from(["auto lan0", "auto lo br-lab", "iface lan0 inet static", "iface br-lab inet static", "",
                         "\taddress 10.10.1.1/24", "\taddress 192.0.2.9/24", "\tup true", "# words", "iface x inet dhcp",
                         "iface lan0 inet manual", "allow-hotplug lan0", "source x", "\tgateway 10.10.1.254"])  # fmt: skip


@given(st.lists(LINES))
def test_whatever_stands_there_a_second_time_changes_nothing(lines: list[str]) -> None:
    made = ifupdown.edited({ifupdown.FILE: "\n".join([*lines, "iface last inet dhcp"])}, WANTED)
    assert ifupdown.edited(made, WANTED) == made
    assert "\niface br-lab inet static\n\taddress 10.10.1.1/24\n" in made[ifupdown.FILE]
    assert "iface last inet dhcp\n" in made[ifupdown.FILE]


def test_netplan_gets_a_file_of_ours_and_the_address_leaves_the_others() -> None:
    other = "/etc/netplan/00-installer.yaml"
    made = netplan.edited({other: INSTALLER}, WANTED, MACS, "server")
    left = yaml.safe_load(made[other])["network"]["ethernets"]
    assert left["lan0"] == {"match": {"macaddress": "02:00:00:00:00:01"}, "set-name": "lan0"}
    assert left["wan0"] == {"dhcp4": True}
    ours = yaml.safe_load(made[netplan.FILE])["network"]
    assert ours["ethernets"] == {"lan0": {"dhcp4": False, "dhcp6": False, "mtu": 9000}}
    assert ours["bridges"]["br-lab"] == {
        "interfaces": ["lan0"], "addresses": ["10.10.1.1/24", "2001:db8::1/64"], "mtu": 9000,
        "macaddress": "02:00:00:00:00:01", "parameters": {"stp": False, "forward-delay": 0},
        "routes": [{"to": "default", "via": "10.10.1.254"}], "nameservers": {"addresses": ["10.10.1.254"]},
    }  # fmt: skip
    assert netplan.edited(made, WANTED, MACS, "server") == made


def test_netplan_calls_a_port_by_its_entry() -> None:
    entry = "network: {ethernets: {first: {match: {macaddress: '02:00:00:00:00:01'}, dhcp4: true}}}\n"
    made = netplan.edited({"/etc/netplan/1.yaml": entry}, WANTED, MACS, "server")
    ours = yaml.safe_load(made[netplan.FILE])["network"]
    assert ours["bridges"]["br-lab"]["interfaces"] == ["first"] == list(ours["ethernets"])
    assert ours["bridges"]["br-lab"]["dhcp4"] is True


def test_netplan_keeps_what_only_looks_like_a_number() -> None:
    entry = "{match: {macaddress: 12:34:56:12:34:56}, set-name: lan0, dhcp4: yes, routes: [{metric: 010}]}"
    given = {"/etc/netplan/1.yaml": f"network: {{version: 2, ethernets: {{first: {entry}}}}}"}
    made = netplan.edited(given, WANTED, MACS, "server")
    assert "macaddress: '12:34:56:12:34:56'" in made["/etc/netplan/1.yaml"]
    assert "metric: '010'" in made[netplan.FILE]
    assert "version: 2\n" in made["/etc/netplan/1.yaml"]
    assert netplan.edited(made, WANTED, MACS, "server") == made


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("network: {ethernets: {all: {match: {name: lan*}, dhcp4: true}}}", "among others in ethernets.all"),
        ("network: [", "is no YAML"),
    ],
)
def test_netplan_files_that_cannot_be_changed_are_named(text: str, wrong: str) -> None:
    with pytest.raises(LabError, match=rf"/etc/netplan/1\.yaml {wrong}|/etc/netplan/1\.yaml .*{wrong}"):
        netplan.edited({"/etc/netplan/1.yaml": text}, WANTED, MACS, "server")


def gathered(manager: str, files: dict[str, str], cloud: str = "") -> str:
    links = [
        {"ifname": name, "mtu": 1500, "address": mac, "addr_info": [{"local": "10.10.1.1", "prefixlen": 24}]}
        for name, mac in MACS.items()
    ]
    lines = [
        f"644 root:root {base64.b64encode(text.encode()).decode()} {path}" for path, text in files.items()
    ]
    sections = {"manager": manager, "armed": "", "utils": "yes", "cloud": cloud, "links": json.dumps(links),
                "files": "\n".join(lines)}  # fmt: skip
    return "".join(f"\n== {name}\n{body}\n" for name, body in sections.items())


class Gathering(Script):
    """A machine that prints this."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text

    def execute(self, command: str, stdin: Stdin, timeout: float) -> Output:
        return Output(0, self.text.encode(), b"")


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        (gathered("", {}), "neither netplan nor ifupdown"),
        (gathered("netplan", {"/etc/netplan/50-cloud-init.yaml": INSTALLER}), "cloud-init would write"),
        (
            gathered("netplan", {"/etc/netplan/1.yaml": "network: {bonds: {b0: {interfaces: [lan0]}}}"}),
            "in b0 already",
        ),
        (gathered("ifupdown2", {}).replace('"lan0"', '"eno1"'), "no network interface lan0.*server.bridge"),
    ],
)
def test_a_server_that_cannot_have_the_bridge_is_told_why(tmp_path: Path, text: str, wrong: str) -> None:
    lab = load(lab_file(tmp_path, "{name: br-lab, ports: [lan0], mtu: 9000}"), {})
    with pytest.raises(LabError, match=wrong):
        bridging(lab, Gathering(text))


def test_cloud_inits_file_is_changed_once_cloud_init_leaves_it_alone(tmp_path: Path) -> None:
    lab = load(lab_file(tmp_path, "{name: br-lab, ports: [lan0], mtu: 9000}"), {})
    files = {"/etc/netplan/50-cloud-init.yaml": INSTALLER}
    found = bridging(lab, Gathering(gathered("netplan", files, cloud="/etc/cloud/cloud.cfg.d/99-x.cfg")))
    assert found is not None
    assert [(file.path, file.mode) for file in found.files] == [(*files, 0o644), (netplan.FILE, 0o600)]
    assert found.packages == ()
    assert found.interfaces == ["lan0", "lan1", "br-lab"]


def test_what_is_wrong_with_a_bridge_is_said() -> None:
    good = {
        "br-lab": Link(9000, None, "", ("10.10.1.1/24",)),
        "lan0": Link(9000, "br-lab", "", ()),
        "wan0": Link(1500, None, "", ()),
    }
    assert wrong(WANTED, good) is None
    assert wrong(WANTED, {}) == "there is no br-lab"
    assert (
        wrong(WANTED, good | {"br-lab": Link(9000, None, "", ())})
        == "br-lab has no address, not 10.10.1.1/24"
    )
    assert wrong(WANTED, good | {"wan0": good["br-lab"]}) == "10.10.1.1/24 is on wan0, too"
    assert wrong(WANTED, good | {"lan0": Link(9000, None, "", ())}) == "lan0 is no port of br-lab"
    assert (
        wrong(WANTED, good | {"br-lab": replace(good["br-lab"], mtu=1500)}) == "br-lab has MTU 1500, not 9000"
    )


def test_interfaces_that_the_manager_does_not_read_are_not_looked_at() -> None:
    files = {ifupdown.FILE: "iface lan0 inet dhcp\n", "/etc/network/interfaces.d/x": "iface lan0 inet dhcp\n"}
    assert list(parse(gathered("ifupdown", files)).texts) == [ifupdown.FILE]


@pytest.fixture
def found(tmp_path: Path) -> Bridging:
    """The bridge on a server that has none."""
    lab = load(lab_file(tmp_path, "{name: br-lab, ports: [lan0], mtu: 9000}"), {})
    found = bridging(lab, Gathering(gathered("ifupdown2", {ifupdown.FILE: STATIC})))
    assert found is not None
    return found


def test_the_way_back_is_armed_before_the_change_and_taken_away_after_it_is_seen(found: Bridging) -> None:
    after = gathered("ifupdown2", {})
    bridge = '{"ifname": "br-lab", "mtu": 9000, "addr_info": [{"local": "10.10.1.1", "prefixlen": 24}]}'
    port = '{"ifname": "lan0", "mtu": 9000, "master": "br-lab", "addr_info": []}'
    text = re.sub(r"\[\{.*\}\]", f"[{bridge}, {port}]", after)
    machine = Script("is-active", said={"section links": text})
    server_network.put(machine, found, b"")
    order = [
        machine.place(word)
        for word in ("syntax-check", "systemd-run", "section links", "systemctl stop rack")
    ]
    assert -1 not in order
    assert machine.commands[order[1]].index("rackproof-network-return old") < machine.commands[
        order[1]
    ].index("rackproof-network-change new")
    assert order[0] < order[1] < order[2]
    assert machine.place(server_network.DISARM) > order[2]


def test_nothing_is_armed_when_the_manager_refuses_the_files(found: Bridging) -> None:
    machine = Script("syntax-check")
    with pytest.raises(
        LabError, match=r"ifupdown2 refuses the rendered network; nothing was changed[^\0]*own words"
    ):
        server_network.put(machine, found, b"")
    assert machine.place("systemd-run") == -1


def test_a_return_that_has_begun_already_is_no_success(found: Bridging) -> None:
    stands = replace(found, wanted=replace(WANTED, mtu=1500))
    links = '[{"ifname": "br-lab", "mtu": 1500, "addr_info": [{"local": "10.10.1.1", "prefixlen": 24}]},'
    links += ' {"ifname": "lan0", "mtu": 1500, "master": "br-lab", "addr_info": []}]'
    text = re.sub(r"\[\{.*\}\]", links, gathered("ifupdown2", {}))
    machine = Script("is-active", f"mv {ARMED} {ARMED}.off", said={"section links": text})
    with pytest.raises(LabError, match="its old network is back"):
        server_network.put(machine, stands, b"")
