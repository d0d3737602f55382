"""What a run has come to so far: steps, nodes and outcomes, read from events and test reports."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from provision.journal import Event

State = Literal["waiting", "running", "done", "recalled", "checked", "failed", "not reached"]
Result = Literal["passed", "failed", "error", "skipped"]

NODE_PHASES = (
    "identified", "permitted", "network-boot-set", "reset",
    "dhcp", "boot-script", "answer", "installed", "first-boot", "registered",
    "node-joined",
)  # fmt: skip
"""The kinds of event that move a node on from power-on to membership, in their order."""
PHASED = ("power", "install", "cluster")
"""The steps in which a node goes through these phases."""
RESTS = ("registered", "node-joined")
"""Phases in which a node waits for others: how long is no word about it."""
SLOWER, SLOWER_BY = 2.0, 5.0
"""What takes so many times its usual, and so many seconds more, is said to be slow."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one test ended: a step's own, or a check of one subject; `said` is its failure in a few lines."""

    name: str
    step: str
    result: Result
    seconds: float
    acts: bool = False
    said: str = ""


@dataclass(slots=True)
class StepTold:
    """A step as the report shows it."""

    name: str
    state: State = "waiting"
    began: float = 0.0
    seconds: float = 0.0
    summary: str = ""
    said: str = ""
    checks: Counter[Result] = field(default_factory=Counter)

    @property
    def wrong(self) -> int:
        """How many of its checks did not pass."""
        return self.checks["failed"] + self.checks["error"]


@dataclass(slots=True)
class NodeTold:
    """A node as the report shows it: the phase it is in, since when, and its last word."""

    name: str
    phase: str = ""
    since: float = 0.0
    last: str = ""

    def usual(self, usual: Mapping[str, float]) -> float | None:
        """How many seconds it usually takes from this phase to the next, None where nobody knows."""
        if not self.phase or self.phase in RESTS:
            return None
        return usual.get(NODE_PHASES[NODE_PHASES.index(self.phase) + 1])


class Story:
    """Takes events and outcomes; the terminal and the summary read it."""

    def __init__(self, lab: str, steps: Sequence[str], nodes: Iterable[str]) -> None:
        self.lab = lab
        self.began = time.time()
        self.steps = {name: StepTold(name) for name in steps}
        self.nodes = {name: NodeTold(name) for name in nodes}
        self.outcomes: list[Outcome] = []
        self.overview: list[tuple[str, str]] = []
        self.interrupted = False
        self.waiting = ""
        """Whom the run waits for, before it has begun."""
        self.machines_at_work = 0.0
        self.ssh_connections = 0
        self.usual: Mapping[str, float] = {}
        """Seconds that steps, and reaching each phase, take in this lab's past."""

    def take(self, event: Event) -> None:
        """Learn from an event of the run."""
        self.waiting = event.text if event.kind == "waiting" else ""
        if event.kind == "run-ended":
            self.machines_at_work = float(event.facts.get("machines_at_work", 0))
            self.ssh_connections = int(event.facts.get("ssh_connections", 0))
        elif event.kind.startswith("step-") and event.step in self.steps:
            self._take_step(self.steps[event.step], event)
        elif event.node in self.nodes:
            self._take_word(self.nodes[event.node], event)

    def sum_up(self, events: Iterable[Event]) -> None:
        """Keep the last overview in a run's events: a worker of pytest-xdist may have told it."""
        for event in events:
            if event.kind == "overview":
                self.overview = [(str(name), str(text)) for name, text in event.facts["rows"]]

    def reword(self, reworded: Callable[[str], str]) -> None:
        """Put other words in the place of what tests said."""
        self.outcomes = [replace(outcome, said=reworded(outcome.said)) for outcome in self.outcomes]
        for step in self.steps.values():
            step.said = reworded(step.said)

    def order(self, names: Iterable[str]) -> None:
        """Tell outcomes in this order, however they came in; those of other names before them."""
        places = {name: place for place, name in enumerate(names)}
        self.outcomes.sort(key=lambda outcome: places.get(outcome.name, -1))

    def note(self, outcome: Outcome) -> None:
        """Learn how a test ended."""
        self.outcomes.append(outcome)
        step = self.steps.get(outcome.step)
        if step is None:
            return
        if not outcome.acts:
            step.checks[outcome.result] += 1
            if step.state == "waiting":
                step.state = "checked"
        elif outcome.result == "skipped":
            step.state, step.summary = "not reached", outcome.said
        elif outcome.result != "passed":
            step.state, step.said = "failed", outcome.said
            step.seconds = step.seconds or outcome.seconds
        elif step.state == "waiting":
            step.state, step.summary = "recalled", "stands from an earlier run"

    @property
    def running(self) -> StepTold | None:
        """The step that is acting now."""
        return next((step for step in self.steps.values() if step.state == "running"), None)

    @property
    def counts(self) -> Counter[Result]:
        """Checks by result."""
        return Counter(outcome.result for outcome in self.outcomes if not outcome.acts)

    @property
    def bad(self) -> list[Outcome]:
        """What failed, in order."""
        return [outcome for outcome in self.outcomes if outcome.result in ("failed", "error")]

    @property
    def verdict(self) -> str:
        """What the run has shown."""
        if self.bad or self.interrupted:
            return "NOT PROVED"
        return "PROVED" if self.counts["passed"] else "NOTHING CHECKED"

    @property
    def seconds(self) -> float:
        """How long the run has lasted."""
        return time.time() - self.began

    def closing_line(self) -> str:
        """The run in one line."""
        states = Counter(step.state for step in self.steps.values())
        counts = self.counts
        words = [f"{states[state]} {text}" for state, text in _STATES.items() if states[state]]
        checks = [f"{counts['passed']} checks passed"]
        bad = counts["failed"] + counts["error"]
        checks += [f"{bad} failed"] if bad else []
        checks += [f"{counts['skipped']} skipped"] if counts["skipped"] else []
        parts = [", ".join(words)] if words else []
        return " · ".join([*parts, ", ".join(checks), duration(self.seconds)])

    def _take_step(self, step: StepTold, event: Event) -> None:
        if event.kind == "step-started":
            step.state, step.began = "running", event.time
            for node in self.nodes.values():
                node.last = ""
            return
        step.seconds = float(event.facts.get("seconds", event.time - step.began))
        step.state = "done" if event.kind == "step-done" else "failed"
        if step.state == "done":
            changed, unchanged = event.facts.get("changed", 0), event.facts.get("unchanged", 0)
            step.summary = (
                f"{changed} changed, {unchanged} as they were" if unchanged else f"{changed} changed"
            )

    def _take_word(self, node: NodeTold, event: Event) -> None:
        node.last = event.text
        if event.kind not in NODE_PHASES:
            return
        order = NODE_PHASES.index
        # DHCP comes again when the installer and the installed system ask; that is no step back.
        if event.kind == "permitted" or not node.phase or order(event.kind) > order(node.phase):
            node.phase, node.since = event.kind, event.time


_STATES: dict[State, str] = {
    "done": "steps proved",
    "recalled": "recalled",
    "failed": "failed",
    "not reached": "not reached",
}


def is_slow(seconds: float, usual: float) -> bool:
    """Whether something takes much longer than it usually does."""
    return seconds > max(usual * SLOWER, usual + SLOWER_BY)


def duration(seconds: float) -> str:
    """A duration for people: 6.1 s, 1:12, 1:02:03."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
