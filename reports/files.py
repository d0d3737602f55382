"""What a run leaves in its folder beside JUnit: events, summaries, and the facts of each node."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from provision.journal import Event, Evidence
from reports.changes import Changes, as_data, as_text
from reports.story import Story, duration


def write_event(folder: Path, event: Event) -> None:
    """Add an event to events.jsonl, at once: it is there even if the run is killed."""
    with (folder / "events.jsonl").open("a", encoding="utf-8") as file:
        file.write(_line(event))


def write_events(folder: Path, events: Iterable[Event]) -> None:
    """All events of a run, in the place of what events.jsonl has of them."""
    (folder / "events.jsonl").write_text("".join(map(_line, events)), encoding="utf-8")


def write_summary(folder: Path, run: str, story: Story, changes: Changes | None = None) -> None:
    """summary.json for programs and summary.md for people."""
    told = {
        "run": run,
        "lab": story.lab,
        "verdict": story.verdict,
        "seconds": round(story.seconds, 2),
        "machines_at_work": round(story.machines_at_work, 2),
        "ssh_connections": story.ssh_connections,
        "steps": [_step(story, name) for name in story.steps],
        "checks": dict(story.counts),
        "overview": dict(story.overview),
        "changes": as_data(changes or Changes()),
        "bad": [
            {"name": bad.name, "step": bad.step, "result": bad.result, "said": bad.said} for bad in story.bad
        ],
    }
    (folder / "summary.json").write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    (folder / "summary.md").write_text(_markdown(run, story, changes or Changes()), encoding="utf-8")


def write_nodes(folder: Path, nodes: Iterable[str], evidence: Iterable[Evidence]) -> None:
    """facts.json of every node: what each step read back from it."""
    known = list(evidence)
    for name in nodes:
        facts: Mapping[str, Any] = {step.step: step.nodes[name] for step in known if name in step.nodes}
        if facts:
            (folder / name).mkdir(exist_ok=True)
            (folder / name / "facts.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


def _line(event: Event) -> str:
    return json.dumps(asdict(event), sort_keys=True) + "\n"


def _step(story: Story, name: str) -> dict[str, Any]:
    step = story.steps[name]
    return {
        "name": name,
        "state": step.state,
        "seconds": round(step.seconds, 2),
        "summary": step.said or step.summary,
        "checks": dict(step.checks),
    }


def _markdown(run: str, story: Story, changes: Changes) -> str:
    lines = [f"# {story.verdict}: lab {story.lab}", "", f"Run {run}, {duration(story.seconds)}.", ""]
    lines += ["| step | state | time | checks passed | failed |", "|---|---|---|---|---|"]
    for step in story.steps.values():
        took = duration(step.seconds) if step.seconds else ""
        lines.append(f"| {step.name} | {step.state} | {took} | {step.checks['passed']} | {step.wrong} |")
    if story.overview:
        lines += ["", "## The cluster", "", "| | |", "|---|---|"]
        lines += [f"| {_cell(name)} | {_cell(text)} |" for name, text in story.overview]
    lines += ["", "## Since the last green run", "", *map(_plain, as_text(changes))]
    for outcome in story.bad:
        lines += ["", f"## {outcome.name}", "", "```", outcome.said.replace("```", "'''"), "```"]
    return "\n".join([*lines, ""])


def _plain(line: str) -> str:
    """A line of a list or a paragraph, nothing of what it says being markup."""
    return f"- {_cell(line[2:])}" if line.startswith("- ") else _cell(line)


def _cell(text: str) -> str:
    """A text for a cell of a Markdown table: one line, and nothing in it that ends the cell or is markup."""
    return re.sub(r"([\\|<>`*_\[\]])", r"\\\1", " ".join(text.split()))
