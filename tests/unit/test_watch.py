"""A watch tells what changed from pass to pass, keeps the reports that show it, and ends when it is told to."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from provision.wait import NotYet, Patience
from reports.story import Outcome, Result
from reports.watch import Changes
from tests.unit.test_suite import LAB, ROOT, run_pytest

GONE = "node2: ssh root@10.10.1.22:22: [Errno 113] No route to host"


def outcome(name: str, result: Result = "passed", said: str = "") -> Outcome:
    return Outcome(name, "install", result, 0.1, said=said)


def bad(name: str, said: str = "assert 1500 == 9000") -> Outcome:
    return outcome(name, "failed", said)


def told(*passes: list[Outcome]) -> list[list[str]]:
    """What each pass is told to have changed; they begin a minute after one another."""
    changes = Changes()
    return [changes.take(outcomes, 60.0 * number) for number, outcomes in enumerate(passes)]


def test_what_stays_as_it_is_is_no_news() -> None:
    same = [outcome("mtu: bridge[node1]"), bad("mtu: bridge[node3]"), outcome("mtu: x", "skipped", "why")]
    assert told(same, same, same)[1:] == [[], []]


def test_a_check_that_fails_and_passes_again() -> None:
    well, ill = (
        [outcome("mtu: bridge[node3]")],
        [bad("mtu: bridge[node3]", "assert 1500 == 9000\n +  where 1500")],
    )
    assert told(well, ill, ill, well)[1:] == [
        ["✗ mtu: bridge[node3]: assert 1500 == 9000"], [],
        ["✓ mtu: bridge[node3]: passes again, after 2:00"],
    ]  # fmt: skip


def test_a_check_that_fails_in_another_way_is_news_and_another_duration_is_none() -> None:
    passes = [[bad("clock: x", said)] for said in ("offset 31 ms", "offset 32 ms", "chronyd is not running")]
    assert told(*passes)[1:] == [[], ["✗ clock: x: chronyd is not running"]]


def test_a_node_that_is_gone_is_one_line_and_so_is_its_return() -> None:
    names = [f"network: check_{number}[node2]" for number in range(30)]
    well = [outcome(name) for name in names]
    gone = [outcome(name, "error", GONE) for name in names]
    assert told(well, gone, well)[1:] == [
        ["✗ node2 is not reached any more: ssh root@10.10.1.22:22: [Errno 113] No route to host (30 checks)"],
        ["✓ node2 is reached again, after 1:00 (30 checks)"],
    ]


def test_checks_that_say_the_same_are_one_line() -> None:
    assert told([], [bad("mtu: a[node1]"), bad("mtu: a[node2]")])[1] == [
        "✗ mtu: a[node1], mtu: a[node2]: assert 1500 == 9000"
    ]


def test_a_case_that_is_no_more_did_not_pass() -> None:
    assert told([bad("dns: name[node9]")], [outcome("dns: name[node1]")])[1] == [
        "\u2013 dns: name[node9]: not checked any more, after 1:00"
    ]


FAULT = """\
import os, pathlib

def pytest_runtest_call(item):
    assert not pathlib.Path(os.environ["FAULT"]).exists(), "a planted fault"
"""


class Watched:
    """A watch of a lab whose checks reach nothing, with a fault that can be planted."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.fault, self.said = folder, folder / "fault", folder / "said"
        (folder / "attic.yaml").write_text(LAB)
        (folder / "faulty.py").write_text(FAULT)
        self.lines: list[str] = []

    def __enter__(self) -> Watched:
        env = {**os.environ, "RACKPROOF_HOME": str(self.folder / "home"), "ATTIC_SECRET": "canary-Sesame-1",
               "PYTHONPATH": str(self.folder), "FAULT": str(self.fault)}  # fmt: skip
        command = [sys.executable, "-m", "pytest", "-c", "pyproject.toml", f"--out={self.folder / 'out'}", "-m", "verify",
                   "--lab", str(self.folder / "attic.yaml"), "-p", "faulty", "-k", "check_answer", "--watch", "0.01"]  # fmt: skip
        with self.said.open("w") as said:
            self.process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=said, stderr=subprocess.STDOUT)
        return self

    def __exit__(self, *_error: object) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        self.process.wait(120)

    def until(self, what: str) -> None:
        def probe() -> bool | NotYet:
            text = self.said.read_text()
            assert self.process.poll() is None, text
            return what in text or NotYet(text[-400:])

        Patience(90).until(what, probe)

    def until_runs(self, number: int) -> None:
        Patience(90).until(f"run {number}", lambda: len(self.history) >= number or NotYet(str(self.history)))

    @property
    def history(self) -> list[str]:
        from reports.history import History  # noqa: PLC0415

        with History(self.folder / "out" / "history.sqlite") as history:
            return [run.id for run in history.runs()]

    @property
    def reports(self) -> list[str]:
        return sorted(path.parent.name for path in (self.folder / "out").glob("2*/summary.json"))


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    with Watched(tmp_path) as watched:
        yield watched


def test_a_fault_that_comes_and_goes_is_told_and_its_reports_are_kept(watched: Watched) -> None:
    watched.until("changes only")
    first = watched.history
    watched.until_runs(3)
    watched.fault.touch()
    watched.until("a planted fault")
    watched.fault.unlink()
    watched.until("passes again, after")
    watched.process.send_signal(signal.SIGINT)
    assert watched.process.wait(120) == 2
    _, _, changes = watched.said.read_text().partition("changes only")
    assert changes.count("✗ answer: installer_takes_it[node1], answer: installer_takes_it[node2]: ") == 1
    assert changes.count("NOT PROVED, 2 failed · ") == 1
    assert changes.count(" · ") == 2
    assert set(first) < set(watched.reports)
    assert len(watched.reports) < len(watched.history)


def test_a_lab_file_that_is_broken_meanwhile_is_told_once_and_mended_again(watched: Watched) -> None:
    lab = watched.folder / "attic.yaml"
    watched.until("changes only")
    lab.write_text(LAB.replace("cluster:", "clutter:"))
    watched.until("nothing was verified (exit 4)")
    lab.write_text(LAB)
    watched.until("✓ verified again")
    watched.process.send_signal(signal.SIGTERM)
    assert watched.process.wait(120) == 2
    assert watched.said.read_text().count("nothing was verified") == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-m", "provision", "--watch", "5"], "--watch repeats -m verify"),
        (["--watch", "5"], "--watch repeats -m verify"),
        (["-m", "verify", "--watch", "0"], '"0" is no number of minutes'),
        (["-m", "verify", "--watch", "often"], '"often" is no number of minutes'),
        (["-m", "verify", "--watch", "5", "--nodes", "node9"], '"node9" is not a node'),
    ],
)
def test_what_cannot_be_watched_is_refused(tmp_path: Path, arguments: list[str], said: str) -> None:
    (tmp_path / "attic.yaml").write_text(LAB)
    result = run_pytest(tmp_path, "--lab", str(tmp_path / "attic.yaml"), *arguments)
    assert result.returncode == 4, result.stdout + result.stderr
    assert said in result.stderr
    assert not (tmp_path / "out").exists()
