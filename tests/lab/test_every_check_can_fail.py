"""For every check up to the cluster's a fault is planted, is caught by the checks meant for it, and by no other."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from provision import answer_tool
from provision.state import home
from tests.lab import first_boot_faults
from tests.lab.conftest import Lab
from tests.lab.planting import Fault, edited, judge, lying, never_caught, planted, run, settle, way

INTERFACES = "/etc/network/interfaces"
DNSMASQ = "/etc/dnsmasq.d/rackproof.conf"
HOST_KEY = "/etc/ssh/ssh_host_ed25519_key.pub"
FIRST_BOOT = "/var/lib/proxmox-first-boot"
STRANGER = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPBG18KoYrX7WQA9FQGOZhLgsgpALC2TNGnWxswPJgYZ stranger"


OPEN_DOORS = "".join(
    f"/location \\/ {{/i location = {path} {{ return 200 {text}; }}\n"
    for path, text in {
        "/boot/52:54:00:a1:01:21": "kernel",
        "/boot/02:00:5e:00:53:01": "kernel",
        "/answer/made-up-by-a-check": "root-password",
    }.items()
)


WHAT_IS_INSTALLED = [
    run("nginx is not started at boot", "server", "systemctl disable nginx", "systemctl enable nginx",
        r"server::test_service_starts_at_boot\[nginx\]"),
    run("a door to the outside", "server", "nft insert rule inet rackproof from_wan tcp dport 2222 accept",
        "systemctl restart rackproof-nftables", r"server::test_lets_in_from_outside_only_what_is_asked"),
    run("no figures for Prometheus", "server", "systemctl stop prometheus-node-exporter",
        "systemctl start prometheus-node-exporter", r"server::test_node_exporter_answers"),
    edited("a name with another's address", "server", DNSMASQ,
           r"/^host-record=node3\./s/10\.10\.1\.23/10.10.1.93/",
           r"dns::test_name_has_its_address\[node3\.lab\.example\.net\]",
           r"dns::test_address_has_its_name\[node3\.lab\.example\.net\]", after="systemctl restart dnsmasq"),
    edited("a name for a stranger", "server", DNSMASQ,
           "$a host-record=no-such-machine.lab.example.net,10.10.1.77", r"dns::test_stranger_has_no_name",
           after="systemctl restart dnsmasq"),
    edited("doors left open", "server", "/etc/nginx/conf.d/rackproof.conf", OPEN_DOORS,
           r"boot_files::test_boot_script_of_node\[.*node1.*\]", r"boot_files::test_stranger_gets_no_boot_script",
           r"boot_files::test_stranger_gets_no_install", after="nginx -t -q && systemctl reload nginx"),
    run("a truncated boot file", "server",
        "cp -p /usr/lib/ipxe/snponly.efi /root/kept && truncate -s -100 /usr/lib/ipxe/snponly.efi",
        "mv /root/kept /usr/lib/ipxe/snponly.efi", r"boot_files::test_boot_files_are_whole\[.*\]"),
    edited("no boot file for one node's firmware", "server", DNSMASQ, "/tag:node2,tag:is_http,.*snponly/d",
           r"boot_files::test_dhcp_names_the_boot_file\[node2\]", after="systemctl restart dnsmasq"),
    edited("GRUB sent nowhere", "server", "/srv/rackproof/tftp/grub/grub.cfg", "s,/grub/,/bug/,",
           r"boot_files::test_grub_is_sent_on\[(tftp|http)\]"),
    run("a truncated install medium", "server",
        "cd /srv/rackproof/http/proxmox-9 && cp -p initrd.img /root/kept.img && truncate -s -1 initrd.img",
        "mv /root/kept.img /srv/rackproof/http/proxmox-9/initrd.img",
        r"boot_files::test_install_medium_is_whole\[initrd\.img\]",
        r"boot_files::test_install_medium_is_what_was_prepared\[initrd\.img\]"),
    run("a kernel with one other byte", "server",
        "cd /srv/rackproof/http/proxmox-9 && cp -p vmlinuz /root/kept-vmlinuz"
        " && printf x | dd of=vmlinuz bs=1 seek=9999 conv=notrunc status=none",
        "mv /root/kept-vmlinuz /srv/rackproof/http/proxmox-9/vmlinuz",
        r"boot_files::test_install_medium_is_what_was_prepared\[vmlinuz\]"),
    run("another certificate", "server",
        "cp -a /etc/rackproof/tls /root/kept-tls && openssl req -x509 -new -key /etc/rackproof/tls/server.key"
        " -subj /CN=other -addext subjectAltName=IP:10.10.1.1 -days 9 -out /etc/rackproof/tls/server.crt"
        " && systemctl reload nginx",
        "cp -a /root/kept-tls/. /etc/rackproof/tls/ && rm -r /root/kept-tls && systemctl reload nginx",
        r"server::test_shows_the_pinned_certificate"),
    run("a key that others can read", "server", "chmod 644 /etc/rackproof/tls/server.key",
        "chmod 600 /etc/rackproof/tls/server.key", r"server::test_key_is_roots_alone"),
    edited("an older install", "node2", "/etc/rackproof/install.json", 's/"nonce": "..../"nonce": "0000/',
           r"install::test_nonce_is_of_this_install\[node2\]"),
    run("installed before this run", "node3",
        f"touch -r {FIRST_BOOT}/proxmox-first-boot /root/kept && touch -d yesterday {FIRST_BOOT}/proxmox-first-boot",
        f"touch -r /root/kept {FIRST_BOOT}/proxmox-first-boot && rm /root/kept",
        r"install::test_installed_in_that_run\[node3\]"),
    edited("a name that leads to loopback", "node4", "/etc/hosts", r"s/^10\.10\.1\.24/127.0.1.1/",
           r"install::test_full_name\[node4\]"),
    run("a first boot still pending", "node1", f"touch {FIRST_BOOT}/pending-first-boot-setup",
        f"rm {FIRST_BOOT}/pending-first-boot-setup", r"install::test_first_boot_is_done\[node1\]"),
    run("an older version", "node4",
        "cp -p /usr/bin/pveversion /root/kept && printf '#!/bin/sh\\necho pve-manager/8.4.1/0\\n' >/usr/bin/pveversion",
        "mv /root/kept /usr/bin/pveversion", r"install::test_proxmox_version\[node4\]"),
    edited("another name server", "node2", "/etc/resolv.conf", r"s/10\.10\.1\.1$/192.0.2.53/",
           r"install::test_resolves_by_the_server\[node2\]"),
    edited("log-in by password", "node2", "/etc/ssh/sshd_config.d/10-rackproof.conf",
           "s/PasswordAuthentication no/PasswordAuthentication yes/", r"ssh::test_password_does_not\[node2\]",
           after="systemctl reload ssh"),
    run("a stranger's key", "node1", f"echo '{STRANGER}' >>/etc/pve/priv/authorized_keys",
        "sed -i --follow-symlinks '/ stranger$/d' /etc/pve/priv/authorized_keys",
        r"ssh::test_authorized_keys_are_exactly_the_labs\[node[1-4]\]"),
    run("corosync is not started at boot", "node3", "systemctl disable corosync", "systemctl enable corosync",
        r"corosync::test_corosync_runs\[node3\]"),
    edited("a configuration of its own", "node4", "/etc/corosync/corosync.conf", "s/debug: off/debug: on/",
           r"corosync::test_configuration_is_the_clusters\[node4\]",
           r"corosync::test_configuration_is_on_every_node\[node4\]"),
    run("an API that is down", "node2", "systemctl stop pveproxy", "systemctl start pveproxy",
        r"cluster::test_service_runs\[node2-pveproxy\]", r"cluster::test_api_agrees\[node2\]"),
]  # fmt: skip

WHAT_THE_NETWORK_IS = [
    run("a second default route", "node4", "ip route add default via 10.10.2.1 dev vmbr1 metric 500 onlink",
        "ip route del default via 10.10.2.1 dev vmbr1 metric 500",
        r"network::test_default_route_by_management_only\[node4\]"),
    edited("another default route after a reboot", "node1", INTERFACES, r"/address 10\.10\.2\.21/a gateway 10.10.2.1",
           r"network::test_default_route_is_persisted\[node1\]"),
    edited("another address after a reboot", "node2", INTERFACES, "s|address 10.10.2.22/24|address 10.10.2.99/24|",
           r"network::test_address_is_persisted\[node2-storage\]"),
    edited("no broadcast address after a reboot", "node1", INTERFACES, r"/broadcast 10\.10\.1\.255/d",
           r"broadcast::test_broadcast_address_is_persisted\[node1-management\]"),
    edited("MTU 1500 after a reboot", "node4", INTERFACES, "/iface eno3/,/mtu/s/mtu 9000/mtu 1500/",
           r"mtu::test_mtu_is_persisted\[node4-storage\]"),
    run("an address beside the bridge's", "node4", "ip addr add 10.10.2.124/24 dev vmbr1",
        "ip addr del 10.10.2.124/24 dev vmbr1", r"network::test_bridge_has_its_address\[node4-storage\]",
        r"broadcast::test_broadcast_address\[node4-storage\]"),
    run("an address on the port", "node1", "ip addr add 192.0.2.4/32 dev eno3", "ip addr del 192.0.2.4/32 dev eno3",
        r"network::test_nic_bears_no_address\[node1-storage\]"),
    run("a stray port in the bridge", "node2",
        "ip link add stray type veth peer name yarts && ip link set stray mtu 9000 master vmbr1",
        "ip link del stray", r"network::test_bridge_has_its_port\[node2-storage\]"),
    run("no broadcast address", "node3",
        "ip addr del 10.10.2.23/24 dev vmbr1 && ip addr add 10.10.2.23/24 dev vmbr1",
        "ip addr del 10.10.2.23/24 dev vmbr1 && ip addr add 10.10.2.23/24 broadcast + dev vmbr1",
        r"broadcast::test_broadcast_address\[node3-storage\]"),
    run("MTU 1500 on one bridge", "node2", "ip link set vmbr1 mtu 1500", "ip link set vmbr1 mtu 9000",
        r"mtu::test_mtu_of_bridge\[node2-storage\]", rf"mtu::test_largest_packet_passes\[{way('node2')}-storage\]"),
    run("a larger MTU than asked for", "node4", "ip link set eno1 mtu 1600 && ip link set vmbr0 mtu 1600",
        "ip link set vmbr0 mtu 1500 && ip link set eno1 mtu 1500",
        r"mtu::test_mtu_of_bridge\[node4-management\]", r"mtu::test_mtu_of_port\[node4-management\]",
        rf"mtu::test_larger_packet_is_refused\[{way('node4')}-management\]"),
    run("no masquerading", "server", "nft flush chain inet rackproof postrouting", "systemctl restart rackproof-nftables",
        r"server::test_masquerades", r"network::test_reaches_the_world_by_nat\[node[1-4]\]"),
]  # fmt: skip

A_PORT_THAT_IS_TOO_SMALL = [
    run("MTU 1500 on one port", "node2", "ip link set eno3 mtu 1500; ip link set vmbr1 mtu 9000",
        "ip link set eno3 mtu 9000; ip link set vmbr1 mtu 9000", r"mtu::test_mtu_of_port\[node2-storage\]",
        rf"mtu::test_largest_packet_passes\[{way('node2', both=True)}-storage\]"),
    run("no forwarding", "server", "sysctl -w net.ipv4.ip_forward=0", "sysctl -w net.ipv4.ip_forward=1",
        r"server::test_forwards_ipv4", r"network::test_reaches_the_world_by_nat\[node[1-4]\]"),
    run("a node without its key", "node3", "mv /root/.ssh/id_rsa /root/.ssh/kept", "mv /root/.ssh/kept /root/.ssh/id_rsa",
        r"ssh::test_node_reaches_node\[node3-.*\]"),
    run("a clone's host key", "node4",
        f"cp -p {HOST_KEY} /root/kept.pub && echo '{STRANGER}' >{HOST_KEY}", f"mv /root/kept.pub {HOST_KEY}",
        r"ssh::test_host_key_is_the_known_one\[node4\]"),
]  # fmt: skip

A_SERVER_WITHOUT_DNSMASQ = [
    run("DHCP, DNS and TFTP are down", "server", "systemctl stop dnsmasq", "systemctl start dnsmasq",
        r"server::test_service_runs\[dnsmasq\]", r"server::test_listens\[(DNS-udp|DNS-tcp|DHCP-udp|TFTP-udp)\]",
        r"dns::.*", r"boot_files::test_boot_files_are_whole\[.*tftp.*\]", r"boot_files::test_grub_is_sent_on\[tftp\]"),
]  # fmt: skip

A_NODE_OUTSIDE = [
    run("corosync is stopped", "node4", "systemctl stop corosync", "systemctl start corosync",
        r"corosync::test_corosync_runs\[node4\]", r"corosync::test_node_is_in_the_quorum\[node[1-4]\]",
        rf"corosync::test_link_to_peer\[{way('node4', both=True)}-(management|storage)\]",
        r"corosync::test_(members_are_the_labs_nodes|link_address|configuration_is_on_every_node)\[node4.*\]",
        r"cluster::test_api_agrees\[node[1-4]\]", r"cluster::test_shared_files_are_writable\[node4\]"),
]  # fmt: skip

NO_KEY_OPENS = [
    run("no key opens", "node3", "echo 'AuthorizedKeysFile none' >/etc/ssh/sshd_config.d/00-fault.conf && systemctl reload ssh",
        "rm /etc/ssh/sshd_config.d/00-fault.conf && systemctl reload ssh", r"ssh::test_key_lets_root_in\[node3\]"),
]  # fmt: skip


WHAT_COROSYNC_SAYS = [
    lying("a link on another network", "node1", "corosync-cfgtool", '$real "$@" | sed s/10.10.2.21-/10.10.9.21-/',
          r"corosync::test_link_address\[node1-storage\]"),
    lying("a member too many", "node2", "corosync-cmapctl",
          '$real "$@"; [ "$1" != nodelist. ] || '
          "printf 'nodelist.node.9.%s = %s\\n' 'name (str)' stranger 'nodeid (u32)' 9",
          r"corosync::test_members_are_the_labs_nodes\[node2\]"),
]  # fmt: skip

BATCHES = {
    "what is installed": [*WHAT_IS_INSTALLED, *first_boot_faults.FAULTS],
    "what the network is": WHAT_THE_NETWORK_IS,
    "a port that is too small": A_PORT_THAT_IS_TOO_SMALL,
    "a server without dnsmasq": A_SERVER_WITHOUT_DNSMASQ,
    "a node outside": A_NODE_OUTSIDE,
    "what corosync says": WHAT_COROSYNC_SAYS,
}


@pytest.mark.parametrize("batch", BATCHES.values(), ids=BATCHES.keys())
def test_faults_are_caught_by_their_checks_alone(lab: Lab, batch: Sequence[Fault]) -> None:
    with planted(lab, batch):
        caught = lab.verify()
    judge(caught, [fault.caught_by for fault in batch])


def test_a_cut_link_is_caught(lab: Lab) -> None:
    lab.rack("cut", "node3", "storage")
    try:
        settle(lab, links=5)
        caught = lab.verify()
    finally:
        lab.rack("heal", "node3", "storage")
        settle(lab)
    assert "disconnected" in (lab.report / "node3" / "cluster.txt").read_text()
    assert "10.10.2.23/24" in (lab.report / "node3" / "network.txt").read_text()
    both = way("node3", both=True)
    judge(caught, [(
        r"network::test_cable_carries\[node3-storage\]",
        rf"corosync::test_link_to_peer\[{both}-storage\]",
        rf"mtu::test_largest_packet_passes\[{both}-storage\]",
    )])  # fmt: skip


def test_another_machine_behind_a_bmc_is_caught(lab: Lab) -> None:
    quirk = home() / "racks" / lab.instance / "node2" / "bmc.quirk"
    quirk.write_text("wrong-serial")
    try:
        caught = lab.verify("-k", "bmc")
    finally:
        quirk.unlink()
    judge(caught, [(r"bmc::test_bmc_is_of_this_node\[node2\]",)])


def test_a_node_without_power_is_caught(lab: Lab) -> None:
    lab.rack("power", "node4", "off")
    try:
        caught = lab.verify("-k", "bmc")
    finally:
        lab.rack("power", "node4", "on")
        settle(lab)
    assert "power: Off" in (lab.report / "node4" / "bmc.txt").read_text()
    assert (lab.report / "node4" / "network.txt").read_text().startswith("not to be had: node4: ssh")
    judge(caught, [(r"bmc::test_node_is_on\[node4\]",)])


def test_a_node_that_lets_nobody_in_is_caught(lab: Lab) -> None:
    with planted(lab, NO_KEY_OPENS):
        caught = lab.verify("-k", "key_lets_root_in or name_has_its_address")
    judge(caught, [fault.caught_by for fault in NO_KEY_OPENS])


ANOTHER_HOST_KEY = [
    run("another host key is shown", "node4",
        "ssh-keygen -q -t ed25519 -N '' -f /root/other"
        " && echo HostKey /root/other >/etc/ssh/sshd_config.d/00-fault.conf && systemctl reload ssh",
        "rm /root/other* /etc/ssh/sshd_config.d/00-fault.conf && systemctl reload ssh",
        r"ssh::test_node_shows_the_known_host_key\[node4\]"),
]  # fmt: skip


def test_a_node_that_shows_another_host_key_is_caught(lab: Lab) -> None:
    with planted(lab, ANOTHER_HOST_KEY):
        caught = lab.verify("-k", "shows_the_known_host_key")
    judge(caught, [fault.caught_by for fault in ANOTHER_HOST_KEY])


def test_two_nodes_with_one_host_key_are_caught(lab: Lab) -> None:
    theirs = lab.on("node1", f"cat {HOST_KEY}")
    lab.on("node2", f"cp -p {HOST_KEY} /root/kept.pub && echo '{theirs}' >{HOST_KEY}")
    try:
        caught = lab.verify("-k", "host_key")
    finally:
        lab.on("node2", f"mv /root/kept.pub {HOST_KEY}")
    twins = (
        r"ssh::test_host_key_is_no_other_nodes\[node[12]\]",
        r"ssh::test_host_key_is_the_known_one\[node2\]",
    )
    judge(caught, [twins])


def test_a_pending_network_boot_is_caught(lab: Lab) -> None:
    redfish(lab, "10.10.1.11", {"BootSourceOverrideTarget": "Pxe", "BootSourceOverrideEnabled": "Once"})
    try:
        caught = lab.verify("-k", "bmc")
    finally:
        redfish(
            lab, "10.10.1.11", {"BootSourceOverrideTarget": "None", "BootSourceOverrideEnabled": "Disabled"}
        )
    judge(caught, [(r"bmc::test_network_boot_was_used_up\[node1\]",)])


def test_an_answer_that_the_official_tool_minds_is_caught(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = tmp_path / answer_tool.TOOL
    tool.write_text("#!/bin/sh\necho 'unknown field `bogus`' >&2\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    judge(lab.verify("-k", "answer"), [(r"answer::test_installer_takes_it\[node[1-4]\]",)])


def test_no_check_is_left_without_a_fault(lab: Lab) -> None:
    """And all faults are mended: this lab is as it was."""
    assert lab.verify() == set()
    assert never_caught(lab) == []


PATCH = """
import json, sys, requests
rack, console, boot = sys.argv[1:]
known = json.load(open(f"{rack}/made-up-secrets.json"))
answer = requests.patch(f"https://{console}/redfish/v1/Systems/1", json={"Boot": json.loads(boot)},
                        auth=(known["bmc_user"], known["bmc_password"]), verify=f"{rack}/ca.pem", timeout=20)
answer.raise_for_status()
"""


def redfish(lab: Lab, console: str, boot: dict[str, str]) -> None:
    """Ask a board, as a colleague with curl would, for another next boot."""
    rack = str(home() / "racks" / lab.instance)
    lab.rack("exec", "--", sys.executable, "-c", PATCH, rack, console, json.dumps(boot))
