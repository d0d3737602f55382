"""The history of runs: what it keeps, what it answers, and that it never stands in a run's way."""

from __future__ import annotations

import json
import re
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from benchmarks.history import BROKEN_FROM, RUNS, month
from provision.journal import Event
from provision.run import STEPS
from reports import files, past
from reports.__main__ import main
from reports.fingerprint import blanked, fingerprint, fingerprints, parts
from reports.history import History, HistoryUnusable, PhaseRow, Record, RunRow, StepRow, place
from reports.story import Outcome, Result, Story
from tests.unit.test_suite import ROOT, run_pytest
from tests.unit.test_suite import lab as lab  # noqa: PLC0414 (a fixture)

CASE = "mtu: bridge[node1]"
A_HANG = 60
"""Seconds: what takes longer looks at every way to read its text."""


def row(number: int, *, good: bool = True, version: str = "0.1 abc", lab: str = "hall") -> RunRow:
    verdict = "PROVED" if good else "NOT PROVED"
    return RunRow(f"run-{number:03}", lab, "provision", 1000.0 * number, 60.0, verdict, version, "f00d")


def outcome(result: Result, said: str = "assert 1500 == 9000", name: str = CASE) -> Outcome:
    return Outcome(name, "install", result, 0.1, said=said if result in ("failed", "error") else "")


def keep(history: History, *results: Result, first: int = 0, version: str = "0.1 abc") -> None:
    for number, result in enumerate(results, first):
        good = result in ("passed", "skipped")
        history.add(Record(row(number, good=good, version=version), outcomes=[outcome(result)]))


@pytest.fixture
def history(tmp_path: Path) -> Iterator[History]:
    with History(tmp_path / "history.sqlite") as history:
        yield history


# Fingerprints


@pytest.mark.parametrize(
    ("once", "again"),
    [
        ("not reached within 20 s", "not reached within 61.5 s"),
        ("connection to 10.10.1.21 port 38211 refused", "connection to 10.10.1.99 port 55000 refused"),
        ("object at 0x7f3fe77daa10", "object at 0x7fe9f3de5310"),
        ("fsid 3a916804-643f-506b-baa2-cfb92e4da154", "fsid c40a52a0-5ece-5527-ade6-9a2797f6f40a"),
        ("nonce 52c4694090b1916333ef95d13ff1d7c6", "nonce 7a5185362515e80fbae39e35a9574925"),
        ("clone bc:24:11:0a:0b:0c is silent", "clone bc:24:11:fa:fb:fc is silent"),
        ("clone fe80::be24:11ff:fe0a:b0c is silent", "clone fe80::1 is silent"),
        ("evidence of run 20261122-1959-waws", "evidence of run 20261123-0312-k7f3"),
        ("since 2026-11-22T19:59:48.863083+00:00", "since 2026-11-23 03:12"),
        ("assert 1500 == 9000", "assert 1501 == 9000"),
    ],
)
def test_what_differs_from_run_to_run_does_not_count(once: str, again: str) -> None:
    assert fingerprint(CASE, once) == fingerprint(CASE, again)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("node3: no answer", "node4: no answer"),
        ("osd.3 is down", "osd.4 is down"),
        ("eno1 is down", "eno2 is down"),
        ("Unexpected exit code 22", "Unexpected exit code 127"),
        ("returned error: 404", "returned error: 503"),
        ("[Errno 30] on /sys", "[Errno 2] on /sys"),
        ("not reached\nlikely: BIOS mode", "not reached\nlikely: no network"),
    ],
)
def test_what_tells_failures_apart_counts(one: str, other: str) -> None:
    assert fingerprint(CASE, one) != fingerprint(CASE, other)
    assert fingerprint(CASE, one) != fingerprint("other", one)


def test_words_are_no_identifiers() -> None:
    assert blanked("deadbeef is hex without a digit; accede to 9.2.11") == (
        "deadbeef is hex without a digit; accede to <n>"
    )
    assert blanked("exited: 3 of 4") == "exited: <n> of <n>"


def test_what_was_last_seen_does_not_count() -> None:
    said = "node4: phase dhcp: not reached within 20 s\n  last seen: {}\n  likely: BIOS mode"
    assert fingerprint("step install", said.format("OFFER")) == fingerprint("step install", said.format("-"))


@pytest.mark.parametrize("piece", ["1", "a1:", "1.", "1,1-", "0x1 ", "e"])
def test_a_machine_that_says_much_costs_no_time(piece: str) -> None:
    began = time.monotonic()
    fingerprint(CASE, piece * 1_000_000)
    assert time.monotonic() - began < A_HANG


def test_every_node_of_a_failure_is_one_of_its_own() -> None:
    said = "node1: no answer\n  last seen: x\nwarning: of node1\nnode2: no answer"
    assert parts(said, ["node1", "node2"]) == [
        "node1: no answer\n  last seen: x\nwarning: of node1",
        "node2: no answer",
    ]
    assert parts("", ["node1"]) == [""]
    bad = Outcome("step install", "install", "error", 1.0, said=said)
    less = Outcome("step install", "install", "error", 1.0, said="node2: no answer")
    assert set(fingerprints(less, ["node1", "node2"])) < set(fingerprints(bad, ["node1", "node2"]))


# What it answers


def test_a_run_is_kept_once(history: History) -> None:
    assert history.add(Record(row(1)))
    assert not history.add(Record(row(1, good=False)))
    assert history.runs() == [row(1)]


def test_the_last_proved_run_is_of_this_lab(history: History) -> None:
    assert history.last_proved("hall") is None
    for number, good in enumerate((True, True, False)):
        history.add(Record(row(number, good=good)))
    history.add(Record(row(9, lab="other")))
    assert history.last_proved("hall") == row(1)


def test_the_first_bad_run_begins_the_unbroken_series(history: History) -> None:
    keep(history, "failed", "passed", "failed", "skipped", "failed")
    mark = fingerprint(CASE, "assert 1500 == 9000")
    first = history.first_bad("hall", mark)
    assert first is not None
    assert first.id == "run-002"
    assert history.first_bad("other", mark) is None
    keep(history, "passed", first=5)
    assert history.first_bad("hall", mark) is None


def test_another_failure_of_the_same_case_breaks_the_series(history: History) -> None:
    keep(history, "failed")
    history.add(Record(row(1, good=False), outcomes=[outcome("failed", "unreachable")]))
    keep(history, "failed", first=2)
    first = history.first_bad("hall", fingerprint(CASE, "assert 1500 == 9000"))
    assert first is not None
    assert first.id == "run-002"


def test_usual_is_the_median_of_proved_runs(history: History) -> None:
    for number, seconds in enumerate([1000.0, *[10.0] * 10, *[20.0] * 9]):
        history.add(Record(row(number), [StepRow("install", "done", seconds)]))
    history.add(Record(row(90, good=False), [StepRow("install", "done", 500.0)]))
    history.add(Record(row(91), [StepRow("install", "recalled", None), StepRow("power", "failed", 9.0)]))
    assert history.usual("hall") == {"install": 15.0}
    assert history.usual("other") == {}
    assert [seconds for _, seconds in history.trend("hall")["install"]][-1] == 500.0


def test_the_trend_of_phases_is_of_the_slowest_node_or_of_one(history: History) -> None:
    for number, (first, second) in enumerate([(3.0, 5.0), (9.0, 4.0)]):
        phases = [PhaseRow("node1", "installed", first), PhaseRow("node2", "installed", second),
                  PhaseRow("node2", "dhcp", 1.0)]  # fmt: skip
        history.add(Record(row(number), [StepRow("install", "done", 10.0)], phases))

    def told(node: str | None = None) -> dict[str, list[float]]:
        return {name: [seconds for _, seconds in rows] for name, rows in history.trend("hall", node).items()}

    slowest = {"install": [10.0, 10.0], "dhcp": [1.0, 1.0], "installed": [5.0, 9.0]}
    assert told() == slowest
    assert list(told()) == list(slowest)
    assert told("node1") == {"installed": [3.0, 9.0]}
    assert told("node9") == {}


def test_a_case_is_flaky_when_it_recovers_by_itself(history: History) -> None:
    keep(history, "passed", "failed", "skipped", "passed", "error", "passed", "failed")
    (found,) = history.flaky("hall")
    assert (found.case, found.failed, found.ran) == (CASE, ("run-001", "run-004"), 6)


def test_a_case_that_broke_and_stays_so_is_not_flaky(history: History) -> None:
    keep(history, "passed", "passed", "failed", "failed")
    assert history.flaky("hall") == []


@pytest.mark.parametrize("after", ["0.1 def", "0.1 abc-dirty", "0.1"])
def test_a_case_mended_by_other_code_is_not_flaky(history: History, after: str) -> None:
    keep(history, "failed", version="0.1 abc" if after == "0.1 def" else after)
    keep(history, "passed", first=1, version=after)
    assert history.flaky("hall") == []


def test_about_a_run(history: History) -> None:
    keep(history, "passed", "failed")
    story = Story("hall", STEPS, ["node1"])
    story.note(outcome("failed"))
    story.note(outcome("failed", "new here", name="dns: a"))
    about = history.about("hall", story)
    assert about.last_proved == row(0)
    (first,) = about.first_bad.values()
    assert first.id == "run-001"


# The file


def test_another_program_s_file_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "history.sqlite"
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE songs (name)")
    other.close()
    with pytest.raises(HistoryUnusable, match="another program's file"):
        History(path)


def test_a_newer_history_is_left_alone(history: History) -> None:
    history.add(Record(row(1)))
    other = sqlite3.connect(history.path)
    other.execute("PRAGMA user_version = 2")
    other.close()
    with pytest.raises(HistoryUnusable, match="schema 2, written by a newer rackproof"):
        History(history.path)


def test_a_broken_history_is_told_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "history.sqlite"
    path.write_text("this is no database, and long enough to be looked at as one" * 20)
    story = Story("hall", STEPS, [])
    about, unsaid = past.remember(path, Record(row(1), outcomes=[outcome("passed")]), story)
    assert about.last_proved is None
    (line,) = unsaid
    assert "cannot serve as the history of runs: file is not a database; this run is not in it" in line
    assert "\n" not in line


def test_a_folder_that_is_none_is_told_too(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(HistoryUnusable, match="cannot serve"):
        History(tmp_path / "file" / "history.sqlite")


def test_half_a_run_is_never_kept(history: History) -> None:
    twice = [StepRow("install", "done", 1.0), StepRow("install", "done", 2.0)]
    with pytest.raises(HistoryUnusable, match="UNIQUE"):
        history.add(Record(row(1), twice))
    assert history.runs() == []
    assert history.add(Record(row(1)))


WRITER = """
import sys
from pathlib import Path
from benchmarks.history import month
from dataclasses import replace
from reports.history import History
for number, record in enumerate(month(10)):
    with History(Path(sys.argv[1])) as history:
        history.add(replace(record, run=replace(record.run, id=f"{sys.argv[2]}-{number}")))
"""


def test_processes_share_one_history(tmp_path: Path) -> None:
    path = tmp_path / "history.sqlite"
    command = [sys.executable, "-c", WRITER, str(path)]
    writers = [
        subprocess.Popen([*command, name], cwd=ROOT, stderr=subprocess.PIPE, text=True) for name in "abc"
    ]
    assert [writer.communicate(timeout=60)[1] for writer in writers] == ["", "", ""]
    with History(path) as history:
        assert len(history.runs()) == 30
        assert len(history.results("c-9")) == 406


@pytest.mark.parametrize(
    ("out", "where"),
    [("reports/out", "reports/history.sqlite"), ("/srv/ci/out", "/srv/ci/out/history.sqlite")],
)
def test_where_it_is(out: str, where: str) -> None:
    assert place(Path(out)) == Path(where)


# Taking up earlier runs

JUNIT = """<?xml version="1.0"?><testsuites><testsuite name="pytest" time="{time}" timestamp="2026-11-22T19:59:48+00:00">
<properties>{properties}</properties>
<testcase classname="provision.steps" name="test_server" time="3.0"/>
<testcase classname="provision.steps" name="test_power" time="1.0"/>
<testcase classname="checks.check_mtu" name="test_bridge[node1]" time="0.1"><failure message="assert 1500 == 9000">
def test():
&gt;       assert mtu == 9000
E       assert 1500 == 9000
</failure></testcase>
<testcase classname="provision.steps" name="test_install" time="0.0"><error message="x">node1: no answer</error></testcase>
<testcase classname="provision.steps" name="test_cluster" time="0.0"><skipped message="not reached"/></testcase>
</testsuite></testsuites>"""
PROPERTIES = {
    "run": "20261122-1959-waws", "lab": "hall", "mode": "provision", "rackproof": "0.1 abc", "lab_file": "f00d",
    "step.server": "run 20261122-1959-waws, 3.1 s", "step.power": "run 20261122-1500-aaaa, 9.0 s", "node1.power": "serial 1",
}  # fmt: skip


def junit(path: Path, properties: dict[str, str], seconds: str = "70.5") -> Path:
    told = "".join(f'<property name="{name}" value="{value}"/>' for name, value in properties.items())
    path.write_text(JUNIT.format(time=seconds, properties=told))
    return path


def test_a_junit_file_is_taken_up(tmp_path: Path) -> None:
    record = past.read(junit(tmp_path / "junit.xml", PROPERTIES))
    assert record.run == RunRow(
        "20261122-1959-waws", "hall", "provision", 1795377588.0, 70.5, "NOT PROVED", "0.1 abc", "f00d"
    )
    assert [(step.step, step.state, step.seconds) for step in record.steps] == [
        ("server", "done", 3.1), ("power", "recalled", None), ("install", "failed", None), ("cluster", "not reached", None),
    ]  # fmt: skip
    assert [(each.name, each.result, each.said) for each in record.outcomes if each.said] == [
        (CASE, "failed", "assert 1500 == 9000"),
        ("step install", "error", "node1: no answer"),
    ]
    assert record.nodes == ["node1"]


def test_a_junit_file_without_a_lab_needs_one(tmp_path: Path) -> None:
    path = junit(tmp_path / "junit.xml", {})
    with pytest.raises(past.NotARun, match="say which with --lab"):
        past.read(path)
    assert past.read(path, "hall").run.id.startswith("junit-")


def test_a_clock_that_was_set_tells_no_duration(tmp_path: Path) -> None:
    assert past.read(junit(tmp_path / "junit.xml", PROPERTIES, "-817057163.9")).run.seconds is None


def event(second: float, kind: str) -> Event:
    return Event(1000 + second, "r", "hall", "install", "node1", kind, "")


def test_phases_last_from_the_one_before(tmp_path: Path) -> None:
    kinds = [(0, "permitted"), (3, "dhcp"), (4, "boot-script"), (6, "dhcp"), (7, "state"), (10, "answer")]
    told = past.phases(event(second, kind) for second, kind in kinds)
    assert [(each.phase, each.seconds) for each in told] == [
        ("dhcp", 3.0), ("boot-script", 1.0), ("answer", 6.0),
    ]  # fmt: skip


def test_a_folder_is_taken_up_as_the_run_itself_was_kept(tmp_path: Path) -> None:
    story = Story("hall", STEPS, ["node1"])
    story.note(Outcome("step server", "server", "passed", 3.0, acts=True))
    story.note(outcome("failed"))
    files.write_event(tmp_path, event(0, "permitted"))
    files.write_event(tmp_path, event(2, "dhcp"))
    files.write_summary(tmp_path, "20261122-1959-waws", story)
    junit(tmp_path / "junit.xml", PROPERTIES)
    record = past.read(tmp_path)
    assert (record.run.verdict, record.run.began) == ("NOT PROVED", 1000.0)
    assert [(each.node, each.phase, each.seconds) for each in record.phases] == [("node1", "dhcp", 2.0)]
    live = fingerprints(outcome("failed"), ["node1"])
    assert live.keys() < {key for each in record.outcomes for key in fingerprints(each, record.nodes)}


# The commands


def _note(opened: list[str], url: str) -> bool:
    opened.append(url)
    return True


@pytest.fixture(scope="module")
def a_month(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("month")
    with History(out / "history.sqlite") as history:
        for record in month():
            history.add(record)
    return out


def test_a_month_is_told(a_month: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("history", "flaky"):
        assert main([command, "--out", str(a_month)]) == 0
    told = capsys.readouterr().out
    assert f"lab hall-3: {RUNS} runs" in told
    assert f"✗ subject1: check_10[node3]: since 2026-12-16 17:06 (run-{BROKEN_FROM:04})" in told
    assert re.search(r"^install +last .*█", told, re.MULTILINE)
    assert re.search(r"^registered +last .*█", told, re.MULTILINE)
    assert "subject0: check_1[node2]: " in told


def test_programs_get_json(a_month: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["history", "hall-3", "--last", "3", "--json", "--out", str(a_month)]) == 0
    (told,) = json.loads(capsys.readouterr().out)
    assert [run["id"] for run in told["last"]] == ["run-0117", "run-0118", "run-0119"]
    assert told["standing"][0]["since"]["id"] == f"run-{BROKEN_FROM:04}"
    assert main(["flaky", "--json", "--out", str(a_month)]) == 0
    assert json.loads(capsys.readouterr().out)["hall-3"][0]["case"] == "subject0: check_1[node2]"


def test_two_runs_are_compared(a_month: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "run-0111", "latest", "--out", str(a_month)]) == 0
    told = capsys.readouterr().out
    assert "broken (1): subject1: check_10[node3]" in told
    assert main(["compare", "0119", "0111", "--json", "--out", str(a_month)]) == 0
    assert json.loads(capsys.readouterr().out)["mended"] == ["subject1: check_10[node3]"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["history", "attic"], "no run of lab attic is known; known are hall-3"),
        (["compare", "run-", "0111"], "run-: 120 runs are named so"),
        (["compare", "nix", "0111"], "nix: no such run in the history"),
        (["open", "../secret"], "../secret: no such page in "),
        (["import", "/dev/null"], "nothing was taken up"),
    ],
)
def test_what_cannot_be_answered_is_said_in_a_sentence(
    a_month: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert main([*arguments, "--out", str(a_month)]) == 1
    assert capsys.readouterr().err.startswith(said)


def test_without_a_history_it_says_how_to_get_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["history", "--out", str(tmp_path)]) == 1
    assert "no history yet" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_an_empty_history_says_so(history: History, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["history", "--out", str(history.path.parent)]) == 1
    assert "no run is kept in it yet" in capsys.readouterr().err


def test_the_page_of_a_run_is_opened(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "20261122-1959-waws").mkdir()
    (tmp_path / "20261122-1959-waws" / "index.html").write_text("")
    (tmp_path / "latest").symlink_to("20261122-1959-waws")
    opened: list[str] = []
    for words, name in (([], "latest"), (["waws"], "20261122-1959-waws")):
        assert main(["open", *words, "--out", str(tmp_path)], browse=partial(_note, opened)) == 0
        assert capsys.readouterr().out.strip() == str(tmp_path / name / "index.html")
    assert opened == [(tmp_path / "20261122-1959-waws" / "index.html").as_uri()] * 2


def test_text_of_a_machine_gives_the_terminal_no_orders(
    history: History, capsys: pytest.CaptureFixture[str]
) -> None:
    history.add(
        Record(row(1, good=False), outcomes=[outcome("failed", "\x1b]0;owned\x07 bad", "dns: \x1b[2J")])
    )
    assert main(["history", "--out", str(history.path.parent)]) == 0
    assert "\x1b" not in capsys.readouterr().out


# In a run


def test_every_run_is_kept(tmp_path: Path, lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two runs that fail alike: the second knows since when; and the same comes of their folders."""
    for _ in range(2):
        result = run_pytest(tmp_path, "-m", "provision", "--lab", str(lab), "--wipe", "attic")
        assert result.returncode == 1, result.stdout + result.stderr
    out = tmp_path / "out"
    with History(place(out)) as history:
        first, second = history.runs("attic")
        (failure,) = history.failures(second.id)
        assert failure.case == "step server"
        assert history.first_bad("attic", failure.fingerprint) == first
        assert first.lab_file == second.lab_file != ""
    place(out).rename(tmp_path / "kept.sqlite")
    assert main(["import", *map(str, out.iterdir()), "--out", str(out)]) == 0
    assert "2 runs taken up, 0 known already, 0 refused" in capsys.readouterr().out
    with History(place(out)) as again:
        assert again.failures(second.id) == [failure]
        assert again.steps(first.id)[0].state == "failed"


def test_a_broken_history_changes_neither_exit_code_nor_report(tmp_path: Path, lab: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "history.sqlite").write_text("no database" * 100)
    result = run_pytest(tmp_path, "-m", "provision", "--lab", str(lab), "--wipe", "attic")
    assert result.returncode == 1, result.stdout + result.stderr
    assert "file is not a database; this run is not in it" in result.stdout
    assert "NOT PROVED · " in result.stdout
    assert (tmp_path / "out" / "latest" / "summary.json").is_file()
