"""The durable record of a lab: runs, the evidence that steps left, and every event in order."""

from __future__ import annotations

import os
import sqlite3
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from threading import Lock
from typing import ClassVar

from sqlalchemy import (
    JSON,
    Column,
    Connection,
    Engine,
    Float,
    Index,
    Integer,
    MetaData,
    RowMapping,
    String,
    Table,
    Text,
    create_engine,
    delete,
    event,
    func,
    insert,
    make_url,
    select,
    update,
)
from sqlalchemy.exc import DatabaseError
from sqlalchemy.pool import ConnectionPoolEntry

from provision.errors import RackproofError
from provision.journal import Event, Evidence, RunRecord

__all__ = ["Event", "Evidence", "Ledger", "LedgerUnusable", "RunRecord"]

SCHEMA = 1
BUSY_SECONDS = 30

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


class LedgerUnusable(RackproofError):
    """The file or database named as the ledger cannot serve as one."""


class Ledger:
    """A ledger in an SQLite file, or in a database named by an SQLAlchemy URL.

    Every method is safe in any thread, several processes may share one ledger, and what a method
    has written is on the disk when it returns. Raises LedgerUnusable when it cannot be opened.
    """

    tables: ClassVar[tuple[MetaData, ...]] = (metadata,)

    def __init__(self, where: str | Path) -> None:
        self.engine = _engine(where)
        self._writer = self.engine.execution_options(writes=True)
        # SQLite lets one connection write and has the others poll; threads of one process queue here instead.
        self._turn = Lock()
        try:
            self.uuid = self._prepare()
        except LedgerUnusable:
            self.close()
            raise
        except DatabaseError as error:
            self.close()
            raise LedgerUnusable(
                f"{where}: cannot serve as the ledger: {error.orig}; move it away or name another"
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
        """Append an event in a transaction from `writing`, so that it is kept together with other changes."""
        if event.origin is not None and (known := self._by_origin(connection, event.origin)):
            return known
        values = {name: value for name, value in asdict(event).items() if name != "seq"}
        seq = connection.execute(insert(_events).values(values).returning(_events.c.seq)).scalar_one()
        return replace(event, seq=seq)

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
        with self._turn, self._writer.begin() as connection:
            yield connection

    def _prepare(self) -> str:
        with self.writing() as connection:
            for tables in self.tables:
                tables.create_all(connection)
            if connection.execute(select(_identity)).first() is None:
                connection.execute(insert(_identity).values(uuid=str(uuid.uuid4()), schema=SCHEMA))
            row = connection.execute(select(_identity)).mappings().one()
        if row["schema"] > SCHEMA:
            raise LedgerUnusable(
                f"{self.engine.url.database}: this ledger has schema {row['schema']}, written by a newer "
                f"rackproof; this one knows schema {SCHEMA}: update rackproof or name another ledger"
            )
        return str(row["uuid"])


def _run(row: RowMapping) -> RunRecord:
    return RunRecord(**row)


def _forget(connection: Connection, lab: str, steps: Sequence[str]) -> None:
    connection.execute(delete(_evidence).where(_evidence.c.lab == lab, _evidence.c.step.in_(steps)))


def _engine(where: str | Path) -> Engine:
    url = make_url(where) if isinstance(where, str) and "://" in where else None
    if url is not None and url.get_backend_name() != "sqlite":
        return create_engine(url, hide_parameters=True)
    path = Path(url.database or "") if url else Path(where)
    _create_private(path)
    # An error's message shows the statement, never the values: they may be what a permit carries.
    engine = create_engine(f"sqlite:///{path}", connect_args={"timeout": BUSY_SECONDS}, hide_parameters=True)
    event.listen(engine, "connect", _configure)
    event.listen(engine, "begin", _begin)
    return engine


def _create_private(path: Path) -> None:
    """Create the file readable by its owner alone; SQLite gives its side files the same mode."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise LedgerUnusable(f"{path}: cannot serve as the ledger: {error.strerror}") from error


def _configure(connection: sqlite3.Connection, _record: ConnectionPoolEntry) -> None:
    # The driver's own transaction control would begin transactions as readers and turn them into
    # writers half-way, which SQLite refuses at once, without waiting, when another writer was faster.
    connection.isolation_level = None
    for setting in ("journal_mode=WAL", "synchronous=FULL", "secure_delete=ON"):
        connection.execute(f"PRAGMA {setting}")


def _begin(connection: Connection) -> None:
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
