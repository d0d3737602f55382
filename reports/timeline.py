"""The run as a picture: steps as bands, nodes by phases across time, events as marks; lengths in percent."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from provision.journal import Event
from reports.culprits import Culprit
from reports.story import Story, duration

GROUPS = {
    "identified": "power", "permitted": "power", "network-boot-set": "power", "reset": "power",
    "dhcp": "network boot", "boot-script": "network boot",
    "answer": "installing", "installed": "reboot to disk", "first-boot": "first boot",
    "registered": "ready", "cluster-created": "member", "node-joined": "member",
}  # fmt: skip
"""What a node is in from an event on, in the words of the picture; in the order in which they come."""
ORDER = tuple(GROUPS)
JOINS = ("cluster-created", "node-joined")
PHASE_NAMES = tuple(dict.fromkeys(GROUPS.values()))
MARKS = {"cluster": "◆", "ceph": "●", "templates": "▲", "trouble": "✗", "other": "·"}
MINOR = frozenset({
    "run-started", "run-ended", "step-started", "step-done", "step-failed", "overview",
    "boot-file", "first-boot-script", "permit", "permit-revoked", "undone",
})  # fmt: skip
"""Kinds of event that are shown otherwise, or tell nothing at this distance."""
TICKS = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400, 43200, 86400)
MOST_TICKS = 8
MERGED = 1.2
"""Marks nearer to one another than this many percent are drawn as one."""


@dataclass(slots=True)
class Span:
    """Something that lasted: a step, a phase of a node, or the checks after a step."""

    name: str
    sort: str
    left: float
    width: float
    told: list[str]
    usual: float = 0.0

    @property
    def labelled(self) -> bool:
        """Whether its name fits into it on a screen of ordinary width."""
        return self.width > 0.85 * len(self.name) + 0.5

    @property
    def title(self) -> str:
        """All of it in words."""
        return "\n".join(self.told)


@dataclass(slots=True)
class Mark:
    """Something that happened at once, or several such within a hair's breadth."""

    sort: str
    left: float
    told: list[str]

    @property
    def sign(self) -> str:
        """Its shape."""
        return MARKS[self.sort]

    @property
    def title(self) -> str:
        """All of it in words."""
        return "\n".join(self.told)


@dataclass(slots=True)
class Row:
    """One line of the picture: a node, or the lab as a whole."""

    name: str
    phases: list[Span] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)
    failed: bool = False

    @property
    def title(self) -> str:
        """All of it in words."""
        parts: list[Span | Mark] = [*self.phases, *self.marks]
        return "\n".join([self.name, *(part.title for part in parts)])


@dataclass(frozen=True, slots=True)
class Timeline:
    """The whole picture."""

    seconds: float
    ticks: list[tuple[float, str]]
    bands: list[Span]
    rows: list[Row]


class Scale:
    """Turns times into percent of the run."""

    def __init__(self, events: Sequence[Event]) -> None:
        times = [event.time for event in events if event.run]
        self.began, self.ended = min(times), max(times)
        self.seconds = max(self.ended - self.began, 0.001)

    def at(self, moment: float) -> float:
        """Where a moment is; another machine's clock may lie outside of the run."""
        return round(min(max(100 * (moment - self.began) / self.seconds, 0), 100), 3)

    def since(self, moment: float) -> str:
        """A moment in words, from the run's begin."""
        return f"+{duration(max(moment - self.began, 0))}"


def draw(
    story: Story, events: Iterable[Event], culprits: Sequence[Culprit], usual: Mapping[str, float]
) -> Timeline | None:
    """The picture of a run; None when no step acted in it."""
    known = sorted(events, key=lambda event: event.time)
    if not any(event.kind == "step-started" for event in known):
        return None
    scale = Scale(known)
    rows = [_row(scale, name, [event for event in known if event.node == name]) for name in story.nodes]
    _blame(scale, story, rows, culprits)
    lab = Row("lab", marks=_marks(scale, [event for event in known if event.node not in story.nodes]))
    return Timeline(scale.seconds, _ticks(scale), _bands(scale, story, usual), [lab, *rows])


def _ticks(scale: Scale) -> list[tuple[float, str]]:
    apart = next((each for each in TICKS if scale.seconds / each <= MOST_TICKS), TICKS[-1])
    count = int(scale.seconds / apart)
    return [(round(100 * n * apart / scale.seconds, 3), _clock(n * apart)) for n in range(count + 1)]


def _clock(seconds: int) -> str:
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _bands(scale: Scale, story: Story, usual: Mapping[str, float]) -> list[Span]:
    acted = sorted((step for step in story.steps.values() if step.began), key=lambda step: step.began)
    bands: list[Span] = []
    for place, step in enumerate(acted):
        end = step.began + step.seconds if step.state != "running" else scale.ended
        after = acted[place + 1].began if place + 1 < len(acted) else scale.ended
        norm = usual.get(step.name, 0.0)
        told = [f"step {step.name}: {step.state}, {duration(end - step.began)}"]
        told += [f"usually {duration(norm)}"] if norm else []
        bands.append(_span(scale, step.name, step.state, (step.began, end), told))
        bands[-1].usual = min(100 * norm / scale.seconds, 100 - bands[-1].left)
        if (count := sum(step.checks.values()) - step.checks["skipped"]) and after > end:
            told = [f"checks of {step.name}: {count}, within {duration(after - end)}"]
            bad = step.checks["failed"] + step.checks["error"]
            bands.append(
                _span(scale, "✗" if bad else "", "bad-checks" if bad else "checks", (end, after), told)
            )
    return bands


def _span(scale: Scale, name: str, sort: str, lasted: tuple[float, float], told: list[str]) -> Span:
    begin, end = lasted
    left = scale.at(begin)
    return Span(name, sort, left, round(max(scale.at(end) - left, 0.15), 3), told)


def _row(scale: Scale, name: str, events: Sequence[Event]) -> Row:
    phases: list[Span] = []
    moved = reached(events)
    for place, event in enumerate(moved):
        end = moved[place + 1].time if place + 1 < len(moved) else scale.ended
        group, told = GROUPS[event.kind], f"{scale.since(event.time)} {event.kind}: {event.text}"
        if phases and phases[-1].name == group:
            phases[-1].width = round(scale.at(end) - phases[-1].left, 3)
            phases[-1].told.append(told)
        else:
            phases.append(_span(scale, group, group.replace(" ", "-"), (event.time, end), [told]))
    return Row(name, phases, _marks(scale, events))


def reached(events: Iterable[Event]) -> list[Event]:
    """The events that moved a node on: DHCP comes again from the installed system, and logs are read late."""
    moved: list[Event] = []
    for event in sorted(events, key=lambda event: event.time):
        if event.kind == "permitted" or (event.kind in GROUPS and _is_later(event, moved)):
            moved.append(event)
    return moved


def _is_later(event: Event, moved: Sequence[Event]) -> bool:
    return not moved or ORDER.index(event.kind) > ORDER.index(moved[-1].kind)


def _marks(scale: Scale, events: Iterable[Event]) -> list[Mark]:
    marks: list[Mark] = []
    for event in events:
        if event.kind in MINOR or (event.kind in GROUPS and event.kind not in JOINS):
            continue
        sort, told = _sort(event), f"{scale.since(event.time)} {event.kind}: {event.text}"
        last = next((mark for mark in reversed(marks) if mark.sort == sort), None)
        if last and scale.at(event.time) - last.left < MERGED:
            last.told.append(told)
        else:
            marks.append(Mark(sort, scale.at(event.time), [told]))
    return marks


def _sort(event: Event) -> str:
    if "failed" in event.kind:
        return "trouble"
    step = event.step or ""
    return step if step in MARKS else "other"


def _blame(scale: Scale, story: Story, rows: Iterable[Row], culprits: Iterable[Culprit]) -> None:
    """Cut the rows of the nodes at fault where their step gave up, and mark them there."""
    by_name = {row.name: row for row in rows}
    for culprit in culprits:
        step = story.steps.get(culprit.step)
        if step is None or not step.began or not any(outcome.acts for outcome in culprit.outcomes):
            continue
        end = scale.at(step.began + step.seconds)
        for row in (by_name[name] for name in culprit.where if name in by_name):
            row.failed = True
            row.marks = [mark for mark in row.marks if mark.sort != "trouble" or end - mark.left > MERGED]
            row.marks.append(Mark("trouble", end, [f"{culprit.step}: {culprit.what}"]))
            for phase in row.phases[-1:]:
                phase.width = round(max(end - phase.left, 0.15), 3)
