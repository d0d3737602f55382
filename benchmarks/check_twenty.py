"""Twenty assertions on a node by testinfra's own words; benchmarks/verify.py asks them in three ways."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
from testinfra import get_host
from testinfra.host import Host

from provision.inventory import MANAGEMENT, Lab, Node

WAY = "RACKPROOF_BENCH_WAY"
"""The environment variable that says by which of testinfra's backends; without it, by this project's own."""

CHECKS = "RACKPROOF_BENCH_CHECKS"
"""The environment variable that says how many of them are asked; without it, all."""

pytestmark = [pytest.mark.step("install"), pytest.mark.light]


if WAY in os.environ:
    # Without it the fixture is the one that every check asks for (checks/fixtures.py).
    @pytest.fixture(scope="session")
    def host(node: Node) -> Host:
        """The node as testinfra's ssh backend reaches it."""
        return get_host(f"ssh://{node.management}?{os.environ[WAY]}")


def _mtu(host: Host, name: str) -> int:
    return int(host.file(f"/sys/class/net/{name}/mtu").content_string)


def _addresses(host: Host, lab: Lab, node: Node, network: str) -> bool:
    return str(node.addresses[network]) in host.interface(lab.networks[network].bridge).addresses


ASSERTIONS: dict[str, Callable[[Host, Lab, Node], bool]] = {
    "bridge": lambda host, lab, _: host.interface(lab.management.bridge).exists,
    "storage_bridge": lambda host, lab, _: host.interface(lab.networks["storage"].bridge).exists,
    "address": lambda host, lab, node: _addresses(host, lab, node, MANAGEMENT),
    "storage_address": lambda host, lab, node: _addresses(host, lab, node, "storage"),
    "mtu": lambda host, lab, _: _mtu(host, lab.management.bridge) == lab.management.mtu,
    "storage_mtu": lambda host, lab, _: (
        _mtu(host, lab.networks["storage"].bridge) == lab.networks["storage"].mtu
    ),
    "stanzas": lambda host, *_: host.file("/etc/network/interfaces").contains("broadcast"),
    "own_name": lambda host, _, node: host.file("/etc/hosts").contains(node.fqdn),
    "name_server": lambda host, *_: host.file("/etc/resolv.conf").exists,
    "keys_mode": lambda host, *_: host.file("/root/.ssh/authorized_keys").mode == 0o600,
    "keys_owner": lambda host, *_: host.file("/root/.ssh/authorized_keys").user == "root",
    "host_key": lambda host, *_: host.file("/etc/ssh/ssh_host_ed25519_key").is_file,
    "forwarding": lambda host, *_: host.sysctl("net.ipv4.ip_forward") == 0,
    "path_filter": lambda host, *_: host.sysctl("net.ipv4.conf.all.rp_filter") == 0,
    "ssh_port": lambda host, *_: host.socket("tcp://22").is_listening,
    "ssh_process": lambda host, *_: bool(host.process.filter(comm="sshd")),
    "ssh_package": lambda host, *_: host.package("openssh-server").is_installed,
    "root": lambda host, *_: host.user("root").uid == 0,
    "full_name": lambda host, _, node: host.check_output("hostname -f") == node.fqdn,
    "who": lambda host, *_: host.run("id -un").stdout.strip() == "root",
}


@pytest.mark.parametrize("name", list(ASSERTIONS)[: int(os.environ.get(CHECKS, len(ASSERTIONS)))])
def test_assertion(host: Host, lab: Lab, node: Node, name: str) -> None:
    """It is as the lab file has it."""
    assert ASSERTIONS[name](host, lab, node)
