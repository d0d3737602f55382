"""Times runs over growing racks: the harness's own share, where it goes, what going at once gains.

python -m benchmarks.provision [--nodes 4,8,16]        racks of their own, taken down afterwards

Each rack is raised first, then `pytest -m provision --until cluster` runs on it. Own is the time in which no
machine was at work. What one node takes alone, times the nodes, is what a loop over them takes.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from benchmarks.run import ROOT, machine
from provision.handed import PHASES

PATIENCE = "30m"
"""Of every deadline: many nodes on few cores are slow, and that is not what is measured."""
INSTANCES = Path("/proc/sys/fs/inotify/max_user_instances")
EACH = 7
"""Instances of inotify that systemd and what runs under it take in one machine."""
ENDED = ("reset", *PHASES, "cluster-created", "node-joined")


def main(arguments: Sequence[str] | None = None) -> int:
    """Print wall time, own share and the phases of each rack."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.provision", description=__doc__)
    parser.add_argument("--nodes", default="4,8,16", help="sizes of the racks")
    sizes = [int(size) for size in parser.parse_args(arguments).nodes.split(",")]
    print(f"{machine()}\n")
    most = int(INSTANCES.read_text()) // EACH - 1
    for nodes in sizes:
        if nodes > most:
            print(f"{nodes} nodes: left out, {INSTANCES} allows {most} nodes and a server\n")
            continue
        with tempfile.TemporaryDirectory() as folder:
            _Rack(nodes, Path(folder)).measure()
    return 0


@dataclass(frozen=True, slots=True)
class _Rack:
    nodes: int
    folder: Path

    def measure(self) -> None:
        lab = self.folder / "lab.yaml"
        self._run(sys.executable, "-m", "labs.large", "--nodes", str(self.nodes), "--kind", "full", into=lab)
        written = yaml.safe_load(lab.read_text())
        lab.write_text(yaml.safe_dump(written | {"deadlines": dict.fromkeys(written["deadlines"], PATIENCE)}))
        try:
            self._run(sys.executable, "-m", "virtual_lab", "--rack", self._instance, "up", str(lab))
            whole = self._provision(lab, "--until", "cluster")
            _print_whole(self.nodes, whole)
            alone = self._provision(lab, "--from", "power", "--until", "install",
                                    "--nodes", next(iter(written["nodes"])))  # fmt: skip
            _print_ratio(self.nodes, whole.installed, alone.installed)
        finally:
            self._run(sys.executable, "-m", "virtual_lab", "--rack", self._instance, "down")

    @property
    def _instance(self) -> str:
        return "-".join(filter(None, [os.environ.get("RACKPROOF_INSTANCE"), f"provision-{self.nodes}"]))

    def _provision(self, lab: Path, *arguments: str) -> _Run:
        out = self.folder / "out"
        cpu, start = os.times(), time.monotonic()
        self._run(sys.executable, "-m", "pytest", "-c", "pyproject.toml", "-m", "provision",
                  "--lab", str(lab), "--out", str(out), *arguments)  # fmt: skip
        seconds, after = time.monotonic() - start, os.times()
        used = after.children_user + after.children_system - cpu.children_user - cpu.children_system
        lines = (out / "latest" / "events.jsonl").read_text(encoding="utf-8").splitlines()
        return _Run(seconds, used, [json.loads(line) for line in lines])

    def _run(self, *command: str, into: Path | None = None) -> None:
        result = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, check=False,
            env=os.environ | {"RACKPROOF_INSTANCE": self._instance},
        )  # fmt: skip
        if result.returncode != 0:
            raise SystemExit(f"{' '.join(command)}: {result.returncode}\n{result.stdout}{result.stderr}")
        if into:
            into.write_text(result.stdout, encoding="utf-8")


@dataclass(frozen=True, slots=True)
class _Run:
    """A run: seconds by the clock and of CPU (the harness and what it started itself), and its events."""

    seconds: float
    cpu: float
    events: Sequence[Mapping[str, Any]]

    @property
    def ended(self) -> Mapping[str, Any]:
        """What the run said of itself in the end."""
        return dict(next(event["facts"] for event in self.events if event["kind"] == "run-ended"))

    @property
    def reset(self) -> float:
        """When step power began."""
        kinds = [(event["kind"], event["step"]) for event in self.events]
        return float(self.events[kinds.index(("step-started", "power"))]["time"])

    @property
    def moments(self) -> dict[str, dict[str, float]]:
        """Seconds from there until each node first came to each phase."""
        start = self.reset
        found: dict[str, dict[str, float]] = {kind: {} for kind in ENDED}
        for event in self.events:
            if event["kind"] in found and event["node"]:
                found[event["kind"]].setdefault(event["node"], event["time"] - start)
        return {kind: moments for kind, moments in found.items() if moments}

    @property
    def installed(self) -> float:
        """Seconds from there until the last node was installed and had its first boot."""
        return max(self.moments["registered"].values())


def _print_whole(nodes: int, run: _Run) -> None:
    own = run.seconds - run.ended["machines_at_work"]
    print(f"{nodes} nodes: {run.seconds:.1f} s, own {own:.1f} s ({100 * own / run.seconds:.1f} %)")
    print(f"  CPU {run.cpu:.1f} s, events {len(run.events)}, connections {run.ended['ssh_connections']}")
    shares = run.ended["own"] | {"Python's start and end": own - sum(run.ended["own"].values())}
    parts = sorted(shares.items(), key=lambda part: -part[1])
    print("  own: " + ", ".join(f"{name} {seconds:.2f}" for name, seconds in parts if seconds >= 0.01))
    print(f"  {'seconds from step power on':<28}{'first':>8}{'median':>8}{'last':>8}")
    for kind, moments in run.moments.items():
        first, median, last = (
            min(moments.values()),
            statistics.median(moments.values()),
            max(moments.values()),
        )
        print(f"  {kind:<28}{first:8.1f}{median:8.1f}{last:8.1f}")


def _print_ratio(nodes: int, at_once: float, alone: float) -> None:
    serial = nodes * alone
    print(f"  power to registered: at once {at_once:.1f} s; one node alone {alone:.1f} s, so one after the "
          f"other {serial:.1f} s, {serial / at_once:.1f} times as long\n", flush=True)  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
