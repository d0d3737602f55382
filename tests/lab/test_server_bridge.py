"""The server's bridge: made, kept, checked, and taken back by itself when it cuts the connection."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.lab.planting import judge, planted, run
from tests.lab_fixtures import INSTANCE, ROOT, Lab, raised

NETWORK = "cat /etc/network/interfaces; ip -o -4 address | sed 's/ *valid_lft.*//;s/^[0-9]*//'; ip route"
FAULTS = [
    run("the address on a port, too", "server", "ip address add 10.10.1.1/24 dev lan0 noprefixroute",
        "ip address del 10.10.1.1/24 dev lan0", r"server::test_bridge_has_the_address"),
    run("a smaller MTU", "server", "ip link set br-lab mtu 1500", "ip link set br-lab mtu 9000",
        r"server::test_bridge_has_its_mtu"),
    run("a port that is loose", "server", "ip link set spare0 nomaster",
        "ip link set spare0 master br-lab", r"server::test_bridge_has_its_ports"),
]  # fmt: skip


def of(lab: Lab, ports: str) -> Lab:
    """The lab with a bridge of these ports."""
    file = lab.folder / f"{ports.replace(', ', '-')}.yaml"
    bridge = f"  bridge: {{name: br-lab, ports: [{ports}], mtu: 9000}}\n  lan: lan0"
    file.write_text((ROOT / "labs/virtual.yaml").read_text().replace("  lan: lan0", bridge))
    return replace(lab, arguments=("--lab", str(file)))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    folder: Path = tmp_path_factory.mktemp("bridge")
    lab = raised(folder, f"{INSTANCE}-bridge")
    try:
        lab.rack("up", timeout=300)
        lab.on(
            "server", "ip link add spare0 mtu 9000 type veth peer name spare9 mtu 9000; ip link set spare9 up"
        )
        yield lab
    finally:
        lab.down()


def planned(lab: Lab) -> tuple[int, str]:
    result = lab.pytest("-m", "provision", "--plan", "--until", "server", timeout=60)
    return result.returncode, result.stdout


def test_a_bridge_that_cuts_the_connection_goes_away_by_itself(server: Lab) -> None:
    before = server.on("server", NETWORK)
    result = of(server, "spare0").provision("--until", "server")
    assert result.returncode == 1, result.stdout + result.stderr
    assert "its old network is back" in result.stdout
    assert "spare0 is not the port to the lab" in result.stdout
    assert server.on("server", NETWORK) == before
    assert server.on("server", "ls /run/rackproof-network-return* 2>/dev/null || true") == ""


def test_the_plan_of_a_bridge_is_what_is_done(server: Lab) -> None:
    lab = of(server, "lan0, spare0")
    code, text = planned(lab)
    assert code == 6
    assert "  change  bridge br-lab: " in text
    assert "+\tbridge-ports lan0 spare0\n" in text
    result = lab.provision("--until", "server")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "bridge br-lab" in lab.evidence()["server"].changed
    assert "master br-lab" in server.on("server", "ip -o link show lan0")
    assert server.on("server", "ip -o -4 address show dev br-lab").split()[3] == "10.10.1.1/24"
    assert server.on("server", "ip -4 route show default").startswith("default via 198.51.100.1 dev wan0")


def test_a_second_run_changes_nothing(server: Lab) -> None:
    lab = of(server, "lan0, spare0")
    before = server.on("server", NETWORK)
    code, text = planned(lab)
    assert code == 0, text
    assert lab.provision("--until", "server").returncode == 0
    assert "bridge br-lab" in lab.evidence()["server"].unchanged
    assert server.on("server", NETWORK) == before


def test_every_check_of_it_can_fail(server: Lab) -> None:
    lab = of(server, "lan0, spare0")
    with planted(lab, FAULTS, lambda _: None):
        judge(lab.verify("--until", "server"), [fault.caught_by for fault in FAULTS])
