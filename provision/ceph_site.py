"""A lab's Ceph while the step works on it: a session with every node, one deadline, what was changed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from provision import pve
from provision.errors import GaveUp, LabError, NodesFailed
from provision.inventory import Ceph, Lab, Node
from provision.pve import Session, TaskFailed, settling
from provision.pve import ceph as api
from provision.remote import Remote
from provision.run import Run
from provision.spans import at_work
from provision.together import together
from provision.wait import Deadline, NotYet, Patience

T = TypeVar("T")

Open = Callable[[Node, Remote], Session]
Wait = Callable[[float], Patience]

STEP = "ceph"
# How long an API may take to serve again after a restart of its own.
SERVING = 60.0
# How old the monitors' figures of placement groups may be: Ceph's mgr_stats_period is five seconds.
FIGURES = 6.0


@dataclass
class Site:
    """Everything the step's parts share.

    `ceph` is the Ceph asked for, its defaults filled in (Lab.asked_ceph). `base` is the node through which
    the whole cluster is asked; `first` the one whose monitor was the first, if this run has made it: Proxmox
    makes a manager there.
    """

    lab: Lab
    ceph: Ceph
    remotes: Mapping[str, Remote]
    run: Run
    open_session: Open
    patience: Wait
    base: str = ""
    first: str | None = None
    changed: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    sessions: dict[str, Session] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """The deadline begins."""
        seconds = self.lab.deadlines.ceph
        self.deadline = Deadline(seconds, now=self.patience(seconds).now)
        self._figures: Deadline | None = None

    # Who runs what

    @property
    def monitors(self) -> tuple[str, ...]:
        """The nodes that run a monitor."""
        return self.ceph.monitors

    @property
    def managers(self) -> tuple[str, ...]:
        """The nodes that run a manager."""
        return self.ceph.managers

    @property
    def metadata_servers(self) -> tuple[str, ...]:
        """The nodes that run a metadata server; none without CephFS."""
        return self.ceph.cephfs.mds if self.ceph.cephfs else ()

    def address(self, name: str) -> str:
        """A node's address on Ceph's public network."""
        return str(self.lab.nodes[name].addresses[self.ceph.public])

    # Nodes

    def session(self, name: str) -> Session:
        """The session with a node's API; one thread at a time may use it."""
        if name not in self.sessions:
            self.sessions[name] = self.open_session(self.lab.nodes[name], self.remotes[name])
        return self.sessions[name]

    def forget(self, name: str) -> None:
        """Close the session with a node; the next one is a new one."""
        if session := self.sessions.pop(name, None):
            session.close()

    @property
    def asked(self) -> Session:
        """The session through which the whole cluster is asked."""
        return self.session(self.base)

    def close(self) -> None:
        """Close all sessions."""
        for session in self.sessions.values():
            session.close()

    def everywhere(self, action: Callable[[str], T], nodes: Iterable[str] | None = None) -> dict[str, T]:
        """Do it for all (or these) nodes at once, each by its name; raises as `together` does."""
        return together({name: name for name in (self.lab.nodes if nodes is None else nodes)}, action)

    def await_api(self, name: str) -> None:
        """Wait until the node's API serves: it restarts by itself now and then."""
        self.until("its API serving", lambda: settling(lambda: self.session(name).version()), node=name,
                   seconds=SERVING)  # fmt: skip

    def await_idle(self, name: str) -> bool:
        """Wait until no task about Ceph runs on the node; whether there was one, left by an earlier run."""
        seen: list[str] = []

        def probe() -> bool | NotYet:
            running = [row.type for row in api.running_tasks(self.session(name))]
            seen.extend(running)
            return NotYet(f"running: {', '.join(running)}") if running else bool(seen)

        return self.until("no Ceph task running", lambda: settling(probe), node=name)

    # Acting

    def until(
        self,
        goal: str,
        probe: Callable[[], T | NotYet],
        *,
        node: str | None = None,
        seconds: float | None = None,
    ) -> T:
        """Wait for something, at most as long as the whole step may take; raises GaveUp."""
        left = self.deadline.remaining
        try:
            with at_work(node or self.base):
                return self.patience(left if seconds is None else min(seconds, left)).until(
                    goal, probe, node=node
                )
        except GaveUp as late:
            if not self.deadline.expired:
                raise
            seen = late.last_seen
        whole = f"{goal}: not reached within the {self.deadline.seconds:g} s of the lab's deadline for Ceph"
        raise GaveUp(whole, node=node, last_seen=seen)

    def act(self, name: str, what: str, begin: Callable[[Session], str]) -> None:
        """Let `begin` begin a task on a node, and wait until it has worked; again when a lock was held.

        A lost answer is not asked again: what waits for the outcome tells whether it was carried out.
        """

        def attempt() -> bool | NotYet:
            try:
                self._carry_out(name, what, begin)
            except TaskFailed as error:
                if not error.busy:
                    raise
                return NotYet(error.message)
            return True

        self.until(what, attempt, node=name)

    def _carry_out(self, name: str, what: str, begin: Callable[[Session], str]) -> None:
        session = self.session(name)
        try:
            upid = begin(session)
        except pve.AnswerLost:
            self.await_api(name)
            self.await_idle(name)
            return
        session.finish(upid, what, self.patience(self.deadline.remaining))

    def say(self, kind: str, text: str, *, node: str | None = None, **facts: Any) -> None:
        """An event of this step."""
        self.run.say(kind, text, step=STEP, node=node, **facts)

    def did(self, kind: str, text: str, *, node: str | None = None, **facts: Any) -> None:
        """An event of this step that is a change."""
        self.changed.append(f"{text} on {node}" if node else text)
        self.say(kind, text, node=node, **facts)
        self.outdate()

    def outdate(self) -> None:
        """Ceph's figures are old from now on, and for some seconds: something has changed."""
        self._figures = Deadline(FIGURES, now=self.patience(FIGURES).now)

    @property
    def figures_are_old(self) -> bool:
        """Whether Ceph may still tell how its placement groups were before the last change."""
        return self._figures is not None and not self._figures.expired


def gathered(errors: Mapping[str, LabError]) -> LabError:
    """One node's own error, or all of them as one."""
    return next(iter(errors.values())) if len(errors) == 1 else NodesFailed(errors)
