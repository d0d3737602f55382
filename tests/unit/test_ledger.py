"""The ledger keeps what it was told, in order, once, and privately."""

from __future__ import annotations

import sqlite3
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DatabaseError

from provision.ledger import Event, Evidence, Ledger, LedgerUnusable, RunRecord


def event(number: int = 0, **other: Any) -> Event:
    given: dict[str, Any] = {
        "time": 1.5 + number,
        "run": "r1",
        "lab": "hall",
        "step": None,
        "node": "node1",
        "kind": "dhcp",
        "text": f"event {number}",
        "facts": {"number": number},
    }
    return Event(**(given | other))


def evidence(step: str, **other: Any) -> Evidence:
    given: dict[str, Any] = {
        "lab": "hall",
        "step": step,
        "run": "r1",
        "started": 1.0,
        "seconds": 2.5,
        "changed": ["dnsmasq"],
        "unchanged": ["nginx"],
        "facts": {"version": "2.90"},
        "nodes": {"node1": {"serial": None}},
    }
    return Evidence(**(given | other))


@pytest.fixture
def ledger(store_url: str) -> Iterator[Ledger]:
    ledger = Ledger(store_url)
    yield ledger
    ledger.close()


@pytest.fixture
def file_ledger(tmp_path: Path) -> Iterator[Ledger]:
    ledger = Ledger(tmp_path / "made" / "ledger.db")
    yield ledger
    ledger.close()


def test_an_event_comes_back_as_it_was_given_with_its_number(ledger: Ledger) -> None:
    kept = ledger.append(event(7, text="zwölf — ok", facts={"list": [1, None, {"a": True}]}))
    assert kept.seq == 1
    assert ledger.events() == [kept]
    assert kept.facts == {"list": [1, None, {"a": True}]}


def test_events_are_told_in_order_after_a_number_and_by_lab_run_and_node(ledger: Ledger) -> None:
    ledger.append_all([event(1), event(2, node="node2"), event(3, run="r2"), event(4, lab="other"), event(5)])
    numbers = [
        [each.facts["number"] for each in found]
        for found in (
            ledger.events(),
            ledger.events(after=3),
            ledger.events(lab="hall"),
            ledger.events(run="r2"),
            ledger.events(lab="hall", node="node1", run="r1"),
            ledger.events(limit=2),
        )
    ]
    assert numbers == [[1, 2, 3, 4, 5], [4, 5], [1, 2, 3, 5], [3], [1, 5], [1, 2]]
    assert ledger.last_seq() == 5


def test_an_event_of_another_ledger_is_kept_once(ledger: Ledger) -> None:
    first = ledger.append(event(1, origin="there:9"))
    again = ledger.append(event(2, origin="there:9"))
    assert again == first
    assert ledger.events() == [first]


def test_several_events_are_kept_all_or_none(ledger: Ledger) -> None:
    with pytest.raises(DatabaseError):
        ledger.append_all([event(1), event(2, kind=None)])
    assert ledger.events() == []


def test_a_number_is_never_given_twice(ledger: Ledger) -> None:
    ledger.append_all([event(1), event(2)])
    with ledger.writing() as connection:
        connection.execute(text("DELETE FROM events"))
    assert ledger.append(event(3)).seq == 3


def test_threads_append_side_by_side_and_nothing_is_lost(ledger: Ledger) -> None:
    with ThreadPoolExecutor(8) as pool:
        kept = list(pool.map(lambda number: ledger.append(event(number)), range(200)))
    assert sorted(each.seq for each in kept) == list(range(1, 201))
    assert {each.seq: each for each in kept} == {each.seq: each for each in ledger.events()}


def test_two_openings_of_one_ledger_share_it_and_its_name(ledger: Ledger, store_url: str) -> None:
    other = Ledger(store_url)
    other.append(event(1))
    assert ledger.append(event(2)).seq == 2
    assert other.uuid == ledger.uuid
    assert other.events() == ledger.events()
    other.close()


def test_a_ledger_can_be_named_by_url(tmp_path: Path) -> None:
    ledger = Ledger(f"sqlite:///{tmp_path / 'by-url.db'}")
    ledger.append(event())
    ledger.close()
    again = Ledger(tmp_path / "by-url.db")
    assert len(again.events()) == 1
    again.close()


def test_evidence_is_remembered_replaced_and_forgotten(ledger: Ledger) -> None:
    assert ledger.recall("hall", "server") is None
    ledger.remember(evidence("server"))
    ledger.remember(evidence("power"))
    ledger.remember(evidence("server", run="r2", facts={}))
    assert ledger.recall("hall", "server") == evidence("server", run="r2", facts={})
    assert ledger.recall("other", "server") is None
    ledger.forget("hall", ["power", "install"])
    assert ledger.recall("hall", "power") is None
    assert ledger.recall("hall", "server") is not None


def test_runs_are_told_oldest_first_and_a_killed_one_has_no_outcome(ledger: Ledger) -> None:
    assert ledger.last_run("hall") is None
    for number, run in enumerate(["r1", "r2"]):
        ledger.begin_run(RunRecord(run, "hall", 10.0 + number, ["server"], {"python": "3.13"}))
    ledger.begin_run(RunRecord("r9", "other", 99.0))
    ledger.end_run("r2", "proved", 20.5)
    killed, proved = ledger.runs("hall")
    assert (killed.outcome, killed.ended, killed.acting) == (None, None, ["server"])
    assert (proved.outcome, proved.ended, proved.facts) == ("proved", 20.5, {"python": "3.13"})
    assert ledger.last_run("hall") == proved


def test_what_is_kept_is_durable_by_the_settings_of_every_connection(file_ledger: Ledger) -> None:
    with file_ledger.engine.connect() as one, file_ledger.engine.connect() as two:
        for connection in (one, two):
            found = [
                connection.execute(text(f"PRAGMA {name}")).scalar()
                for name in ("journal_mode", "synchronous", "secure_delete", "busy_timeout")
            ]
            assert found == ["wal", 2, 1, 30000]


def test_its_files_are_readable_by_their_owner_alone(file_ledger: Ledger, tmp_path: Path) -> None:
    file_ledger.append(event())
    files = sorted((tmp_path / "made").iterdir())
    assert [file.name for file in files] == ["ledger.db", "ledger.db-shm", "ledger.db-wal"]
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}


def test_a_file_that_is_no_ledger_is_named(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("not a database at all, " * 100)
    with pytest.raises(
        LedgerUnusable, match=r"notes\.txt: cannot serve as the ledger: file is not a database"
    ):
        Ledger(path)


def test_a_place_where_no_file_can_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LedgerUnusable, match=r"file/ledger\.db: cannot serve as the ledger: "):
        Ledger(tmp_path / "file" / "ledger.db")


def test_a_ledger_of_a_newer_rackproof_is_left_alone(ledger: Ledger, store_url: str) -> None:
    with ledger.writing() as connection:
        connection.execute(text("UPDATE identity SET schema = 99"))
    with pytest.raises(
        LedgerUnusable, match="schema 99, written by a newer rackproof; this one knows schema 2"
    ):
        Ledger(store_url)


def test_an_error_never_shows_what_was_to_be_kept(ledger: Ledger) -> None:
    with pytest.raises(DatabaseError) as raised:
        ledger.append(event(text="CANARY", kind=None))
    assert "CANARY" not in str(raised.value)


def test_another_program_can_read_while_it_is_written(file_ledger: Ledger, tmp_path: Path) -> None:
    file_ledger.append(event())
    with file_ledger.writing() as connection:
        file_ledger.enter(connection, event(2))
        reader = sqlite3.connect(tmp_path / "made" / "ledger.db")
        assert reader.execute("SELECT count(*) FROM events").fetchone() == (1,)
        reader.close()
