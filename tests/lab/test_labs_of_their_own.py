"""Labs of which nothing stands: one that is not up, that is held, that is taken down at work; a real inventory."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from provision.run import STEPS
from tests.lab.test_main_job import steps_that_acted
from tests.lab_fixtures import INSTANCE, ROOT, Lab, raised
from virtual_lab.places import MARKER


def test_a_lab_that_is_not_up_is_one_sentence(tmp_path: Path) -> None:
    lab = raised(tmp_path, f"{INSTANCE}-absent")
    try:
        result = lab.pytest("-m", "verify", timeout=100)
    finally:
        lab.down()
    assert result.returncode == 1, result.stdout + result.stderr
    assert result.stdout.count("is not up; run python -m virtual_lab up") == 1
    assert "Traceback" not in result.stdout + result.stderr
    assert len(result.stdout.splitlines()) < 20
    assert not lab.places.rack.exists()


def test_the_classic_lab_itself(tmp_path: Path) -> None:
    """The real lab's own inventory, as it is, on virtual hardware."""
    inventory = Path(os.environ.get("RACKPROOF_CLASSIC_LAB") or ROOT.parent / "shared" / "lab" / "nodes.json")
    if not inventory.exists():
        pytest.skip(f"{inventory} is not here; RACKPROOF_CLASSIC_LAB names another classic inventory")
    lab = raised(tmp_path, f"{INSTANCE}-nodes", arguments=("--lab", str(inventory), "--virtual"))
    try:
        lab.rebuild()
        assert steps_that_acted(lab) == list(STEPS)
        assert len(lab.events("registered")) == len(lab.nodes)
    finally:
        lab.down()


def test_down_of_a_lab_at_work_leaves_nothing_of_it(tmp_path: Path) -> None:
    """While nodes install: their disks are mounted, their loop devices in use, their systems run."""
    lab = raised(tmp_path, f"{INSTANCE}-gone")
    run = lab.start_pytest("-m", "provision")
    try:
        lab.until("installed", run=run, least=2)
        there = left_of(lab)
        run.kill()
        run.communicate()
    finally:
        lab.down()
    assert {kind: bool(found) for kind, found in there.items()} == dict.fromkeys(there, True)
    assert len(there["namespaces"]) == 11
    assert left_of(lab) == {kind: [] for kind in there}


def left_of(lab: Lab) -> dict[str, list[str]]:
    """What of a rack is on this machine, found without its plan."""
    mark = f"{MARKER}={lab.places.mark}".encode()
    processes = [path for path in Path("/proc").iterdir() if path.name.isdigit()]
    loops = Path("/sys/block").glob("loop*/loop/backing_file")
    files = (lab.places.rack, lab.places.rack.with_suffix(".lock"), lab.state)
    return {
        "processes": [str(path) for path in processes if mark in environment(path)],
        "namespaces": [path.name for path in Path("/run/netns").glob(f"rp-{lab.instance}-*")],
        "mounts": [
            line for line in Path("/proc/self/mountinfo").read_text().splitlines() if lab.instance in line
        ],
        "loop devices": [str(path) for path in loops if f"/{lab.instance}/" in path.read_text()],
        "control groups": [str(path) for path in Path("/sys/fs/cgroup").rglob(f"rackproof-{lab.instance}*")],
        "files": [str(path) for path in files if path.exists()],
    }


def environment(process: Path) -> list[bytes]:
    try:
        return (process / "environ").read_bytes().split(b"\0")
    except OSError:
        return []


def test_a_run_that_finds_the_lab_held_says_by_whom(tmp_path: Path) -> None:
    lab = Lab(tmp_path, instance=f"{INSTANCE}-held")
    lab.state.mkdir(parents=True)
    try:
        with (lab.state / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            lock.write("run 20261122-0312-k7f3, process 4711")
            lock.flush()
            result = lab.provision()
        assert result.returncode == 1, result.stdout + result.stderr
        assert "is held by run 20261122-0312-k7f3, process 4711" in result.stdout
        assert not lab.places.rack.exists()
    finally:
        lab.down()
