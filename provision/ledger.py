"""The durable record of a lab: runs, the evidence that steps left, and every event in order."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, fields, replace
from pathlib import Path
from threading import Lock
from typing import Any, ClassVar, TypeVar

from sqlalchemy import (
    JSON,
    Column,
    Connection,
    Float,
    Index,
    Integer,
    MetaData,
    RowMapping,
    String,
    Table,
    Text,
    delete,
    func,
    insert,
    select,
    text,
    update,
)
from sqlalchemy.exc import DatabaseError

from provision.journal import Event, Evidence, RunRecord
from provision.ledger_database import LedgerUnusable, migrate, open_engine, shown

__all__ = ["Event", "Evidence", "Ledger", "LedgerUnusable", "RunRecord"]

T = TypeVar("T")

metadata = MetaData()

# One row: who this ledger is (events carry its uuid as their origin) and the shape of its tables.
_identity = Table("identity", metadata, Column("uuid", String, primary_key=True), Column("schema", Integer))

_runs = Table(
    "runs",
    metadata,
    Column("id", String, primary_key=True),
    Column("lab", String, nullable=False, index=True),
    Column("started", Float, nullable=False),
    Column("acting", JSON, nullable=False),
    Column("facts", JSON, nullable=False),
    Column("ended", Float),
    Column("outcome", String),
)

_events = Table(
    "events",
    metadata,
    Column("seq", Integer, primary_key=True, autoincrement=True),
    Column("time", Float, nullable=False),
    Column("run", String, index=True),
    Column("lab", String, nullable=False),
    Column("step", String),
    Column("node", String),
    Column("kind", String, nullable=False),
    Column("text", Text, nullable=False),
    Column("facts", JSON, nullable=False),
    Column("origin", String, unique=True),
    Index("events_of_node", "lab", "node", "seq"),
    # A number, once given, is never given again: whoever follows resumes by it.
    sqlite_autoincrement=True,
)

_evidence = Table(
    "evidence",
    metadata,
    Column("lab", String, primary_key=True),
    Column("step", String, primary_key=True),
    Column("run", String, nullable=False),
    Column("started", Float, nullable=False),
    Column("seconds", Float, nullable=False),
    Column("changed", JSON, nullable=False),
    Column("unchanged", JSON, nullable=False),
    Column("facts", JSON, nullable=False),
    Column("nodes", JSON, nullable=False),
)

_EVENT_COLUMNS = tuple(each.name for each in fields(Event) if each.name != "seq")


class Ledger:
    """A ledger in an SQLite file, or in a PostgreSQL database named by an SQLAlchemy URL.

    Every method is safe in any thread, several processes may share one ledger, and what a method
    has written is on the disk when it returns. Raises LedgerUnusable when it cannot be opened.
    `turn` is the lock by which writers queue: one of the threads of this process unless another is given.
    """

    tables: ClassVar[tuple[MetaData, ...]] = (metadata,)

    def __init__(self, where: str | Path, *, turn: AbstractContextManager[object] | None = None) -> None:
        self.engine = open_engine(where)
        self._writer = self.engine.execution_options(writes=True)
        # SQLite lets one connection write and has the others poll; those who share this lock queue instead.
        self._turn = turn or Lock()
        try:
            self.uuid = self._prepare()
        except LedgerUnusable:
            self.close()
            raise
        except DatabaseError as error:
            self.close()
            raise LedgerUnusable(
                f"{shown(self.engine)}: cannot serve as the ledger: {str(error.orig).strip()}; "
                "move it away or name another"
            ) from error

    def close(self) -> None:
        """Give back the connections."""
        self.engine.dispose()

    # Events

    def append(self, event: Event) -> Event:
        """Keep an event; it is durable, and has its `seq`, when this returns.

        An event whose `origin` is known already is not kept again: the one kept first is returned.
        """
        return self.append_all([event])[0]

    def append_all(self, events: Iterable[Event]) -> list[Event]:
        """Keep several events, all or none, with one commit."""
        with self.writing() as connection:
            return [self.enter(connection, event) for event in events]

    def enter(self, connection: Connection, event: Event) -> Event:
        """Append an event in a transaction from `writing`, so that it is kept together with other changes.

        It is written, with all others of the transaction, at the transaction's end.
        """
        entries: _Entries = connection.info[_ENTRIES]
        if event.origin is not None:
            entries.write()
            if known := self._by_origin(connection, event.origin):
                return known
        return entries.add(event)

    def events(
        self,
        lab: str | None = None,
        run: str | None = None,
        node: str | None = None,
        after: int = 0,
        limit: int | None = None,
    ) -> list[Event]:
        """Events after number `after`, in the order they were kept; at most `limit` of them."""
        query = select(_events).where(_events.c.seq > after).order_by(_events.c.seq).limit(limit)
        wanted = {_events.c.lab: lab, _events.c.run: run, _events.c.node: node}
        for column, value in wanted.items():
            query = query.where(column == value) if value is not None else query
        with self.engine.connect() as connection:
            return [Event(**row) for row in connection.execute(query).mappings()]

    def last_seq(self) -> int:
        """The number of the newest event, 0 when there is none."""
        with self.engine.connect() as connection:
            return connection.execute(select(func.max(_events.c.seq))).scalar() or 0

    def _by_origin(self, connection: Connection, origin: str) -> Event | None:
        row = connection.execute(select(_events).where(_events.c.origin == origin)).mappings().first()
        return Event(**row) if row else None

    # Evidence

    def remember(self, evidence: Evidence) -> None:
        """Keep a step's evidence in the place of what was kept before."""
        with self.writing() as connection:
            _forget(connection, evidence.lab, [evidence.step])
            connection.execute(insert(_evidence).values(asdict(evidence)))

    def recall(self, lab: str, step: str) -> Evidence | None:
        """The evidence of a step, or None when there is none."""
        query = select(_evidence).where(_evidence.c.lab == lab, _evidence.c.step == step)
        with self.engine.connect() as connection:
            row = connection.execute(query).mappings().first()
        return Evidence(**row) if row else None

    def forget(self, lab: str, steps: Sequence[str]) -> None:
        """Drop the evidence of these steps."""
        with self.writing() as connection:
            _forget(connection, lab, steps)

    # Runs

    def begin_run(self, run: RunRecord) -> None:
        """Record that a run has begun."""
        with self.writing() as connection:
            connection.execute(insert(_runs).values(asdict(run)))

    def end_run(self, run: str, outcome: str, ended: float) -> None:
        """Record how a run ended, and when (seconds since the epoch)."""
        with self.writing() as connection:
            connection.execute(update(_runs).where(_runs.c.id == run).values(outcome=outcome, ended=ended))

    def runs(self, lab: str) -> list[RunRecord]:
        """All runs of a lab, oldest first."""
        query = select(_runs).where(_runs.c.lab == lab).order_by(_runs.c.started, _runs.c.id)
        with self.engine.connect() as connection:
            return [_run(row) for row in connection.execute(query).mappings()]

    def last_run(self, lab: str) -> RunRecord | None:
        """The newest run of a lab, ended or not."""
        query = select(_runs).where(_runs.c.lab == lab).order_by(_runs.c.started.desc(), _runs.c.id.desc())
        with self.engine.connect() as connection:
            row = connection.execute(query.limit(1)).mappings().first()
        return _run(row) if row else None

    # The store below

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction that no other writer overlaps; durable when the block ends without an error."""
        with self._turn, self._writer.begin() as connection, _entering(connection):
            yield connection

    def write_together(self, jobs: Sequence[Callable[[Connection], T]]) -> list[T | Exception]:
        """Do several writers' jobs in one transaction, in their order, with one commit.

        Returns what each job returned, or the error it raised: such a job has changed nothing, and
        takes no other with it. A job may be run twice, so it must do nothing but use its connection.
        Raises what the commit raises: then none of the jobs was done.
        """
        with self.writing() as connection:
            try:
                with _part(connection), _entering(connection):
                    return [job(connection) for job in jobs]
            except Exception:  # one of them: each is tried by itself, to find out which
                return [_alone(connection, job) for job in jobs]

    def _prepare(self) -> str:
        with self.writing() as connection:
            schema = migrate(connection, shown(self.engine))
            for tables in self.tables:
                tables.create_all(connection)
            if connection.execute(select(_identity)).first() is None:
                connection.execute(insert(_identity).values(uuid=str(uuid.uuid4()), schema=schema))
            return str(connection.execute(select(_identity.c.uuid)).scalar_one())


_ENTRIES = "entries"


class _Entries:
    """The events of one transaction: numbered as they come, written together at its end.

    Only one transaction writes at a time, so the numbers after the last one are free for it.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._rows: list[dict[str, Any]] = []
        self._last = 0

    def add(self, event: Event) -> Event:
        """The event with its number."""
        self._last = self._last + 1 if self._rows else self._first()
        self._rows.append({"seq": self._last} | {name: getattr(event, name) for name in _EVENT_COLUMNS})
        return replace(event, seq=self._last)

    def write(self) -> None:
        """Write what was added since the last time."""
        if not self._rows:
            return
        rows, self._rows = self._rows, []
        self._connection.execute(insert(_events), rows)
        if len(rows) > 1 and self._connection.dialect.name == "postgresql":
            self._connection.execute(_PG_LAST, {"last": self._last})

    def _first(self) -> int:
        if self._connection.dialect.name == "postgresql":
            return int(self._connection.exec_driver_sql(_PG_NEXT).scalar_one())
        return int(self._connection.exec_driver_sql(_SQLITE_LAST).scalar() or 0) + 1


# SQLite moves its own counter when a row has a higher number. The sequence of PostgreSQL is told.
_SQLITE_LAST = "SELECT seq FROM sqlite_sequence WHERE name = 'events'"
_PG_NEXT = "SELECT nextval('events_seq_seq')"
_PG_LAST = text("SELECT setval('events_seq_seq', :last)")


@contextmanager
def _entering(connection: Connection) -> Iterator[None]:
    entries = connection.info[_ENTRIES] = _Entries(connection)
    yield
    entries.write()


@contextmanager
def _part(connection: Connection) -> Iterator[None]:
    """A part of a transaction, undone by an error in it. As `begin_nested`, at half the time."""
    connection.exec_driver_sql("SAVEPOINT part")
    try:
        yield
    except BaseException:
        connection.exec_driver_sql("ROLLBACK TO SAVEPOINT part")
        raise
    finally:
        connection.exec_driver_sql("RELEASE SAVEPOINT part")


def _alone(connection: Connection, job: Callable[[Connection], T]) -> T | Exception:
    try:
        with _part(connection), _entering(connection):
            return job(connection)
    except Exception as error:  # whatever it is, it is for the one whose job it was
        return error


def _run(row: RowMapping) -> RunRecord:
    return RunRecord(**row)


def _forget(connection: Connection, lab: str, steps: Sequence[str]) -> None:
    connection.execute(delete(_evidence).where(_evidence.c.lab == lab, _evidence.c.step.in_(steps)))
