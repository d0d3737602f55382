"""A run that is killed at any moment leaves nothing that a second run trips over; a stopped one unwinds.

RACKPROOF_KILLS says how many runs are killed, one after the other, before one is let through (2);
RACKPROOF_SEED chooses the moments.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess

import pytest

from tests.lab_fixtures import Lab

KILLS = int(os.environ.get("RACKPROOF_KILLS", "2"))
SEED = int(os.environ.get("RACKPROOF_SEED", "20261122"))

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="a virtual rack needs root")


def test_a_run_after_killed_ones_ends_green(default_lab: Lab) -> None:
    """From wherever it stood; on a machine where nothing stands, the rack itself is killed while it rises."""
    chance, told, lab = random.Random(SEED), [], default_lab
    nonces: set[str] = set()
    for _ in range(KILLS):
        seconds = chance.uniform(0.1, 0.8) * lab.usual
        run = lab.start_pytest("-m", "provision")
        try:
            run.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            os.killpg(run.pid, signal.SIGKILL)
            run.communicate()
        told.append(f"ended as {run.returncode} after {seconds:.1f} s, at {lab.events()[-1:]}")
        nonces |= {event["facts"]["nonce"] for event in lab.events("permitted")}
    assert any("ended as -9" in each for each in told), told
    result = lab.provision()
    assert result.returncode == 0, "\n".join(
        [f"seed {SEED}", *told, result.stdout, result.stderr, lab.consoles()]
    )
    assert {lab.nonce(node) for node in lab.nodes}.isdisjoint(nonces)
    assert lab.leaves() == {}


@pytest.mark.parametrize(
    ("kind", "least"),
    [("permitted", 1), ("network-boot-set", 1), ("step-started", 3)],
    ids=["as permits are given", "as network boot is set", "as nodes are waited for"],
)
def test_a_stopped_run_unwinds(default_lab: Lab, kind: str, least: int) -> None:
    """What a cancelled CI job does: SIGTERM, once, to pytest."""
    lab = default_lab
    run = lab.start_pytest("-m", "provision")
    try:
        lab.until(kind, run=run, least=least)
        os.kill(run.pid, signal.SIGTERM)
        # Long before the deadline of what is waited for.
        out, _ = run.communicate(timeout=20)
    finally:
        run.kill()
    assert run.returncode == 2, out
    assert lab.leaves() == {}
    assert "Traceback" not in out
    assert "NOT PROVED" in out
    events = lab.events()
    assert [event["text"] for event in events if event["kind"] == "run-ended"] == ["interrupted"]
    assert "permits revoked" in [event["text"] for event in events if event["kind"] == "undone"]
    last_undo = max(event["seq"] for event in events if event["kind"] == "undone")
    after = [
        event
        for event in events
        if event["seq"] > last_undo and event["kind"] in ("reset", "network-boot-set")
    ]
    assert after == [], "nothing is done to a node any more once all is undone"
    assert int(lab.junit()[0].get("tests", "0")) > 0
    evidence = lab.evidence()
    assert (evidence["server"] is not None, evidence["install"]) == (True, None)


def test_a_run_after_stopped_ones_ends_green(lab: Lab) -> None:
    """It is the fixture that runs it when the lab is not whole."""
    assert lab.verify() == set()
