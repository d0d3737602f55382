"""What one pytest session was asked to do: which lab, which steps, where the report goes."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pytest

from provision import automation_key, hold, inventory, remote, secrets, spans, state
from provision.errors import InventoryError, LabError, Mistake, NodesFailed, NotAllowed, WriteRefused
from provision.run import STEPS, Run

if TYPE_CHECKING:
    from provision.inventory import Lab
    from provision.journal import Event, Evidence
    from provision.ledger import Ledger

Mode = Literal["provision", "verify"]

NAMED = "RACKPROOF_RUN"
"""The environment variable by which `--watch` names the run of a pass, which then is no watch itself."""
TOGETHER = frozenset({"power", "install"})
"""A reset node must be let install by the same run, or it is left without a system."""

MARKS = {
    "run-started": "before",
    "step-started": "{}",
    "step-done": "checks of {}",
    "step-failed": "after {}",
}
"""Where a run's time goes from an event of this kind on."""


@dataclass(frozen=True, slots=True)
class Request:
    """The command line, as far as it is rackproof's."""

    mode: Mode
    lab: Path
    virtual: bool = False
    wipe: str | None = None
    nodes: str | None = None
    from_step: str | None = None
    until_step: str | None = None
    only_step: str | None = None
    resume: bool = False
    wait: float = 0.0
    deed: str = "create"
    out: Path = Path("reports/out")
    plan: bool = False
    notify: tuple[str, ...] = ()
    notify_when: str = "always"
    run_id: str | None = None
    named: str | None = None
    drift: bool = False
    whole: bool = True


@dataclass
class Session:
    """A request whose lab file was read and found right; nothing is touched by making one."""

    request: Request
    written: Lab
    run_id: str
    failed: bool = False
    interrupted: bool = False
    had_enough: bool = False
    workers: int = 0
    order: tuple[str, ...] = ()
    opened_by_workers: Counter[str] = field(default_factory=Counter)
    selected: frozenset[str] = frozenset()
    blamed: set[str] = field(default_factory=set)
    subscribers: list[Callable[[Event], None]] = field(default_factory=list)
    finishers: list[Callable[[Run], None]] = field(default_factory=list)

    @classmethod
    def prepare(cls, request: Request) -> Session:
        """Read the lab file and check that the request may be followed.

        Raises InventoryError, or NotAllowed when the leave to destroy is missing.
        """
        lab = inventory.load(request.lab)
        session = cls(request, lab, request.run_id or request.named or new_run_id())
        session._check_words()
        if request.mode == "provision" and not request.plan:
            session._check_leave()
        if not session.virtual and (missing := secrets.missing_secrets(lab)):
            raise InventoryError(missing)
        return session

    def judge_answers(self) -> None:
        """Refuse an answer or a seed that an installer would, before anything is touched.

        Raises InventoryError, or LabError when the official tool gives no verdict.
        """
        from provision import answers, ubuntu_seed  # noqa: PLC0415 (collecting needs none)

        asked = self.written, self.request.lab, self.node_names
        if "install" in self.steps and (wrong := answers.mistakes(*asked) + ubuntu_seed.mistakes(*asked)):
            raise InventoryError(wrong)

    @property
    def virtual(self) -> bool:
        """Whether the lab's hardware is played on this machine."""
        return self.request.virtual or self.written.virtual

    @property
    def folder(self) -> Path:
        """Where this run's report goes."""
        return self.request.out / self.run_id

    @property
    def node_names(self) -> list[str]:
        """The nodes this session is about, in lab order."""
        asked = self.request.nodes.split(",") if self.request.nodes else list(self.written.nodes)
        # In the lab's order, whatever was said twice or backwards; unknown ones are refused later.
        return [name for name in self.written.nodes if name in asked] + sorted(
            set(asked) - set(self.written.nodes)
        )

    @property
    def steps(self) -> tuple[str, ...]:
        """The steps that the command line asks to act on, whatever was selected of them."""
        if self.request.mode != "provision":
            return ()
        if only := self.request.only_step:
            return (only,)
        first = STEPS.index(self.request.from_step or STEPS[0])
        last = STEPS.index(self.request.until_step or STEPS[-1])
        return STEPS[first : last + 1]

    @property
    def last_rank(self) -> int:
        """The place in STEPS of the last step that the session is about."""
        return STEPS.index(self.request.only_step or self.request.until_step or STEPS[-1])

    @contextmanager
    def run(self) -> Iterator[Run]:
        """The run, journalled in the lab's ledger; what it left to undo is undone at its end."""
        from provision.journal import RunRecord  # noqa: PLC0415
        from provision.ledger import Ledger  # noqa: PLC0415 (slow to import; collecting needs none)

        with ExitStack() as stack:
            if self.request.mode == "provision":
                stack.enter_context(self._held())
            ledger = Ledger(state.folder(self.written.name) / "ledger.db")
            stack.callback(ledger.close)
            acting = self._acting(ledger)
            run = Run(self.written.name, self.run_id, ledger, acting=acting, only=self._only())
            for tell in self.subscribers:
                run.subscribe(tell)
            # A worker of pytest-xdist has a part in the controller's run, which begins and ends it.
            if self.request.run_id is None:
                ledger.begin_run(RunRecord(self.run_id, self.written.name, time.time(), sorted(acting)))
                run.say("run-started", self.request.mode, nodes=self.node_names, steps=list(acting))
                stack.callback(self._end, run)
            stack.callback(run.unwind)
            yield run

    def reach_lab(self, run: Run) -> Lab:
        """The lab to act on or to verify: a virtual one is raised when acting, and entered."""
        lab = automation_key.given(self._reached(run), make=bool(run.acting))
        run.secrets |= secrets.revealed(lab)
        return lab

    def standing_lab(self) -> Lab:
        """The lab as it stands; a virtual one is entered. Raises LabError when that is not up."""
        if not self.virtual:
            return self.written
        import virtual_lab  # noqa: PLC0415 (a real lab needs none of it)

        rack = virtual_lab.standing(self.written)
        rack.join()
        return rack.lab

    def _reached(self, run: Run) -> Lab:
        if not (self.virtual and run.acting):
            return self.standing_lab()
        import virtual_lab  # noqa: PLC0415 (a real lab needs none of it)

        with spans.at_work("rack"):
            rack = virtual_lab.raise_rack(self.written, say=lambda text: run.say("rack", text))
        rack.join()
        return rack.lab

    def _held(self) -> AbstractContextManager[None]:
        return hold.held(self.written.name, self.run_id, wait=self.request.wait, tell=self._tell_waiting)

    def _tell_waiting(self, text: str) -> None:
        """News before the run has begun: whoever watches hears it, no ledger keeps it."""
        from provision.journal import Event  # noqa: PLC0415

        for tell in self.subscribers:
            tell(Event(time.time(), self.run_id, self.written.name, None, None, "waiting", text))

    def _only(self) -> frozenset[str] | None:
        return frozenset(self.node_names) if self.request.nodes else None

    def _acting(self, ledger: Ledger) -> frozenset[str]:
        # Being requested is not permission: a step acts only if its own test was selected, so that
        # -k or a stray fixture never reinstalls what a check happens to stand on.
        acting = [step for step in self.steps if step in self.selected]
        if self.request.resume:
            while acting and self._is_done(ledger.recall(self.written.name, acting[0])):
                acting.pop(0)
            # The leave to install was of the run that broke: what it did not install is reset anew.
            if acting[:1] == ["install"] and "power" in self.selected:
                acting.insert(0, "power")
        return frozenset(acting) - (set() if set(acting) >= TOGETHER else TOGETHER)

    def _is_done(self, evidence: Evidence | None) -> bool:
        # A step that acts on nodes has done so on all that are asked for, or is not done.
        if evidence is None or not evidence.nodes:
            return evidence is not None
        theirs = self.written.nodes if evidence.step in ("power", "install") else self.written.proxmox.nodes
        return set(self.node_names) & theirs.keys() <= evidence.nodes.keys()

    def blame(self, item: pytest.Item, error: BaseException) -> None:
        """Note which machines a failed test names: by its error, else by its case, else those asked first.

        That a check would have written is no machine's fault.
        """
        if isinstance(error, WriteRefused):
            return
        errors = error.node_errors if isinstance(error, NodesFailed) else [error]
        names = {each.node for each in errors if isinstance(each, LabError) and each.node}
        params: dict[str, object] = item.callspec.params if hasattr(item, "callspec") else {}
        names = names or {str(params[word]) for word in ("node", "peer") if word in params}
        cluster = self.written.cluster
        self.blamed |= names or ({cluster.primary} if cluster else set())

    @property
    def outcome(self) -> str:
        """How the run stands: its last word once the last test has ended."""
        return "interrupted" if self.interrupted else "not proved" if self.failed else "proved"

    @property
    def moves_baseline(self) -> bool:
        """Whether later runs compare with what stands at the end: it was made, and all was checked."""
        made = self.request.mode == "provision" and self.request.deed != "test"
        return made and self.request.whole and self.outcome == "proved"

    def _end(self, run: Run) -> None:
        at_work = spans.covered(spans.recorded())
        opened = Counter(remote.opened_to()) + self.opened_by_workers
        run.say("run-ended", self.outcome, machines_at_work=at_work, ssh_connections=opened.total(),
                connections=dict(sorted(opened.items())), own=_own(run))  # fmt: skip
        run.ledger.end_run(self.run_id, self.outcome, time.time())
        for finish in self.finishers:
            finish(run)

    def _check_words(self) -> None:
        unknown = [name for name in self.node_names if name not in self.written.nodes]
        if unknown:
            known = ", ".join(self.written.nodes)
            raise self._mistakes(
                [f'--nodes: "{name}" is not a node of this lab; it has {known}' for name in unknown]
            )
        if self.written.is_light and self.request.mode == "provision":
            raise self._mistakes(
                ["its nodes are light, which are never installed: python -m virtual_lab up, then -m verify"]
            )
        if not self.steps and self.request.mode == "provision":
            raise self._mistakes(
                [f"--from {self.request.from_step} comes after --until {self.request.until_step}"]
            )
        if self.request.only_step and (self.request.from_step or self.request.until_step):
            raise self._mistakes(["--only goes with neither --from nor --until"])
        deed = self.request.deed
        if deed != "create" and "templates" not in self.steps:
            raise self._mistakes([f"--templates {deed}: step templates is not among those asked for"])
        if deed == "remove" and self.steps != ("templates",):
            raise self._mistakes(["--templates remove goes with neither --from nor --until"])
        if "install" in self.steps and "power" not in self.steps:
            option = "--only" if self.request.only_step else "--from"
            raise self._mistakes(
                [f"{option} install: a node installs by leave of the run that reset it; say --from power"]
            )
        if "power" in self.steps and "install" not in self.steps:
            option = "--only" if self.request.only_step else "--until"
            raise self._mistakes(
                [f"{option} power: a node that was reset must be let install; say --until install"]
            )

    def _check_leave(self) -> None:
        name, wipe = self.written.name, self.request.wipe
        if wipe is not None and wipe != name:
            raise NotAllowed(
                [self._mistake(f'--wipe {wipe}: this lab is named "{name}"; nothing else may be wiped')]
            )
        if wipe is None and self.request.deed == "remove":
            raise NotAllowed([self._mistake(f"--templates remove: say --wipe {name} to allow it")])
        if wipe is None and not self.virtual:
            nodes = ", ".join(self.node_names)
            raise NotAllowed(
                [
                    self._mistake(
                        f"this is a real lab, and provisioning destroys what is on the disks of {nodes}: "
                        f"say --wipe {name} to allow it, or --virtual to play it here"
                    )
                ]
            )

    def _mistake(self, message: str) -> Mistake:
        return Mistake(str(self.request.lab), None, "", message)

    def _mistakes(self, messages: Sequence[str]) -> InventoryError:
        return InventoryError([self._mistake(message) for message in messages])


def _own(run: Run) -> dict[str, float]:
    """Seconds in which no machine was at work, in each step, its checks, and before the first."""
    now, marks = time.monotonic(), [event for event in run.events if event.kind in MARKS]
    moments = [now - run.since(event) for event in marks] + [now]
    own: dict[str, float] = {}
    for event, start, end in zip(marks, moments, moments[1:], strict=False):
        name = MARKS[event.kind].format(event.step)
        own[name] = own.get(name, 0.0) + spans.uncovered(spans.recorded(), start, end)
    return own


SESSION = pytest.StashKey[Session]()
"""Where pytest's configuration keeps the session, when it concerns a lab."""


def new_run_id(now: float | None = None) -> str:
    """A run's name: the minute it began, in UTC, and four letters that tell apart runs of one minute."""
    letters = "".join(random.SystemRandom().choices("abcdefghjkmnpqrstuvwxyz23456789", k=4))
    return f"{time.strftime('%Y%m%d-%H%M', time.gmtime(now))}-{letters}"


def point_latest(out: Path, run_id: str) -> None:
    """Make `latest` in the report folder lead to this run."""
    link = out / f".latest-{run_id}"
    link.symlink_to(run_id)
    link.replace(out / "latest")
