"""A writer killed at any moment has lost nothing that the ledger had acknowledged."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from provision.ledger import Ledger

ROOT = Path(__file__).parents[2]
KILLS = 50
SEED = 20261122

# Imports once and then forks a writer for every line it is told: a writer appends from four threads,
# and says after each append that it was acknowledged. A line is written whole, by one write.
KENNEL = """
import os, sys, threading, time
from provision.ledger import Event, Ledger

def write(ledger, writer, thread):
    number = 0
    while True:
        number += 1
        name = f"{writer}.{thread}.{number}"
        facts = {"pad": "x" * 500}
        ledger.append(Event(time.time(), "r", "hall", None, "node1", "load", name, facts, origin=name))
        os.write(1, f"ack {name}\\n".encode())

for line in sys.stdin:
    path, writer = line.split()
    pid = os.fork()
    if not pid:
        ledger = Ledger(path)
        threads = [threading.Thread(target=write, args=(ledger, writer, each)) for each in range(4)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
    os.write(1, f"pid {pid}\\n".encode())
    os.waitpid(pid, 0)
    os.write(1, b"ended\\n")
"""


class Kennel:
    """A process that keeps a writer, which is killed and begun again."""

    def __init__(self, ledger: Path) -> None:
        self._ledger = ledger
        self.process = subprocess.Popen(
            [sys.executable, "-c", KENNEL], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def write_and_kill(self, writer: str, after: int) -> list[str]:
        """Let a writer run until it has said so many acknowledgements; the names of all that it said."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{self._ledger} {writer}\n")
        self.process.stdin.flush()
        acknowledged: list[str] = []
        pid = 0
        while (line := self._line()) != "ended":
            kind, value = line.split()
            if kind == "pid":
                pid = int(value)
            else:
                acknowledged.append(value)
            if pid and len(acknowledged) >= after:
                os.kill(pid, signal.SIGKILL)
                after = sys.maxsize
        return acknowledged

    def _line(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the kennel died"
        return line.strip()

    def close(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(10)
        self.process.stdout.close()


@pytest.fixture
def kennels(tmp_path: Path) -> Iterator[list[Kennel]]:
    kennels = [Kennel(tmp_path / "ledger.db") for _ in range(2)]
    yield kennels
    for kennel in kennels:
        kennel.close()


def test_every_acknowledged_event_outlives_kill_9(kennels: list[Kennel], tmp_path: Path) -> None:
    chance = random.Random(SEED)
    acknowledged: list[str] = []
    for number in range(KILLS):
        kennel = kennels[number % 2]
        acknowledged += kennel.write_and_kill(f"w{number}", chance.randrange(1, 25))
    ledger = Ledger(tmp_path / "ledger.db")
    kept = Counter(event.origin for event in ledger.events())
    ledger.close()
    assert len(acknowledged) >= KILLS
    assert [name for name in acknowledged if name not in kept] == []
    assert set(kept.values()) == {1}
    # A thread had at most one event under way when it was killed: no more than that may be kept unsaid.
    assert len(kept) - len(acknowledged) <= 4 * KILLS
    integrity = sqlite3.connect(tmp_path / "ledger.db")
    assert integrity.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    integrity.close()
