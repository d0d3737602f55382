"""Nodes that share a link are reset one after the other, and join as they are ready: on a rack of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.lab.conftest import ROOT, Lab
from tests.lab_fixtures import INSTANCE, raised

NODES = ["node1", "node2", "node3", "node4"]


@pytest.fixture(scope="module")
def crowded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """The default lab behind a link that is said to need minutes for each node, as far as its installation."""
    folder = tmp_path_factory.mktemp("crowded")
    text = (ROOT / "labs" / "virtual.yaml").read_text()
    (folder / "crowded.yaml").write_text(text.replace("  lan: lan0\n", "  lan: lan0\n  link: 0.1Mbit\n"))
    lab = raised(folder, f"{INSTANCE}-crowded", arguments=("--lab", str(folder / "crowded.yaml")))
    try:
        result = lab.provision("--until", "install")
        assert result.returncode == 0, result.stdout + result.stderr + lab.consoles()
        yield lab
    finally:
        lab.down()


def test_each_is_reset_when_the_one_before_has_its_installer(crowded: Lab) -> None:
    """The booking of minutes is not waited for: whoever has loaded frees the link."""
    (plan,) = crowded.events("stagger")
    assert "4 nodes: up to " in plan["text"] and "at most 2 at once" in plan["text"]
    turns = [
        (event["kind"], event["node"])
        for event in crowded.events()
        if event["kind"] in ("permitted", "answer")
    ]
    nodes = [node for _, node in turns[::2]]
    assert sorted(nodes) == NODES
    assert turns == [turn for node in nodes for turn in (("permitted", node), ("answer", node))]


def test_a_node_installs_while_others_are_still_to_be_reset(crowded: Lab) -> None:
    last = max(event["time"] for event in crowded.events("reset"))
    assert sum(event["time"] < last for event in crowded.events("answer")) == len(NODES) - 1


def test_a_node_whose_api_starts_late_joins_last_and_holds_nobody_up(crowded: Lab) -> None:
    crowded.on("node2", "systemctl stop pveproxy")
    run = crowded.start_pytest("-m", "provision", "--only", "cluster")
    crowded.until("node-joined", run=run, least=2)
    crowded.on("node2", "systemctl start pveproxy")
    output, _ = run.communicate(timeout=200)
    assert run.returncode == 0, output
    assert [event["node"] for event in crowded.events("node-joined")] == ["node3", "node4", "node2"]
    assert {event["node"] for event in crowded.events("not-ready")} == {"node2"}
