"""Runs as the history takes them: the run that ends now, the folder of an earlier one, a JUnit file."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from provision.errors import RackproofError
from provision.journal import Event
from reports.history import About, History, HistoryUnusable, PhaseRow, Record, RunRow, StepRow
from reports.story import NODE_PHASES, Outcome, Result, Story

LONGEST = 86400.0
"""Seconds that no step, phase or run lasts: more, or less than none, is a clock that was set meanwhile."""


class NotARun(RackproofError):
    """What was to be imported tells of no run."""


def remember(path: Path, record: Record, story: Story) -> tuple[About, list[str]]:
    """Keep the run that ends now, and say what the past says about it; whatever is wrong is only said."""
    try:
        with History(path) as history:
            if record.outcomes:
                history.add(record)
            return history.about(record.run.lab, story), []
    except HistoryUnusable as error:
        return About(), [f"{error}; this run is not in it"]


def usual(path: Path, lab: str) -> Mapping[str, float]:
    """Seconds of each step and phase in a lab's past; none where there is no history, or none to read."""
    if not path.exists():
        return {}
    try:
        with History(path) as history:
            return history.usual(lab)
    except HistoryUnusable:  # Said at the end, when this run cannot be kept either.
        return {}


def of_story(run: RunRow, story: Story, events: Iterable[Event]) -> Record:
    """The run that this story tells."""
    steps = [_step(step.name, step.state, step.seconds) for step in story.steps.values()]
    return Record(run, steps, list(phases(events)), list(story.outcomes), list(story.nodes))


def digest(path: Path) -> str:
    """A few characters that stand for what a file holds, "" when it cannot be read."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    except OSError:
        return ""


def phases(events: Iterable[Event]) -> Iterator[PhaseRow]:
    """How long each node took to reach each phase, from its leave to install on."""
    reached: dict[str, tuple[int, float]] = {}
    for event in events:
        if not event.node or event.kind not in NODE_PHASES:
            continue
        place = NODE_PHASES.index(event.kind)
        before = reached.get(event.node)
        # DHCP comes again when the installer and the installed system ask; that is no step back.
        if before and place <= before[0]:
            continue
        reached[event.node] = place, event.time
        if before and (seconds := lasted(event.time - before[1])) is not None:
            yield PhaseRow(event.node, event.kind, seconds)


def read(path: Path, lab: str | None = None) -> Record:
    """The run in a report folder or in a JUnit file; `lab` for a JUnit file that does not name it.

    Raises NotARun when there is none.
    """
    try:
        return of_folder(path) if path.is_dir() else of_junit(path, lab)
    except (OSError, ElementTree.ParseError, KeyError, TypeError, ValueError) as error:
        raise NotARun(f"{path}: tells of no run: {type(error).__name__}: {error}") from error


def of_folder(folder: Path) -> Record:
    """The run whose report is in this folder: its summary, its events, and its JUnit file for the cases."""
    told = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    told_events = folder / "events.jsonl"
    # Checks that reach no machine begin no run.
    lines = told_events.read_text(encoding="utf-8").splitlines() if told_events.exists() else []
    events = [Event(**json.loads(line)) for line in lines]
    junit = of_junit(folder / "junit.xml", told["lab"])
    began = next((event.time for event in events), junit.run.began)
    run = RunRow(
        told["run"], told["lab"], junit.run.mode, began, lasted(told["seconds"]), told["verdict"],
        junit.run.version, junit.run.lab_file,
    )  # fmt: skip
    steps = [_step(step["name"], step["state"], step["seconds"]) for step in told["steps"]]
    said = {bad["name"]: bad["said"] for bad in told["bad"]}
    outcomes = [_resaid(outcome, said) for outcome in junit.outcomes]
    nodes = sorted({event.node for event in events if event.node} | set(junit.nodes))
    return Record(run, steps, list(phases(events)), outcomes, nodes)


def of_junit(path: Path, lab: str | None = None) -> Record:
    """The run that a JUnit file tells of: its cases, and the properties of its suite."""
    (suite, *_) = ElementTree.parse(path).getroot().iter("testsuite")  # noqa: S314 (expat bounds entities)
    facts = {each.get("name", ""): each.get("value", "") for each in suite.iter("property")}
    lab = facts.get("lab") or lab
    if lab is None:
        raise NotARun(f"{path}: names no lab; say which with --lab")
    outcomes = [_outcome(case) for case in suite.iter("testcase")]
    began = datetime.fromisoformat(suite.attrib["timestamp"]).timestamp()
    run = RunRow(
        facts.get("run") or f"junit-{digest(path)}", lab, facts.get("mode", "provision"), began,
        lasted(float(suite.get("time", "0"))), _verdict(outcomes), facts.get("rackproof", ""),
        facts.get("lab_file", ""),
    )  # fmt: skip
    return Record(run, list(_steps(facts, run.id, outcomes)), (), outcomes, _nodes(facts))


def _resaid(outcome: Outcome, said: dict[str, str]) -> Outcome:
    """An outcome of JUnit in the words of the summary, as the run that ends now has them."""
    words = said.get(outcome.name, outcome.said)
    return Outcome(outcome.name, outcome.step, outcome.result, outcome.seconds, outcome.acts, words)


def _outcome(case: ElementTree.Element) -> Outcome:
    subject = case.get("classname", "").rpartition(".")[2].removeprefix("check_")
    check = case.get("name", "").removeprefix("test_")
    acts = subject == "steps"
    name = f"step {check}" if acts else f"{subject}: {check}"
    tags: dict[str, Result] = {"error": "error", "failure": "failed", "skipped": "skipped"}
    found = next((child for child in case if child.tag in tags), None)
    result = tags[found.tag] if found is not None else "passed"
    said = _said(found) if found is not None and result != "skipped" else ""
    return Outcome(name, check if acts else "", result, float(case.get("time", "0")), acts, said)


def _said(found: ElementTree.Element) -> str:
    lines = (found.text or found.get("message") or "").splitlines()
    told = [line[1:].strip() for line in lines if line.startswith("E ")]
    return "\n".join(told or lines)


def _verdict(outcomes: Sequence[Outcome]) -> str:
    results = {outcome.result for outcome in outcomes}
    if results & {"failed", "error"}:
        return "NOT PROVED"
    return "PROVED" if "passed" in results else "NOTHING CHECKED"


def _steps(facts: dict[str, str], run: str, outcomes: Iterable[Outcome]) -> Iterator[StepRow]:
    """The steps of a run: their evidence is a property, which names the run that it is from."""
    for outcome in outcomes:
        if not outcome.acts:
            continue
        evidence = re.fullmatch(r"run (\S+), ([\d.]+) s", facts.get(f"step.{outcome.step}", ""))
        if outcome.result != "passed":
            yield StepRow(outcome.step, "not reached" if outcome.result == "skipped" else "failed", None)
        elif evidence and evidence[1] == run:
            yield StepRow(outcome.step, "done", lasted(evidence[2]))
        else:
            yield StepRow(outcome.step, "recalled", None)


def _nodes(facts: dict[str, str]) -> list[str]:
    ends = (".power", ".install", ".cluster", ".ceph", ".templates")
    return sorted({name.rpartition(".")[0] for name in facts if name.endswith(ends)} - {"step"})


def _step(name: str, state: str, seconds: float) -> StepRow:
    return StepRow(name, state, lasted(seconds) if state in ("done", "failed") else None)


def lasted(seconds: Any) -> float | None:
    """A duration, or None for one that nothing has: the clock was set meanwhile."""
    return float(seconds) if 0 <= float(seconds) < LONGEST else None
