"""The dashboard hears how a run goes, the newest state last, and a service that is away stops nothing."""

from __future__ import annotations

from threading import Event as Flag
from typing import cast

import pytest

from provision.boot_service.client import BootService
from provision.boot_service.messages import RunState
from provision.errors import LabError, Unreachable
from provision.ledger import Ledger
from provision.run import Done, Run
from provision.telling import telling


class Listener:
    """What a boot service was told."""

    def __init__(self) -> None:
        self.told: list[RunState] = []
        self.away = False
        self.asked = Flag()

    def put_run(self, state: RunState) -> None:
        self.asked.set()
        if self.away:
            raise Unreachable("the boot service does not answer")
        self.told.append(state)

    @property
    def as_service(self) -> BootService:
        return cast("BootService", self)


def run_of(ledger: Ledger, *acting: str) -> Run:
    return Run("hall", "run-1", ledger, acting=frozenset(acting))


def states(state: RunState) -> dict[str, str]:
    return {step.name: step.state for step in state.steps}


def test_what_was_done_before_and_after_is_told_and_the_end_comes_last(ledger: Ledger) -> None:
    run, listener = run_of(ledger, "server", "power", "install"), Listener()
    run.step("server", Done)
    with telling(listener.as_service, run, outcome=lambda: "proved"):
        run.step("power", Done)
        run.step("install", Done)
    last = listener.told[-1]
    assert states(last) == {"server": "done", "power": "done", "install": "done"}
    assert all(step.seconds is not None and step.began is not None for step in last.steps)
    assert (last.outcome, last.lab, last.mode) == ("proved", "hall", "provision")
    assert last.ended is not None
    assert last.ended >= last.started
    assert last.holder


def test_after_a_failure_later_steps_are_not_reached(ledger: Ledger) -> None:
    run, listener = run_of(ledger, "server", "power", "install"), Listener()

    def fail() -> Done:
        raise LabError("BMC of node2 does not answer")

    with telling(listener.as_service, run, outcome=lambda: "not proved"):
        run.step("server", Done)
        with pytest.raises(LabError):
            run.step("power", fail)
    last = listener.told[-1]
    assert states(last) == {"server": "done", "power": "failed", "install": "not-reached"}
    assert "BMC of node2 does not answer" in last.steps[1].text
    assert last.outcome == "not proved"


def test_the_first_word_comes_before_any_step(ledger: Ledger) -> None:
    run, listener = run_of(ledger, "ceph"), Listener()
    with telling(listener.as_service, run, outcome=lambda: "proved"):
        assert listener.asked.wait(10)
    assert (states(listener.told[0]), listener.told[0].ended) == ({"ceph": "waiting"}, None)


def test_a_service_that_is_away_stops_nothing(ledger: Ledger) -> None:
    run, listener = run_of(ledger, "server"), Listener()
    listener.away = True
    with telling(listener.as_service, run, outcome=lambda: "proved"):
        assert listener.asked.wait(10)
        run.step("server", Done)
        listener.away = False
    assert states(listener.told[-1]) == {"server": "done"}


def test_a_run_that_only_looks_is_no_news(ledger: Ledger) -> None:
    run, listener = run_of(ledger), Listener()
    with telling(listener.as_service, run, outcome=lambda: "proved"):
        pass
    assert not listener.asked.is_set()
