"""A ledger that an older rackproof has made is brought forward, once, with all that is in it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import Connection, create_engine, inspect, make_url, text

from provision import ledger_database
from provision.boot_service.messages import Rack
from provision.boot_service.store import Store
from provision.ledger import Event, Ledger, LedgerUnusable
from tests.postgresql_server import PostgresqlServer

# As the first schema's program made them, in SQLite; PostgreSQL numbers rows in its own way.
SCHEMA_1 = """
CREATE TABLE identity (uuid VARCHAR NOT NULL, schema INTEGER, PRIMARY KEY (uuid));
CREATE TABLE runs (id VARCHAR NOT NULL, lab VARCHAR NOT NULL, started FLOAT NOT NULL, acting JSON NOT NULL,
  facts JSON NOT NULL, ended FLOAT, outcome VARCHAR, PRIMARY KEY (id));
CREATE INDEX ix_runs_lab ON runs (lab);
CREATE TABLE events (seq INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, time FLOAT NOT NULL, run VARCHAR,
  lab VARCHAR NOT NULL, step VARCHAR, node VARCHAR, kind VARCHAR NOT NULL, text TEXT NOT NULL,
  facts JSON NOT NULL, origin VARCHAR, UNIQUE (origin));
CREATE INDEX ix_events_run ON events (run);
CREATE INDEX events_of_node ON events (lab, node, seq);
CREATE TABLE evidence (lab VARCHAR NOT NULL, step VARCHAR NOT NULL, run VARCHAR NOT NULL, started FLOAT NOT NULL,
  seconds FLOAT NOT NULL, changed JSON NOT NULL, unchanged JSON NOT NULL, facts JSON NOT NULL,
  nodes JSON NOT NULL, PRIMARY KEY (lab, step));
"""
SCHEMA_1_STORE = """
CREATE TABLE rack (lab VARCHAR NOT NULL, content TEXT NOT NULL, PRIMARY KEY (lab));
CREATE TABLE permits (id INTEGER NOT NULL, run VARCHAR NOT NULL, lab VARCHAR NOT NULL, node VARCHAR NOT NULL,
  answer_token_sha256 VARCHAR NOT NULL, report_token_sha256 VARCHAR NOT NULL, granted FLOAT NOT NULL,
  expires FLOAT NOT NULL, spent FLOAT, done FLOAT, revoked FLOAT, boot_script TEXT, answer TEXT, first_boot TEXT,
  PRIMARY KEY (id), UNIQUE (answer_token_sha256), UNIQUE (report_token_sha256));
CREATE INDEX ix_permits_node ON permits (node);
CREATE INDEX ix_permits_run ON permits (run);
"""
ROWS = """
INSERT INTO identity VALUES ('11111111-2222', 1);
INSERT INTO events (time, lab, kind, text, facts) VALUES (1.5, 'hall', 'rack', 'one', '{"n": 1}');
INSERT INTO events (time, lab, kind, text, facts, node) VALUES (2.5, 'hall', 'permit', 'two', '{}', 'node1');
INSERT INTO runs VALUES ('r1', 'hall', 1.0, '[]', '{}', NULL, NULL);
"""
STORE_ROWS = f"""
INSERT INTO rack VALUES ('hall', '{{"lab": "hall", "nodes": [{{"name": "node1", "macs": ["ac:1f:6b:00:00:01"],
  "address": "10.10.1.21", "boot_script": "exit"}}], "consoles": []}}');
INSERT INTO permits (run, lab, node, answer_token_sha256, report_token_sha256, granted, expires, boot_script, answer,
  first_boot) VALUES ('r1', 'hall', 'node1', '{hashlib.sha256(b"a").hexdigest()}',
  '{hashlib.sha256(b"r").hexdigest()}', 10, 1000, 'boot', 'the answer', 'first');
"""


def make(url: str, *scripts: str) -> None:
    """A database as the first schema's program left it."""
    engine = create_engine(make_url(url).set(drivername=driver(url)))
    with engine.begin() as connection:
        for statement in "".join(scripts).split(";\n"):
            if statement.strip():
                # A colon would begin a parameter.
                connection.execute(text(as_in(url, statement).replace(":", r"\:")))
    engine.dispose()


def driver(url: str) -> str:
    return "sqlite" if url.startswith("sqlite") else "postgresql+psycopg"


def as_in(url: str, statement: str) -> str:
    if url.startswith("sqlite"):
        return statement
    serial = statement.replace("seq INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT", "seq SERIAL PRIMARY KEY")
    return serial.replace("id INTEGER NOT NULL", "id SERIAL NOT NULL")


def test_a_live_permit_and_all_events_survive(store_url: str) -> None:
    make(store_url, SCHEMA_1, SCHEMA_1_STORE, ROWS, STORE_ROWS)
    with closing(Store(store_url)) as store:
        assert store.uuid == "11111111-2222"
        assert [(each.seq, each.text, each.facts) for each in store.events()] == [
            (1, "one", {"n": 1}),
            (2, "two", {}),
        ]
        assert store.last_run("hall") is not None
        assert [node.name for node in store.rack.nodes] == ["node1"]
        permit = store.permit_by_answer_token("a")
        assert permit is not None
        assert (permit.purpose, permit.system, permit.deadlines, permit.private_boot) == (
            "install",
            "proxmox",
            {},
            False,
        )
        assert (permit.state(20), permit.boot_script, permit.grub_script) == ("live", "boot", None)
        assert store.spend(permit, 20) == "the answer"
        assert store.events()[-1].seq == 3
        assert [each.state for each in store.permits(20)] == ["spent"]
        assert not store.put_rack(store.rack, 20)


def test_its_tables_are_then_those_of_a_new_one(
    store_url: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    make(store_url, SCHEMA_1, SCHEMA_1_STORE, ROWS, STORE_ROWS)
    new = f"sqlite:///{tmp_path / 'new.db'}"
    if not store_url.startswith("sqlite"):
        server: PostgresqlServer = request.getfixturevalue("postgresql")
        new = server.database()
    assert columns(store_url) == columns(new)


def columns(url: str) -> dict[str, set[tuple[str, str, bool]]]:
    with closing(Store(url)) as store:
        found = inspect(store.engine)
        return {
            table: {(each["name"], str(each["type"]), each["nullable"]) for each in found.get_columns(table)}
            for table in found.get_table_names()
        }


def test_a_ledger_of_the_harness_goes_forward_too(store_url: str) -> None:
    make(store_url, SCHEMA_1, ROWS)
    with closing(Ledger(store_url)) as ledger:
        kept = ledger.append(Event(3.5, None, "hall", None, None, "dhcp", "three"))
        assert kept.seq == 3
    with closing(Ledger(store_url)) as again:
        assert schema(again) == 2
        assert again.last_seq() == 3


def test_a_store_that_something_else_opens_as_a_ledger_first_lacks_nothing(store_url: str) -> None:
    make(store_url, SCHEMA_1, SCHEMA_1_STORE, ROWS, STORE_ROWS)
    Ledger(store_url).close()
    with closing(Store(store_url)) as store:
        assert [permit.state for permit in store.permits(20)] == ["live"]


def test_of_many_processes_that_open_it_at_once_one_brings_it_forward(
    store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(store_url, SCHEMA_1, SCHEMA_1_STORE, ROWS, STORE_ROWS, "CREATE TABLE done (number INTEGER);\n")
    monkeypatch.setitem(ledger_database._FORWARD, 1, noted(ledger_database._FORWARD[1]))
    go, children = os.pipe(), []
    for _ in range(4):
        child = os.fork()
        if not child:
            os.close(go[1])
            os.read(go[0], 1)
            try:
                Store(store_url).close()
            finally:
                os._exit(0)
        children.append(child)
    os.close(go[1])
    os.close(go[0])
    for child in children:
        os.waitpid(child, 0)
    with closing(Store(store_url)) as store, store.engine.connect() as connection:
        assert connection.execute(text("SELECT number FROM done")).scalars().all() == [1]


def noted(step: Callable[[Connection], None]) -> Callable[[Connection], None]:
    def and_note(connection: Connection) -> None:
        connection.execute(text("INSERT INTO done VALUES (1)"))
        step(connection)

    return and_note


def test_a_step_that_fails_has_changed_nothing(store_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make(store_url, SCHEMA_1, SCHEMA_1_STORE, ROWS, STORE_ROWS)
    forward = ledger_database._FORWARD[1]

    def half(connection: Connection) -> None:
        forward(connection)
        connection.execute(text("SELECT * FROM nowhere"))

    monkeypatch.setitem(ledger_database._FORWARD, 1, half)
    with pytest.raises(LedgerUnusable, match="nowhere"):
        Store(store_url)
    monkeypatch.undo()
    with closing(Store(store_url)) as store:
        assert [permit.state for permit in store.permits(20)] == ["live"]
        assert store.rack != Rack(lab="unknown", nodes=())


def schema(ledger: Ledger) -> int:
    with ledger.engine.connect() as connection:
        return int(connection.execute(text("SELECT schema FROM identity")).scalar_one())


# What a database that cannot be used is called


def test_no_message_has_the_password_of_a_database(postgresql: PostgresqlServer) -> None:
    for url in (
        postgresql.url("missing", "CANARY"),
        f"postgresql://rackproof@/missing?host={postgresql.folder}&password=CANARY",
        "postgresql://rackproof:CANARY@127.0.0.1:1/ledger?connect_timeout=1",
        "mysql://rackproof:CANARY@there/ledger",
        "postgresql+nodriver://rackproof:CANARY@there/ledger",
        "postgresql://rackproof:CANARY@there:port/ledger",
    ):
        with pytest.raises(LedgerUnusable) as refused:
            Ledger(url)
        assert "CANARY" not in str(refused.value)


def test_a_database_that_is_not_there_is_named(postgresql: PostgresqlServer) -> None:
    with pytest.raises(
        LedgerUnusable, match=r'rackproof:\*\*\*@/missing: cannot serve .*"missing" does not exist'
    ):
        Ledger(postgresql.url("missing", "CANARY"))


def test_a_newer_ledger_is_left_alone(store_url: str) -> None:
    make(store_url, SCHEMA_1, ROWS, "UPDATE identity SET schema = 99;\n")
    with pytest.raises(LedgerUnusable, match="schema 99, written by a newer rackproof"):
        Store(store_url)
    engine = create_engine(make_url(store_url).set(drivername=driver(store_url)))
    assert not inspect(engine).has_table("permits")
    engine.dispose()
