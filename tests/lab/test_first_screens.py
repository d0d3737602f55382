"""A broken rack's report names the culprit on its first screen: what is read at eight in the morning."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from lxml import html  # type: ignore[import-untyped]  # its stubs are another package

from tests.lab.conftest import ROOT, Lab
from tests.lab.planting import planted, run, settle
from tests.lab_fixtures import INSTANCE, raised


@dataclass(frozen=True)
class FirstScreen:
    """The verdict, and the boxes below it, each as one line of text, first ones first."""

    verdict: str
    boxes: Sequence[str]


def first_screen(lab: Lab) -> FirstScreen:
    page = html.parse(lab.report / "index.html").getroot()
    boxes = page.xpath("//article[contains(@class, 'wrong')]")
    return FirstScreen(_text(page.find(".//h1")), [_text(box) for box in boxes])


def _text(element: html.HtmlElement) -> str:
    return " ".join(element.text_content().split())


def test_a_port_at_mtu_1500(lab: Lab) -> None:
    fault = run("MTU 1500 on one port", "node2", "ip link set eno3 mtu 1500; ip link set vmbr1 mtu 9000",
                "ip link set eno3 mtu 9000; ip link set vmbr1 mtu 9000")  # fmt: skip
    with planted(lab, [fault]):
        lab.verify("-k", "mtu or bmc")
    screen = first_screen(lab)
    assert screen.verdict.endswith("NOT PROVED")
    assert screen.boxes[0].startswith("✗ node2 · install · mtu: mtu of port came up wrong")
    assert "eno3 has MTU 1500, not 9000" in screen.boxes[0]
    assert [box.split(" · ")[0] for box in screen.boxes] == ["✗ node2"] * 2


def test_a_dead_bmc(lab: Lab) -> None:
    lab.rack("exec", "--", "ip", "link", "set", "b-node3", "down")
    try:
        lab.verify("-k", "bmc")
    finally:
        lab.rack("exec", "--", "ip", "link", "set", "b-node3", "up")
    screen = first_screen(lab)
    (box,) = screen.boxes
    assert box.startswith(
        "✗ node3 · power · console-node3 (10.10.1.13), asked for its identity, gives no answer"
    )
    assert "lab trouble likely the BMC is off, unplugged or rebooting" in box
    assert "in the way of 3 checks" in box


def test_a_cut_corosync_link(lab: Lab) -> None:
    lab.rack("cut", "node3", "storage")
    try:
        settle(lab, links=5)
        lab.verify("-k", "corosync or check_network")
    finally:
        lab.rack("heal", "node3", "storage")
        settle(lab)
    cable, box = first_screen(lab).boxes
    assert cable.startswith("✗ node3 · install · network: cable carries came up wrong")
    assert "eno3 has no link: its cable is out" in cable
    assert box.startswith("✗ node3 · cluster · corosync: link to peer (6 cases) came up wrong")
    assert "link 1 (storage) to node" in box
    assert "is disconnected" in box


@pytest.fixture(scope="module")
def one_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A lab of one node, to be installed over and over; its lab file is written by `ask`."""
    folder = tmp_path_factory.mktemp("one")
    lab = raised(
        folder, f"{INSTANCE}-one", arguments=("--lab", str(folder / "one.yaml"), "--until", "install")
    )
    try:
        yield lab
    finally:
        lab.down()


def ask(folder: Path, first_boot: dict[str, Any], deadlines: dict[str, str]) -> None:
    lab = yaml.safe_load((ROOT / "labs/virtual.yaml").read_text())
    kept = {key: value for key, value in lab.items() if key not in ("cluster", "ceph", "templates")}
    kept |= {"nodes": {"node1": lab["nodes"]["node1"]}, "deadlines": deadlines}
    kept["defaults"]["first_boot"] = first_boot
    (folder / "one.yaml").write_text(yaml.safe_dump(kept))


def test_a_failed_first_boot(one_node: Lab) -> None:
    ask(one_node.folder, {"sysctl": {"net.ipv4.tcp_mtu_probing": "many"}}, {})
    result = one_node.provision()
    assert result.returncode == 1, result.stdout
    [error] = one_node.errors().values()
    assert "Invalid argument" in error
    assert first_screen(one_node).boxes[0].startswith("✗ node1 · install · first boot failed: sysctl: line ")


def test_a_slow_disk(one_node: Lab) -> None:
    ask(one_node.folder, {}, {"installed": "10s"})
    slow = one_node.places.machine("node1") / "disk.slow"
    slow.touch()
    try:
        result = one_node.provision()
    finally:
        slow.unlink()
    assert result.returncode == 1, result.stdout
    box = first_screen(one_node).boxes[0]
    assert box.startswith("✗ node1 · install · phase installed: not reached within 10 s lab trouble")
    assert "its disk is slow or dying" in box
    assert "last seen node1: " in box, box
