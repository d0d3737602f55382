"""What a lab's machines are compared with: who moves it, what a machine keeps of it, and what is dropped."""

from __future__ import annotations

import pytest

from provision.baseline import KEPT, Baseline, Reading, differences
from provision.ledger import Ledger

BEFORE = Reading("node1", {"kernel": {"release": "6.14"}, "packages": {"jq": "1.7"}})


@pytest.fixture
def baseline(ledger: Ledger) -> Baseline:
    return Baseline(ledger, "hall-3")


def test_a_machine_without_a_baseline(baseline: Baseline) -> None:
    assert baseline.of("node1") is None


def test_a_green_run_moves_it(baseline: Baseline) -> None:
    baseline.move([BEFORE], "run-1", 5.0)
    found = baseline.of("node1")
    assert found is not None
    assert (found.reading, found.run, found.time, found.how) == (BEFORE, "run-1", 5.0, "green")


def test_a_subject_that_could_not_be_read_stays(baseline: Baseline) -> None:
    baseline.move([BEFORE], "run-1", 5.0)
    baseline.move([Reading("node1", {"kernel": {"release": "6.15"}}, {"packages": "no dpkg"})], "run-2", 6.0)
    found = baseline.of("node1")
    assert found is not None
    assert found.reading.facts == {"kernel": {"release": "6.15"}, "packages": {"jq": "1.7"}}


def test_accepting_a_subject_moves_that_alone(baseline: Baseline) -> None:
    baseline.move([BEFORE], "run-1", 5.0)
    baseline.accept("node1", {"packages": {"jq": "1.8"}}, "run-2", 6.0, "security update")
    found = baseline.of("node1")
    assert found is not None
    assert found.reading.facts == {"kernel": {"release": "6.14"}, "packages": {"jq": "1.8"}}
    assert (found.how, found.reason, found.run) == ("accepted", "security update", "run-2")


def test_seeing_moves_nothing(baseline: Baseline) -> None:
    baseline.move([BEFORE], "run-1", 5.0)
    now = Reading("node1", {"packages": {"jq": "1.8"}}, {"kernel": "no uname"})
    baseline.see([now], "run-2", 6.0)
    baseline.see([now], "run-3", 7.0)
    found = baseline.of("node1")
    assert found is not None
    assert found.run == "run-1"
    assert baseline.seen("run-2") == {}, "the last one is kept"
    assert baseline.seen("run-3")["node1"].reading == now
    assert [str(each) for each in differences(found, now)] == ["node1 packages: jq: 1.7 → 1.8"]


def test_what_a_run_moved_is_not_what_it_is_compared_with(baseline: Baseline) -> None:
    baseline.move([BEFORE], "run-1", 5.0)
    baseline.move([BEFORE], "run-2", 6.0)
    assert baseline.before("run-2")["node1"].run == "run-1"
    assert baseline.seen("run-2")["node1"].run == "run-2"
    assert baseline.before("run-1") == {"node1": baseline.of("node1")}


def test_labs_and_machines_are_apart(baseline: Baseline, ledger: Ledger) -> None:
    baseline.move([BEFORE, Reading("node2", {})], "run-1", 5.0)
    assert Baseline(ledger, "hall-4").of("node1") is None
    assert set(baseline.before(None)) == {"node1", "node2"}


def test_old_ones_are_dropped(baseline: Baseline, ledger: Ledger) -> None:
    for number in range(KEPT + 5):
        baseline.move([BEFORE, Reading("node2", {})], f"run-{number}", float(number))
    with ledger.engine.connect() as connection:
        kept = connection.exec_driver_sql("SELECT run FROM rack_facts WHERE machine = 'node1' ORDER BY id")
        assert [run for (run,) in kept] == [f"run-{number}" for number in range(5, KEPT + 5)]
