"""The terminal: a live table of steps and nodes, or a line per event where there is no terminal."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from io import StringIO

import pytest
from _pytest.terminal import TerminalReporter
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from provision.journal import Event
from reports.story import NODE_PHASES, PHASED, NodeTold, Outcome, StepTold, Story, duration, is_slow

SIGNS = {
    "waiting": (" ", "dim"),
    "running": ("▸", "bold cyan"),
    "done": ("✓", "green"),
    "recalled": ("✓", "dim"),
    "checked": ("✓", "green"),
    "failed": ("✗", "bold red"),
    "not reached": ("\u2013", "dim"),
}
BAR = 10
WIDTH = 120
"""Columns where there is no terminal to ask."""
QUIET = ("step-started", "run-started", "run-ended", "step-done", "step-failed")


class LabReporter(TerminalReporter):  # type: ignore[misc] # final, as every other reporter plugin ignores too
    """pytest's reporter for a lab session: it tells the run, not the tests."""

    def __init__(self, config: pytest.Config, story: Story, heading: str, report: str) -> None:
        # What pytest's own reporter would print goes nowhere; it still keeps the statistics that
        # plugins and the exit code rest on.
        super().__init__(config, StringIO())
        self.story, self._heading, self.report = story, heading, report
        self.notes: list[str] = []
        """What is said before the last line: a report or a history that could not be written."""
        # Capturing replaces file descriptor 1 during tests; this one stays the terminal.
        self.stream = os.fdopen(os.dup(1), "w", buffering=1)
        self.console = Console(file=self.stream, highlight=False)
        if not self.console.is_terminal:
            self.console.width = WIDTH
        self._live = Live(
            get_renderable=self.table, console=self.console, refresh_per_second=4, transient=True
        )

    def begin(self) -> None:
        """Say what is about to happen."""
        self.console.print(f"{self._heading}\n", markup=False, soft_wrap=True)
        if self.console.is_terminal:
            self._live.start()

    def tell(self, event: Event) -> None:
        """Without a terminal: one line per event. With one, the table shows it."""
        if self.console.is_terminal or event.kind in ("run-started", "run-ended"):
            return
        clock = time.strftime("%H:%M:%S", time.localtime(event.time))
        words = [
            clock,
            f"{event.step or '':<8}",
            event.node or "",
            event.kind if event.kind not in QUIET else "",
        ]
        text = f"{event.kind.removeprefix('step-')}" if event.kind in QUIET else event.text
        self.console.print(" ".join(word for word in [*words, text] if word), markup=False, soft_wrap=True)

    def end(self) -> None:
        """The table as it came out, what is wrong in full, and the run in one line."""
        self._live.stop()
        self.console.print(self.table(live=False))
        if self.story.overview:
            self.console.print(self.overview(), soft_wrap=True)
        for text in self.printed():
            self.console.print(f"\n{text.strip()}", markup=False, soft_wrap=True)
        for said, names in alike(self.story.bad).items():
            self.console.print(Text(f"\n✗ {listed(names)}", "bold red"), soft_wrap=True)
            self.console.print(Text(indent(said), "none"), soft_wrap=True)
        for note in self.notes:
            self.console.print(f"\n{note}", markup=False, soft_wrap=True)
        closing = f"\n{self.story.verdict} · {self.story.closing_line()} · {self.report}"
        self.console.print(closing, markup=False, soft_wrap=True)
        self.stream.close()

    def table(self, *, live: bool = True) -> RenderableType:
        """The steps, and the nodes of the one that is acting."""
        grid = Table.grid("", "", padding=(0, 2), expand=True)
        grid.add_column(justify="right", min_width=7)
        grid.add_column(ratio=1, no_wrap=True)
        grid.add_column()
        for step in self.story.steps.values():
            grid.add_row(*_step_row(step))
            if live and step.state == "running" and step.name != "server":
                for node in self.story.nodes.values():
                    grid.add_row("", "", "", node_line(node, self.story.usual, phased=step.name in PHASED))
        waiting = f"the lab is {self.story.waiting}" if live and self.story.waiting else ""
        return Group(grid, Text(waiting, "yellow"))

    def overview(self) -> RenderableType:
        """What the cluster says of itself."""
        grid = Table.grid(padding=(0, 2))
        for name, text in self.story.overview:
            grid.add_row(Text(name, "dim"), Text(text))
        return grid

    def printed(self) -> Iterator[str]:
        """What passed checks printed, when they were chosen by -k, or by -rA or -rP what is to be shown."""
        if self.config.option.keyword or "P" in self.reportchars:
            passed: list[pytest.TestReport] = self.stats.get("passed", [])
            yield from (report.capstdout for report in passed if report.capstdout)

    def pytest_internalerror(self, excrepr: object) -> bool:
        """A fault of rackproof itself is shown whole."""
        self._live.stop()
        self.console.print(str(excrepr), markup=False)
        return True


def _step_row(step: StepTold) -> Iterator[Text]:
    sign, style = SIGNS["failed" if step.wrong and step.state != "running" else step.state]
    seconds = time.time() - step.began if step.state == "running" else step.seconds
    yield Text(step.name, "bold" if step.state in ("running", "failed") else "")
    yield Text(sign, style)
    yield Text(duration(seconds) if seconds else "")
    yield Text(step.said.splitlines()[0] if step.said else step.summary, overflow="ellipsis")
    yield _checks(step)


def _checks(step: StepTold) -> Text:
    bad = step.wrong
    text = Text()
    if passed := step.checks["passed"]:
        text.append(f"{passed} checks ✓", "green")
    if bad:
        text.append(f"{'  ' if text else ''}{bad} ✗", "bold red")
    return text


def node_line(node: NodeTold, usual: Mapping[str, float], *, phased: bool, now: float | None = None) -> Text:
    """A node while a step acts: its phase, how far that is, how long already, and its last word."""
    if not phased:
        return Text(f"{node.name:<8} {node.last}")
    done = NODE_PHASES.index(node.phase) + 1 if node.phase else 0
    filled = round(BAR * done / len(NODE_PHASES))
    age = (time.time() if now is None else now) - node.since if node.since else None
    line = Text(f"{node.name:<8} {node.phase or 'waiting':<16} ")
    line.append("█" * filled, "cyan")
    line.append("░" * (BAR - filled), "dim")
    line.append(f" {'' if age is None else f'{age:4.0f} s':>7}  ")
    normal = node.usual(usual)
    if age is not None and normal is not None and is_slow(age, normal):
        line.append(f"slower than its usual {duration(normal)}; last seen: ", "yellow")
    line.append(node.last)
    return line


def alike(bad: Iterable[Outcome]) -> dict[str, list[str]]:
    """What was said, once, and all the tests that said it."""
    told: dict[str, list[str]] = {}
    for outcome in bad:
        told.setdefault(outcome.said, []).append(outcome.name)
    return told


def listed(names: Sequence[str], most: int = 5) -> str:
    """Names in a row, the first few of many."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def indent(text: str) -> str:
    """Every line of a text, four characters further right."""
    return "\n".join(f"    {line}" for line in text.strip().splitlines())
