"""The facts of a lab's machines beside their baseline: read, compared, accepted, kept by one session."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from checks import rack_facts
from provision.baseline import CLUSTER, Baseline, Kept, Reading
from provision.drift import Difference, Facts, compared
from provision.errors import LabError
from provision.inventory import Lab
from provision.machines import Machines
from provision.run import Run
from provision.session import Session

OF_NODES = frozenset({"power", "install", "cluster", "ceph"})
OF_CLUSTER = OF_NODES | {"templates"}
"""The steps that change nodes, and what they share."""


@dataclass(frozen=True, slots=True)
class Subject:
    """One subject of one machine: its facts, the baseline if there is one, and how they differ."""

    machine: str
    name: str
    facts: Facts
    before: Kept | None
    differences: list[Difference] = field(default_factory=list)

    @property
    def drift(self) -> list[Difference]:
        """The differences that count."""
        return [each for each in self.differences if not each.notice]

    @property
    def notices(self) -> list[Difference]:
        """Those that are only told."""
        return [each for each in self.differences if each.notice]


class Comparison:
    """What a session has read of each machine, once, and what it accepts; for one thread at a time."""

    def __init__(self, run: Run, lab: Lab, machines: Machines, reason: str | None = None) -> None:
        self._run, self._lab, self._machines, self._reason = run, lab, machines, reason or ""
        self._baseline = Baseline(run.ledger, run.lab)
        self._before = self._baseline.before(run.id)
        self._read: dict[str, Reading] = {}
        self._failed: dict[str, str] = {}
        self._accepted: dict[str, dict[str, Facts]] = defaultdict(dict)

    def read_ahead(self, names: Iterable[str]) -> None:
        """Read these machines at once; why one cannot be asked is said when its facts are wanted."""
        known = self._read.keys() | self._failed.keys()
        wanted = [name for name in dict.fromkeys(names) if name not in known]
        readings, failed = rack_facts.read_all(self._lab, self._machines, wanted)
        self._read |= {reading.machine: reading for reading in readings}
        self._failed |= failed

    def subject(self, machine: str, name: str) -> Subject:
        """One subject beside its baseline; raises LabError when it could not be read."""
        self.read_ahead([machine])
        if machine in self._failed:
            raise LabError(self._failed[machine])
        reading = self._read[machine]
        if name not in reading.facts:
            why = reading.unread.get(name, "the machine said nothing of it")
            raise LabError(f"{name} could not be read: {why}", node=machine)
        before = self._before.get(machine)
        if before is None or name not in before.reading.facts:
            return Subject(machine, name, reading.facts[name], None)
        found = compared(machine, name, before.reading.facts[name], reading.facts[name])
        return Subject(machine, name, reading.facts[name], before, found)

    def accept(self, subject: Subject) -> None:
        """Make what stands the baseline, once the session ends; says what that changes."""
        if subject.before is None:
            print(f"accepted: {subject.machine} {subject.name}: its first baseline")
        for difference in subject.differences:
            print(f"accepted: {difference}")
        if subject.before is None or subject.differences:
            self._accepted[subject.machine][subject.name] = subject.facts

    def keep(self) -> None:
        """Keep what was read, and what was accepted."""
        now = time.time()
        self._baseline.see(list(self._read.values()), self._run.id, now)
        for machine, subjects in self._accepted.items():
            self._baseline.accept(machine, subjects, self._run.id, now, self._reason)
            node = machine if machine in self._lab.nodes else None
            text = f"{machine}: {', '.join(subjects)}"
            self._run.say("accepted", text, node=node, reason=self._reason)


def keep(session: Session, run: Run, lab: Lab, machines: Machines) -> None:
    """At the end of a session keep the facts of its machines, where somebody will look at them.

    Those of what a green run has made are the baseline. Of the machines that a bad run had reached they are
    kept for its page. A session that compares keeps what it has read itself.
    """
    if session.moves_baseline:
        # What a resumed run did not act on was made by the run that it takes up.
        everything = rack_facts.machines_of(lab, lab.nodes)
        _keep(run, lab, machines, everything if session.request.resume else touched(run, lab), green=True)
    elif session.failed and not session.interrupted and not session.request.drift:
        known = Baseline(run.ledger, run.lab).before(run.id)
        reached = [name for name in known if _is_reached(lab, machines, name)]
        _keep(run, lab, machines, reached, green=False)


def touched(run: Run, lab: Lab) -> list[str]:
    """The machines that a run's steps have acted on, those alone."""
    nodes = [name for name in lab.nodes if run.only is None or name in run.only]
    names = rack_facts.machines_of(lab, nodes if run.acting & OF_NODES else ())
    untouched = set() if "server" in run.acting else {rack_facts.SERVER}
    untouched |= set() if run.acting & OF_CLUSTER else {CLUSTER}
    return [name for name in names if name not in untouched]


def _keep(run: Run, lab: Lab, machines: Machines, names: Iterable[str], *, green: bool) -> None:
    baseline = Baseline(run.ledger, run.lab)
    identified = run.recall("power").nodes if "power" in run.acting and green else None
    readings, failed = rack_facts.read_all(lab, machines, names, identified)
    (baseline.move if green else baseline.see)(readings, run.id, time.time())
    if green and readings:
        run.say("baseline", f"is now of this run: {', '.join(each.machine for each in readings)}")
    for why in failed.values():
        run.say("baseline-kept", f"facts could not be read: {why}")


def _is_reached(lab: Lab, machines: Machines, name: str) -> bool:
    place = rack_facts.asked_for_cluster(lab) if name == CLUSTER and lab.proxmox.nodes else name
    return place in machines.reached
