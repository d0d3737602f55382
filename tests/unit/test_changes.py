"""What a run's page and summaries say of changes since the last green run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from provision.baseline import Kept, Reading
from provision.run import STEPS
from reports.changes import MOST, Changes, as_data, as_text, changes
from reports.files import write_summary
from reports.story import Story

BEGAN = 1_795_377_491.0


def kept(machine: str, run: str, facts: dict[str, Any], **unread: str) -> Kept:
    return Kept(Reading(machine, facts, unread), run, BEGAN, "green")


def of(
    machine: str, before: dict[str, Any], now: dict[str, Any], *, made: bool = False, **unread: str
) -> Changes:
    return changes(
        {machine: kept(machine, "run-0", before)}, {machine: kept(machine, "run-1", now, **unread)}, made=made
    )


def test_what_counts_is_by_machine_nodes_first() -> None:
    facts = {name: {"packages": {"jq": name}} for name in ("server", "node10", "node2", "cluster")}
    before = {name: kept(name, "run-0", {"packages": {"jq": "1"}}) for name in facts}
    now = {name: kept(name, "run-1", told) for name, told in facts.items()}
    found = changes(before, now, made=False)
    assert list(found.counting) == ["node2", "node10", "cluster", "server"]
    assert found.count == 4
    assert found.since == ["green run run-0, 22 Nov 2026 19:58 UTC"]


def test_nothing_to_compare_with() -> None:
    assert changes({}, {"node1": kept("node1", "run-1", {})}, made=True).state == "no baseline"
    assert changes({"node1": kept("node1", "run-0", {})}, {}, made=False).state == "not read"


def test_what_an_install_makes_anew_is_no_news_after_one() -> None:
    before, now = ({"keys": {"host": {"ssh-rsa": key}}} for key in ("SHA256:a", "SHA256:b"))
    assert of("node1", before, now, made=True).count == 0
    assert len(of("node1", before, now, made=True).anew) == 1
    assert of("node1", before, now, made=False).count == 1


def test_what_could_not_be_read_is_said() -> None:
    found = changes(
        {name: kept(name, "run-0", {"kernel": {}}) for name in ("node1", "node2")},
        {"node1": kept("node1", "run-1", {}, kernel="no uname")}, made=False,
    )  # fmt: skip
    assert found.unread == ["node1 kernel: no uname", "not read in this run: node2"]
    assert found.machines == ["node1"]


def test_as_text_names_some_and_counts_the_rest() -> None:
    many = {"packages": {f"p{number:02}": "1" for number in range(MOST + 3)}}
    lines = list(as_text(of("node1", {"packages": {}}, many)))
    assert lines[0] == f"Compared with green run run-0, 22 Nov 2026 19:58 UTC: {MOST + 3} changes."
    assert lines[1] == "- node1 packages: p00: absent → 1"
    assert lines[-1] == "- and 3 more"
    assert list(as_text(Changes("no baseline"))) == ["No green run yet to compare with."]
    assert next(as_text(of("node1", many, many))).endswith(": nothing changed.")


def test_the_summaries_have_them(tmp_path: Path) -> None:
    found = of("node1", {"packages": {"jq": "1"}}, {"packages": {"jq": "<b>2</b> | `x`"}})
    write_summary(tmp_path, "run-1", Story("hall-3", STEPS, ["node1"]), found)
    told = json.loads((tmp_path / "summary.json").read_text())["changes"]
    assert told == as_data(found)
    assert told["changed"] == [
        {"machine": "node1", "subject": "packages", "name": "jq", "before": "1", "after": "<b>2</b> | `x`"}
    ]
    text = (tmp_path / "summary.md").read_text()
    assert "## Since the last green run" in text
    assert r"- node1 packages: jq: 1 → \<b\>2\</b\> \| \`x\`" in text
