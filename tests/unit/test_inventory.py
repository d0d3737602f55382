"""A lab file is read whole, or every mistake in it is named with its line."""

import json
import re
import string
from ipaddress import IPv4Address
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from provision.errors import InventoryError
from provision.inventory import Deadlines, Lab, Secret, default_lab_file, document, load
from provision.inventory import models as models_of_a_lab
from provision.inventory.__main__ import main
from provision.inventory.reading import build

ROOT = Path(__file__).parents[2]
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPBG18KoYrX7WQA9FQGOZhLgsgpALC2TNGnWxswPJgYZ root@mgmt"

# Tests name lines by what stands in them, so that this can be edited.
HALL = f"""\
name: hall-3
domain: lab.example.net
server:
  host: local
  wan: enp1s0
networks:
  management: {{cidr: 10.10.1.0/24, gateway: 10.10.1.1, dns: [10.10.1.1], dhcp: 10.10.1.100-10.10.1.199, bridge: vmbr0}}
  storage:    {{cidr: 10.10.2.0/24, mtu: 9000, bridge: vmbr1, nic: eno3}}
defaults:
  os: proxmox-9
  bmc: {{user: env:BMC_USER, password: env:BMC_PASSWORD, trust: pinned}}
  root_password: file:/etc/rackproof/root-password
  ssh_keys: [{KEY}]
  disk: {{filesystem: ext4, serial: S3Z8*}}
nodes:
  node1: {{mac: "ac:1f:6b:6c:5a:76", management: 10.10.1.21, storage: 10.10.2.21, bmc: {{address: 10.10.1.11, mac: "ac:1f:6b:6c:58:31"}}}}
  node2: {{mac: "ac:1f:6b:6c:5a:6c", management: 10.10.1.22, storage: 10.10.2.22, bmc: {{address: 10.10.1.12, mac: "ac:1f:6b:6c:58:06"}}}}
  node3: {{mac: "ac:1f:6b:6c:5a:20", management: 10.10.1.23, storage: 10.10.2.23, bmc: {{address: 10.10.1.13, mac: "ac:1f:6b:6c:58:2c"}}}}
cluster: {{name: sddc-cluster, primary: node1, links: [management, storage], migration: storage}}
ceph:
  release: squid
  monitors: [node1, node2, node3]
  osds: {{device_class: ssd, disks: {{all: [{{wwn: "0x5002538*"}}]}}}}
  pools: {{rbd: {{application: rbd, size: 3, min_size: 2}}}}
templates:
  9000: {{name: ubuntu-24.04, image: {{url: "https://example.net/noble.img", sha256: {"0" * 64}}}, memory: 2048, cores: 2}}
deadlines: {{dhcp: 6m, answer: 4m, installed: 25m, first-boot: 15m}}
"""


def read(text: str, folder: Path) -> Lab:
    path = folder / "hall-3.yaml"
    path.write_text(text)
    return load(path, {})


def mistakes(text: str, folder: Path) -> list[str]:
    """The mistakes, one a line, without the folder."""
    with pytest.raises(InventoryError) as caught:
        read(text, folder)
    return [str(mistake).removeprefix(f"{folder}/") for mistake in caught.value.mistakes]


def test_the_example_of_the_design_loads(tmp_path: Path) -> None:
    lab = read(HALL, tmp_path)
    node = lab.nodes["node2"]
    assert (node.fqdn, node.management) == ("node2.lab.example.net", IPv4Address("10.10.1.22"))
    assert node.addresses["storage"] == IPv4Address("10.10.2.22")
    assert node.nics == {"management": "eno1", "storage": "eno3"}
    assert node.bmc.name == "console-node2"
    assert node.bmc.user == Secret.from_reference("env:BMC_USER")
    assert node.disk.serial == "S3Z8*"
    assert node.ssh_keys == (KEY,)
    assert lab.server.address == IPv4Address("10.10.1.1")
    assert lab.primary is lab.nodes["node1"]
    assert [network.name for network in lab.link_networks] == ["management", "storage"]
    assert (lab.deadlines.installed, lab.deadlines.first_boot, lab.deadlines.power) == (1500, 900, 300)
    assert lab.templates[9000].name == "ubuntu-24.04"
    assert not lab.virtual


def test_a_node_overrides_the_defaults_mapping_by_mapping(tmp_path: Path) -> None:
    text = HALL.replace(
        "bmc: {address: 10.10.1.12,", "disk: {wwn: '0x5'}, bmc: {user: env:OTHER, address: 10.10.1.12,"
    )
    node = read(text, tmp_path).nodes["node2"]
    assert (node.bmc.user.reference, node.bmc.password.reference) == ("env:OTHER", "env:BMC_PASSWORD")
    assert (node.disk.filesystem, node.disk.wwn, node.disk.serial) == ("ext4", "0x5", None)


def test_words_stay_as_they_are_written(tmp_path: Path) -> None:
    """Digits and colons are base 60 to YAML 1.1, `no` is false, and 0123 is octal."""
    text = HALL.replace('"ac:1f:6b:6c:5a:76"', "10:20:30:40:50:50").replace("S3Z8*", "0123")
    text = text.replace("domain: lab.example.net", "domain: no")
    lab = read(re.sub("S3Z8", "", text), tmp_path) if "S3Z8" in text else None
    assert lab is None
    with pytest.raises(InventoryError) as caught:
        read(text, tmp_path)
    assert {mistake.place for mistake in caught.value.mistakes} == {"defaults.disk.serial"}
    lab = read(text.replace("0123", "0123*"), tmp_path)
    assert (lab.nodes["node1"].mac, lab.domain) == ("10:20:30:40:50:50", "no")
    assert lab.nodes["node1"].disk.serial == "0123*"


@pytest.mark.parametrize("lab", ["virtual", "supermicro-4node"])
def test_the_labs_that_come_with_rackproof_load(lab: str) -> None:
    loaded = load(ROOT / "labs" / f"{lab}.yaml", {})
    assert loaded.name == lab
    assert loaded.virtual is (lab == "virtual")
    assert [str(node.management) for node in loaded.nodes.values()] == [f"10.10.1.2{i}" for i in range(1, 5)]
    assert [str(node.bmc.address) for node in loaded.nodes.values()] == [f"10.10.1.1{i}" for i in range(1, 5)]


def test_the_default_lab_file(tmp_path: Path) -> None:
    assert default_lab_file({}) == ROOT / "labs" / "virtual.yaml"
    assert default_lab_file({"NODE_CONFIG_FILE": "/etc/nodes.json"}) == Path("/etc/nodes.json")


# One mistake each: what is replaced by what, in which line it is found, and what is said of it

BROKEN = {
    "mac of two nodes": ('"ac:1f:6b:6c:5a:6c"', '"AC-1F-6B-6C-5A-76"',
        'node2:', 'nodes.node2.mac: "ac:1f:6b:6c:5a:76" is also the MAC of node1 (line 16)'),
    "mac of node and bmc": ('"ac:1f:6b:6c:58:2c"', '"ac:1f:6b:6c:5a:6c"',
        'node3:', 'nodes.node3.bmc.mac: "ac:1f:6b:6c:5a:6c" is also the MAC of node2 (line 17)'),
    "mac of node and storage NIC": ('mac: "ac:1f:6b:6c:5a:20"', 'mac: "ac:1f:6b:6c:5a:20", macs: {storage: "ac:1f:6b:6c:5a:6c"}',
        'node3:', 'nodes.node3.macs.storage: "ac:1f:6b:6c:5a:6c" is also the MAC of node2 (line 17)'),
    "mac with a wrong digit": ("ac:1f:6b:6c:5a:20", "ac:1f:6b:6c:5a:2g",
        "node3:", 'nodes.node3.mac: "ac:1f:6b:6c:5a:2g" is no MAC address: six pairs of hex digits'),
    "mac of five pairs": ("ac:1f:6b:6c:5a:20", "ac:1f:6b:6c:5a",
        "node3:", 'nodes.node3.mac: "ac:1f:6b:6c:5a" is no MAC address'),
    "multicast mac": ("ac:1f:6b:6c:5a:20", "01:00:5e:00:00:01", "node3:", "nodes.node3.mac: \"01:00:5e:00:00:01\" is a multicast address"),
    "mac of zeros": ("ac:1f:6b:6c:5a:20", "00:00:00:00:00:00", "node3:", "is all zeros"),
    "mac in macs": ('mac: "ac:1f:6b:6c:5a:20"', 'mac: "ac:1f:6b:6c:5a:20", macs: {management: "02:00:00:00:00:01"}',
        "node3:", "nodes.node3.macs.management: the MAC in management stands under mac"),
    "address of two nodes": ("storage: 10.10.2.22", "storage: 10.10.2.21",
        "node2:", 'nodes.node2.storage: "10.10.2.21" is also the address of node1 (line 16)'),
    "address of node and bmc": ("address: 10.10.1.13", "address: 10.10.1.21",
        "node3:", 'nodes.node3.bmc.address: "10.10.1.21" is also the address of node1 (line 16)'),
    "address of server and node": ("host: local", "host: local\n  address: 10.10.1.22",
        "node2:", 'nodes.node2.management: "10.10.1.22" is also the address of the server (line 5)'),
    "address of gateway and node": ("host: local\n", "host: local\n  address: 10.10.1.2\n", "node3:", None),
    "address outside": ("storage: 10.10.2.22", "storage: 10.10.3.22",
        "node2:", 'nodes.node2.storage: "10.10.3.22" is outside storage, 10.10.2.0/24 (line 8)'),
    "bmc outside management": ("address: 10.10.1.13", "address: 10.10.2.13",
        "node3:", 'nodes.node3.bmc.address: "10.10.2.13" is outside management, 10.10.1.0/24 (line 7)'),
    "server outside management": ("host: local", "host: local\n  address: 10.10.9.1",
        "  address:", 'server.address: "10.10.9.1" is outside management, 10.10.1.0/24 (line 8)'),
    "network address": ("storage: 10.10.2.22", "storage: 10.10.2.0", "node2:", "is the address of the network storage itself"),
    "broadcast address": ("storage: 10.10.2.22", "storage: 10.10.2.255", "node2:", "is the broadcast address of storage"),
    "inside DHCP": ("management: 10.10.1.22", "management: 10.10.1.150",
        "node2:", 'nodes.node2.management: "10.10.1.150" is inside the DHCP range 10.10.1.100-10.10.1.199 (line 7)'),
    "gateway's address": ("management: 10.10.1.22", "management: 10.10.1.1", "node2:", "nodes.node2.management: \"10.10.1.1\" is the gateway of management"),
    "no address": ("storage: 10.10.2.22", "storage: 10.10.2.300", "node2:", 'nodes.node2.storage: "10.10.2.300" is no IPv4 address'),
    "no management address": ("management: 10.10.1.22, ", "", "node2:", "nodes.node2: has no address in management"),
    "DHCP outside": ("10.10.1.100-10.10.1.199", "10.10.4.100-10.10.4.199", "management:", 'networks.management.dhcp: "10.10.4.100" is outside management'),
    "DHCP backwards": ("10.10.1.100-10.10.1.199", "10.10.1.199-10.10.1.100", "management:", "networks.management.dhcp: the range ends at 10.10.1.100, before it starts"),
    "DHCP over the gateway": ("10.10.1.100-10.10.1.199", "10.10.1.1-10.10.1.9", "management:", "networks.management.dhcp: the gateway 10.10.1.1 is inside the range"),
    "DHCP without a dash": ("10.10.1.100-10.10.1.199", "10.10.1.100", "management:", "networks.management.dhcp: \"10.10.1.100\" is no range"),
    "gateway outside": ("gateway: 10.10.1.1", "gateway: 10.10.7.1", "management:", 'networks.management.gateway: "10.10.7.1" is outside management'),
    "no gateway": ("gateway: 10.10.1.1, ", "", "management:", "networks.management.gateway: is missing"),
    "second gateway": ("mtu: 9000", "gateway: 10.10.2.1, mtu: 9000", "storage:", "networks.storage.gateway: only management has a gateway"),
    "host bits": ("cidr: 10.10.2.0/24", "cidr: 10.10.2.1/24", "storage:", 'networks.storage.cidr: "10.10.2.1/24" is an address in a network; did you mean "10.10.2.0/24"?'),
    "no prefix": ("cidr: 10.10.2.0/24", "cidr: 10.10.2.0", "storage:", "networks.storage.cidr: \"10.10.2.0\" has no prefix length"),
    "MTU too small": ("mtu: 9000", "mtu: 576", "storage:", 'networks.storage.mtu: "576": input should be greater than or equal to 1280'),
    "MTU too large": ("mtu: 9000", "mtu: 65521", "storage:", "networks.storage.mtu: \"65521\": input should be less than or equal to 65520"),
    "MTU no number": ("mtu: 9000", "mtu: jumbo", "storage:", "networks.storage.mtu: \"jumbo\": input should be a valid integer"),
    "bridge too long": ("bridge: vmbr1", "bridge: vmbr567890123456", "storage:", "networks.storage.bridge: \"vmbr567890123456\" is no bridge name"),
    "bridge twice": ("bridge: vmbr1", "bridge: vmbr0", "storage:", 'networks.storage.bridge: "vmbr0" is also the bridge of management (line 7)'),
    "NIC twice": ("nic: eno3", "nic: eno1", "node1:", 'nodes.node1.nics.storage: "eno1" is also the NIC of management'),
    "no NIC": (", nic: eno3", "", "node1:", "nodes.node1.storage: has no NIC; give nic: in networks.storage"),
    "link of no network": ("links: [management, storage]", "links: [management, storge]",
        "cluster:", 'cluster.links: "storge" is not a network of this lab; did you mean "storage"?'),
    "link twice": ("links: [management, storage]", "links: [storage, storage]", "cluster:", 'cluster.links: "storage" stands here twice'),
    "migration of no network": ("migration: storage", "migration: fast", "cluster:", 'cluster.migration: "fast" is not a network of this lab'),
    "node without link": (", storage: 10.10.2.22", "", "node2:", "nodes.node2: has no address in storage, which cluster.links needs (line 19)"),
    "primary": ("primary: node1", "primary: nod1", "cluster:", 'cluster.primary: "nod1" is not a node of this lab; did you mean "node1"?'),
    "cluster name": ("name: sddc-cluster", "name: sddc-cluster-of-hall-3", "cluster:", "is no cluster name: letters, digits and inner dashes, at most 15"),
    "even monitors": ("monitors: [node1, node2, node3]", "monitors: [node1, node2]", "  monitors:", "ceph.monitors: must be an odd number, three or more; there are 2"),
    "monitor of no node": ("monitors: [node1, node2, node3]", "monitors: [node1, node2, node9]", "  monitors:", 'ceph.monitors: "node9" is not a node of this lab'),
    "OSD by device name": ('{wwn: "0x5002538*"}', "/dev/sdb", "  osds:", 'ceph.osds.disks.all: "/dev/sdb" may be another disk after a reboot'),
    "OSDs of no node": ("disks: {all:", "disks: {node7:", "  osds:", 'ceph.osds.disks.node7: "node7" is not a node of this lab'),
    "pool that cannot be met": ("min_size: 2", "min_size: 4", "  pools:", "ceph.pools.rbd: min_size 4 is more than size 3"),
    "template on no bridge": ("memory: 2048", "bridge: vmbr7, memory: 2048", "9000:", 'templates.9000.bridge: "vmbr7" is not a bridge of this lab'),
    "template id": ("9000: {name", "90: {name", "90:", "templates.90: \"90\": input should be greater than or equal to 100"),
    "node name with underscore": ("node2: {", "node_2: {", "node_2:", 'nodes.node_2: "node_2" is no host name'),
    "node name of digits": ("node3: {", "3: {", "  3:", 'nodes.3: "3" is no host name: the Proxmox installer refuses one of digits alone'),
    "node named as a console": ("node3: {", "console-node1: {", "console-node1:", 'nodes.console-node1: "console-node1" is also the name of the BMC of node1'),
    "node named as the server": ("node3: {", "server: {", "server: {mac", 'nodes.server: "server" is also the name of the server'),
    "network named as a key": ("  storage: ", "  serial: ", "  serial:", 'networks.serial: "serial" is a key of every node'),
    "name inside": ("node3: {mac", "node3: {name: node3, mac", "node3:", "nodes.node3.name: is an unknown key: the name is the key above it"),
    "OS": ("os: proxmox-9", "os: proxmox-8", "  os:", 'defaults.os: "proxmox-8" is no operating system that rackproof installs: proxmox-9'),
    "unknown key": ("domain:", "domian:", "domian:", 'domian: is an unknown key; did you mean "domain"?'),
    "unknown key of a node": ("storage: 10.10.2.22", "storge: 10.10.2.22", "node2:", 'nodes.node2.storge: is an unknown key; did you mean "storage"?'),
    "unknown key of a BMC": ("trust: pinned", "thrust: pinned", "  bmc:", 'defaults.bmc.thrust: is an unknown key; did you mean "trust"?'),
    "unknown deadline": ("first-boot: 15m", "first_bot: 15m", "deadlines:", 'deadlines.first_bot: is an unknown key; did you mean "first-boot"?'),
    "deadline": ("dhcp: 6m", "dhcp: soon", "deadlines:", 'deadlines.dhcp: "soon" is no duration; write 90s, 6m or 1h30m'),
    "deadline of nothing": ("dhcp: 6m", "dhcp: 0", "deadlines:", "deadlines.dhcp: a deadline is more than nothing"),
    "missing": ("root_password: file:/etc/rackproof/root-password\n", "\n", "node1:", "nodes.node1.root_password: is missing"),
    "no disk": ("disk: {filesystem: ext4, serial: S3Z8*}", "disk: {filesystem: ext4}", "  disk:", "does not say which disk: give serial, wwn or model"),
    "every disk": ("S3Z8*", "'*'", "  disk:", 'defaults.disk.serial: "*" names no disk'),
    "one disk of all nodes": ("S3Z8*", "S3Z8", "  disk:", "defaults.disk.serial: \"S3Z8\" is also the disk's serial of node1"),
    "two ways to a disk": ("serial: S3Z8*", "serial: S3Z8*, model: X*", "  disk:", "serial and model are given; the installer would take either"),
    "zfs without raid": ("filesystem: ext4", "filesystem: zfs", "  disk:", "zfs needs raid, such as raid1"),
    "keyboard": ("os: proxmox-9", "os: proxmox-9\n  locale: {keyboard: xx}", "  locale:", 'defaults.locale.keyboard: "xx" is no keyboard of the Proxmox installer'),
    "mail": ("os: proxmox-9", "os: proxmox-9\n  mailto: root", "  mailto:", 'defaults.mailto: "root" is no mail address'),
    "filesystem": ("filesystem: ext4", "filesystem: ext5", "  disk:", "\"ext5\" must be 'ext4', 'xfs', 'zfs' or 'btrfs'"),
    "ca without file": ("trust: pinned", "trust: ca", "node1:", "nodes.node1.bmc: trust is ca, but ca names no file"),
    "fingerprint": ("trust: pinned", "trust: pinned, fingerprint: ab:cd", "  bmc:", 'defaults.bmc.fingerprint: "ab:cd" is no SHA-256 fingerprint'),
    "ssh key": ("AAAAC3NzaC1lZDI1NTE5", "AAAAC3NzaC1lZDI1NTE6", "  ssh_keys:", "defaults.ssh_keys: is not an OpenSSH public key"),
    "ssh key file": (f"[{KEY}]", "[file:nowhere.pub]", "  ssh_keys:", "nowhere.pub cannot be read: No such file or directory"),
    "server host": ("host: local", "host: ssh:10.10.1.1", "  host:", 'server.host: "ssh:10.10.1.1" must be local or ssh:user@host[:port]'),
    "lan is wan": ("wan: enp1s0", "wan: enp1s0\n  lan: enp1s0", "  wan:", 'server.wan: "enp1s0" is the lan interface too'),
    "key twice": ("domain: lab.example.net", "domain: lab.example.net\ndomain: other.example.net", "domain: other", "domain: stands twice (line 2)"),
    "colon without space": ("trust: pinned", "trust:pinned", "  bmc:", "defaults.bmc.trust: needs a colon and a space before its value"),
    "cluster of ubuntu": ("os: proxmox-9", "os: ubuntu-24.04", "cluster:", "cluster: needs nodes with proxmox-9, and this lab has none"),
    "role": ("deadlines:", "people: {alice: {role: root, password: env:A}}\ndeadlines:", "people:", '"root" must be'),
    "no secret": ("deadlines:", "people: {alice: {role: viewer}}\ndeadlines:", "people:", "people.alice: give exactly one of password and token"),
    "two secrets": ("deadlines:", "people: {alice: {role: viewer, password: env:A, token: env:B}}\ndeadlines:", "people:", "give exactly one of password and token"),
    "inline password": ("deadlines:", "people: {alice: {role: viewer, password: hunter2}}\ndeadlines:", "people:", "people.alice.password: a secret must not stand"),
    "account name": ("deadlines:", "people: {Alice/: {role: viewer, password: env:A}}\ndeadlines:", "people:", '"Alice/" is no account name'),
    "inline ISO token": ("wan: enp1s0", "wan: enp1s0\n  iso_tokens: {pdm: hunter2}", "  iso_tokens:", "server.iso_tokens.pdm: a secret must not stand"),
    "tag": ("trust: pinned", "trust: !hunter2 x", "  bmc:", "defaults.bmc.trust: has a YAML tag"),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_a_mistake_is_named_with_its_line(case: str, tmp_path: Path) -> None:
    old, new, where, said = BROKEN[case]
    assert old in HALL
    text = HALL.replace(old, new, 1)
    if said is None:
        read(text, tmp_path)
        return
    line = next(
        i for i, content in enumerate(text.splitlines(), 1) if content.strip().startswith(where.strip())
    )
    told = mistakes(text, tmp_path)
    assert [one for one in told if one.startswith(f"hall-3.yaml:{line}: ") and said in one], told


def test_a_single_mistake_is_told_once(tmp_path: Path) -> None:
    assert mistakes(HALL.replace("10.10.2.22", "10.10.3.22"), tmp_path) == [
        'hall-3.yaml:17: nodes.node2.storage: "10.10.3.22" is outside storage, 10.10.2.0/24 (line 8)'
    ]
    assert mistakes(HALL.replace("proxmox-9", "proxmox-8"), tmp_path) == [
        'hall-3.yaml:10: defaults.os: "proxmox-8" is no operating system that rackproof installs: proxmox-9, '
        "ubuntu-24.04; "
        'did you mean "proxmox-9"?'
    ]


def ubuntu(text: str = HALL) -> str:
    """The hall with Ubuntu on its nodes, and without what needs Proxmox."""
    return re.sub(r"(?ms)^cluster:.*?(?=^deadlines:)", "", text).replace("os: proxmox-9", "os: ubuntu-24.04")


def test_a_lab_may_have_ubuntu_alone(tmp_path: Path) -> None:
    assert not read(ubuntu(), tmp_path).nodes["node1"].is_proxmox


def test_what_ubuntus_installer_cannot_do_is_said_at_once(tmp_path: Path) -> None:
    xfs = ubuntu(HALL.replace("filesystem: ext4, serial: S3Z8*", "filesystem: xfs, serial: S3Z8*"))
    said = 'defaults.disk.filesystem: "xfs" is not for ubuntu-24.04: only ext4'
    assert mistakes(xfs, tmp_path) == [f"hall-3.yaml:14: {said}"]


def test_people_and_prepared_isos(tmp_path: Path) -> None:
    people = (
        "people:\n  alice: {role: operator, password: env:ALICE}\n  probe: {role: viewer, token: 'file:t'}\n"
    )
    text = HALL.replace("wan: enp1s0", "wan: enp1s0\n  iso_tokens: {pdm: env:ISO}").replace(
        "deadlines:", people + "deadlines:"
    )
    lab = read(text, tmp_path)
    assert (lab.people["alice"].proof, lab.people["alice"].secret.reference) == ("password", "env:ALICE")
    assert (lab.people["probe"].proof, lab.people["probe"].secret.reference) == (
        "token",
        f"file:{tmp_path}/t",
    )
    assert lab.server.iso_tokens["pdm"].reference == "env:ISO"
    assert not lab.classic


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    text = HALL.replace("5a:6c", "5a:76").replace("management, storage]", "management, storge]")
    with pytest.raises(InventoryError) as caught:
        read(text.replace("mtu: 9000", "mtu: 9"), tmp_path)
    lines = str(caught.value).replace(f"{tmp_path}/", "").splitlines()
    assert lines == [
        'hall-3.yaml:8: networks.storage.mtu: "9": input should be greater than or equal to 1280',
        'hall-3.yaml:17: nodes.node2.mac: "ac:1f:6b:6c:5a:76" is also the MAC of node1 (line 16)',
        'hall-3.yaml:19: cluster.links: "storge" is not a network of this lab; did you mean "storage"?',
        "3 mistakes; nothing was touched",
    ]


def test_overlapping_networks(tmp_path: Path) -> None:
    text = HALL.replace("cidr: 10.10.2.0/24", "cidr: 10.10.0.0/16")
    assert any("overlaps management, 10.10.1.0/24 (line 7)" in one for one in mistakes(text, tmp_path))


def test_ceph_needs_three_nodes(tmp_path: Path) -> None:
    text = "".join(line for line in HALL.splitlines(keepends=True) if not line.startswith("  node3"))
    told = mistakes(text.replace("  monitors: [node1, node2, node3]\n", ""), tmp_path)
    assert told == ["hall-3.yaml:19: ceph: needs at least three nodes; this lab has 2"]


def test_without_networks_one_mistake_is_told(tmp_path: Path) -> None:
    text = "".join(
        line for line in HALL.splitlines(keepends=True) if not line.startswith(("networks", "  man", "  sto"))
    )
    assert mistakes(text, tmp_path) == ["hall-3.yaml: networks: is missing"]


@pytest.mark.parametrize(
    "place",
    ["user: env:BMC_USER", "password: env:BMC_PASSWORD", "root_password: file:/etc/rackproof/root-password"],
)
@pytest.mark.parametrize(
    "value", ["hunter2", "'*hunter2'", "!hunter2", "*hunter2", "[hunter2]", "{hunter2: hunter2}", "'file:'"]
)
def test_a_secret_in_the_file_is_refused_and_not_repeated(place: str, value: str, tmp_path: Path) -> None:
    key = place.partition(":")[0]
    told = "\n".join(mistakes(HALL.replace(place, f"{key}: {value}"), tmp_path))
    assert "hunter2" not in told
    assert value == "*hunter2" or value == "!hunter2" or "file:PATH" in told


@pytest.mark.parametrize("written", ["password:hunter2", "password hunter2", "password: &hunter2 x"])
def test_a_secret_after_a_slip_is_not_repeated(written: str, tmp_path: Path) -> None:
    told = mistakes(HALL.replace("password: env:BMC_PASSWORD", written), tmp_path)
    assert "hunter2" not in "\n".join(told)


def test_paths_start_at_the_lab_file_and_home_is_expanded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    (tmp_path / "home/id.pub").write_text(f"# mine\n{KEY}\n")
    (tmp_path / "media").mkdir()
    (tmp_path / "media/pve-auto-from-http.iso").touch()
    text = HALL.replace(f"[{KEY}]", "file:~/id.pub").replace(
        "file:/etc/rackproof/root-password", "file:root-password"
    )
    lab = read(
        text.replace("host: local", "host: local\n  identity: ~/id") + "media: {proxmox-9: media}\n", tmp_path
    )
    node = lab.nodes["node1"]
    assert node.ssh_keys == (KEY,)
    assert node.root_password.reference == f"file:{tmp_path}/root-password"
    assert lab.server.identity == tmp_path / "home/id"
    assert lab.media["proxmox-9"].vmlinuz == tmp_path / "media/vmlinuz"
    assert lab.media["proxmox-9"].iso == tmp_path / "media/pve-auto-from-http.iso"


@pytest.mark.parametrize(
    ("text", "seconds"), [("15", 15), ("1.5", 1.5), ("90s", 90), ("6m", 360), ("1h", 3600), ("1h30m", 5400)]
)
def test_durations(text: str, seconds: float) -> None:
    assert Deadlines.model_validate({"first-boot": text}).first_boot == seconds


def test_the_server_over_ssh(tmp_path: Path) -> None:
    assert (
        read(HALL.replace("host: local", "ssh: root@10.10.1.1:2222"), tmp_path).server.host
        == "ssh:root@10.10.1.1:2222"
    )


def test_only_names_nodes_in_the_labs_order(tmp_path: Path) -> None:
    lab = read(HALL, tmp_path)
    assert lab.only(["node3", "node1"]) == ("node1", "node3")
    with pytest.raises(InventoryError, match='"nod1" is not a node; did you mean "node1"'):
        lab.only(["nod1", "node2"])


def test_the_page_about_the_lab_file_shows_one_and_names_every_key(tmp_path: Path) -> None:
    page = (ROOT / "docs/lab-file.md").read_text()
    assert read(page.partition("```yaml\n")[2].partition("```")[0], tmp_path).name == "hall-3"
    words = set(re.findall(r"[a-z0-9_-]+", " ".join(re.findall("`([^`]+)`", page.rpartition("```")[2]))))
    models = [
        one for one in vars(models_of_a_lab).values() if isinstance(one, type) and issubclass(one, BaseModel)
    ]
    keys = {info.alias or key for model in models for key, info in model.model_fields.items()}
    assert keys - words == set()


# Files that are no lab files

HOSTILE = {
    "empty": (b"", "is empty"),
    "only a comment": (b"# nothing\n", "is empty"),
    "list": (b"- a\n- b\n", "must be a mapping"),
    "word": (b"hello\n", "must be a mapping"),
    "binary": (bytes(range(256)), "is not UTF-8 text"),
    "control characters": (b"name: \x00\x01", "is not YAML"),
    "tab": (b"name: x\n\tdomain: y\n", "is not YAML"),
    "unclosed": (b"name: [a, b\n", "is not YAML"),
    "two documents": (b"name: x\n---\nname: y\n", "is not YAML"),
    "deep": (b"[" * 5000, "nested more than"),
    "deep mapping": (b"{a: " * 5000, "nested more than"),
    "undefined alias": (b"name: *nowhere\n", "quote a value that begins with"),
    "alias of itself": (b"name: &a {b: *a}\n", "unfold without end"),
    "bomb": (b"a0: &a0 [x,x,x,x,x,x,x,x]\n" + b"".join(
        b"a%d: &a%d [" % (i, i) + b",".join([b"*a%d" % (i - 1)] * 8) + b"]\n" for i in range(1, 12)), "unfold without end"),
    "key that is no word": (b"? [a, b]\n: c\n", "has a key that is not a word"),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_a_file_that_is_no_lab_file(case: str, tmp_path: Path) -> None:
    content, said = HOSTILE[case]
    path = tmp_path / "lab.yaml"
    path.write_bytes(content)
    with pytest.raises(InventoryError) as caught:
        load(path, {})
    assert said in str(caught.value)
    if case != "key that is no word":
        assert len(caught.value.mistakes) == 1


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    for path, said in (
        (tmp_path, "Is a directory"),
        (tmp_path / "none", "No such file"),
        (Path("a\0b"), "null byte"),
    ):
        with pytest.raises(InventoryError, match=f"cannot be read: .*{said}"):
            load(path, {})


LINES = HALL.splitlines()
WORDS = st.sampled_from(sorted(set(re.findall(r"[\w.:/*-]+", HALL)))) | st.text(string.printable, max_size=8)


@st.composite
def mutated(draw: st.DrawFn) -> str:
    """A good lab file after a few changes of words, lines and characters."""
    lines = list(LINES)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(lines) - 1))
        match draw(st.integers(0, 4)):
            case 0:
                words = re.split(r"([\w.:/*-]+)", lines[at])
                words[draw(st.integers(0, len(words) - 1))] = draw(WORDS)
                lines[at] = "".join(words)
            case 1:
                lines.insert(at, lines[draw(st.integers(0, len(lines) - 1))])
            case 2:
                del lines[at]
            case 3:
                cut = draw(st.integers(0, len(lines[at])))
                lines[at] = lines[at][:cut] + draw(st.text(max_size=3)) + lines[at][cut:]
            case _:
                lines[at] = lines[at][draw(st.integers(0, 4)) :]
        lines = lines or [""]
    return "\n".join(lines)


@settings(
    max_examples=100,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(text=mutated())
def test_any_change_of_a_lab_file_loads_or_is_a_mistake(text: str, tmp_path: Path) -> None:
    path = tmp_path / "lab.yaml"
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    try:
        assert isinstance(load(path, {}), Lab)
    except InventoryError as error:
        assert error.mistakes


PLACES = ["name", "server", "networks", "networks.storage.cidr", "networks.storage.mtu", "networks.management.dhcp",
          "defaults", "defaults.bmc", "defaults.disk.serial", "defaults.ssh_keys", "nodes", "nodes.node1", "nodes.node1.mac",
          "nodes.node1.nics", "nodes.node1.macs", "nodes.node1.addresses", "nodes.node1.bmc.address", "cluster.links",
          "ceph.monitors", "ceph.osds.disks", "ceph.pools.rbd", "templates.9000.bridge", "deadlines.dhcp", "media"]  # fmt: skip
VALUES = st.recursive(
    st.none()
    | WORDS
    | st.sampled_from(["9" * 5000, "1e400", "~nobody9/x", "10.10.1.1/24", "[key]", "file:" + "a" * 5000]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(changes=st.lists(st.tuples(st.sampled_from(PLACES), VALUES), min_size=1, max_size=3))
def test_anything_in_any_place_loads_or_is_a_mistake(changes: list[tuple[str, object]]) -> None:
    data = yaml.safe_load(HALL)
    for place, value in changes:
        part, *path = data, *place.split(".")
        for key in path[:-1]:
            part = part.setdefault(key, {}) if isinstance(part, dict) else {}
        if isinstance(part, dict):
            part[path[-1]] = value
    try:
        found = document.parse(json.dumps(data, default=str), "lab.yaml")
        assert isinstance(build(found, ROOT), Lab)
    except InventoryError as error:
        assert error.mistakes


# The classic inventory


def row(number: int, **other: str | None) -> dict[str, str]:
    fields = {
        "hostname": f"console-node{number}",
        "console_ip": f"10.10.1.1{number}",
        "console_mac": f"ac:1f:6b:6c:58:0{number}",
        "os_ip": f"10.10.1.2{number}",
        "os_mac": f"ac:1f:6b:6c:5a:0{number}",
        "os_hostname": f"node{number}",
        "ceph_ip": f"10.10.2.2{number}",
        **other,
    }
    return {key: value for key, value in fields.items() if value is not None}


def classic_file(folder: Path, *rows: dict[str, str], indent: int | str | None = 2, **other: object) -> Path:
    path = folder / "nodes.json"
    content = {"ssh_keys": {"root": KEY}, "nodes": list(rows), **other}
    path.write_text(json.dumps(content, indent=indent))
    return path


@pytest.mark.parametrize("indent", [2, None, "\t"])
def test_a_classic_inventory_loads(indent: int | str | None, tmp_path: Path) -> None:
    lab = load(classic_file(tmp_path, row(1), row(2), indent=indent), {})
    assert (lab.name, lab.domain, lab.virtual, lab.server.host) == (
        "sddc-cluster",
        "lab.local",
        False,
        "local",
    )
    assert (str(lab.management.cidr), str(lab.management.gateway)) == ("10.10.1.0/24", "10.10.1.1")
    assert (str(lab.networks["storage"].cidr), lab.networks["storage"].mtu) == ("10.10.2.0/24", 9000)
    assert lab.cluster is not None
    assert (lab.cluster.name, lab.cluster.primary) == ("sddc-cluster", "node1")
    node = lab.nodes["node2"]
    assert (node.mac, str(node.management), node.nics["storage"]) == (
        "ac:1f:6b:6c:5a:02",
        "10.10.1.22",
        "eno3",
    )
    assert (node.bmc.name, str(node.bmc.address), node.bmc.mac) == (
        "console-node2",
        "10.10.1.12",
        "ac:1f:6b:6c:58:02",
    )
    assert node.ssh_keys == (KEY,)
    assert node.root_password.reveal({"PROXMOX_ROOT_PASSWORD": "long enough"}) == "long enough"


def test_the_real_lab_is_the_same_in_both_formats() -> None:
    macs = [("76", "31"), ("6c", "06"), ("20", "2c"), ("28", "0a")]
    lab = load(ROOT / "labs" / "supermicro-4node.yaml", {})
    assert [(node.mac[-2:], str(node.bmc.mac)[-2:]) for node in lab.nodes.values()] == macs


def test_the_classic_environment_is_honoured(tmp_path: Path) -> None:
    lab = load(classic_file(tmp_path, row(1)), {"CLUSTER_NAME": "Rack7"})
    assert lab.cluster is not None
    assert (lab.cluster.name, lab.name) == ("Rack7", "rack7")
    with pytest.raises(InventoryError, match=r"CLUSTER_NAME: .*is no cluster name"):
        load(classic_file(tmp_path, row(1)), {"CLUSTER_NAME": "much_too_long_for_a_cluster"})


def test_old_field_names_are_the_same_lab(tmp_path: Path) -> None:
    new = load(classic_file(tmp_path, row(1), row(2)), {})
    old_node = {"os_mac": None, "os_ip": None}
    rows = [row(n, **old_node, mac=f"ac:1f:6b:6c:5a:0{n}", ip=f"10.10.1.2{n}") for n in (1, 2)]
    assert load(classic_file(tmp_path, *rows), {}) == new
    old_console = {"console_mac": None, "console_ip": None}
    rows = [row(n, **old_console, mac=f"ac:1f:6b:6c:58:0{n}", ip=f"10.10.1.1{n}") for n in (1, 2)]
    assert load(classic_file(tmp_path, *rows), {}) == new


def test_the_oldest_lists_are_the_same_lab(tmp_path: Path) -> None:
    new = load(classic_file(tmp_path, row(1, ceph_ip=None), row(2, ceph_ip=None)), {})
    path = tmp_path / "old.json"
    lists = {
        "provisioning_nodes": [
            {"mac": f"ac:1f:6b:6c:5a:0{n}", "ip": f"10.10.1.2{n}", "hostname": f"node{n}"} for n in (1, 2)
        ],
        "console_nodes": [
            {"mac": f"ac:1f:6b:6c:58:0{n}", "ip": f"10.10.1.1{n}", "hostname": f"console-node{n}"}
            for n in (1, 2)
        ],
    }
    path.write_text(json.dumps({"ssh_keys": {"root": KEY}, **lists}))
    assert load(path, {}) == new


def test_mistakes_of_a_classic_inventory(tmp_path: Path) -> None:
    twice = row(2, os_mac="AC:1F:6B:6C:5A:01", console_ip="10.10.9.12", os_hostnme="node2")
    path = classic_file(tmp_path, row(1), twice, ssh_key="x")
    with pytest.raises(InventoryError) as caught:
        load(path, {})

    def line(text: str) -> int:
        return next(i for i, content in enumerate(path.read_text().splitlines(), 1) if text in content)

    assert [str(mistake).removeprefix(f"{path}:") for mistake in caught.value.mistakes] == [
        f'{line("10.10.9.12")}: nodes.node2.console_ip: "10.10.9.12" is outside management, 10.10.1.0/24',
        f'{line("AC:1F")}: nodes.node2.os_mac: "ac:1f:6b:6c:5a:01" is also the MAC of node1 (line {line("5a:01")})',
        f'{line("os_hostnme")}: nodes.node2.os_hostnme: is an unknown key; did you mean "os_hostname"?',
        f'{line("ssh_key" + chr(34))}: ssh_key: is an unknown key; did you mean "ssh_keys"?',
    ]


def test_a_node_of_two_rows_must_not_contradict_itself(tmp_path: Path) -> None:
    with pytest.raises(InventoryError, match="another row gives node1 one already"):
        load(classic_file(tmp_path, row(1), row(1, os_ip="10.10.1.29")), {})


# convert

VARIABLES = """\
domain: lab.example.net
cluster_name: rack7
server_ip: "{{ provisioning_ip }}"
provisioning_ip: 10.10.1.1
dns_servers: 10.10.1.1, 10.10.1.2
dnsmasq_dhcp_range: "10.10.1.100,10.10.1.200,255.255.255.0,12h"
wan_interface: enp1s0
timezone: Asia/Tokyo
jumbo_frame_mtu: 9216
mtu: 1500
gateway: not-an-address
nginx_web_root: /var/www/html
root_password: hunter2
vaulted: !vault |
  $ANSIBLE_VAULT;1.1;AES256
"""


def test_a_converted_inventory_is_an_equal_lab(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = classic_file(tmp_path, row(1), row(2, hostname="bmc-two"), row(3))
    env = {"CLUSTER_NAME": "rack7"}
    assert main(["convert", str(path), "-o", str(tmp_path / "lab.yaml")], env) == 0
    assert load(tmp_path / "lab.yaml", {}) == load(path, env)
    assert main(["convert", str(path), "-o", str(tmp_path / "lab.yaml")], env) == 4
    assert "lab.yaml: cannot be written: File exists" in capsys.readouterr().err
    assert load(path, env).classic, "its nodes and installers know no token"


def test_converted_variables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "main.yml").write_text(VARIABLES)
    path = classic_file(tmp_path, row(1), row(2))
    assert main(["convert", str(path), str(tmp_path / "main.yml")], {}) == 0
    out, err = capsys.readouterr()
    lab = read(out, tmp_path)
    assert lab.cluster is not None
    assert (lab.name, lab.cluster.name, lab.domain, lab.nodes["node2"].locale.timezone) == (
        "rack7",
        "rack7",
        "lab.example.net",
        "Asia/Tokyo",
    )
    assert [str(address) for address in lab.management.dns] == ["10.10.1.1", "10.10.1.2"]
    assert str(lab.management.dhcp) == "10.10.1.100-10.10.1.200"
    assert (lab.server.wan, str(lab.server.address), lab.networks["storage"].mtu) == (
        "enp1s0",
        "10.10.1.1",
        1500,
    )
    left = {"gateway", "jumbo_frame_mtu", "nginx_web_root", "root_password", "vaulted"}
    assert {line.split(":")[1].strip() for line in err.splitlines()} == left
    comments = out.partition("# Not carried over:\n")[2].partition("name: rack7")[0]
    assert {line.split(":")[0].strip("# ") for line in comments.splitlines()} == left
    assert "hunter2" not in out + err


def test_variables_cannot_write_into_the_lab_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "main.yml").write_text('"x\\nvirtual": "true"\n')
    assert main(["convert", str(classic_file(tmp_path, row(1))), str(tmp_path / "main.yml")], {}) == 0
    assert not read(capsys.readouterr().out, tmp_path).virtual


def test_convert_takes_only_a_classic_inventory(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", str(ROOT / "labs/virtual.yaml")], {}) == 4
    assert "this is no classic inventory" in capsys.readouterr().err


def test_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(ROOT / "labs/virtual.yaml")], {}) == 0
    assert "lab virtual, 2 networks, 4 nodes: no mistake" in capsys.readouterr().out
    (tmp_path / "lab.yaml").write_text("name: x\n")
    assert main(["check", str(tmp_path / "lab.yaml")], {}) == 4
    assert "networks: is missing" in capsys.readouterr().err
