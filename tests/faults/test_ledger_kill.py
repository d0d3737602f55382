"""A writer killed at any moment has lost nothing that the ledger had acknowledged."""

from __future__ import annotations

import random
import sqlite3
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from provision.ledger import Ledger
from tests.kennel import Kennel

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


@pytest.fixture
def kennels(tmp_path: Path) -> Iterator[list[Kennel]]:
    kennels = [Kennel(KENNEL, str(tmp_path / "ledger.db")) for _ in range(2)]
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
