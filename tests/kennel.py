"""Where writers of a ledger are kept that tests kill at any moment."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


class Kennel:
    """A process that keeps a writer, which is killed and begun again.

    `program` forks a writer for each line "STORE WRITER" that it reads, and prints, each by one write,
    "pid N", the writer's "ack NAME", and "ended" when the writer is dead.
    """

    def __init__(self, program: str, store: str) -> None:
        self._store = store
        self._process = subprocess.Popen(
            [sys.executable, "-c", program],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def write_and_kill(self, writer: str, after: int) -> list[str]:
        """Let a writer run until it has said so many acknowledgements; the names of all that it said."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{self._store} {writer}\n")
        self._process.stdin.flush()
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

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(10)
        self._process.stdout.close()

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the kennel died"
        return line.strip()
