"""A verification of the standing lab by several workers, and by one that is repeated."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

from provision.wait import NotYet
from tests.lab_fixtures import ROOT, SOON, Lab

SOME = "check_ssh or check_network or check_dns or check_corosync"
"""Checks of each kind: of one node, of two, of all, and of the server."""
OPENED = {"node1": 3, "node2": 3, "node3": 3, "node4": 3, "server": 1}
"""Connections of one process: one log-in to each machine, and two of check_ssh's own that try a node's door."""


def opened(lab: Lab) -> dict[str, int]:
    (ended,) = lab.events("run-ended")
    connections: dict[str, int] = ended["facts"]["connections"]
    return connections


def test_each_worker_logs_in_to_its_own_nodes_once_and_the_report_is_that_of_one_process(lab: Lab) -> None:
    assert lab.verify("-k", SOME) == set()
    alone = lab.cases()
    assert opened(lab) == OPENED
    for workers in ("1", "3", "8"):
        assert lab.verify("-k", SOME, "-n", workers) == set()
        assert lab.cases() == alone, workers
        # The worker that has the checks of several machines logs in to each of them, too.
        more = {name: count - OPENED[name] for name, count in opened(lab).items()}
        assert more.keys() == OPENED.keys()
        assert set(more.values()) <= {"1": {0}, "3": {0, 1}, "8": {1}}[workers], (workers, more)
    assert len(alone) > 100


def test_a_watch_tells_of_a_fault_and_of_its_end(lab: Lab, tmp_path: Path) -> None:
    said = tmp_path / "said"
    arguments = ("-m", "verify", "-k", "check_mtu and storage and not packet", "--watch", "0.05")
    with said.open("w") as output:
        watch = subprocess.Popen([*lab.command, *arguments], cwd=ROOT, env=lab.environment, stdout=output)

    def until(what: str) -> None:
        def probe() -> bool | NotYet:
            assert watch.poll() is None, said.read_text()
            return what in said.read_text() or NotYet(said.read_text()[-300:])

        SOON.until(what, probe)

    try:
        until("changes only")
        lab.on("node3", "ip link set vmbr1 mtu 1500")
        until("✗ mtu: mtu_of_bridge[node3-storage]: vmbr1 has MTU 1500, not 9000")
        lab.on("node3", "ip link set vmbr1 mtu 9000")
        until("✓ mtu: mtu_of_bridge[node3-storage]: passes again, after ")
    finally:
        watch.send_signal(signal.SIGTERM)
        assert watch.wait(60) == 2
