"""Loads an HTTP server with wrk: so many connections, for some seconds, requests from a list."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

SCRIPT = Path(__file__).parent / "wrk" / "nodes.lua"


@dataclass(frozen=True, slots=True)
class Request:
    """One request in the name of the node with this address."""

    method: str
    path: str
    address: str
    body: str = ""


@dataclass(frozen=True, slots=True)
class Figures:
    """What a load came to: requests a second, seconds of half and of 99 % of them, and how many failed."""

    rate: float
    p50: float
    p99: float
    requests: int
    errors: int

    def __str__(self) -> str:
        failed = f", {self.errors} failed" if self.errors else ""
        return f"{self.rate:9,.0f}/s  p50 {1000 * self.p50:7.2f} ms  p99 {1000 * self.p99:7.2f} ms{failed}"


def write_requests(path: Path, requests: Iterable[Request]) -> Path:
    """Write down what wrk is to ask. Returns `path`."""
    lines = [f"{each.method}\t{each.path}\t{each.address}\t{each.body}\n" for each in requests]
    path.write_text("".join(lines))
    return path


def load(port: int, requests: Path, connections: int, seconds: int) -> Figures:
    """Ask 127.0.0.1 over and over in turn, in one thread over so many connections."""
    command: list[str | Path] = ["wrk", "--threads", "1", "--connections", str(connections)]
    command += ["--duration", f"{seconds}s", "--timeout", "10s", "--script", SCRIPT]
    command += [f"http://127.0.0.1:{port}/", "--", requests]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    figures = next(line for line in said.splitlines() if line.startswith("FIGURES "))
    rate, p50, p99, count, errors = figures.split()[1:]
    return Figures(float(rate), float(p50), float(p99), int(count), int(errors))
