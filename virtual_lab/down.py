"""Taking a rack down: no process, namespace, mount, loop device, control group or file of it is left.

It trusts nothing but names and marks on what runs, so it also removes what a killed `up` left behind.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from provision.errors import GaveUp
from provision.wait import NotYet, Patience
from virtual_lab import cgroups, disk, images, kernel, network
from virtual_lab.places import MARKER, Places
from virtual_lab.plan import RackPlan

GRACE = Patience(3, first=0.02, most=0.1)
PATIENCE = Patience(20, first=0.02, most=0.2)

PROC = Path("/proc")


def take_down(places: Places) -> bool:
    """Remove all of a rack; returns whether there was anything.

    Only this process and its ancestors are spared, should they be in the rack's network.
    Raises GaveUp naming what could not be removed.
    """
    spaces = _namespaces(places)
    found = places.rack.exists() or bool(spaces) or bool(_processes(places, spaces))
    _end_processes(places, spaces)
    _unmount(places.rack)
    _free_loop_devices(places.rack)
    for path in spaces:
        subprocess.run(["ip", "netns", "delete", path.name], check=True, capture_output=True)
    for group in _groups(places):
        cgroups.remove(group, PATIENCE)
    if places.rack.exists():
        shutil.rmtree(places.rack)
    images.sweep(places.images)
    return found


def processes_of(mark: str, namespaces: Iterable[int], proc: Path = PROC) -> set[int]:
    """The processes that carry the rack's mark or are in one of its network namespaces (inode numbers)."""
    variable, spaces = f"{MARKER}={mark}".encode(), set(namespaces)
    processes = (int(path.name) for path in proc.iterdir() if path.name.isdigit())
    return {
        process
        for process in processes
        if _network_of(proc / str(process)) in spaces or variable in _environment(proc / str(process))
    }


def ancestors(process: int, proc: Path = PROC) -> Iterator[int]:
    """A process and those above it."""
    while process > 0:
        yield process
        stat = (proc / str(process) / "stat").read_text()
        process = int(stat.rpartition(")")[2].split()[1])


def _namespaces(places: Places) -> list[Path]:
    """The rack's network namespaces that are there; none are made before the plan is saved."""
    if not places.plan.exists():
        return []
    paths = [places.namespace(part) for part in network.parts(RackPlan.load(places.plan))]
    return [path for path in paths if path.exists()]


def _processes(places: Places, spaces: Iterable[Path]) -> set[int]:
    found = processes_of(places.mark, [path.stat().st_ino for path in spaces])
    return found - set(ancestors(os.getpid()))


def _end_processes(places: Places, spaces: list[Path]) -> None:
    """What builds an image is asked first, for it cleans up after itself; machines are cut off."""

    def gone() -> bool | NotYet:
        left = _processes(places, spaces)
        return NotYet(f"processes {', '.join(map(str, sorted(left)))}") if left else True

    builders = [process for process in _processes(places, spaces) if _builds_image(process)]
    if builders:
        _signal(builders, signal.SIGTERM)
        with suppress(GaveUp):
            GRACE.until(
                "image building ended", lambda: not any(map(_builds_image, builders)) or NotYet("running")
            )
    _signal(_processes(places, spaces), signal.SIGKILL)
    PATIENCE.until(f"the processes of rack {places.instance} ended", gone)


def _signal(processes: Iterable[int], number: int) -> None:
    for process in processes:
        with suppress(ProcessLookupError):
            os.kill(process, number)


def _builds_image(process: int) -> bool:
    return b"mmdebstrap" in _read(PROC / str(process) / "cmdline")


def _unmount(folder: Path) -> None:
    points = [Path(line.split(" ")[4]) for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    for point in reversed(points):
        if point.is_relative_to(folder):
            kernel.unmount(point)


def _free_loop_devices(folder: Path) -> None:
    """They free themselves with the mount that used them, a moment later."""

    def free() -> bool | NotYet:
        held = disk.in_use(folder)
        return NotYet(", ".join(held)) if held else True

    PATIENCE.until("the rack's disks free", free)


def _groups(places: Places) -> list[Path]:
    listing = places.rack / cgroups.RECORD
    return [Path(path) for path in json.loads(listing.read_text())] if listing.exists() else []


def _network_of(process: Path) -> int | None:
    try:
        return (process / "ns/net").stat().st_ino
    except OSError:
        return None


def _environment(process: Path) -> list[bytes]:
    return _read(process / "environ").split(b"\0")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
