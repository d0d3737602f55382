"""Planting faults in a standing lab, and judging who caught them.

Faults that leave each other alone are planted together, to spare time: every failed case must be
expected of exactly one of them, and each must be caught by all that it names.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from tests.lab.conftest import Lab

CAUGHT: set[str] = set()
"""The checks that have caught a fault that names them, as `subject::check`; `judge` adds to it."""
NODES = ("node1", "node2", "node3", "node4")


@dataclass(frozen=True)
class Fault:
    """A fault by the shell commands that plant and mend it on a machine, and who must catch it.

    Each of `caught_by`, regular expressions, must match a failed case.
    """

    name: str
    machine: str
    plant: str
    mend: str
    caught_by: tuple[str, ...]


def edited(name: str, machine: str, path: str, script: str, *caught_by: str, after: str = "true") -> Fault:
    """A fault by a sed script on a file, mended by the copy that was kept."""
    kept = "/root/kept-" + re.sub(r"\W+", "-", name)
    return Fault(
        name,
        machine,
        f"cp -p {path} {kept} && sed -i --follow-symlinks '{script}' {path} && ! cmp -s {path} {kept} && {after}",
        f"cat {kept} >{path} && touch -r {kept} {path} && rm {kept} && {after}",
        caught_by,
    )


def run(name: str, machine: str, plant: str, mend: str, *caught_by: str) -> Fault:
    """A fault by two commands."""
    return Fault(name, machine, plant, mend, caught_by)


def way(node: str, *, both: bool = False) -> str:
    """The pairs of nodes that start at a node, or at either end."""
    others = "|".join(other for other in NODES if other != node)
    there = f"{node}-({others})"
    return f"({there}|({others})-{node})" if both else there


def lying(name: str, machine: str, tool: str, lie: str, *caught_by: str) -> Fault:
    """A fault by a tool in the place of the real one, which it can call as "$real"."""
    path, real = f"/usr/sbin/{tool}", f"/root/kept-{tool}"
    script = f"#!/bin/sh\nreal={real}\n{lie}\n"
    return Fault(
        name,
        machine,
        f"cp -p {path} {real} && cat >{path} <<'SH'\n{script}SH\n",
        f"mv {real} {path}",
        caught_by,
    )


def settle(lab: Lab, links: int = 6) -> None:
    """Wait until node1 has that many connected links to its peers, and all daemons answer."""
    lab.on("node1", f"for i in $(seq 300); do [ \"$(corosync-cfgtool -n | grep -c 'enabled connected')\" = {links} ]"
                    " && exit 0; sleep 0.1; done; corosync-cfgtool -n; exit 1")  # fmt: skip


@contextmanager
def planted(lab: Lab, batch: Sequence[Fault], settled: Callable[[Lab], None] = settle) -> Iterator[None]:
    """The faults stand inside, and are mended afterwards, last first, until all is `settled`."""
    with ExitStack() as mending:
        mending.callback(settled, lab)
        for fault in batch:
            mending.callback(lab.on, fault.machine, fault.mend)
            lab.on(fault.machine, fault.plant)
        yield


def judge(caught: set[str], faults: Sequence[Sequence[str]]) -> None:
    """Every caught case is expected, and of one fault; every expectation is met."""
    found = {
        case: [fault for fault in faults if any(re.fullmatch(p, case) for p in fault)] for case in caught
    }
    strangers = sorted(case for case, whose in found.items() if not whose)
    assert not strangers, f"innocent checks failed: {strangers}"
    torn = sorted(case for case, whose in found.items() if len(whose) > 1)
    assert not torn, f"expected of more than one fault, so plant them apart: {torn}"
    patterns = [pattern for fault in faults for pattern in fault]
    asleep = [pattern for pattern in patterns if not any(re.fullmatch(pattern, case) for case in caught)]
    assert not asleep, f"nothing caught it: {asleep}; caught: {sorted(caught)}"
    CAUGHT.update(pattern.partition(r"\[")[0] for pattern in patterns)


def never_caught(lab: Lab) -> list[str]:
    """The checks of the lab's last verify by which no fault was caught in this session, each by its name."""
    return sorted({name.partition("[")[0] for name, _ in lab.cases()} - CAUGHT)
