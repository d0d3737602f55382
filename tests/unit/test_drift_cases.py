"""Cases of drift: when there are any, how one becomes several, and which options go with it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from checks import check_drift
from checks.comparison import Subject
from checks.drift_cases import each_by_itself, in_full
from provision.baseline import Kept, Reading
from provision.drift import Difference
from provision.session import SESSION
from tests.unit.test_suite import lab, run_pytest

__all__ = ["lab"]

BEFORE = Kept(Reading("node3"), "20261122-0312-k7f3", 1_795_377_491.0, "green")


def reports(*found: tuple[str, str]) -> list[pytest.TestReport]:
    told = [
        pytest.TestReport(
            "checks/check_drift.py::test_unchanged[node3-packages]", ("checks/check_drift.py", 1, "test_unchanged"),
            {}, "failed" if found and when == "call" else "passed", "all of it" if found and when == "call" else None, when,
        )
        for when in ("setup", "call", "teardown")
    ]  # fmt: skip
    if found:
        told[1].differences = list(found)  # type: ignore[attr-defined]
    return told


def test_what_is_unchanged_is_one_case() -> None:
    same = reports()
    assert list(each_by_itself(same)) == same


def test_each_difference_is_a_case() -> None:
    found = list(each_by_itself(reports(("jq", "jq: 1 → 2"), ("htop", "htop: 1 → absent"))))
    assert [(each.nodeid.partition("::")[2], each.when) for each in found] == [
        (f"test_changed[node3-packages-{name}]", when)
        for name in ("jq", "htop")
        for when in ("setup", "call", "teardown")
    ]
    assert [each.longrepr for each in found if each.when == "call"] == ["jq: 1 → 2", "htop: 1 → absent"]


def test_a_difference_says_before_and_after_and_since_when() -> None:
    text = in_full(Difference("node3", "packages", "jq", "1.7", None), BEFORE)
    assert text.splitlines() == [
        "node3 packages: jq: 1.7 → absent",
        "  before: 1.7",
        "  after: absent",
        "  baseline: green run 20261122-0312-k7f3, 22 Nov 2026 19:58 UTC",
    ]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-m", "provision", "--wipe", "attic", "--drift"], "say -m verify --drift"),
        (["-m", "provision or verify", "--drift"], "say -m verify --drift"),
        (["--drift"], "say -m verify --drift"),
        (["-m", "verify", "--accept"], "--accept takes what --drift compares"),
        (["-m", "verify", "--drift", "--accept", "--watch", "1"], "--accept once, and then --watch"),
        (["-m", "verify", "--drift", "--reason", "new kernel"], "--reason says why --accept is given"),
    ],
)
def test_what_does_not_go_together(tmp_path: Path, lab: Path, arguments: list[str], said: str) -> None:
    result = run_pytest(tmp_path, "--lab", str(lab), *arguments)
    assert result.returncode == 4
    assert said in result.stderr


def test_cases_of_drift_are_there_when_asked_for(tmp_path: Path, lab: Path) -> None:
    listed = run_pytest(tmp_path, "-m", "verify", "--lab", str(lab), "--drift", "--collect-only", "-q").stdout
    for case in ("server-files", "node1-packages", "node2-keys", "cluster-access"):
        assert f"check_drift.py::test_unchanged[{case}]" in listed
    assert "cluster-ceph" not in listed, "a lab without Ceph has none of its facts"
    some = run_pytest(
        tmp_path, "-m", "verify", "--lab", str(lab), "--drift", "--nodes", "node2", "--collect-only", "-q"
    )
    assert "[node2-keys]" in some.stdout
    assert "[node1-keys]" not in some.stdout


@pytest.mark.parametrize("mode", ["verify", "provision"])
def test_no_other_run_has_any(tmp_path: Path, lab: Path, mode: str) -> None:
    listed = run_pytest(tmp_path, "-m", mode, "--lab", str(lab), "--wipe", "attic", "--collect-only", "-q")
    assert listed.returncode == 0
    assert "check_drift" not in listed.stdout


NONE: Any = None
"""The comparison, which only accepting needs."""


def config(*, accept: bool) -> Any:
    session = SimpleNamespace(written=SimpleNamespace(name="attic"))
    return SimpleNamespace(option=SimpleNamespace(accept=accept), stash={SESSION: session})


def test_without_a_baseline_it_fails_and_says_what_to_do() -> None:
    with pytest.raises(
        AssertionError, match="run pytest -m provision to its green end, or accept what stands"
    ):
        check_drift.test_unchanged(config(accept=False), NONE, Subject("node1", "packages", {}, None))


def test_a_notice_passes_and_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    notice = Difference("cluster", "cluster", "config version", "4", "5", notice=True)
    check_drift.test_unchanged(
        config(accept=False), NONE, Subject("cluster", "cluster", {}, BEFORE, [notice])
    )
    assert capsys.readouterr().out == "no drift: cluster cluster: config version: 4 → 5\n"
