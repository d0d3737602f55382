"""The boot service beside nginx with PHP-FPM, loaded with wrk: python -m benchmarks.boot_service

Ours is the real service on a real store behind the real nginx configuration, and knows a thousand nodes; the
other does the same jobs from JSON files, without durability or permits, and knows four, which is kind to it.
Packages: wrk, php-fpm and an nginx (nginx-light will do).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from benchmarks.boot_nodes import Answer, Leave, SimulatedNode, Way, asks_for_answer, report
from benchmarks.boot_rig import BootRig, missing
from benchmarks.boot_storm import quantile
from benchmarks.classic_rig import ClassicRig, php_fpm
from benchmarks.run import machine
from benchmarks.wrk_load import Figures, Request, load, write_requests

NODES = 1000
CLASSIC_NODES = 4
CONNECTIONS = (1, 50, 500)
BIG = 64 * 2**20


@dataclass(frozen=True, slots=True)
class Side:
    """A server on a port of 127.0.0.1, and the requests of one job that it is loaded with."""

    name: str
    port: int
    requests: Path


def main(arguments: Sequence[str] | None = None) -> int:
    """Print requests a second and latencies of both sides, and the ratio."""
    options = _parser().parse_args(arguments)
    if lacking := missing("wrk", "nginx", php_fpm()):
        sys.exit(
            f"benchmarks.boot_service needs {', '.join(lacking)}: apt-get install wrk php-fpm nginx-light"
        )
    print(f"{machine()}; each the best of {options.rounds} times {options.seconds} s\n")
    with tempfile.TemporaryDirectory(prefix="boot-service-") as name, ExitStack() as ends:
        folder = Path(name)
        rig = ends.enter_context(BootRig(folder, NODES, as_one=True, secure=False, workers=options.workers))
        with (folder / "media" / "big").open("wb") as file:
            file.truncate(BIG)
        classic_nodes = rig.nodes[:CLASSIC_NODES]
        classic = ends.enter_context(ClassicRig(folder / "classic", classic_nodes, folder / "media"))
        _Bench(rig, classic, options.seconds, options.rounds).run()
    return 0


class _Bench:
    """All measurements, in an order in which each finds the permits as it needs them."""

    def __init__(self, rig: BootRig, classic: ClassicRig, seconds: int, rounds: int) -> None:
        self._rig, self._classic, self._seconds, self._rounds = rig, classic, seconds, rounds

    def run(self) -> None:
        """Measure and print."""
        nodes, known = self._rig.nodes, self._rig.nodes[:CLASSIC_NODES]
        self._rig.grant_all()
        self._compare(
            "boot script",
            [Request("GET", f"/boot/{node.mac}", node.address) for node in nodes],
            [Request("GET", f"/boot.php?mac={node.mac}", node.address) for node in known],
        )
        for connections in CONNECTIONS[1:]:
            leaves = self._rig.grant_all()
            _print_answers(self._rig.way, leaves, connections)
        asked = [
            Request("POST", "/answer.php", node.address, asks_for_answer(node).decode()) for node in known
        ]
        for connections in CONNECTIONS:
            figures = self._load(self._side("classic answer", self._classic.port, asked), connections)
            _print("answer", connections, "classic", figures)
        self._compare(
            "status report", [_status(leave) for leave in leaves], [_classic_status(node) for node in known]
        )
        big = [Request("GET", "/media/big", "127.0.0.1")]
        self._compare("64 MiB file", big, big, connections=(1, 8))

    def _compare(self, job: str, ours: Iterable[Request], theirs: Iterable[Request],
                 connections: Sequence[int] = CONNECTIONS) -> None:  # fmt: skip
        sides = [self._side("ours", self._rig.port, ours), self._side("classic", self._classic.port, theirs)]
        for count in connections:
            # By turns, so that whatever else this machine does disturbs both.
            loads = [[self._load(side, count) for side in sides] for _ in range(self._rounds)]
            best = [max(of_side, key=lambda figures: figures.rate) for of_side in zip(*loads, strict=True)]
            for side, figures in zip(sides, best, strict=True):
                _print(job, count, side.name, figures)
            print(f"{'':<32}ours/classic {best[0].rate / best[1].rate:8.2f}", flush=True)

    def _side(self, name: str, port: int, requests: Iterable[Request]) -> Side:
        return Side(name, port, write_requests(self._rig.folder / f"requests-{name}", requests))

    def _load(self, side: Side, connections: int) -> Figures:
        return load(side.port, side.requests, connections, self._seconds)


def _status(leave: Leave) -> Request:
    body = report(leave, "status", "the network is up").decode()
    return Request("POST", f"/report/{leave.report_token}", leave.node.address, body)


def _classic_status(node: SimulatedNode) -> Request:
    said = {"node": node.name, "phase": "status", "nonce": node.mac, "text": "the network is up"}
    return Request("POST", "/status.php", node.address, json.dumps(said))


def _print_answers(way: Way, leaves: Sequence[Leave], at_once: int) -> None:
    """Fetch the answer of every permit, so many at once, and print how it went."""
    began = time.perf_counter()
    answers = asyncio.run(_answers(way, leaves, at_once))
    taken = time.perf_counter() - began
    ordered = sorted(each.seconds for each in answers)
    failed = Counter(each.status for each in answers if each.status != 200)
    print(f"{'answer':<14}{at_once:4} at once      ours    {len(answers)} permits in {taken:.2f} s  "
          f"p50 {1000 * quantile(ordered, 0.5):.1f} ms  p99 {1000 * quantile(ordered, 0.99):.1f} ms"
          + (f"  failed: {dict(failed)}" if failed else ""), flush=True)  # fmt: skip


async def _answers(way: Way, leaves: Sequence[Leave], at_once: int) -> list[Answer]:
    turns = asyncio.Semaphore(at_once)

    async def fetch(leave: Leave) -> Answer:
        async with turns:
            return await way.ask(
                leave.node, "POST", f"/answer/{leave.answer_token}", asks_for_answer(leave.node)
            )

    return await asyncio.gather(*map(fetch, leaves))


def _print(job: str, connections: int, side: str, figures: Figures) -> None:
    print(f"{job:<14}{connections:4} connections  {side:<8}{figures}", flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.boot_service", description=__doc__)
    parser.add_argument("--seconds", type=int, default=3, help="of each measurement (default: 3)")
    parser.add_argument("--rounds", type=int, default=2, help="of which the best counts (default: 2)")
    parser.add_argument("--workers", type=int, default=1, help="processes of the boot service (default: 1)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
