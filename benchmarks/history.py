"""Times what the history answers after a month of four runs a day: python -m benchmarks.history."""

from __future__ import annotations

import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from provision.run import STEPS
from reports.history import History, PhaseRow, Record, RunRow, StepRow
from reports.story import NODE_PHASES, Outcome

ROOT = Path(__file__).parent.parent
NODES = ("node1", "node2", "node3", "node4")
BEGAN = 1_795_000_000.0
A_DAY = 86400.0
RUNS = 120
BROKEN_FROM = 113
"""The first run of the series with a fault that stands."""


def month(runs: int = RUNS) -> Iterator[Record]:
    """Runs of a lab with 400 checks: one wavers, and from run 113 on another fails for good."""
    chance = random.Random(7)  # noqa: S311 (the same month each time)
    for number in range(runs):
        yield _run(number, chance)


def main() -> int:
    """Print how long each takes."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        with History(out / "history.sqlite") as history:
            taken = _seconds(lambda: [history.add(record) for record in month()])
        size = sum(path.stat().st_size for path in out.iterdir()) / 2**20
        figures = {command: _answered(command, out) for command in ("history", "flaky")}
    print(f"\n{RUNS} runs of {len(NODES)} nodes; the file has {size:.1f} MiB")
    print(f"keeping one run           {taken / RUNS:6.3f} s")
    for command, seconds in figures.items():
        print(f"python -m reports {command:<7} {seconds:6.3f} s")
    return 0


def _run(number: int, chance: random.Random) -> Record:
    outcomes = [Outcome(f"step {step}", step, "passed", 5.0, acts=True) for step in STEPS]
    outcomes += [_check(number, place, chance) for place in range(400)]
    bad = any(outcome.result == "failed" for outcome in outcomes)
    run = RunRow(
        f"run-{number:04}", "hall-3", "provision", BEGAN + number * A_DAY / 4, 80 + chance.random(),
        "NOT PROVED" if bad else "PROVED", "0.1 abc1234", "f00d",
    )  # fmt: skip
    steps = [StepRow(step, "done", place * 4 + chance.random()) for place, step in enumerate(STEPS, 1)]
    phases = [PhaseRow(node, phase, chance.random()) for node in NODES for phase in NODE_PHASES]
    return Record(run, steps, phases, outcomes, NODES)


def _check(number: int, place: int, chance: random.Random) -> Outcome:
    node = NODES[place % len(NODES)]
    name = f"subject{place // 40}: check_{place // 4}[{node}]"
    if place == 5 and chance.random() < 0.1:
        return Outcome(name, "install", "failed", 0.1, said=f"clock is {chance.random():.3f} s off")
    if place == 42 and number >= BROKEN_FROM:
        return Outcome(name, "cluster", "failed", 0.1, said="assert 1500 == 9000")
    return Outcome(name, STEPS[place // 67], "passed", 0.1)


def _seconds(act: Callable[[], object]) -> float:
    began = time.monotonic()
    act()
    return time.monotonic() - began


def _answered(command: str, out: Path) -> float:
    asked = [sys.executable, "-m", "reports", command, "--out", str(out)]
    return _seconds(lambda: subprocess.run(asked, cwd=ROOT, check=True, capture_output=True))


if __name__ == "__main__":
    sys.exit(main())
