"""What machines answer to the checks of a session: asked ahead in one round trip each, and shared."""

from __future__ import annotations

import json
import re
import shlex
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from pydantic import Base64Bytes, TypeAdapter

from provision import read_only
from provision.errors import RackproofError
from provision.remote import LocalRemote, Output, Remote
from provision.spans import at_work

if TYPE_CHECKING:
    from checks.questions import Questions

SECONDS = 30.0
"""How long a check's command may take: a hung machine fails its check instead of hanging the run."""

AHEAD_SECONDS = 8.0
"""How long a machine may take for all that it is asked ahead; its checks ask for the rest themselves."""

AT_ONCE = 32
"""How many machines are connected to, and asked ahead, at a time."""

PROBES = frozenset(
    {"POST", "arping", "date", "hwclock", "iperf", "iperf3", "nc", "ping", "ping6", "sleep", "ssh",
     "tracepath", "traceroute", "uptime"}
)  # fmt: skip
"""Words of commands that do something, or measure the moment: what they say is said of that time alone."""

SCRIPT = Path(__file__).parent / "on_node" / "ask_many.py"
"""Runs on a machine the commands that it is told; which those are, `ask_many` alone decides."""

PORTION = 100_000
"""How many bytes of commands, quoted, are asked in one round trip: an argument holds 128 KiB (execve(2))."""

LEFT: TypeAdapter[list[tuple[int, Base64Bytes, Base64Bytes] | None]] = TypeAdapter(
    list[tuple[int, Base64Bytes, Base64Bytes] | None]
)
"""What ask_many.py prints."""


@dataclass
class Asking:
    """A check while it runs: what it has asked, and whether it is to see everything fresh.

    `unit` is that of provision/distribution.py, of which one worker does all checks.
    """

    check: str
    unit: str = ""
    fresh: bool = False
    asked: set[tuple[str, str]] = field(default_factory=set)

    def takes_shared(self, machine: str, command: str) -> bool:
        """Whether it may be told what was read before: never twice the same, nothing once it has probed."""
        self.fresh |= is_probe(command)
        known = (machine, command) in self.asked
        self.asked.add((machine, command))
        return not (known or self.fresh)


class Readings:
    """The answers of all machines to the checks of one session.

    With `shared`, a check is told what another one was told, or what was asked ahead, in this session: see
    Asking for when it is not. Without, as while steps act, every question goes to the machine.
    """

    def __init__(self, questions: Questions, asking: Callable[[], Asking], *, shared: bool) -> None:
        self._questions, self._asking, self._shared = questions, asking, shared
        self._known: dict[tuple[str, str], Output] = {}
        self._ahead: dict[str, Future[None]] = {}
        self._of_units: dict[str, dict[str, list[str]]] = {}
        self._pool = ThreadPoolExecutor(AT_ONCE, "ahead")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._pool.shutdown(cancel_futures=True)

    def begin(self, checks: Iterable[str], machines: Iterable[str], reach: Callable[[str], Remote]) -> None:
        """Reach these machines, all at once and in the background, and ask each what these checks will ask.

        One that cannot be reached, or asked, is passed over: a check that needs it is told so by itself.
        """
        foreseen = self._questions.foreseen(checks) if self._shared else {}
        for name in machines:
            commands = foreseen.get(name, ())
            self._ahead[name] = self._pool.submit(self._ask_ahead, name, commands, reach)

    def begin_later(self, units: Mapping[str, Iterable[str]]) -> None:
        """For a worker, which does not know what it will be given: each of these units of checks has all that
        it will ask of a machine asked when its first check asks that machine.
        """
        self._of_units = {unit: self._questions.foreseen(checks) for unit, checks in units.items()}

    def ask(self, machine: Remote, command: str) -> Output:
        """What a machine answers to a command of the check that is running; raises GaveUp and Unreachable."""
        asking = self._asking()
        if asking.takes_shared(machine.name, command) and self._shared:
            self._hear(machine, asking.unit)
            if known := self._known.get((machine.name, command)):
                self._questions.note(asking.check, machine.name, command)
                return known
        return self._ask(asking.check, machine, command)

    def _hear(self, machine: Remote, unit: str) -> None:
        """Have what a machine was asked ahead."""
        if machine.name in self._ahead and (fault := self._ahead[machine.name].exception()):
            raise RuntimeError(f"{machine.name} could not be asked ahead") from fault
        commands = self._of_units.get(unit, {}).pop(machine.name, ())
        unknown = [command for command in commands if (machine.name, command) not in self._known]
        self._ask_ahead(machine.name, unknown, lambda name: machine)

    def _ask(self, check: str, machine: Remote, command: str) -> Output:
        start = time.monotonic()
        output = ask(machine, command)
        if not is_probe(command):
            self._known[machine.name, command] = output
            self._questions.note(check, machine.name, command, time.monotonic() - start)
        return output

    def _ask_ahead(self, name: str, commands: Iterable[str], reach: Callable[[str], Remote]) -> None:
        try:
            told = ask_many(reach(name), commands)
        except RackproofError:
            return
        for command, output in told.items():
            self._known.setdefault((name, command), output)


def ask(machine: Remote, command: str) -> Output:
    """What a machine answers to one command, in a round trip of its own."""
    with at_work(machine.name):
        return machine.execute(command, None, SECONDS)


def ask_many(machine: Remote, commands: Iterable[str]) -> dict[str, Output]:
    """What a machine answers to many commands, in one round trip; without those not done in AHEAD_SECONDS.

    Each is run as if alone: by the user's shell, in its own session and environment, with nothing to read.
    What is not known to only read is left out, whatever the session may do. A machine without python3 answers
    none; this machine itself is not asked at all.
    """
    told: dict[str, Output] = {}
    reading = [command for command in commands if read_only.refusal(command) is None]
    for portion in portions([] if isinstance(machine, LocalRemote) else reading):
        order = json.dumps({"commands": portion, "seconds": AHEAD_SECONDS})
        with at_work(machine.name):
            output = machine.execute(
                shlex.join(["python3", "-", order]), SCRIPT.read_text("utf-8"), 2 * AHEAD_SECONDS
            )
        told |= _left(portion, output.stdout)
    return told


def portions(commands: Iterable[str]) -> Iterator[list[str]]:
    """The commands in lists that can each be asked in one round trip; one that is too long is left out."""
    portion, size = list[str](), 0
    for command in commands:
        length = len(shlex.quote(json.dumps(command)))
        if size + length > PORTION and portion:
            yield portion
            portion, size = [], 0
        if length <= PORTION:
            portion.append(command)
            size += length
    if portion:
        yield portion


def _left(commands: list[str], said: bytes) -> dict[str, Output]:
    try:
        answers = zip(commands, LEFT.validate_json(said), strict=True)
        return {command: Output(*left) for command, left in answers if left is not None}
    except ValueError:
        return {}


def is_probe(command: str) -> bool:
    """Whether a command does something or measures the moment, as far as its words tell."""
    words = re.split(r"[\s;|&()<>{}`$'\"=]+", command)
    return not PROBES.isdisjoint(word.rpartition("/")[2] for word in words)
