"""A thousand simulated nodes go through a whole install at once: python -m benchmarks.boot_storm [--nodes N]

The real boot service behind the real nginx configuration (any package of nginx will do, such as nginx-light);
every node asks from an address of its own, over a new connection each time, and by HTTPS where tokens are.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

from benchmarks.boot_nodes import STANDING, Answer, Leave, Way, asks_for_answer, installed_hook, report
from benchmarks.boot_rig import BootRig, missing
from benchmarks.run import machine

SEED = 20261122
P99_AIM = 0.25
LOG = "\n".join(f"Setting up package-{number} (1.0-{number}) ..." for number in range(60))


@dataclass(frozen=True, slots=True)
class Call:
    """One thing that a node asks, and what must be in the answer."""

    name: str
    method: str
    path: str
    body: bytes = b""
    holds: str = ""
    secure: bool = True


@dataclass(frozen=True, slots=True)
class Timed:
    """One call as it went; `why` is empty when the node got what it should."""

    call: str
    seconds: float
    why: str = ""


def calls(leave: Leave) -> Iterator[Call]:
    """Everything a node asks, in its order, from the first boot script to its registration."""
    node, says = leave.node, f"/report/{leave.report_token}"
    granted = leave.grant(0)
    yield Call("boot script", "GET", f"/boot/{node.mac}", holds=granted["boot_script"], secure=False)
    yield Call("answer", "POST", f"/answer/{leave.answer_token}", asks_for_answer(node), granted["answer"])
    yield Call("first-boot script", "GET", f"/first-boot/{leave.report_token}", holds=granted["first_boot"])
    yield Call("webhook", "POST", f"/installed/{leave.report_token}", installed_hook(leave))
    yield Call("boot script, disk", "GET", f"/boot/{node.mac}", holds=STANDING, secure=False)
    yield Call("report first-boot", "POST", says, report(leave, "first-boot", "first boot has begun"))
    yield Call("report status", "POST", says, report(leave, "status", "the network is up"))
    yield Call("report registered", "POST", says, report(leave, "registered", "first boot is done", LOG))


async def storm(way: Way, leaves: Sequence[Leave], spread: float) -> list[Timed]:
    """All nodes, each beginning somewhere in the first `spread` seconds, in the same order each time."""
    chance = random.Random(SEED)  # noqa: S311 (a schedule, not a secret)
    begins = [chance.uniform(0, spread) for _ in leaves]
    lives = await asyncio.gather(
        *(_live(way, leave, when) for leave, when in zip(leaves, begins, strict=True))
    )
    return [timed for life in lives for timed in life]


async def _live(way: Way, leave: Leave, begins: float) -> list[Timed]:
    await asyncio.sleep(begins)
    return [_judged(call, await way.ask(leave.node, call.method, call.path, call.body, secure=call.secure))
            for call in calls(leave)]  # fmt: skip


def _judged(call: Call, answer: Answer) -> Timed:
    if answer.status != 200:
        return Timed(call.name, answer.seconds, f"{answer.status} {answer.body[:100]!r}")
    wrong = bool(call.holds) and answer.body.decode() != call.holds
    return Timed(call.name, answer.seconds, "another body than it should have" if wrong else "")


def in_process_of_its_own(way: Way, leaves: Sequence[Leave], spread: float) -> tuple[list[Timed], float]:
    """The storm from a process that does nothing else. Returns the CPU seconds that the nodes took, too."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_run, way, list(leaves), spread).result()


def _run(way: Way, leaves: Sequence[Leave], spread: float) -> tuple[list[Timed], float]:
    return asyncio.run(storm(way, leaves, spread)), time.process_time()


def main(arguments: Sequence[str] | None = None) -> int:
    """Print p50, p99 and the longest of every call. Returns 1 when a call failed or is beyond the aim."""
    options = _parser().parse_args(arguments)
    if lacking := missing("nginx", "openssl"):
        sys.exit(f"{', '.join(lacking)} missing: apt-get install nginx-light openssl")
    with (
        tempfile.TemporaryDirectory(prefix="boot-storm-") as folder,
        BootRig(Path(folder), options.nodes, secure=not options.http, workers=options.workers,
                connections=options.connections) as rig,
    ):  # fmt: skip
        leaves = rig.grant_all()
        busy = rig.cpu_seconds()
        timed, nodes_busy = in_process_of_its_own(rig.way, leaves, options.spread)
        busy = rig.cpu_seconds() - busy
    print(f"{machine()}\n{options.nodes} nodes that begin within {options.spread:g} s, {len(timed)} calls")
    print(f"CPU: boot service {busy:.1f} s, nodes {nodes_busy:.1f} s")
    return _print(timed)


def _print(timed: Sequence[Timed]) -> int:
    by_call: dict[str, list[Timed]] = defaultdict(list)
    for each in timed:
        by_call[each.call].append(each)
    print(f"{'call':<20}{'p50':>10}{'p99':>10}{'longest':>10}{'failed':>8}")
    missed = False
    for call, group in by_call.items():
        ordered = sorted(each.seconds for each in group)
        p99, failures = quantile(ordered, 0.99), [each.why for each in group if each.why]
        times = "".join(f"{1000 * each:7.1f} ms" for each in (quantile(ordered, 0.5), p99, ordered[-1]))
        print(f"{call:<20}{times}{len(failures):8}" + (f"  {failures[0]}" if failures else ""))
        missed = missed or p99 > P99_AIM or bool(failures)
    print(f"aim: none failed, p99 within {1000 * P99_AIM:.0f} ms: {'missed' if missed else 'reached'}")
    return int(missed)


def quantile(ordered: Sequence[float], share: float) -> float:
    """The smallest value that this share of the values does not exceed."""
    return ordered[max(0, -int(-share * len(ordered) // 1) - 1)]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.boot_storm", description=__doc__)
    parser.add_argument("--nodes", type=int, default=1000, help="how many nodes (default: 1000)")
    parser.add_argument("--spread", type=float, default=20.0, metavar="SECONDS",
                        help="they begin within so many seconds (default: 20)")  # fmt: skip
    parser.add_argument("--http", action="store_true", help="without TLS")
    parser.add_argument("--workers", type=int, default=1, help="processes of the boot service")
    parser.add_argument("--connections", type=int, default=768, help="nginx's worker_connections")
    return parser


if __name__ == "__main__":
    sys.exit(main())
