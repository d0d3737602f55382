"""One run: a pytest session against one lab, which acts or recalls, and keeps what happened.

Steps are told to act by the run; being asked for is not permission. What a step did is kept as
evidence in the ledger, and is forgotten the moment the step, or an earlier one, starts to act.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from provision.errors import LabError
from provision.journal import Event, Evidence
from provision.wait import Signal

if TYPE_CHECKING:
    from provision.ledger import Ledger

STEPS = ("server", "power", "install", "cluster", "ceph", "templates")
DEEDS = ("create", "recreate", "test", "remove")
"""What step `templates` may be told to do."""


@dataclass(frozen=True, slots=True)
class Done:
    """What a step's action returns: what it changed, what it found as it should be, the facts it read back.

    `facts` are about the lab, `nodes` about each node by name. Values are str, int, float, bool, None,
    or lists and dicts of them: they are kept as JSON.
    """

    changed: Sequence[str] = ()
    unchanged: Sequence[str] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    nodes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


class NoEvidence(LabError):
    """A step has left no evidence in this lab's ledger."""


class Run:
    """The session's journal: events in, subscribers and waiters woken, evidence kept.

    `acting` are the steps that may act; `only` the nodes that they act on, None for all.
    """

    def __init__(
        self,
        lab: str,
        run_id: str,
        ledger: Ledger,
        *,
        acting: frozenset[str],
        only: frozenset[str] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.lab, self.id, self.ledger = lab, run_id, ledger
        self.acting, self.only = acting, only
        self.news = Signal()
        self.secrets: dict[str, str] = {}
        """What must be in nothing that is saved: the name of each secret by its value."""
        self.events: list[Event] = []
        self._clock = clock
        self._of_node: defaultdict[str | None, list[Event]] = defaultdict(list)
        self._taken: dict[int, float] = {}
        self._subscribers: list[Callable[[Event], None]] = []
        self._undo: list[tuple[str, Callable[[], None]]] = []

    def step(self, name: str, action: Callable[[], Done]) -> Evidence:
        """Act, when this run may act on the step; recall its evidence otherwise.

        Raises NoEvidence when there is nothing to recall, and whatever the action raises.
        """
        return self._act(name, action) if name in self.acting else self.recall(name)

    def recall(self, step: str) -> Evidence:
        """The evidence of a step that an earlier run, or this one, left in the ledger."""
        evidence = self.ledger.recall(self.lab, step)
        if evidence is None:
            raise NoEvidence(f"step {step} left no evidence in this lab's ledger; run pytest -m provision")
        return evidence

    def say(
        self, kind: str, text: str, *, step: str | None = None, node: str | None = None, **facts: Any
    ) -> None:
        """Add an event of the harness itself to the journal."""
        self.take(Event(self._clock(), self.id, self.lab, step, node, kind, text, facts))

    def take(self, event: Event) -> None:
        """Add an event, from the harness or from the boot service; wakes waiters and tells subscribers."""
        kept = self.ledger.append(event)
        self.events.append(kept)
        self._taken[kept.seq] = time.monotonic()
        self._of_node[kept.node].append(kept)
        self.news.notify()
        for tell in self._subscribers:
            tell(kept)

    def of(self, node: str) -> Sequence[Event]:
        """The events of one node, oldest first."""
        return self._of_node.get(node, ())

    def since(self, event: Event) -> float:
        """Seconds since this run took an event; who told it may have another clock."""
        return time.monotonic() - self._taken[event.seq]

    def subscribe(self, tell: Callable[[Event], None]) -> None:
        """Call `tell` with every event from now on, in the thread that took it."""
        self._subscribers.append(tell)

    def undo_later(self, what: str, undo: Callable[[], None]) -> Callable[[], None]:
        """Register an undo before its act; the returned function takes it off again once it is not needed."""
        entry = (what, undo)
        self._undo.append(entry)
        return lambda: self._undo.remove(entry) if entry in self._undo else None

    def unwind(self) -> None:
        """Undo what was registered and not taken off, last first; one that fails does not stop the others."""
        while self._undo:
            what, undo = self._undo.pop()
            try:
                undo()
                self.say("undone", what)
            except LabError as error:
                self.say("undo-failed", f"{what}: {error}")

    def _act(self, name: str, action: Callable[[], Done]) -> Evidence:
        others = self._forget(name)
        started = self._clock()
        self.say("step-started", name, step=name)
        try:
            done = action()
        except Exception as error:
            self.say("step-failed", str(error), step=name, seconds=self._clock() - started)
            raise
        evidence = Evidence(
            lab=self.lab, step=name, run=self.id, started=started, seconds=self._clock() - started,
            changed=list(done.changed), unchanged=list(done.unchanged),
            facts=dict(done.facts), nodes=others | {node: dict(facts) for node, facts in done.nodes.items()},
        )  # fmt: skip
        self.ledger.remember(evidence)
        self.say("step-done", name, step=name, seconds=evidence.seconds,
                 changed=len(evidence.changed), unchanged=len(evidence.unchanged))  # fmt: skip
        return evidence

    def _forget(self, name: str) -> dict[str, dict[str, Any]]:
        """Forget what the step and every later one proved; returns what the step proved of nodes left alone.

        It stops being true the moment the action starts, so it must not outlive a failure. What any of
        these steps proved of single nodes stays true of those that this run leaves alone.
        """
        steps = STEPS[STEPS.index(name) :]
        before = [found for step in steps if (found := self.ledger.recall(self.lab, step))]
        self.ledger.forget(self.lab, steps)
        kept: dict[str, dict[str, Any]] = {}
        for found in before if self.only is not None else ():
            others = {node: facts for node, facts in found.nodes.items() if node not in (self.only or ())}
            if others:
                self.ledger.remember(replace(found, changed=[], unchanged=[], facts={}, nodes=others))
            if found.step == name:
                kept = others
        return kept
