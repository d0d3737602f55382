"""What is wrong with a run, by culprit: which node, in which step, what, and what it is likely to be."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from reports.advice import advise
from reports.story import Outcome, Story

SERVER = "server"
"""What the provisioning server is called in errors, beside the nodes."""


@dataclass(slots=True)
class Culprit:
    """One thing that is wrong; `where` names the machines, `outcomes` the tests that said it."""

    step: str
    where: list[str]
    what: str
    trouble: bool
    seen: str = ""
    likely: str = ""
    outcomes: list[Outcome] = field(default_factory=list)

    @property
    def sort(self) -> str:
        """Whose fault it is taken for: a step or check that could not do its work blames the lab."""
        return "lab trouble" if self.trouble else "came up wrong"


def culprits(story: Story) -> list[Culprit]:
    """What is wrong, steps before checks: a failed step is why the checks after it have nothing to check."""
    bad = sorted(story.bad, key=lambda outcome: not outcome.acts)
    machines = [*story.nodes, SERVER]
    found = [each for outcome in bad if outcome.acts for each in _of_step(outcome, machines)]
    checks = [outcome for outcome in bad if not outcome.acts]
    blaming = [outcome for outcome in checks if _blames(outcome.said, machines)]
    every = (
        found
        + _of_machines(blaming, machines)
        + _of_checks((outcome for outcome in checks if outcome not in blaming), story.nodes)
    )
    for culprit in every:
        culprit.likely = culprit.likely or advise(outcome.said for outcome in culprit.outcomes)
    return every


def nodes_in(name: str, nodes: Iterable[str]) -> list[str]:
    """The nodes that a test's case is about, in its order: mtu: passes[node4-node3-storage] is of two."""
    longest = sorted(nodes, key=len, reverse=True)
    _, _, case = name.partition("[")
    if not case or not longest:
        return []
    known = "|".join(map(re.escape, longest))
    return list(dict.fromkeys(re.findall(rf"(?:^|(?<=-))(?:{known})(?=[-.\]])", case)))


def subject_of(name: str) -> str:
    """A test's name without its case, in words."""
    return name.partition("[")[0].replace("_", " ")


def _of_step(outcome: Outcome, machines: Sequence[str]) -> list[Culprit]:
    found: dict[tuple[str, str], Culprit] = {}
    for where, lines in _entries(outcome.said, machines):
        one = _entry(outcome, where, lines)
        same = found.setdefault((one.what, one.likely), one)
        if same is not one:
            same.where += one.where
    return list(found.values())


def _blames(said: str, machines: Iterable[str]) -> bool:
    """Whether a check says that it could not look: trouble of the lab begins with the machine's name."""
    return any(said.startswith(f"{name}: ") for name in machines)


def _of_machines(blaming: Iterable[Outcome], machines: Sequence[str]) -> list[Culprit]:
    """One culprit for each machine and its trouble, however many checks met it."""
    found: dict[tuple[str, str], Culprit] = {}
    for outcome in blaming:
        where, lines = next(_entries(outcome.said, machines))
        new = _entry(outcome, where, lines)
        # A dead BMC says of every question that it got no answer: what is likely is the same.
        one = found.setdefault((where, new.likely or new.what), new)
        one.trouble = True
        if one is not new:
            one.outcomes.append(outcome)
    return list(found.values())


def _entries(said: str, machines: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """What a step's error says, machine by machine; a line without a machine belongs to the one before."""
    names = "|".join(map(re.escape, machines))
    start = re.compile(rf"({names}): (.*)")
    where, lines = "", list[str]()
    for line in said.splitlines() or ["no reason was given"]:
        if begun := start.fullmatch(line):
            if lines:
                yield where, lines
            where, lines = begun[1], [begun[2]]
        else:
            lines.append(line)
    yield where, lines


def _entry(outcome: Outcome, where: str, lines: Sequence[str]) -> Culprit:
    told = {"last seen": "", "likely": ""}
    for line in lines[1:]:
        word, _, text = line.strip().partition(": ")
        if word in told:
            told[word] = text
    # What was last seen differs from node to node, though all of them may have failed alike.
    seen = f"{where}: {told['last seen']}" if where and told["last seen"] else told["last seen"]
    return Culprit(
        outcome.step, [where] if where else [], lines[0], outcome.result == "error",
        seen, told["likely"], [outcome],
    )  # fmt: skip


def _of_checks(bad: Iterable[Outcome], nodes: Iterable[str]) -> list[Culprit]:
    groups: dict[tuple[str, str, str], list[Outcome]] = {}
    for outcome in bad:
        groups.setdefault((outcome.step, subject_of(outcome.name), outcome.result), []).append(outcome)
    steps = list(dict.fromkeys(step for step, _, _ in groups))
    found = [_of_check(subject, group, list(nodes)) for (_, subject, _), group in groups.items()]
    # What one case alone says is nearer to the cause than what every path to a machine says.
    return sorted(found, key=lambda each: (steps.index(each.step), len(each.outcomes) > 1))


def _of_check(subject: str, group: list[Outcome], nodes: Sequence[str]) -> Culprit:
    cases = [nodes_in(outcome.name, nodes) for outcome in group]
    more = f" ({len(group)} cases)" if len(group) > 1 else ""
    said = next((line.strip() for line in group[0].said.splitlines() if line.strip()), "")
    return Culprit(group[0].step, _common(cases, nodes), f"{subject}{more}", group[0].result == "error", said,
                   outcomes=group)  # fmt: skip


def _common(cases: Sequence[Sequence[str]], nodes: Iterable[str]) -> list[str]:
    """The nodes in every failed case, when there are any: every path that fails may end at the same node."""
    every = [name for name in nodes if all(name in case for case in cases)]
    return every or [name for name in nodes if any(name in case for case in cases)]
