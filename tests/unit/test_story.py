"""The telling of a run from its events and outcomes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from provision.ledger import Event
from provision.run import STEPS
from reports import files, past
from reports.story import NodeTold, Outcome, Story, duration
from reports.terminal import node_line


def event(
    kind: str, *, step: str | None = None, node: str | None = None, text: str = "", **facts: Any
) -> Event:
    return Event(
        time=100.0, run="r", lab="lab", step=step, node=node, kind=kind, text=text, facts=facts, seq=1
    )


@pytest.fixture
def story() -> Story:
    return Story("lab", STEPS, ["node1", "node2"])


def test_a_step_runs_and_is_done(story: Story) -> None:
    story.take(event("step-started", step="server"))
    assert story.running is story.steps["server"]
    story.take(event("step-done", step="server", seconds=6.1, changed=3, unchanged=9))
    step = story.steps["server"]
    assert (step.state, step.seconds, step.summary) == ("done", 6.1, "3 changed, 9 as they were")


def test_dhcp_of_the_installed_system_is_no_step_back(story: Story) -> None:
    for kind in ("permitted", "dhcp", "answer", "dhcp"):
        story.take(event(kind, node="node1", text=kind))
    assert story.nodes["node1"].phase == "answer"
    assert story.nodes["node1"].last == "dhcp"
    story.take(event("permitted", node="node1"))
    assert story.nodes["node1"].phase == "permitted"


@pytest.mark.parametrize(
    ("phase", "age", "slow"),
    [("dhcp", 3.0, False), ("dhcp", 9.0, True), ("registered", 900.0, False), ("answer", 900.0, False)],
)
def test_a_node_slower_than_its_own_past_is_said_to_be(phase: str, age: float, slow: bool) -> None:
    node = NodeTold("node4", phase, since=100.0, last="DISCOVER")
    line = node_line(node, {"boot-script": 2.0, "node-joined": 2.0}, phased=True, now=100.0 + age).plain
    assert ("slower than its usual 2.0 s; last seen: DISCOVER" in line) == slow
    assert line.endswith("DISCOVER")


def test_without_a_history_that_can_be_read_nothing_is_usual(tmp_path: Path) -> None:
    path = tmp_path / "history.sqlite"
    assert past.usual(path, "hall") == {}
    assert not path.exists()
    path.write_text("this is no database" * 100)
    assert past.usual(path, "hall") == {}


def test_checks_count_beside_their_step_and_steps_do_not_count_as_checks(story: Story) -> None:
    story.note(Outcome("step server", "server", "passed", 6.1, acts=True))
    story.note(Outcome("dns: a", "server", "passed", 0.1))
    story.note(Outcome("dns: b", "server", "failed", 0.1, said="assert []"))
    assert story.counts == {"passed": 1, "failed": 1}
    assert story.steps["server"].state == "recalled"
    assert [bad.name for bad in story.bad] == ["dns: b"]


def test_a_step_that_only_checks_looked_at_is_checked(story: Story) -> None:
    story.note(Outcome("dns: a", "server", "passed", 0.1))
    story.note(Outcome("bmc: b", "power", "failed", 0.1))
    states = {name: (step.state, step.wrong) for name, step in story.steps.items()}
    assert states["server"] == ("checked", 0)
    assert states["power"] == ("checked", 1)
    assert states["install"] == ("waiting", 0)


def test_closing_line_tells_failed_and_not_reached(story: Story) -> None:
    story.take(event("step-started", step="server"))
    story.take(event("step-done", step="server", seconds=1))
    story.note(
        Outcome("step power", "power", "error", 2, acts=True, said="node4: no answer\n  last seen: nothing")
    )
    for step in ("install", "cluster"):
        story.note(Outcome(f"step {step}", step, "skipped", 0, acts=True, said="not reached: power failed"))
        story.note(Outcome(f"{step}: x", step, "skipped", 0))
    line = story.closing_line()
    assert line.startswith("1 steps proved, 1 failed, 2 not reached · 0 checks passed, 2 skipped · ")


def test_summary_files_name_what_is_wrong(story: Story, tmp_path: Path) -> None:
    story.note(Outcome("mtu: bridge[node1]", "install", "failed", 0.1, said="assert 1500 == 9000 ```"))
    files.write_summary(tmp_path, "run-1", story)
    told = json.loads((tmp_path / "summary.json").read_text())
    assert told["verdict"] == "NOT PROVED"
    assert told["bad"] == [
        {
            "name": "mtu: bridge[node1]",
            "step": "install",
            "result": "failed",
            "said": "assert 1500 == 9000 ```",
        }
    ]
    assert (tmp_path / "summary.md").read_text().count("```") == 2


@pytest.mark.parametrize(("seconds", "text"), [(6.12, "6.1 s"), (72, "1:12"), (3723, "1:02:03")])
def test_durations_for_people(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_the_overview_is_told_to_people_and_programs(story: Story, tmp_path: Path) -> None:
    story.sum_up([event("overview", rows=[["cluster", "old"]]), event("answer", node="node1")])
    story.sum_up([event("overview", rows=[["cluster", "lab, quorate"], ["pool a|b", "size <3>\n*x*"]])])
    files.write_summary(tmp_path, "r", story)
    told = json.loads((tmp_path / "summary.json").read_text())
    assert told["overview"] == {"cluster": "lab, quorate", "pool a|b": "size <3>\n*x*"}
    lines = (tmp_path / "summary.md").read_text().splitlines()
    assert "| cluster | lab, quorate |" in lines
    assert "| pool a\\|b | size \\<3\\> \\*x\\* |" in lines


def test_a_run_without_an_overview_shows_none(story: Story, tmp_path: Path) -> None:
    files.write_summary(tmp_path, "r", story)
    assert "## The cluster" not in (tmp_path / "summary.md").read_text()
