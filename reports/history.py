"""The memory of earlier runs, in one SQLite file: how long steps take, what failed since when, what wavers.

The file holds what runs have told: it may be removed at any time, and be made again from run folders.
"""

from __future__ import annotations

import sqlite3
import statistics
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import astuple, dataclass, field
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from provision.errors import RackproofError
from provision.run import STEPS
from reports.fingerprint import fingerprints
from reports.story import NODE_PHASES, Outcome, Result, Story

SCHEMA = 1
APPLICATION = 0x72706866
"""Marks the file as ours, in the place that SQLite keeps for this."""
BUSY_SECONDS = 30
RECENT = 20
"""What is usual is the median of so many proved runs."""
LATELY = 300
"""A case wavers if it did in so many runs of its lab: what it did long ago is no news."""
SAID_MOST = 2000
"""Characters kept of what a failure said; the report of its run has the whole."""

BAD = ("failed", "error")

_TABLES = """
CREATE TABLE runs (n INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, lab TEXT NOT NULL, mode TEXT NOT NULL,
  began REAL NOT NULL, seconds REAL, verdict TEXT NOT NULL, version TEXT NOT NULL, lab_file TEXT NOT NULL);
CREATE INDEX runs_of_lab ON runs (lab, began);
CREATE TABLE steps (run INTEGER NOT NULL REFERENCES runs, step TEXT NOT NULL, state TEXT NOT NULL,
  seconds REAL, PRIMARY KEY (run, step)) WITHOUT ROWID;
CREATE TABLE phases (run INTEGER NOT NULL REFERENCES runs, node TEXT NOT NULL, phase TEXT NOT NULL,
  seconds REAL NOT NULL, PRIMARY KEY (run, node, phase)) WITHOUT ROWID;
CREATE TABLE cases (n INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE outcomes (run INTEGER NOT NULL REFERENCES runs, case_n INTEGER NOT NULL REFERENCES cases,
  result TEXT NOT NULL, seconds REAL NOT NULL, PRIMARY KEY (case_n, run)) WITHOUT ROWID;
CREATE INDEX outcomes_of_run ON outcomes (run);
CREATE TABLE bad (run INTEGER NOT NULL REFERENCES runs, case_n INTEGER NOT NULL REFERENCES cases,
  fingerprint TEXT NOT NULL, said TEXT NOT NULL, PRIMARY KEY (fingerprint, run)) WITHOUT ROWID;
CREATE INDEX bad_of_run ON bad (run);
"""


class HistoryUnusable(RackproofError):
    """The history file is not one, is newer than this rackproof, or cannot be read or written."""


@dataclass(frozen=True, slots=True)
class RunRow:
    """One run as it is remembered; `began` in seconds since the epoch, `seconds` None when the clock was set.

    `version` is rackproof's with its commit, `lab_file` a digest of the lab file, "" where not known.
    """

    id: str
    lab: str
    mode: str
    began: float
    seconds: float | None
    verdict: str
    version: str = ""
    lab_file: str = ""

    @property
    def proved(self) -> bool:
        """Whether this run proved its lab."""
        return self.verdict == "PROVED"


@dataclass(frozen=True, slots=True)
class StepRow:
    """A step in a run; `seconds` is None where it did not act."""

    step: str
    state: str
    seconds: float | None


@dataclass(frozen=True, slots=True)
class PhaseRow:
    """How long a node took to reach a phase, from the phase before it."""

    node: str
    phase: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Record:
    """A run with all that is to be remembered of it."""

    run: RunRow
    steps: Sequence[StepRow] = ()
    phases: Sequence[PhaseRow] = ()
    outcomes: Sequence[Outcome] = ()
    nodes: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class About:
    """What the past says about one run: since when each of its failures, and what is usual for its lab.

    `first_bad` has the first run of the unbroken series for each fingerprint that an earlier run, or
    this one, has left; `usual` the seconds of each step, and of reaching each phase; `before` is the run
    before this one.
    """

    last_proved: RunRow | None = None
    first_bad: dict[str, RunRow] = field(default_factory=dict)
    usual: dict[str, float] = field(default_factory=dict)
    before: RunRow | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """A failure in a run: its fingerprint, the case, and what it said."""

    fingerprint: str
    case: str
    said: str


@dataclass(frozen=True, slots=True)
class Wavering:
    """A case that failed and then passed with the same code and lab file; `failed` are the runs of that."""

    case: str
    failed: tuple[str, ...]
    ran: int


class History:
    """Remembers runs, and answers from them. Several processes may share one file.

    Raises HistoryUnusable from every method when the file cannot serve.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._told():
            if not path.exists():
                _create(path)
            self._db = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)
        try:
            self._check()
        except HistoryUnusable:
            self._db.close()
            raise

    def __enter__(self) -> History:
        return self

    def __exit__(self, *_error: object) -> None:
        self._db.close()

    # What is remembered

    def add(self, record: Record) -> bool:
        """Remember a run, all of it or nothing; False when it is known already."""
        with self._writing():
            if self._rows("SELECT 1 FROM runs WHERE id = ?", record.run.id):
                return False
            row = astuple(record.run)
            n = self._db.execute("INSERT INTO runs VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?)", row).lastrowid or 0
            self._insert("INSERT INTO steps VALUES (?, ?, ?, ?)", n, record.steps)
            self._insert("INSERT INTO phases VALUES (?, ?, ?, ?)", n, record.phases)
            self._add_outcomes(n, record)
        return True

    def _add_outcomes(self, n: int, record: Record) -> None:
        # A test and its teardown may both fail: the last word counts.
        outcomes = {outcome.name: outcome for outcome in record.outcomes}
        self._db.executemany("INSERT OR IGNORE INTO cases (name) VALUES (?)", [(name,) for name in outcomes])
        cases = dict(self._rows("SELECT name, n FROM cases"))
        rows = [(n, cases[name], each.result, each.seconds) for name, each in outcomes.items()]
        self._db.executemany("INSERT INTO outcomes VALUES (?, ?, ?, ?)", rows)
        for each in record.outcomes:
            if each.result in BAD:
                told = fingerprints(each, record.nodes).items()
                bad = [(n, cases[each.name], mark, said[:SAID_MOST]) for mark, said in told]
                self._db.executemany("INSERT OR IGNORE INTO bad VALUES (?, ?, ?, ?)", bad)

    # Answers

    def about(self, lab: str, story: Story) -> About:
        """What the past says about the run that this story tells, be it recorded already or not."""
        found = {
            fingerprint: first
            for outcome in story.bad
            for fingerprint in fingerprints(outcome, story.nodes)
            if (first := self.first_bad(lab, fingerprint))
        }
        earlier = (run for run in reversed(self.runs(lab, last=2)) if run.began < story.began)
        return About(self.last_proved(lab), found, self.usual(lab), next(earlier, None))

    def labs(self) -> list[str]:
        """The labs of which runs are remembered, the one that ran last first."""
        return [lab for (lab,) in self._rows("SELECT lab FROM runs GROUP BY lab ORDER BY max(began) DESC")]

    def runs(self, lab: str | None = None, last: int | None = None) -> list[RunRow]:
        """The runs of a lab, or of all, oldest first; only the `last` of them where that is given."""
        query = "SELECT * FROM runs WHERE ? IN (lab, '') ORDER BY began DESC, n DESC LIMIT ?"
        rows = self._rows(query, lab or "", -1 if last is None else last)
        return [_run(row) for row in reversed(rows)]

    def last_proved(self, lab: str) -> RunRow | None:
        """The newest run that proved the lab."""
        query = "SELECT * FROM runs WHERE lab = ? AND verdict = 'PROVED' ORDER BY began DESC, n DESC LIMIT 1"
        rows = self._rows(query, lab)
        return _run(rows[0]) if rows else None

    def first_bad(self, lab: str, fingerprint: str) -> RunRow | None:
        """The first run of the unbroken series of runs with this failure; None when it does not stand.

        A run in which the case was not reached neither breaks the series nor is part of it.
        """
        query = """
            WITH good AS (
              SELECT max(r.began) AS last FROM outcomes o JOIN runs r ON r.n = o.run
              WHERE r.lab = :lab AND o.result != 'skipped'
                AND o.case_n = (SELECT case_n FROM bad WHERE fingerprint = :mark)
                AND o.run NOT IN (SELECT run FROM bad WHERE fingerprint = :mark))
            SELECT r.* FROM bad b JOIN runs r ON r.n = b.run, good
            WHERE b.fingerprint = :mark AND r.lab = :lab AND r.began > coalesce(good.last, 0)
            ORDER BY r.began, r.n LIMIT 1"""
        rows = self._rows(query, {"mark": fingerprint, "lab": lab})
        return _run(rows[0]) if rows else None

    def usual(self, lab: str) -> dict[str, float]:
        """Median seconds of each step, and of reaching each phase, in the last proved runs that had it."""
        query = """
            WITH lasted AS (
              SELECT step AS name, run, seconds FROM steps WHERE state = 'done' AND seconds IS NOT NULL
              UNION ALL SELECT phase, run, seconds FROM phases),
            ranked AS (
              SELECT name, lasted.seconds,
                dense_rank() OVER (PARTITION BY name ORDER BY began DESC, n DESC) AS place
              FROM lasted JOIN runs ON n = run WHERE lab = ? AND verdict = 'PROVED')
            SELECT name, seconds FROM ranked WHERE place <= ?"""
        times: dict[str, list[float]] = defaultdict(list)
        for name, seconds in self._rows(query, lab, RECENT):
            times[name].append(seconds)
        return {name: statistics.median(each) for name, each in times.items()}

    def trend(self, lab: str, node: str | None = None) -> dict[str, list[tuple[RunRow, float]]]:
        """How long each step took, and its slowest node to reach each phase, in each run; oldest first.

        Of one `node`: how long that took to reach each phase.
        """
        query = """
            WITH lasted AS (
              SELECT step AS name, run, seconds FROM steps
              WHERE state = 'done' AND seconds IS NOT NULL AND :node IS NULL
              UNION ALL
              SELECT phase, run, max(seconds) FROM phases
              WHERE :node IS NULL OR node = :node GROUP BY phase, run)
            SELECT name, lasted.seconds, r.* FROM lasted JOIN runs r ON r.n = run
            WHERE r.lab = :lab ORDER BY r.began, r.n"""
        told: dict[str, list[tuple[RunRow, float]]] = defaultdict(list)
        for name, seconds, *row in self._rows(query, {"lab": lab, "node": node}):
            told[name].append((_run(row), seconds))
        return {name: told[name] for name in sorted(told, key=_place)}

    def flaky(self, lab: str) -> list[Wavering]:
        """The cases that lately failed, and passed in the next run of them on the same code and lab file.

        A change to failing alone is no sign: that is what a fault looks like on its first day.
        """
        query = """
            SELECT c.name, r.id, o.result, r.version, r.lab_file FROM outcomes o
            JOIN runs r ON r.n = o.run JOIN cases c ON c.n = o.case_n
            WHERE o.result != 'skipped' AND o.case_n IN (SELECT case_n FROM bad)
              AND o.run IN (SELECT n FROM runs WHERE lab = ? ORDER BY began DESC, n DESC LIMIT ?)
            ORDER BY o.case_n, r.began, r.n"""
        told: dict[str, list[tuple[str, Result, str]]] = defaultdict(list)
        for case, run, result, version, lab_file in self._rows(query, lab, LATELY):
            told[case].append((run, result, _ground(version, lab_file)))
        found = [Wavering(case, _recovered(rows), len(rows)) for case, rows in told.items()]
        return sorted(
            (each for each in found if each.failed), key=lambda each: (-len(each.failed), each.case)
        )

    def steps(self, run: str) -> list[StepRow]:
        """The steps of a run."""
        query = "SELECT step, state, s.seconds FROM steps s JOIN runs r ON r.n = s.run WHERE r.id = ?"
        return sorted((StepRow(*row) for row in self._rows(query, run)), key=lambda row: _place(row.step))

    def phases(self, run: str) -> list[PhaseRow]:
        """How long each node took to reach each phase in a run."""
        query = "SELECT node, phase, p.seconds FROM phases p JOIN runs r ON r.n = p.run WHERE r.id = ?"
        return [PhaseRow(*row) for row in self._rows(query, run)]

    def results(self, run: str) -> dict[str, Result]:
        """How every case of a run ended."""
        query = """SELECT c.name, o.result FROM outcomes o JOIN runs r ON r.n = o.run
            JOIN cases c ON c.n = o.case_n WHERE r.id = ? ORDER BY c.n"""
        return dict(self._rows(query, run))

    def failures(self, run: str) -> list[Failure]:
        """What failed in a run."""
        query = """SELECT b.fingerprint, c.name, b.said FROM bad b JOIN runs r ON r.n = b.run
            JOIN cases c ON c.n = b.case_n WHERE r.id = ? ORDER BY c.name, b.said"""
        return [Failure(*row) for row in self._rows(query, run)]

    # The file below

    def _check(self) -> None:
        if self._pragma("application_id") != APPLICATION:
            raise HistoryUnusable(f"{self.path}: not a history of runs but another program's file")
        if (schema := self._pragma("user_version")) > SCHEMA:
            raise HistoryUnusable(
                f"{self.path}: this history has schema {schema}, written by a newer rackproof; "
                f"this one knows schema {SCHEMA}: update rackproof or move the file away"
            )

    def _pragma(self, name: str) -> int:
        return int(self._rows(f"PRAGMA {name}")[0][0])

    def _rows(self, query: str, *values: Any) -> list[Any]:
        given = values[0] if values and isinstance(values[0], dict) else values
        with self._told():
            return self._db.execute(query, given).fetchall()

    def _insert(self, statement: str, n: int, rows: Iterable[StepRow | PhaseRow]) -> None:
        self._db.executemany(statement, [(n, *astuple(row)) for row in rows])

    @contextmanager
    def _writing(self) -> Iterator[None]:
        with self._told(), self._db:
            self._db.execute("BEGIN IMMEDIATE")
            yield

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise HistoryUnusable(f"{self.path}: cannot serve as the history of runs: {error}") from error


def place(out: Path) -> Path:
    """Where the history of the runs in a report folder is kept: in it, but beside the default one."""
    return (out.parent if out.parts[-2:] == ("reports", "out") else out) / "history.sqlite"


def _place(name: str) -> int:
    """Steps in their order, then phases in theirs."""
    known = (*STEPS, *NODE_PHASES)
    return known.index(name) if name in known else len(known)


def _create(path: Path) -> None:
    """Make the file elsewhere and give it its name when it is whole: who opens it meets nothing half done.

    Two processes that turn a new file to WAL at once would have one of them refused without waiting.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=path.parent, prefix=".history-") as folder:
        new = Path(folder) / path.name
        with closing(sqlite3.connect(new)) as db:
            marks = f"PRAGMA application_id = {APPLICATION}; PRAGMA user_version = {SCHEMA};"
            db.executescript(f"PRAGMA journal_mode = WAL; {_TABLES} {marks}")
        with suppress(FileExistsError):
            path.hardlink_to(new)


def _run(row: Sequence[Any]) -> RunRow:
    return RunRow(*row[1:])


def _ground(version: str, lab_file: str) -> str:
    """What a run stood on, "" where that is not known: no commit, or one with changes that nobody named."""
    return "" if " " not in version or version.endswith("dirty") else f"{version} {lab_file}"


def _recovered(rows: Sequence[tuple[str, Result, str]]) -> tuple[str, ...]:
    return tuple(
        run
        for (run, result, ground), (_, after, same) in pairwise(rows)
        if result in BAD and after == "passed" and ground and ground == same
    )
