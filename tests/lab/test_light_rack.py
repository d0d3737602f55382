"""A rack of light nodes: it rises, is proved, each fault is caught on the right node alone, and nothing is left."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from labs.large import written
from provision.wait import NotYet
from tests.lab.conftest import Lab
from tests.lab.planting import judge, planted, run
from tests.lab.test_rack_life import left_of, namespaces_of
from tests.lab_fixtures import INSTANCE, SOON, raised
from virtual_lab import control

NODES = 18
"""More than the suite asks every pair of."""


@pytest.fixture(scope="module")
def light(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    folder = tmp_path_factory.mktemp("light")
    labfile = folder / "light.yaml"
    labfile.write_text(written(NODES, "light", "light"))
    lab = raised(folder, f"{INSTANCE}-light", arguments=("--lab", str(labfile)))
    try:
        lab.rack("up", str(labfile))
        yield lab
    finally:
        lab.down()


def test_it_is_proved_without_an_install(light: Lab) -> None:
    assert light.verify() == set()
    cases = [name for name, _ in light.cases()]
    assert len(cases) == NODES * (29 + 2 * 2 * 2)
    assert "mtu::test_largest_packet_passes[node18-node01-storage]" in cases
    assert "mtu::test_largest_packet_passes[node18-node09-storage]" in cases


def test_its_nodes_are_separate_and_touch_nothing_of_this_machine(light: Lab) -> None:
    assert light.on("node03", "hostname -f; id -un; cat /proc/1/comm").split() == [
        "node03.lab.example.net", "root", "sshd",
    ]  # fmt: skip
    light.on("node03", "echo own >/root/note")
    assert light.on("node04", "ls /root") == ""
    assert (
        light.on("node03", "test -w /proc/sys/kernel/panic || test -w /sys/kernel || echo cannot") == "cannot"
    )
    assert light.on("node03", "sysctl -qw net.ipv4.ip_forward=0 && echo can") == "can"
    shown = light.rack("status").splitlines()[2:]
    assert [line.split()[:3] for line in shown] == [
        [f"node{number:02}", "On", "light"] for number in range(1, NODES + 1)
    ]  # fmt: skip


FAULTS = [
    run("MTU 1500 on one bridge", "node05", "ip link set vmbr1 mtu 1500", "ip link set vmbr1 mtu 9000",
        r"mtu::test_mtu_of_bridge\[node05-storage\]",
        r"mtu::test_largest_packet_passes\[node05-(node06|node14)-storage\]"),
    run("no broadcast address", "node18",
        "ip addr del 10.20.0.46/24 dev vmbr1 && ip addr add 10.20.0.46/24 dev vmbr1",
        "ip addr del 10.20.0.46/24 dev vmbr1 && ip addr add 10.20.0.46/24 broadcast + dev vmbr1",
        r"broadcast::test_broadcast_address\[node18-storage\]"),
    run("another full name", "node11", "sed -i 's/node11.lab/node11.hall/' /etc/hosts",
        "sed -i 's/node11.hall/node11.lab/' /etc/hosts", r"install::test_full_name\[node11\]"),
    run("a way in by password", "node02",
        "echo PasswordAuthentication yes >/etc/ssh/sshd_config.d/00-fault.conf && kill -HUP 1",
        "rm /etc/ssh/sshd_config.d/00-fault.conf && kill -HUP 1", r"ssh::test_password_does_not\[node02\]"),
]  # fmt: skip


def test_faults_are_caught_on_their_nodes_alone(light: Lab) -> None:
    with planted(light, FAULTS, settled=accepting):
        accepting(light)
        caught = light.verify()
    judge(caught, [fault.caught_by for fault in FAULTS])


def test_a_node_without_its_server_is_caught_and_comes_back_by_up(light: Lab) -> None:
    light.rack("exec", "node07", "--", "sh", "-c", "kill -TERM 1", check=False)
    SOON.until("its end noticed", lambda: "node07" not in standing(light) or NotYet("it stands"))
    caught = light.verify("-k", "key_lets_root_in")
    judge(caught, [(r"ssh::test_key_lets_root_in\[node07\]",)])
    assert "started node07, which was down" in light.rack("up", light.arguments[1])
    assert light.verify("-k", "node07") == set()


def test_down_leaves_nothing(light: Lab) -> None:
    names, inodes = namespaces_of(light.places)
    assert len(names) == 1 + NODES
    light.rack("down")
    assert left_of(light.places, names, inodes) == []


def standing(light: Lab) -> dict[str, int]:
    found: dict[str, int] = control.ask(light.places.supervisor, {"do": "state"})["running"]
    return found


def accepting(light: Lab) -> None:
    """Every node accepts SSH: `up` waits for that."""
    light.rack("up", light.arguments[1])
