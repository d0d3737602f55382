"""Opens the database that a ledger is kept in, SQLite or PostgreSQL, and brings an older one up to date."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, inspect, make_url, text
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import ArgumentError, NoSuchModuleError
from sqlalchemy.pool import ConnectionPoolEntry

from provision.errors import RackproofError

SCHEMA = 2
BUSY_SECONDS = 30
# Any number does that no other program on the same database uses for its advisory locks.
TURN = 0x7261636B


class LedgerUnusable(RackproofError):
    """The file or database named as the ledger cannot serve as one."""


def open_engine(where: str | Path) -> Engine:
    """The engine for a path, or for an SQLAlchemy URL of SQLite or PostgreSQL.

    Of its connections those with the execution option `writes` never overlap, and what they commit is
    on the disk. Raises LedgerUnusable, without a password in the message.
    """
    url = _url(where)
    if url is None or url.get_backend_name() == "sqlite":
        return _sqlite(Path(url.database or "") if url else Path(where))
    if url.get_backend_name() != "postgresql":
        raise LedgerUnusable(f"{_plain(url)}: a ledger is an SQLite file or a PostgreSQL database")
    return _postgresql(url)


def shown(engine: Engine) -> str:
    """The engine's database as a message may name it: a path, or a URL without its password."""
    return str(engine.url.database) if engine.dialect.name == "sqlite" else _plain(engine.url)


def _url(where: str | Path) -> URL | None:
    if not isinstance(where, str) or "://" not in where:
        return None
    try:
        return make_url(where)
    except (ArgumentError, ValueError) as error:
        # The error repeats what it could not read, and there may be a password in that.
        raise LedgerUnusable("the URL of the ledger is not one that SQLAlchemy understands") from error


def _plain(url: URL) -> str:
    # libpq also takes a password as a parameter, after the question mark.
    return url.set(query={}).render_as_string(hide_password=True)


# SQLite


def _sqlite(path: Path) -> Engine:
    _create_private(path)
    # An error's message shows the statement, never the values: they may be what a permit carries.
    engine = create_engine(f"sqlite:///{path}", connect_args={"timeout": BUSY_SECONDS}, hide_parameters=True)
    event.listen(engine, "connect", _configure_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _create_private(path: Path) -> None:
    """Create the file readable by its owner alone; SQLite gives its side files the same mode."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # One that exists is not opened: closing it again would drop the locks that another connection
        # of this process holds on it (fcntl(2)).
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        if not path.exists():
            raise LedgerUnusable(f"{path}: cannot serve as the ledger: not a file") from None
    except OSError as error:
        raise LedgerUnusable(f"{path}: cannot serve as the ledger: {error.strerror}") from error


def _configure_sqlite(connection: sqlite3.Connection, _record: ConnectionPoolEntry) -> None:
    # The driver's own transaction control would begin transactions as readers and turn them into
    # writers half-way, which SQLite refuses at once, without waiting, when another writer was faster.
    connection.isolation_level = None
    for setting in ("journal_mode=WAL", "synchronous=FULL", "secure_delete=ON"):
        connection.execute(f"PRAGMA {setting}")


def _begin_sqlite(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE" if _writes(connection) else "BEGIN")


# PostgreSQL


def _postgresql(url: URL) -> Engine:
    if url.drivername == "postgresql":
        url = url.set(drivername="postgresql+psycopg")
    try:
        # A server that was begun again since has ended the connections that were idle.
        engine = create_engine(url, hide_parameters=True, pool_pre_ping=True)
    except (ImportError, NoSuchModuleError, ArgumentError) as error:
        raise LedgerUnusable(f"{_plain(url)}: cannot serve as the ledger: {error}") from error
    event.listen(engine, "connect", _configure_postgresql)
    event.listen(engine, "begin", _begin_postgresql)
    event.listen(engine, "handle_error", _without_detail)
    return engine


def _configure_postgresql(connection: Any, _record: ConnectionPoolEntry) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SET synchronous_commit TO on")
        cursor.execute(f"SET lock_timeout TO '{BUSY_SECONDS}s'")
    connection.commit()


def _begin_postgresql(connection: Connection) -> None:
    # Held until the commit: so numbers of events appear in the order in which they were given.
    if _writes(connection):
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({TURN})")


def _without_detail(context: ExceptionContext) -> None:
    """Take out of an error's message what PostgreSQL adds to it: the whole row that it could not keep."""
    error, told = context.original_exception, context.sqlalchemy_exception
    primary = getattr(getattr(error, "diag", None), "message_primary", None)
    if primary is None:
        return
    error.args = (primary,)
    if told is not None:
        told.args = (f"({type(error).__module__}.{type(error).__name__}) {primary}",)


def _writes(connection: Connection) -> bool:
    return bool(connection.get_execution_options().get("writes", False))


# Schema versions


def migrate(connection: Connection, name: str) -> int:
    """Bring the tables of an older schema forward, in the transaction of `connection`. Returns SCHEMA.

    Tables that are missing are left to be created. Raises LedgerUnusable for a schema newer than SCHEMA.
    """
    if not inspect(connection).has_table("identity"):
        return SCHEMA
    schema = connection.execute(text("SELECT schema FROM identity")).scalar()
    if schema is None or schema == SCHEMA:
        return SCHEMA
    if schema > SCHEMA:
        raise LedgerUnusable(
            f"{name}: this ledger has schema {schema}, written by a newer "
            f"rackproof; this one knows schema {SCHEMA}: update rackproof or name another ledger"
        )
    for number in range(schema, SCHEMA):
        _FORWARD[number](connection)
    connection.execute(text("UPDATE identity SET schema = :schema"), {"schema": SCHEMA})
    return SCHEMA


def _permits_know_more(connection: Connection) -> None:
    """From 1 to 2: purpose, system, nonce and deadlines of a permit, GRUB, JSON answers."""
    columns = {
        "hook_token_sha256": "VARCHAR",
        "purpose": "VARCHAR NOT NULL DEFAULT 'install'",
        "system": "VARCHAR NOT NULL DEFAULT 'proxmox'",
        "nonce": "VARCHAR",
        "deadlines": "JSON NOT NULL DEFAULT '{}'",
        "private_boot": "BOOLEAN NOT NULL DEFAULT false",
        "answered_json": "BOOLEAN",
        "grub_script": "TEXT",
        "answer_json": "TEXT",
    }
    tables = inspect(connection)
    if not tables.has_table("permits"):
        return  # a ledger of the harness
    known = {column["name"] for column in tables.get_columns("permits")}
    for name in columns.keys() - known:
        connection.execute(text(f"ALTER TABLE permits ADD COLUMN {name} {columns[name]}"))


# By the schema that each starts from. Whoever opens the ledger first, harness or boot service, does them.
_FORWARD: dict[int, Callable[[Connection], None]] = {1: _permits_know_more}
