"""A lab of three Proxmox nodes and one of Ubuntu is rebuilt; what is wrong with the Ubuntu node is caught."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from provision import inventory
from tests.lab.conftest import ROOT, Lab
from tests.lab.planting import edited, judge, planted, run
from tests.lab_fixtures import INSTANCE, raised
from virtual_lab.plan import plan

MIXED = ROOT / "labs" / "mixed.yaml"
NETPLAN = "/etc/netplan/50-cloud-init.yaml"
FIRST_BOOT = "/var/lib/rackproof-first-boot"
STRANGER = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPBG18KoYrX7WQA9FQGOZhLgsgpALC2TNGnWxswPJgYZ stranger"
MEMBERS = ["pve1", "pve2", "pve3"]

FAULTS = [
    run("MTU 1500 on one bridge", "apps1", "ip link set vmbr1 mtu 1500", "ip link set vmbr1 mtu 9000",
        r"mtu::test_mtu_of_bridge\[apps1-storage\]", r"mtu::test_largest_packet_passes\[apps1-pve[123]-storage\]"),
    run("no broadcast address", "apps1",
        "ip addr del 10.10.2.24/24 dev vmbr1 && ip addr add 10.10.2.24/24 dev vmbr1",
        "ip addr del 10.10.2.24/24 dev vmbr1 && ip addr add 10.10.2.24/24 broadcast + dev vmbr1",
        r"broadcast::test_broadcast_address\[apps1-storage\]"),
    run("no broadcast address after a reboot", "apps1",
        "mkdir /etc/systemd/network/10-netplan-vmbr0.network.d && cd /etc/systemd/network/10-netplan-vmbr0.network.d"
        " && printf '[Address]\\nAddress=10.10.1.24/24\\nBroadcast=no\\n' >fault.conf",
        "rm -r /etc/systemd/network/10-netplan-vmbr0.network.d",
        r"broadcast::test_broadcast_address_is_persisted\[apps1-(management|storage)\]"),
    edited("another address after a reboot", "apps1", NETPLAN, "s|10.10.2.24/24|10.10.2.99/24|",
           r"network::test_address_is_persisted\[apps1-storage\]"),
    edited("MTU 1500 after a reboot", "apps1", NETPLAN, "s/mtu: 9000/mtu: 1500/",
           r"mtu::test_mtu_is_persisted\[apps1-storage\]"),
    edited("another default route after a reboot", "apps1", NETPLAN, r"s/via: \(\"\?\)10.10.1.1/via: \110.10.1.9/",
           r"network::test_default_route_is_persisted\[apps1\]"),
    edited("log-in by password", "apps1", "/etc/ssh/sshd_config.d/10-rackproof.conf",
           "s/PasswordAuthentication no/PasswordAuthentication yes/", r"ssh::test_password_does_not\[apps1\]",
           after="systemctl reload ssh"),
    run("a stranger's key", "apps1", f"echo '{STRANGER}' >>/root/.ssh/authorized_keys",
        "sed -i '/ stranger$/d' /root/.ssh/authorized_keys",
        r"ssh::test_authorized_keys_are_exactly_the_labs\[apps1\]"),
    edited("an older install", "apps1", "/etc/rackproof/install.json", 's/"nonce": "..../"nonce": "0000/',
           r"install::test_nonce_is_of_this_install\[apps1\]"),
    run("installed before this run", "apps1",
        f"touch -r {FIRST_BOOT}/first-boot /root/kept && touch -d yesterday {FIRST_BOOT}/first-boot",
        f"touch -r /root/kept {FIRST_BOOT}/first-boot && rm /root/kept",
        r"install::test_installed_in_that_run\[apps1\]"),
    run("a first boot still pending", "apps1", f"touch {FIRST_BOOT}/pending", f"rm {FIRST_BOOT}/pending",
        r"install::test_first_boot_is_done\[apps1\]"),
    edited("another release", "apps1", "/etc/os-release", r's/^VERSION_ID="24\.04"/VERSION_ID="22.04"/',
           r"install::test_ubuntu_version\[apps1\]"),
    run("a package that went", "apps1", "dpkg --remove tmux",
        "cd /tmp && mkdir -p tmux/DEBIAN && printf 'Package: tmux\\nVersion: 99:0~played\\nArchitecture: all\\n"
        "Maintainer: nobody\\nDescription: played\\n' >tmux/DEBIAN/control && dpkg-deb -b tmux && dpkg -i tmux.deb",
        r"install::test_packages_are_installed\[apps1\]"),
    edited("a name that leads to loopback", "apps1", "/etc/hosts", r"s/^10\.10\.1\.24/127.0.1.1/",
           r"install::test_full_name\[apps1\]"),
    edited("another name server", "apps1", "/etc/resolv.conf", "s/127.0.0.53/192.0.2.53/",
           r"install::test_resolves_by_the_server\[apps1\]"),
]  # fmt: skip


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """The mixed lab, provisioned and proved once."""
    arguments = ("--lab", str(MIXED))
    lab = raised(tmp_path_factory.mktemp("mixed"), f"{INSTANCE}-mixed", arguments=arguments)
    try:
        assert "\nPROVED" in lab.rebuild()
        yield lab
    finally:
        lab.down()


def ubuntu_alone(folder: Path, serial: str) -> Path:
    """A lab file of the mixed lab's Ubuntu node alone, whose disk has this serial number."""
    lab = yaml.load(MIXED.read_text(), Loader=yaml.BaseLoader)
    kept = {key: value for key, value in lab.items() if key not in ("cluster", "ceph")}
    kept["nodes"] = {"apps1": {**lab["nodes"]["apps1"], "disk": {"serial": serial}}}
    file = folder / f"{serial}.yaml"
    file.write_text(yaml.safe_dump(kept))
    return file


def test_a_seed_for_another_disk_fails_by_name_and_at_once(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("wrong")
    built, asked = ubuntu_alone(folder, "RPVDISK0000007"), ubuntu_alone(folder, "RPVDISK0000008")
    one = raised(folder, f"{INSTANCE}-wrong", arguments=("--lab", str(asked), "--until", "install"))
    try:
        one.rack("up", str(built), timeout=300)
        # The node goes on with the disk that it was built with.
        plan(inventory.load(asked, {})).save(one.places.plan)
        result = one.provision()
        assert result.returncode == 1, result.stdout + result.stderr
        said = one.errors()["test_install"]
        assert "apps1: the installation failed: the installer failed" in said
        assert "Failed to find matching device" in said
        assert one.board("apps1")["phase"] == "hung"
    finally:
        one.down()


def test_each_node_gets_its_own_system_and_the_cluster_is_of_proxmoxs_nodes(mixed: Lab) -> None:
    evidence = mixed.evidence("mixed")
    assert list(evidence["install"].nodes) == ["apps1", *MEMBERS]
    assert sorted(evidence["cluster"].nodes) == MEMBERS
    assert sorted(evidence["ceph"].nodes) == MEMBERS
    assert mixed.on("apps1", '. /etc/os-release; echo "$ID $VERSION_ID"') == "ubuntu 24.04"
    assert "played" in mixed.on("apps1", "dpkg-query -W -f '${Version}' tmux")
    assert mixed.verify("--drift", "-k", "drift") == set()


def test_every_fault_of_an_ubuntu_node_is_caught_by_its_checks_alone(mixed: Lab) -> None:
    with planted(mixed, FAULTS, settled=lambda _lab: None):
        caught = mixed.verify()
    judge(caught, [fault.caught_by for fault in FAULTS])


def test_the_checks_of_a_system_are_of_its_nodes_alone(mixed: Lab) -> None:
    """And all faults are mended: the lab is as it was."""
    assert mixed.verify() == set()
    about = {name.partition("::")[0] for name, _ in mixed.cases() if "apps1" in name}
    assert about == {"bmc", "boot_files", "broadcast", "dns", "install", "mtu", "network", "seed", "ssh"}
    whose = {name for name, _ in mixed.cases() if "_version[" in name}
    assert whose == {
        "install::test_ubuntu_version[apps1]",
        *(f"install::test_proxmox_version[{name}]" for name in MEMBERS),
    }
