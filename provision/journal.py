"""What is kept of a run: events, the evidence of steps, and the run itself, as plain records."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened, to the lab or to one node; `seq` is given by the ledger that keeps it.

    `time` is in seconds since the epoch. `origin` names an event that another ledger kept first
    ("<uuid of that ledger>:<seq there>"): such an event is kept once, however often it is appended.
    """

    time: float
    run: str | None
    lab: str
    step: str | None
    node: str | None
    kind: str
    text: str
    facts: dict[str, Any] = field(default_factory=dict)
    seq: int = 0
    origin: str | None = None


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a step did and read back; `started` in seconds since the epoch, `nodes` has facts by node name."""

    lab: str
    step: str
    run: str
    started: float
    seconds: float
    changed: list[str]
    unchanged: list[str]
    facts: dict[str, Any]
    nodes: dict[str, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class RunRecord:
    """One pytest session against a lab; `ended` and `outcome` are None while it runs, or if it was killed."""

    id: str
    lab: str
    started: float
    acting: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    ended: float | None = None
    outcome: str | None = None
