"""What a permitted node is handed, and how its phases are followed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from provision import install, inventory
from provision.errors import GaveUp, LabError
from provision.handed import PHASES
from provision.inventory import Lab
from provision.ledger import Event, Ledger
from provision.run import Run

ROOT = Path(__file__).parents[2]


@pytest.fixture
def lab() -> Lab:
    lab = inventory.load(ROOT / "labs" / "virtual.yaml")
    quick = dict.fromkeys(type(lab.deadlines).model_fields, 0.01)
    return lab.model_copy(update={"deadlines": lab.deadlines.model_copy(update=quick)})


@pytest.fixture
def run(ledger: Ledger) -> Run:
    return Run("virtual", "run-1", ledger, acting=frozenset(["install"]))


def event(run: Run, kind: str, node: str = "node2", text: str = "", **facts: Any) -> None:
    run.take(Event(1.0, run.id, "virtual", None, node, kind, text, facts))


def reach(run: Run, *kinds: str) -> None:
    event(run, "permitted", nonce="0123456789abcdef")
    for kind in kinds:
        event(run, kind, text=f"did {kind}")


def test_a_node_that_stays_is_named_with_its_phase_and_last_word(lab: Lab, run: Run) -> None:
    reach(run, "dhcp", "boot-script")
    with pytest.raises(GaveUp, match="phase answer") as caught:
        install._follow_phases(lab, run, "node2")
    assert (caught.value.node, caught.value.last_seen) == ("node2", "boot-script: did boot-script")
    assert "8 GB" in str(caught.value.likely)


def test_a_node_in_bios_mode_is_recognised(lab: Lab, run: Run) -> None:
    reach(run)
    event(run, "dhcp", text="DISCOVER, BIOS (0), PXEClient")
    with pytest.raises(GaveUp) as caught:
        install._follow_phases(lab, run, "node2")
    assert caught.value.likely == "node2 boots in BIOS mode; the lab asks for UEFI"


def test_a_node_in_uefi_mode_that_should_boot_by_bios_is_recognised(lab: Lab, run: Run) -> None:
    bios = lab.nodes["node2"].model_copy(update={"firmware": "bios"})
    reach(run)
    event(run, "dhcp", text="DISCOVER, UEFI x86-64 (7), PXEClient")
    with pytest.raises(GaveUp) as caught:
        install._follow_phases(lab.model_copy(update={"nodes": {**lab.nodes, "node2": bios}}), run, "node2")
    assert caught.value.likely == "node2 boots in UEFI mode; the lab asks for BIOS"


def test_a_reported_failure_ends_the_wait_at_once_with_the_logs_end(lab: Lab, run: Run) -> None:
    reach(run, "dhcp", "boot-script", "answer", "installed", "first-boot")
    event(run, "failed", text="line 12: ifreload -a", log="first\nsecond\nerror: vmbr1: no such port\n")
    with pytest.raises(LabError, match="line 12: ifreload -a") as caught:
        install._follow_phases(lab, run, "node2")
    assert "no such port" in str(caught.value.last_seen)


def test_what_was_before_the_leave_does_not_count(lab: Lab, run: Run) -> None:
    for phase in PHASES:
        event(run, phase)
    reach(run, "dhcp")
    with pytest.raises(GaveUp, match="phase boot-script"):
        install._follow_phases(lab, run, "node2")


def test_another_nodes_events_are_not_this_ones(lab: Lab, run: Run) -> None:
    reach(run)
    for phase in PHASES:
        event(run, phase, node="node1")
    with pytest.raises(GaveUp, match="phase dhcp"):
        install._follow_phases(lab, run, "node2")


def test_all_phases_end_the_wait(lab: Lab, run: Run) -> None:
    reach(run, *PHASES)
    assert list(install._follow_phases(lab, run, "node2")) == ["permitted", *PHASES]


@pytest.mark.parametrize("lost", [{"boot-script"}, {"dhcp", "boot-script"}])
def test_a_phase_whose_news_was_lost_is_reached_by_a_later_one(lab: Lab, run: Run, lost: set[str]) -> None:
    reach(run, *(phase for phase in PHASES if phase not in lost))
    seen = install._follow_phases(lab, run, "node2")
    assert seen["boot-script"].kind == "answer"
    assert seen["installed"].kind == "installed"


def test_no_leave_no_install(lab: Lab, run: Run) -> None:
    with pytest.raises(LabError, match="has no leave"):
        install._follow_phases(lab, run, "node2")


def test_a_nodes_first_deadline_runs_from_its_own_reset(lab: Lab, run: Run) -> None:
    """It is over for the one that was reset long before the last, and not for the last."""
    patient = lab.model_copy(update={"deadlines": lab.deadlines.model_copy(update={"dhcp": 60.0})})
    for node in ("node1", "node2"):
        event(run, "permitted", node, nonce="0123456789abcdef")
        event(run, "reset", node)
    event(run, "dhcp", "node2")
    (reset,) = [each for each in run.of("node1") if each.kind == "reset"]
    run._taken[reset.seq] -= 61
    with pytest.raises(GaveUp, match="phase dhcp: not reached within 60 s"):
        install._follow_phases(patient, run, "node1")
    with pytest.raises(GaveUp, match="phase boot-script"):
        install._follow_phases(patient, run, "node2")


@pytest.mark.parametrize(
    ("kinds", "heard", "loaded"),
    [((), False, False), (("dhcp", "boot-script"), True, False), (("dhcp", "answer"), True, True),
     (("registered",), True, True), (("failed",), False, True)],
)  # fmt: skip
def test_what_a_node_has_shown_since_its_leave(
    lab: Lab, run: Run, kinds: tuple[str, ...], heard: bool, loaded: bool
) -> None:
    permits = install.Permits(lab, run, Silent(), Silent())  # type: ignore[arg-type]
    event(run, "registered")
    assert not permits.heard_of("node2") and not permits.loaded("node2"), "it has no leave yet"
    reach(run, *kinds)
    assert (permits.heard_of("node2"), permits.loaded("node2")) == (heard, loaded)


class Silent:
    """A machine that nothing is asked of."""
