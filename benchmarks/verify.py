"""Times the same assertions by this project and by testinfra's ssh backend, without and with ControlPersist.

python -m benchmarks.verify [--nodes 4,16,64,256] [--checks 20] [--most 64] [--whole]

It raises a rack of light nodes, asks the first of them, and takes the rack down again. Every figure is of a
whole `pytest -m verify`, its start and its report among them. Processes are those that this machine has
started meanwhile, threads and those on the nodes among them; memory is that of pytest, and of the ssh
processes that still stand after it. With --whole, all checks that light nodes answer are timed on the
largest rack, too.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.check_twenty import ASSERTIONS, CHECKS, WAY
from benchmarks.run import machine
from labs.large import written
from provision import inventory, state
from provision.inventory import Lab
from virtual_lab import down, rack
from virtual_lab.places import Places

ROOT = Path(__file__).parent.parent
INSTANCE = "-".join(filter(None, [os.environ.get("RACKPROOF_INSTANCE"), "bench-verify"]))
OWN, DEFAULT, PERSISTENT = "rackproof", "testinfra, ssh", "testinfra, ControlPersist"
CONFIG = {DEFAULT: "ssh_config", PERSISTENT: "ssh_config-persistent"}
"""testinfra asks for ControlPersist always; it works where the configuration has a ControlPath."""
LIMIT = 60.0
"""How many seconds 256 nodes may take."""


@dataclass(frozen=True, slots=True)
class Bench:
    """The rack that is asked, and the files of the benchmark."""

    places: Places
    folder: Path
    labfile: Path
    names: tuple[str, ...]
    checks: int


@dataclass(frozen=True, slots=True)
class Figures:
    """What one run took; memory in MiB."""

    seconds: float
    connections: int
    processes: int
    memory: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a line for each size and way, and whether each aim is met."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.verify", description=__doc__)
    parser.add_argument("--nodes", default="4,16,64,256")
    parser.add_argument("--checks", type=int, default=len(ASSERTIONS), help="how many on each node")
    parser.add_argument(
        "--most", type=int, default=64, help="testinfra's own ways are asked of so many nodes"
    )
    parser.add_argument("--whole", action="store_true", help="every check that light nodes answer, too")
    given = parser.parse_args(arguments)
    if not 1 <= given.checks <= len(ASSERTIONS):
        parser.error(f"--checks {given.checks}: there are {len(ASSERTIONS)}")
    sizes = sorted(map(int, given.nodes.split(",")))
    print(f"{machine()}; {given.checks} checks on each node\n")
    with _standing(sizes[-1], given.checks) as bench:
        found = dict(_measured(bench, sizes, given.most))
        _judge(found)
        if given.whole:
            _print(sizes[-1], "rackproof, all its checks", _timed(bench, sizes[-1], OWN, whole=True))
    return 0


def _measured(bench: Bench, sizes: Sequence[int], most: int) -> Iterator[tuple[tuple[int, str], Figures]]:
    print(f"{'nodes':>5} {'way':<26} {'seconds':>8} {'SSH':>6} {'processes':>10} {'memory':>8}")
    for size in sizes:
        for way in (OWN, DEFAULT, PERSISTENT):
            if way != OWN and size > most:
                print(f"{size:>5} {way:<26} not measured: only of up to {most} nodes", flush=True)
                continue
            figures = _timed(bench, size, way)
            _print(size, way, figures)
            yield (size, way), figures


def _print(size: int, way: str, figures: Figures) -> None:
    print(
        f"{size:>5} {way:<26} {figures.seconds:>8.1f} {figures.connections:>6} {figures.processes:>10}"
        f" {figures.memory:>4.0f} MiB", flush=True,
    )  # fmt: skip


def _judge(found: dict[tuple[int, str], Figures]) -> None:
    own = {size: figures.seconds for (size, way), figures in found.items() if way == OWN}
    print()
    for aim, way in ((5.0, DEFAULT), (2.0, PERSISTENT)):
        for size, seconds in own.items():
            if (size, way) in found:
                ratio = found[size, way].seconds / seconds
                _say(ratio >= aim, f"{size} nodes: {ratio:.1f} times faster than {way}; aim {aim:.0f}")
    for few, many in zip(sorted(own), sorted(own)[1:], strict=False):
        growth, nodes = own[many] / own[few], many / few
        _say(
            growth <= nodes,
            f"{few} to {many} nodes: {nodes:.1f} times the nodes, {growth:.1f} times the time",
        )
    if 256 in own:
        _say(own[256] < LIMIT, f"256 nodes: {own[256]:.1f} s; aim {LIMIT:.0f} s")


def _say(met: bool, what: str) -> None:
    print(f"{'met    ' if met else 'NOT MET'} {what}", flush=True)


@contextmanager
def _standing(nodes: int, checks: int) -> Iterator[Bench]:
    places = Places.of(INSTANCE, INSTANCE)
    os.environ["RACKPROOF_INSTANCE"] = INSTANCE
    with tempfile.TemporaryDirectory(prefix="rackproof-bench-") as name:
        labfile = Path(name) / "light.yaml"
        labfile.write_text(written(nodes, "light"), encoding="utf-8")
        lab = inventory.load(labfile)
        began = time.monotonic()
        try:
            stands = rack.raise_rack(lab, instance=INSTANCE)
            print(f"raised in {time.monotonic() - began:.1f} s\n", flush=True)
            _write_ssh_config(Path(name), stands.lab)
            yield Bench(places, Path(name), labfile, tuple(lab.nodes), checks)
        finally:
            down.take_down(places)
            shutil.rmtree(state.home() / "labs" / INSTANCE, ignore_errors=True)


def _write_ssh_config(folder: Path, lab: Lab) -> None:
    """What a user of testinfra would write who knows his nodes' host keys."""
    known = folder / "known_hosts"
    known.write_text("".join(f"{node.management} {node.host_key}\n" for node in lab.nodes.values()))
    text = (
        f"User root\nIdentityFile {lab.server.identity}\nIdentitiesOnly yes\nLogLevel ERROR\n"
        f"UserKnownHostsFile {known}\nGlobalKnownHostsFile none\n"
    )
    (folder / CONFIG[DEFAULT]).write_text(text)
    (folder / CONFIG[PERSISTENT]).write_text(f"{text}ControlPath {folder}/%C\n")


def _timed(bench: Bench, size: int, way: str, *, whole: bool = False) -> Figures:
    """One session of pytest on the first nodes."""
    paths = [] if whole else [str(ROOT / "benchmarks" / "check_twenty.py")]
    command = [
        sys.executable, "-m", "pytest", "-c", "pyproject.toml", "-q", "-m", "verify",
        "--lab", str(bench.labfile), "--nodes", ",".join(bench.names[:size]),
        "--out", str(bench.folder / "out"), *paths,
    ]  # fmt: skip
    connections, processes = _accepted(bench.places), _started()
    began = time.monotonic()
    child = subprocess.Popen(command, cwd=ROOT, env=_environment(bench, way), stdout=subprocess.PIPE,
                             stderr=subprocess.STDOUT, text=True)  # fmt: skip
    assert child.stdout is not None
    said = child.stdout.read()
    _, status, usage = os.wait4(child.pid, 0)
    seconds = time.monotonic() - began
    if status != 0:
        sys.exit(
            f"{way}: {' '.join(command)} ended with {os.waitstatus_to_exitcode(status)}:\n{said[-4000:]}"
        )
    memory = usage.ru_maxrss / 1024 + _masters(bench.folder)
    return Figures(seconds, _accepted(bench.places) - connections, _started() - processes, memory)


def _environment(bench: Bench, way: str) -> dict[str, str]:
    known = {**os.environ, CHECKS: str(bench.checks)}
    return known | ({WAY: f"ssh_config={bench.folder / CONFIG[way]}"} if way in CONFIG else {})


def _masters(folder: Path) -> float:
    """The memory, in MiB, of the ssh processes that hold connections for later commands; they are ended."""
    used = 0.0
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if f"ssh: {folder}/" in (path / "cmdline").read_text():
                used += _proportional(path)
                os.kill(int(path.name), 15)
        except OSError:  # it has ended
            continue
    return used


def _proportional(process: Path) -> float:
    lines = (process / "smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def _accepted(places: Places) -> int:
    """How many logins the nodes have let in so far, by their own logs."""
    return sum(path.read_text().count("Accepted publickey") for path in places.rack.glob("*/console.log"))


def _started() -> int:
    """How many processes and threads this machine has started (`processes` in proc_stat(5))."""
    lines = Path("/proc/stat").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("processes"))


if __name__ == "__main__":
    sys.exit(main())
