"""Which runs move the baseline, of which machines; what a comparison says of what cannot be read; accepting."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from checks import comparison, rack_facts
from checks.comparison import Comparison
from provision import inventory
from provision.baseline import CLUSTER, Baseline, Reading
from provision.errors import LabError
from provision.inventory import Lab
from provision.ledger import Ledger
from provision.machines import Machines
from provision.run import STEPS, Run
from provision.session import Request, Session

LAB = Path(__file__).parents[2] / "labs" / "virtual.yaml"
NODES = ["node1", "node2", "node3", "node4"]
EVERYTHING = ["server", *NODES, CLUSTER]
GREEN = Request("provision", LAB)


class Reached(Machines):
    """Machines of which some have a connection."""

    @property
    def reached(self) -> frozenset[str]:
        return frozenset({"server", "node2"})


@pytest.fixture
def lab() -> Lab:
    return inventory.load(LAB)


@pytest.fixture
def machines(lab: Lab, ledger: Ledger) -> Machines:
    return Reached(lab, ledger)


@pytest.fixture(autouse=True)
def facts(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What a reading of any machine finds; an error for one that does not answer."""
    found: dict[str, Any] = {"packages": {"jq": "1.7"}, "kernel": {"release": "6.14"}}

    def read_all(
        _lab: Lab, _machines: Machines, names: Iterable[str], _identified: object = None
    ) -> tuple[list[Reading], dict[str, str]]:
        known = [name for name in names if name not in found.get("silent", ())]
        failed = {name: f"{name}: gives no answer" for name in names if name not in known}
        told = {name: each for name, each in found.items() if name != "silent"}
        return [Reading(name, told, {"ssh": "no sshd"}) for name in known], failed

    monkeypatch.setattr(rack_facts, "read_all", read_all)
    return found


def run_of(ledger: Ledger, *acting: str, only: frozenset[str] | None = None, name: str = "run-1") -> Run:
    return Run("virtual", name, ledger, acting=frozenset(acting), only=only)


def ended(request: Request = GREEN, **how: bool) -> Session:
    return Session(request, inventory.load(LAB), "run-1", **how)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("acting", "only", "moved"),
    [
        (STEPS, None, EVERYTHING),
        (("server",), None, ["server"]),
        (STEPS[1:3], None, [*NODES, CLUSTER]),
        (STEPS[1:], {"node3"}, ["node3", CLUSTER]),
        (("ceph", "templates"), None, [*NODES, CLUSTER]),
        (("templates",), None, [CLUSTER]),
        ((), None, []),
    ],
)
def test_a_run_moves_what_it_acted_on(
    lab: Lab, ledger: Ledger, acting: tuple[str, ...], only: set[str] | None, moved: list[str]
) -> None:
    run = run_of(ledger, *acting, only=frozenset(only) if only else None)
    assert comparison.touched(run, lab) == moved


@pytest.mark.parametrize(
    ("session", "moved"),
    [
        (ended(), ["server"]),
        (ended(replace(GREEN, resume=True)), EVERYTHING),
        (ended(replace(GREEN, whole=False)), []),
        (ended(replace(GREEN, deed="test")), []),
        (ended(replace(GREEN, mode="verify")), []),
        (ended(failed=True), []),
        (ended(interrupted=True), []),
    ],
    ids=["green", "resumed", "checks left out", "templates tried", "verify", "failed", "interrupted"],
)
def test_green_runs_alone_move_it(
    lab: Lab, ledger: Ledger, machines: Machines, session: Session, moved: list[str]
) -> None:
    comparison.keep(session, run_of(ledger, "server"), lab, machines)
    assert sorted(Baseline(ledger, "virtual").before(None)) == sorted(moved)


def test_what_does_not_answer_keeps_its_baseline_and_that_is_said(
    lab: Lab, ledger: Ledger, machines: Machines, facts: dict[str, Any]
) -> None:
    Baseline(ledger, "virtual").move([Reading("node2", {"kernel": {"release": "6.1"}})], "run-0", 1.0)
    facts["silent"] = ["node2"]
    run = run_of(ledger, "ceph")
    comparison.keep(ended(), run, lab, machines)
    kept = Baseline(ledger, "virtual").before(None)
    assert kept["node2"].run == "run-0"
    assert kept["node1"].run == "run-1"
    assert {event.kind: event.text for event in run.events} == {
        "baseline": "is now of this run: node1, node3, node4, cluster",
        "baseline-kept": "facts could not be read: node2: gives no answer",
    }


def test_a_bad_run_sees_what_it_had_reached(lab: Lab, ledger: Ledger, machines: Machines) -> None:
    baseline = Baseline(ledger, "virtual")
    comparison.keep(ended(failed=True), run_of(ledger, "server"), lab, machines)
    assert baseline.seen("run-1") == {}, "without a baseline there is nothing to compare with"
    baseline.move([Reading(name, {}) for name in ("node1", "node2", CLUSTER)], "run-0", 1.0)
    comparison.keep(ended(failed=True), run_of(ledger, "server"), lab, machines)
    assert set(baseline.seen("run-1")) == {"node2"}
    assert baseline.before(None)["node2"].run == "run-0"


def test_what_cannot_be_read_is_trouble(
    lab: Lab, ledger: Ledger, machines: Machines, facts: dict[str, Any]
) -> None:
    facts["silent"] = ["node2"]
    found = Comparison(run_of(ledger), lab, machines)
    with pytest.raises(LabError, match="node2: gives no answer"):
        found.subject("node2", "packages")
    with pytest.raises(LabError, match="ssh could not be read: no sshd"):
        found.subject("node1", "ssh")
    assert found.subject("node1", "packages").before is None


def test_accepting_moves_the_accepted_subject_alone(
    lab: Lab, ledger: Ledger, machines: Machines, facts: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    baseline = Baseline(ledger, "virtual")
    baseline.move([Reading("node1", {name: dict(each) for name, each in facts.items()})], "run-0", 1.0)
    facts["packages"] = {"jq": "1.8"}
    facts["kernel"] = {"release": "6.15"}
    found = Comparison(run_of(ledger), lab, machines, "new jq")
    found.accept(found.subject("node1", "packages"))
    found.keep()
    kept = baseline.before(None)["node1"]
    assert kept.reading.facts == {"packages": {"jq": "1.8"}, "kernel": {"release": "6.14"}}
    assert (kept.how, kept.reason) == ("accepted", "new jq")
    assert capsys.readouterr().out == "accepted: node1 packages: jq: 1.7 → 1.8\n"
    again = Comparison(run_of(ledger, name="run-2"), lab, machines)
    assert again.subject("node1", "packages").drift == []
    assert [str(each) for each in again.subject("node1", "kernel").drift] == [
        "node1 kernel: release: 6.14 → 6.15"
    ]


def test_what_is_as_it_was_needs_no_accepting(lab: Lab, ledger: Ledger, machines: Machines) -> None:
    baseline = Baseline(ledger, "virtual")
    comparison.keep(ended(replace(GREEN, resume=True)), run_of(ledger, "server"), lab, machines)
    found = Comparison(run_of(ledger, name="run-2"), lab, machines)
    found.accept(found.subject("node1", "packages"))
    found.keep()
    assert baseline.before(None)["node1"].run == "run-1"
