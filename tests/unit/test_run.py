"""A run acts only on the steps it may, forgets before it acts, and undoes what was left."""

from __future__ import annotations

import pytest

from provision.errors import LabError
from provision.ledger import Ledger
from provision.run import STEPS, Done, NoEvidence, Run


def run_of(ledger: Ledger, *acting: str, run_id: str = "run-1") -> Run:
    return Run("lab", run_id, ledger, acting=frozenset(acting))


def test_acts_and_keeps_evidence(ledger: Ledger) -> None:
    done = Done(
        changed=["dnsmasq.conf"], unchanged=["nginx.conf"], facts={"a": 1}, nodes={"node1": {"b": "2"}}
    )
    evidence = run_of(ledger, "server").step("server", lambda: done)
    assert evidence == ledger.recall("lab", "server")
    assert (evidence.changed, evidence.nodes, evidence.run) == (
        ["dnsmasq.conf"],
        {"node1": {"b": "2"}},
        "run-1",
    )


def test_recalls_without_acting(ledger: Ledger) -> None:
    run_of(ledger, "server").step("server", Done)
    recalled = run_of(ledger, run_id="run-2").step("server", lambda: pytest.fail("acted"))
    assert recalled.run == "run-1"


def test_nothing_to_recall_is_an_error_that_says_what_to_do(ledger: Ledger) -> None:
    with pytest.raises(NoEvidence, match="pytest -m provision"):
        run_of(ledger).step("install", lambda: pytest.fail("acted"))


def test_evidence_of_the_step_and_all_later_ones_is_gone_before_the_action(ledger: Ledger) -> None:
    every = run_of(ledger, *STEPS)
    for step in STEPS:
        every.step(step, Done)
    seen: list[bool] = []

    def act() -> Done:
        seen.extend(ledger.recall("lab", step) is None for step in STEPS)
        raise LabError("BMC silent")

    with pytest.raises(LabError):
        every.step("power", act)
    assert seen == [False] + [True] * (len(STEPS) - 1)
    assert ledger.recall("lab", "server") is not None
    assert ledger.recall("lab", "cluster") is None


def test_events_are_durable_told_and_in_order(ledger: Ledger) -> None:
    run, told = run_of(ledger, "server"), list[str]()
    run.subscribe(lambda event: told.append(event.kind))
    run.step("server", Done)
    assert told == ["step-started", "step-done"]
    assert [event.kind for event in ledger.events(lab="lab")] == told


def test_undo_runs_last_first_and_survives_one_that_fails(ledger: Ledger) -> None:
    run, undone = run_of(ledger), list[str]()

    def fails() -> None:
        undone.append("second")
        raise LabError("BMC silent", node="node1")

    run.undo_later("first", lambda: undone.append("first"))
    run.undo_later("second", fails)
    needless = run.undo_later("third", lambda: undone.append("third"))
    needless()
    run.unwind()
    run.unwind()
    assert undone == ["second", "first"]
    assert [event.kind for event in run.events] == ["undo-failed", "undone"]
