"""The provisioning server: its services run and will after a reboot, listen, forward and masquerade."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pytest
from testinfra.host import Host

from provision.certificate import KEY, SHOW, Certificate
from provision.ifupdown import Wanted
from provision.inventory import Lab
from provision.journal import Evidence
from provision.server_bridge import Link, links, wanted_of
from provision.server_plan import EXPORTER_PORT

pytestmark = pytest.mark.step("server")

SERVICES = ("dnsmasq", "nginx", "rackproof-boot-service")
PORTS = (
    ("udp", 53, "DNS"),
    ("tcp", 53, "DNS"),
    ("udp", 67, "DHCP"),
    ("udp", 69, "TFTP"),
    ("tcp", 80, "HTTP"),
    ("tcp", 443, "HTTPS"),
)


@pytest.fixture
def wanted_bridge(lab: Lab) -> Wanted:
    """The bridge that the lab file asks for."""
    wanted = wanted_of(lab)
    assert wanted is not None
    return wanted


@pytest.fixture
def bridge_links(server_host: Host) -> Mapping[str, Link]:
    """The server's interfaces as its kernel has them."""
    return links(json.loads(server_host.check_output("ip -j address")))


@pytest.mark.parametrize("service", SERVICES)
def test_service_runs(server_host: Host, service: str) -> None:
    """systemd has the service active."""
    assert server_host.service(service).systemd_properties["ActiveState"] == "active"


@pytest.mark.parametrize("service", [*SERVICES, "rackproof-nftables"])
def test_service_starts_at_boot(server_host: Host, service: str) -> None:
    """systemd will start the service after a reboot."""
    assert server_host.service(service).systemd_properties["UnitFileState"] == "enabled"


@pytest.mark.parametrize(
    ("protocol", "port", "what"), PORTS, ids=[f"{what}-{protocol}" for protocol, _, what in PORTS]
)
def test_listens(server_host: Host, lab: Lab, protocol: str, port: int, what: str) -> None:
    """The port is open on the management address, or on all."""
    family = "-t" if protocol == "tcp" else "-u"
    listening = server_host.check_output(f"ss -Hln {family} 'sport = :{port}'")
    addresses = {line.split()[3].rpartition(":")[0].partition("%")[0] for line in listening.splitlines()}
    everywhere = {"0.0.0.0", "*"}  # noqa: S104 (as ss writes it)
    assert addresses & {str(lab.server.address), *everywhere}, f"{what} listens on {addresses or 'nothing'}"


def test_shows_the_pinned_certificate(server_host: Host, lab: Lab, evidence: Evidence) -> None:
    """HTTPS shows the certificate whose fingerprint nodes and people were told."""
    shown = server_host.check_output(SHOW.format(address=f"{lab.server.address}:443"))
    assert Certificate(shown).fingerprint == evidence.facts["certificate"]["fingerprint"]


def test_key_is_roots_alone(server_host: Host) -> None:
    """Nobody but root can read the certificate's key."""
    assert server_host.check_output(f"stat -c '%a %U' {KEY}") == "600 root"


def test_forwards_ipv4(server_host: Host) -> None:
    """The kernel routes between the lab and the world."""
    assert server_host.check_output("cat /proc/sys/net/ipv4/ip_forward") == "1"


@pytest.mark.wan
def test_masquerades(server_host: Host, lab: Lab) -> None:
    """The lab's addresses leave by the WAN interface as the server's own."""
    rules = server_host.check_output("nft list table inet rackproof")
    masquerades = [line for line in rules.splitlines() if "masquerade" in line]
    assert any(f'"{lab.server.wan}"' in line for line in masquerades), rules


@pytest.mark.firewall
def test_lets_in_from_outside_only_what_is_asked(server_host: Host, lab: Lab) -> None:
    """What comes in by the WAN interface goes through these doors, and all else is dropped."""
    assert lab.server.firewall is not None
    rules = [line.strip() for line in server_host.check_output("nft list table inet rackproof").splitlines()]
    assert f'iifname "{lab.server.wan}" jump from_wan' in rules
    doors = rules[rules.index("chain from_wan {") + 1 : rules.index("drop") + 1]
    own = ("ct state", "icmpv6 type", "udp sport")
    asked = [f"{rule} accept" for rule in lab.server.firewall.rules]
    assert [door for door in doors if not door.startswith(own)] == [*asked, "drop"]


@pytest.mark.bridge
def test_bridge_has_the_address(bridge_links: Mapping[str, Link], wanted_bridge: Wanted) -> None:
    """The server's address on the management network is on the bridge, and nowhere else."""
    having = [name for name, link in bridge_links.items() if wanted_bridge.address in link.addresses]
    assert having == [wanted_bridge.name]


@pytest.mark.bridge
def test_bridge_has_its_ports(bridge_links: Mapping[str, Link], wanted_bridge: Wanted) -> None:
    """The NICs of the lab file are ports of the bridge."""
    masters = {port: link.master for port in wanted_bridge.ports if (link := bridge_links.get(port))}
    assert masters == dict.fromkeys(wanted_bridge.ports, wanted_bridge.name)


@pytest.mark.bridge
def test_bridge_has_its_mtu(bridge_links: Mapping[str, Link], wanted_bridge: Wanted) -> None:
    """Bridge and ports have the lab file's MTU."""
    names = (wanted_bridge.name, *wanted_bridge.ports)
    mtus = {name: link.mtu for name in names if (link := bridge_links.get(name))}
    assert mtus == dict.fromkeys(names, wanted_bridge.mtu)


@pytest.mark.node_exporter
def test_node_exporter_answers(server_host: Host, lab: Lab) -> None:
    """Prometheus finds the server's figures on the management address, and nowhere else."""
    url = f"http://{lab.server.address}:{EXPORTER_PORT}/metrics"
    assert "\nnode_load1 " in server_host.check_output(f"curl -fsS --max-time 5 {url}")
    listening = server_host.check_output(f"ss -Hlnt 'sport = :{EXPORTER_PORT}'").split()
    assert listening[3] == f"{lab.server.address}:{EXPORTER_PORT}"
    assert len(listening) == 5
