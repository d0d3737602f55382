"""The facts that a lab's machines are compared with: those of the last green run, or what was accepted since.

They are kept in the lab's ledger, machine by machine, since a run may have rebuilt only some of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from sqlalchemy import (
    JSON,
    Column,
    Connection,
    Float,
    Integer,
    MetaData,
    RowMapping,
    String,
    Table,
    Text,
    delete,
    insert,
    select,
)

from provision.drift import Difference, Facts, compared
from provision.ledger import Ledger

CLUSTER = "cluster"
"""What nodes share is kept under this name, as if it were a machine."""
KEPT = 10
"""Baselines that are kept of each machine."""

How = Literal["green", "accepted", "seen"]

metadata = MetaData()
_facts = Table(
    "rack_facts",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("lab", String, nullable=False, index=True),
    Column("machine", String, nullable=False),
    Column("run", String, nullable=False),
    Column("time", Float, nullable=False),
    Column("how", String, nullable=False),
    Column("reason", Text, nullable=False),
    Column("facts", JSON, nullable=False),
    Column("unread", JSON, nullable=False),
)


@dataclass(frozen=True, slots=True)
class Reading:
    """The facts of one machine by subject; `unread` says why a subject could not be read."""

    machine: str
    facts: Mapping[str, Facts] = field(default_factory=dict)
    unread: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Kept:
    """A reading as it is kept: `time` in seconds since the epoch, `how` it came to be, the reason given."""

    reading: Reading
    run: str
    time: float
    how: How
    reason: str = ""


class Baseline:
    """The baselines of a lab's machines in its ledger, and what a run saw of them."""

    def __init__(self, ledger: Ledger, lab: str) -> None:
        self._ledger, self._lab = ledger, lab
        with ledger.writing() as connection:
            metadata.create_all(connection)

    def of(self, machine: str) -> Kept | None:
        """What a machine is compared with, None while nothing is kept of it."""
        return self.before(None).get(machine)

    def before(self, run: str | None) -> dict[str, Kept]:
        """The baseline of every machine as it was before a run moved it; None for as it is."""
        rows = (kept for kept in self._rows() if kept.how != "seen" and kept.run != run)
        return {kept.reading.machine: kept for kept in rows}

    def seen(self, run: str) -> dict[str, Kept]:
        """What a run read, by machine."""
        return {kept.reading.machine: kept for kept in self._rows() if kept.run == run}

    def move(self, readings: Sequence[Reading], run: str, time: float) -> None:
        """A green run's facts are the baseline; a subject that it could not read stays as it was."""
        with self._ledger.writing() as connection:
            for reading in readings:
                before = _last(connection, self._lab, reading.machine)
                facts = {name: before[name] for name in reading.unread if name in before} | dict(
                    reading.facts
                )
                self._add(connection, Kept(Reading(reading.machine, facts), run, time, "green"))

    def accept(
        self, machine: str, subjects: Mapping[str, Facts], run: str, time: float, reason: str = ""
    ) -> None:
        """Make these facts of a machine its baseline; those of other subjects stay as they were."""
        with self._ledger.writing() as connection:
            facts = _last(connection, self._lab, machine) | dict(subjects)
            self._add(connection, Kept(Reading(machine, facts), run, time, "accepted", reason))

    def see(self, readings: Sequence[Reading], run: str, time: float) -> None:
        """Keep what a run read, in the place of what an earlier one did."""
        with self._ledger.writing() as connection:
            for reading in readings:
                connection.execute(
                    delete(_facts).where(*_of(self._lab, reading.machine), _facts.c.how == "seen")
                )
                self._add(connection, Kept(reading, run, time, "seen"))

    def _add(self, connection: Connection, kept: Kept) -> None:
        connection.execute(insert(_facts).values(
            lab=self._lab, machine=kept.reading.machine, run=kept.run, time=kept.time, how=kept.how,
            reason=kept.reason, facts=kept.reading.facts, unread=kept.reading.unread,
        ))  # fmt: skip
        _drop_old(connection, self._lab, kept.reading.machine)

    def _rows(self) -> Iterator[Kept]:
        """Oldest first."""
        query = select(_facts).where(_facts.c.lab == self._lab).order_by(_facts.c.id)
        with self._ledger.engine.connect() as connection:
            yield from map(_kept, connection.execute(query).mappings())


def differences(before: Kept, now: Reading) -> list[Difference]:
    """What is another in the subjects that both sides have."""
    return [
        difference
        for subject, facts in now.facts.items()
        if subject in before.reading.facts
        for difference in compared(now.machine, subject, before.reading.facts[subject], facts)
    ]


def _kept(row: RowMapping) -> Kept:
    reading = Reading(row["machine"], row["facts"], row["unread"])
    return Kept(reading, row["run"], row["time"], row["how"], row["reason"])


def _of(lab: str, machine: str) -> tuple[Any, ...]:
    return _facts.c.lab == lab, _facts.c.machine == machine


def _last(connection: Connection, lab: str, machine: str) -> dict[str, Facts]:
    """The facts of a machine's baseline, none when nothing is kept of it."""
    query = select(_facts.c.facts).where(*_of(lab, machine), _facts.c.how != "seen")
    return dict(connection.execute(query.order_by(_facts.c.id.desc()).limit(1)).scalar() or {})


def _drop_old(connection: Connection, lab: str, machine: str) -> None:
    """Leave the newest baselines."""
    wanted = *_of(lab, machine), _facts.c.how != "seen"
    newest = select(_facts.c.id).where(*wanted).order_by(_facts.c.id.desc()).offset(KEPT - 1).limit(1)
    oldest = connection.execute(newest).scalar()
    if oldest is not None:
        connection.execute(delete(_facts).where(*wanted, _facts.c.id < oldest))
