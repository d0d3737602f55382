"""Which steps a session acts on: what was asked for, what was selected, and what an earlier run has left."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from provision import state
from provision.journal import Evidence
from provision.ledger import Ledger
from provision.run import STEPS
from provision.session import Request, Session
from tests.unit.test_suite import LAB

NODES = ("node1", "node2")
ON_NODES = ("power", "install", "cluster")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RACKPROOF_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("ATTIC_SECRET", "canary-Sesame-1")


def session(tmp_path: Path, *, selected: tuple[str, ...] = STEPS, **asked: Any) -> Session:
    file = tmp_path / "attic.yaml"
    file.write_text(LAB)
    prepared = Session.prepare(Request("provision", file, wipe="attic", **asked))
    prepared.selected = frozenset(selected)
    return prepared


def acting(prepared: Session) -> set[str]:
    with prepared.run() as run:
        return set(run.acting)


def left_by_an_earlier_run(*steps: str, nodes: tuple[str, ...] = NODES) -> None:
    folder = state.folder("attic")
    folder.mkdir(parents=True, exist_ok=True)
    ledger = Ledger(folder / "ledger.db")
    for step in steps:
        facts: dict[str, dict[str, Any]] = {name: {} for name in nodes} if step in ON_NODES else {}
        ledger.remember(Evidence("attic", step, "run-0", 0.0, 1.0, [], [], {}, facts))
    ledger.close()


def test_a_run_acts_on_every_step(tmp_path: Path) -> None:
    assert acting(session(tmp_path)) == set(STEPS)


def test_part_of_the_way(tmp_path: Path) -> None:
    assert acting(session(tmp_path, from_step="cluster", until_step="ceph")) == {"cluster", "ceph"}
    assert acting(session(tmp_path, only_step="templates")) == {"templates"}


@pytest.mark.parametrize("chosen", [("install",), ("power",), ()])
def test_a_step_whose_other_half_was_not_selected_does_not_act(
    tmp_path: Path, chosen: tuple[str, ...]
) -> None:
    """`-k test_install` chooses a step's test without the one that gives its leave."""
    assert acting(session(tmp_path, selected=chosen)) == set()


def test_resume_begins_at_the_first_step_that_left_nothing(tmp_path: Path) -> None:
    left_by_an_earlier_run("server", "power", "install")
    assert acting(session(tmp_path, resume=True)) == {"cluster", "ceph", "templates"}


def test_resume_after_everything_acts_on_nothing(tmp_path: Path) -> None:
    left_by_an_earlier_run(*STEPS)
    assert acting(session(tmp_path, resume=True)) == set()


def test_resume_resets_anew_what_was_not_installed(tmp_path: Path) -> None:
    """The leave to install was of the run that broke."""
    left_by_an_earlier_run("server", "power")
    assert acting(session(tmp_path, resume=True)) == set(STEPS) - {"server"}


def test_resume_takes_a_step_done_on_some_nodes_for_not_done(tmp_path: Path) -> None:
    left_by_an_earlier_run("server")
    left_by_an_earlier_run("power", "install", nodes=("node1",))
    assert acting(session(tmp_path, resume=True)) == set(STEPS) - {"server"}
    assert acting(session(tmp_path, resume=True, nodes="node1")) == {"cluster", "ceph", "templates"}


def test_without_resume_what_stands_is_done_again(tmp_path: Path) -> None:
    left_by_an_earlier_run(*STEPS)
    assert acting(session(tmp_path)) == set(STEPS)
