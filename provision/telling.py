"""Tells the boot service how a run goes, so that the dashboard shows its steps."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from threading import Condition, Thread
from typing import Self

from provision.boot_service.client import BootService
from provision.boot_service.messages import RunState
from provision.errors import LabError
from provision.hold import user
from provision.journal import Event
from provision.run import STEPS, Run

# A step's own event, and what it makes of the step.
STATES = {"step-started": "running", "step-done": "done", "step-failed": "failed"}
MOST_TEXT = 1000


@dataclass
class Told:
    """A step as far as the run has come."""

    state: str = "waiting"
    began: float | None = None
    seconds: float | None = None
    text: str = ""


def telling(service: BootService, run: Run, *, outcome: Callable[[], str]) -> AbstractContextManager[object]:
    """Tell how a run goes that acts; one that only looks is no news."""
    return Telling(service, run, outcome=outcome) if run.acting else nullcontext()


class Telling:
    """A thread that puts the run's newest state, never an older one; a service that is away costs nothing.

    The dashboard is told as news: what counts is in the run's own ledger. `outcome` is asked at the end.
    """

    def __init__(self, service: BootService, run: Run, *, outcome: Callable[[], str],
                 clock: Callable[[], float] = time.time) -> None:  # fmt: skip
        self._service, self._run, self._clock, self._outcome = service, run, clock, outcome
        self._began = clock()
        self._steps = {step: Told() for step in STEPS if step in run.acting}
        self._ended: float | None = None
        self._changed = Condition()
        self._news = True
        self._thread = Thread(target=self._tell, name="telling", daemon=True)

    def __enter__(self) -> Self:
        for event in self._run.events:
            self._hear(event)
        self._run.subscribe(self._hear)
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        with self._changed:
            self._ended, self._news = self._clock(), True
            self._changed.notify()
        self._thread.join()

    def _hear(self, event: Event) -> None:
        told = self._steps.get(event.step or "")
        if told is None or event.kind not in STATES:
            return
        with self._changed:
            told.state = STATES[event.kind]
            told.began = event.time if told.state == "running" else told.began
            told.seconds = event.facts.get("seconds")
            told.text = event.text[:MOST_TEXT] if told.state == "failed" else ""
            self._news = True
            self._changed.notify()

    def _tell(self) -> None:
        ended = False
        while not ended:
            with self._changed:
                self._changed.wait_for(lambda: self._news)
                self._news, state, ended = False, self._state(), self._ended is not None
            with suppress(LabError):
                self._service.put_run(state)

    def _state(self) -> RunState:
        broke = any(told.state == "failed" for told in self._steps.values()) or self._ended is not None
        steps = [
            {"name": name, "state": _final(told.state) if broke else told.state, "began": told.began,
             "seconds": told.seconds, "text": told.text}
            for name, told in self._steps.items()
        ]  # fmt: skip
        return RunState.model_validate(
            {"id": self._run.id, "lab": self._run.lab, "mode": "provision", "holder": holder(),
             "started": self._began, "ended": self._ended,
             "outcome": self._outcome() if self._ended is not None else None, "steps": steps}
        )  # fmt: skip


def holder() -> str:
    """Who runs this, as user@machine."""
    return f"{user()}@{socket.gethostname()}"


def _final(state: str) -> str:
    return "not-reached" if state == "waiting" else state
