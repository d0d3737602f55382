"""Repeats a verification, each pass a pytest session of its own, and tells what changed from pass to pass."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from provision import remote
from provision.session import NAMED, new_run_id
from provision.wait import Deadline, until_then
from reports import past
from reports.fingerprint import fingerprint
from reports.story import Outcome, duration
from reports.terminal import listed

VERIFIED = (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED)
"""How a pass ends that could look at the lab."""
UNREACHED = re.compile(r"(\S+): (ssh \S+: .*)")
"""How checks say that they could not log in to a machine (provision/ssh.py)."""


def watch(config: pytest.Config) -> int:
    """Repeat this session until it is interrupted; returns its exit code."""
    # As in a session: a service that is stopped is sent SIGTERM.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    asked = config.invocation_params
    command = [sys.executable, "-m", "pytest", *map(str, asked.args)]
    return Watch(command, asked.dir, config.option.out.absolute(), 60 * config.option.watch).run()


@dataclass
class Changes:
    """What fails and since when, and what a further pass changes about that."""

    bad: dict[str, tuple[Outcome, float]] = field(default_factory=dict)

    def take(self, outcomes: Iterable[Outcome], moment: float) -> list[str]:
        """Learn from a pass that began at this moment; a line for each change, none for no change."""
        told = {outcome.name: outcome for outcome in outcomes}
        bad = {name: outcome for name, outcome in told.items() if outcome.result in ("failed", "error")}
        over = {name: kept for name, kept in self.bad.items() if name not in bad}
        new = [outcome for outcome in bad.values() if self._is_news(outcome)]
        self.bad = {name: (bad[name], self.bad.get(name, (None, moment))[1]) for name in bad}
        return [*_over(over, told, moment), *_new(new)]

    def _is_news(self, outcome: Outcome) -> bool:
        if outcome.name not in self.bad:
            return True
        before, _ = self.bad[outcome.name]
        return fingerprint(outcome.name, before.said) != fingerprint(outcome.name, outcome.said)


def _new(bad: Iterable[Outcome]) -> Iterator[str]:
    groups: dict[str, list[str]] = {}
    for outcome in bad:
        groups.setdefault(_first_line(outcome), []).append(outcome.name)
    for said, names in groups.items():
        if machine := UNREACHED.fullmatch(said):
            yield f"✗ {machine[1]} is not reached any more: {machine[2]} ({_counted(names)})"
        else:
            yield f"✗ {listed(names)}: {said}"


def _over(over: dict[str, tuple[Outcome, float]], told: dict[str, Outcome], moment: float) -> Iterator[str]:
    groups: dict[tuple[str, float, bool], list[str]] = {}
    for name, (outcome, since) in over.items():
        passes = name in told and told[name].result == "passed"
        groups.setdefault((_first_line(outcome), since, passes), []).append(name)
    for (said, since, passes), names in groups.items():
        lasted = duration(moment - since)
        if not passes:
            yield f"\u2013 {listed(names)}: not checked any more, after {lasted}"
        elif machine := UNREACHED.fullmatch(said):
            yield f"✓ {machine[1]} is reached again, after {lasted} ({_counted(names)})"
        else:
            yield f"✓ {listed(names)}: passes again, after {lasted}"


def _first_line(outcome: Outcome) -> str:
    return next((line.strip() for line in outcome.said.splitlines() if line.strip()), "no reason was given")


def _counted(names: Sequence[str]) -> str:
    return f"{len(names)} check{'s' if len(names) != 1 else ''}"


class Watch:
    """The passes of one `--watch`: never two at once, and begun by a clock that strikes every `seconds`."""

    def __init__(
        self, command: Sequence[str], folder: Path, out: Path, seconds: float,
        tell: Callable[[str], None] = lambda line: print(line, flush=True),
    ) -> None:  # fmt: skip
        self._command, self._folder, self._out, self._seconds = command, folder, out, seconds
        self._tell, self._changes = tell, Changes()
        self._passes, self._trouble, self._unchanged = 0, "", ""

    def run(self) -> int:
        """Pass after pass until it is interrupted, which is how it ends; returns the exit code of that.

        A first pass that could not look at the lab ends it, too, with its own exit code.
        """
        clock = time.monotonic()
        try:
            code = self._first()
            while code in VERIFIED:
                # A pass that took longer than the interval leaves out the strokes that it missed.
                late = (time.monotonic() - clock) % self._seconds
                until_then(Deadline(self._seconds - late))
                self._again()
        except KeyboardInterrupt:
            self._tell(f"the watch was ended after {self._passes} passes")
            return pytest.ExitCode.INTERRUPTED
        return code

    def _first(self) -> int:
        run = new_run_id()
        code, _ = self._pass(run, output=None)
        if code in VERIFIED:
            self._changes.take(past.read(self._out / run).outcomes, time.time())
            self._tell(f"\nevery {duration(self._seconds)}, changes only; ended by Ctrl-C or SIGTERM\n")
        return code

    def _again(self) -> None:
        run, began = new_run_id(), time.time()
        code, said = self._pass(run, output=subprocess.PIPE)
        lines = list(self._lines(run, code, said, began))
        clock = time.strftime("%H:%M:%S", time.localtime(began))
        for line in lines:
            self._tell(f"{clock}  {line}")
        self._leave(run, changed=bool(lines))

    def _lines(self, run: str, code: int, said: str, began: float) -> Iterator[str]:
        trouble = "" if code in VERIFIED else f"nothing was verified (exit {code}): {remote.tail(said)}"
        if trouble != self._trouble:
            yield f"✗ {trouble}" if trouble else "✓ verified again"
        self._trouble = trouble
        if not trouble:
            changes = self._changes.take(past.read(self._out / run).outcomes, began)
            yield from changes
            if changes:
                yield f"{self._verdict()} · {self._out / run / 'index.html'}"

    def _verdict(self) -> str:
        wrong = len(self._changes.bad)
        return f"NOT PROVED, {wrong} failed" if wrong else "PROVED"

    def _pass(self, run: str, *, output: int | None) -> tuple[int, str]:
        """One session; its exit code, and what it said if that was not let through."""
        self._passes += 1
        # In a process group of its own: Ctrl-C reaches this process alone, which then ends the pass once.
        child = subprocess.Popen(
            self._command, cwd=self._folder, env={**os.environ, NAMED: run}, text=True, errors="replace",
            stdout=output, stderr=output and subprocess.STDOUT, process_group=0,
        )  # fmt: skip
        with child:
            try:
                said, _ = child.communicate()
            except KeyboardInterrupt:
                child.terminate()
                child.communicate()
                raise
        return child.returncode, said or ""

    def _leave(self, run: str, *, changed: bool) -> None:
        """Of passes that changed nothing, the reports of the last one alone are kept."""
        if self._unchanged:
            shutil.rmtree(self._out / self._unchanged, ignore_errors=True)
        self._unchanged = "" if changed else run
