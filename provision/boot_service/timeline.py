"""The run as a picture: its steps as bands, its nodes by phases across time; lengths in percent."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sqlalchemy import select

from provision.boot_service.messages import RunState
from provision.boot_service.rack_state import PHASES
from provision.boot_service.said import clock_time, duration
from provision.ledger import Event
from provision.ledger import metadata as ledger_tables

if TYPE_CHECKING:
    from provision.boot_service.store import Store

GROUPS = {
    "permit": "power", "dhcp": "network boot", "boot-script": "network boot", "answer": "installing",
    "installed": "reboot to disk", "first-boot": "first boot", "registered": "ready",
}  # fmt: skip
"""What a node is in from an event of this kind on, in the words of the picture."""
SORTS = tuple(dict.fromkeys(GROUPS.values()))
TICKS = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400, 43200, 86400)
MOST_TICKS = 8
MOST_EVENTS = 20_000


@dataclass(frozen=True, slots=True)
class Span:
    """Something that lasted: a step, or a phase of a node."""

    name: str
    sort: str
    left: float
    width: float
    title: str

    @property
    def labelled(self) -> bool:
        """Whether its name fits into it on a screen of ordinary width."""
        return self.width > 0.85 * len(self.name) + 0.5


@dataclass(frozen=True, slots=True)
class Row:
    """One node's line."""

    name: str
    spans: list[Span] = field(default_factory=list)
    failures: list[tuple[float, str]] = field(default_factory=list)

    @property
    def title(self) -> str:
        """All of it in words."""
        return "\n".join(
            [self.name, *(span.title for span in self.spans), *(text for _, text in self.failures)]
        )


@dataclass(frozen=True, slots=True)
class Picture:
    """The whole picture of one run; `seconds` long."""

    run: str
    began: float
    seconds: float
    ticks: list[tuple[float, str]]
    bands: list[Span]
    rows: list[Row]


@dataclass(frozen=True, slots=True)
class _Scale:
    began: float
    ended: float

    @property
    def seconds(self) -> float:
        return max(self.ended - self.began, 1.0)

    def at(self, moment: float) -> float:
        return round(min(max(100 * (moment - self.began) / self.seconds, 0), 100), 3)

    def span(self, name: str, sort: str, start: float, end: float) -> Span:
        left = self.at(start)
        lasted = duration(max(end - start, 0))
        return Span(name, sort, left, max(round(self.at(end) - left, 3), 0.15),
                    f"{name}: {lasted}, from {clock_time(start)}")  # fmt: skip


def picture(
    run: RunState | None, events: Iterable[Event], nodes: Sequence[str], now: float
) -> Picture | None:
    """The picture of a run from what the harness said of it (if it did) and from its nodes' events.

    None when neither says anything.
    """
    told = sorted(events, key=lambda event: event.time)
    if run is None and not told:
        return None
    began = min([*(event.time for event in told[:1]), *([run.started] if run else [])])
    scale = _Scale(began, _ended(run, told, now))
    of_node: dict[str, list[Event]] = {name: [] for name in nodes}
    for event in told:
        if event.node in of_node:
            of_node[event.node].append(event)
    rows = [_row(scale, name, heard) for name, heard in of_node.items()]
    return Picture(
        run.id if run else str(told[-1].run), began, scale.seconds, _ticks(scale), _bands(scale, run), rows
    )


def run_events(store: Store, run: str) -> list[Event]:
    """The events of a run that the picture is made of."""
    events = ledger_tables.tables["events"]
    query = select(events).where(events.c.run == run, events.c.kind.in_([*GROUPS, "failed"]))
    with store.engine.connect() as connection:
        rows = connection.execute(query.order_by(events.c.seq.desc()).limit(MOST_EVENTS)).mappings()
        return [Event(**row) for row in rows]


def newest_run(store: Store) -> str | None:
    """The run of the newest permit, for a rack that no harness speaks of."""
    events = ledger_tables.tables["events"]
    query = select(events.c.run).where(events.c.kind == "permit", events.c.lab == store.rack.lab)
    with store.engine.connect() as connection:
        found = connection.execute(query.order_by(events.c.seq.desc()).limit(1)).scalar()
    return str(found) if found else None


def _ended(run: RunState | None, told: Sequence[Event], now: float) -> float:
    if run and run.ended is not None:
        return run.ended
    # Without a harness nobody says when it is over: it is when every node that was begun is done.
    unfinished = {event.node for event in told} - {event.node for event in told if event.kind == PHASES[-1]}
    return now if run or unfinished else told[-1].time


def _row(scale: _Scale, name: str, events: Sequence[Event]) -> Row:
    starts: list[tuple[str, float]] = []
    for event in events:
        sort = GROUPS.get(event.kind)
        # A phase that was reached is not left again: DHCP goes on long after the first boot.
        if sort and (not starts or SORTS.index(sort) > SORTS.index(starts[-1][0])):
            starts.append((sort, event.time))
    # After a failure nothing is known to go on.
    last = [
        event.time for event in events if event.kind == "failed" and starts and event.time >= starts[-1][1]
    ]
    ends = [start for _, start in starts[1:]] + [last[0] if last else scale.ended]
    spans = [
        scale.span(sort, sort.replace(" ", "-"), start, end)
        for (sort, start), end in zip(starts, ends, strict=False)
    ]
    failures = [
        (scale.at(event.time), f"failed at {clock_time(event.time)}: {event.text}")
        for event in events
        if event.kind == "failed"
    ]
    return Row(name, spans, failures)


def _bands(scale: _Scale, run: RunState | None) -> list[Span]:
    steps = [step for step in run.steps if step.began is not None] if run else []
    end: Mapping[str, float] = {step.name: step.began + step.seconds for step in steps
                                if step.began is not None and step.seconds is not None}  # fmt: skip
    return [
        scale.span(step.name, step.state, step.began or 0, end.get(step.name, scale.ended)) for step in steps
    ]


def _ticks(scale: _Scale) -> list[tuple[float, str]]:
    apart = next((each for each in TICKS if scale.seconds / each <= MOST_TICKS), TICKS[-1])
    return [
        (round(100 * n * apart / scale.seconds, 3), duration(n * apart, clock=True))
        for n in range(int(scale.seconds / apart) + 1)
    ]
