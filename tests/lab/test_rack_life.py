"""A rack's life on this machine: up, in use, broken, down. As root; missing images are built."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from provision.wait import NotYet, Patience
from virtual_lab import control, down, kernel, network
from virtual_lab.places import SERVER, Places, home
from virtual_lab.plan import RackPlan

ROOT = Path(__file__).parents[2]
# <linux/capability.h>
CAP_NET_ADMIN, CAP_SYS_MODULE, CAP_SYS_TIME = 12, 16, 25
SOON = Patience(30, first=0.05, most=0.2)

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="a virtual rack needs root")


@dataclass
class Commands:
    """`python -m virtual_lab` for one rack."""

    places: Places

    def start(self, *words: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "virtual_lab", "--rack", self.places.instance, *words]
        return subprocess.Popen(
            command,
            cwd=ROOT,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
        )

    def __call__(self, *words: str) -> str:
        process = self.start(*words)
        out, _ = process.communicate(timeout=900)
        assert process.returncode == 0, out
        return out

    def state(self, machine: str) -> dict[str, object]:
        return control.ask(self.places.board(machine), {"do": "state"})

    def until(self, machine: str, **wanted: object) -> None:
        """Wait until the board's state has these values."""

        def reached() -> bool | NotYet:
            state = self.state(machine)
            return wanted.items() <= state.items() or NotYet(str(state))

        SOON.until(f"{wanted}", reached, node=machine)


def commands(name: str) -> Commands:
    return Commands(Places(home(), f"life-{name}"))


@pytest.fixture(scope="module")
def rack() -> Iterator[Commands]:
    run = commands("one")
    run("up")
    yield run
    run("down")


def left_of(places: Places, namespaces: list[str], inodes: list[int]) -> list[str]:
    """What is still there of a rack that is down."""
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    loops = subprocess.run(
        ["losetup", "--list", "--noheadings", "--output", "BACK-FILE"],
        capture_output=True,
        text=True,
        check=True,
    )
    groups = subprocess.run(
        ["find", "/sys/fs/cgroup", "-name", f"*rackproof-{places.instance}*"],
        capture_output=True,
        text=True,
        check=False,
    )
    files = [*places.rack.parent.glob(f"{places.instance}*"), *places.images.glob(".*.partial")]
    return [
        *(f"process {process}" for process in down.processes_of(places.mark, inodes)),
        *(name for name in namespaces if (Path("/run/netns") / name).exists()),
        *(line for line in mounts if str(places.rack) in line or f"rp-{places.instance}-" in line),
        *(line for line in loops.stdout.splitlines() if str(places.rack) in line),
        *groups.stdout.splitlines(), *map(str, files),
    ]  # fmt: skip


def namespaces_of(places: Places) -> tuple[list[str], list[int]]:
    paths = [places.namespace(part) for part in network.parts(RackPlan.load(places.plan))]
    there = [path for path in paths if path.exists()]
    return [path.name for path in there], [path.stat().st_ino for path in there]


def test_up_on_a_standing_rack_only_says_so(rack: Commands) -> None:
    before = rack.state(SERVER)
    said = rack("up")
    assert said.strip().endswith("as it did")
    assert rack.state(SERVER) == before


def test_status_has_a_line_for_each_machine(rack: Commands) -> None:
    *lines, dashboard = rack("status").splitlines()[2:]
    assert dashboard.startswith("dashboard https://10.10.1.1/ in the lab's network; log in as operator")
    assert [line.split()[:3] for line in lines] == [
        ["server", "On", "system"], *([f"node{i}", "Off", "off"] for i in (1, 2, 3, 4)),
    ]  # fmt: skip


def test_the_lab_reaches_its_server_and_nothing_outside(rack: Commands) -> None:
    assert "0% packet loss" in rack("exec", "--", "ping", "-c", "1", "-W", "2", "10.10.1.1")
    assert "default" not in rack("exec", "--", "ip", "route")


def test_the_internet_answers_the_server(rack: Commands) -> None:
    assert "0% packet loss" in rack("exec", "server", "--", "ping", "-c", "1", "-W", "2", "198.51.100.1")


def test_the_server_runs_debian_13_with_nothing_failed_and_nothing_provisioned(rack: Commands) -> None:
    running = rack(
        "exec",
        "server",
        "--",
        "sh",
        "-c",
        ". /etc/os-release; echo $VERSION_ID; systemctl is-system-running --wait",
    )
    assert running.split() == ["13", "running"]
    names = "dnsmasq-base nginx nftables chrony ipxe curl python3-pip prometheus-node-exporter"
    found = f"dpkg-query -W -f '${{db:Status-Status}} ${{Package}}\\n' {names} 2>/dev/null | grep ^installed || true"
    assert rack("exec", "server", "--", "sh", "-c", found) == ""


CAP_SYS_MODULE, CAP_SYS_TIME = 16, 25


def test_a_machine_may_set_its_own_nics_but_not_what_all_machines_share(rack: Commands) -> None:
    own = "cd /sys/class/net/lan0 && cat mtu > mtu && sysctl -q -w net.ipv4.ip_forward=0 && echo can"
    assert rack("exec", "server", "--", "sh", "-c", own).strip() == "can"
    shared = "test -w /proc/sys/kernel/panic || test -w /sys/kernel/profiling || echo cannot"
    assert rack("exec", "server", "--", "sh", "-c", shared).strip() == "cannot"
    # Its root, and whoever is let in by `exec`, can neither set this host's clock nor load modules: asked of
    # the capabilities alone, for an attempt that succeeded would do so.
    for process in ("1", "self"):
        bounding = rack("exec", "server", "--", "sed", "-n", "s/CapBnd:\\t//p", f"/proc/{process}/status")
        assert int(bounding, 16) & (1 << CAP_SYS_TIME | 1 << CAP_SYS_MODULE) == 0
        assert int(bounding, 16) & 1 << CAP_NET_ADMIN


def test_a_pulled_cable_is_seen_at_its_machine(rack: Commands) -> None:
    carrier = ("exec", "server", "--", "cat", "/sys/class/net/lan0/carrier")
    rack("cut", "server", "management")
    assert rack(*carrier).strip() == "0"
    assert "cut: lan0" in rack("status")
    rack("heal", "server", "lan0")
    SOON.until("carrier", lambda: rack(*carrier).strip() == "1" or NotYet("none"))


def test_an_empty_disk_and_no_network_boot_leave_a_machine_on_and_still(rack: Commands) -> None:
    rack("power", "node1", "on")
    rack.until("node1", power="On", phase="hung")
    console = rack.places.console("node1").read_text()
    assert "no bootable device" in console
    rack("power", "node1", "off")
    rack.until("node1", power="Off", phase="off", leader=None)


def test_a_disk_keeps_what_was_written_over_a_reboot_and_a_power_cut(rack: Commands) -> None:
    rack("exec", "server", "--", "sh", "-c", "echo kept > /root/note && sync")
    for action in ("reboot", "cycle"):
        boots = rack.state(SERVER)["boots"]
        assert isinstance(boots, int)
        rack("power", "server", action)
        rack.until(SERVER, power="On", phase="system", boots=boots + 1)
        rack("up")
        assert rack("exec", "server", "--", "cat", "/root/note").strip() == "kept"


def test_a_machine_that_switches_itself_off_is_off_and_comes_back(rack: Commands) -> None:
    rack("exec", "server", "--", "systemctl", "poweroff", "--no-block")
    rack.until(SERVER, power="Off", phase="off")
    assert "stands" in rack("up")
    assert rack.state(SERVER)["power"] == "On"


def running(rack: Commands) -> dict[str, int]:
    found: dict[str, int] = control.ask(rack.places.supervisor, {"do": "state"})["running"]
    return found


@pytest.mark.parametrize("part", [SERVER, "node2", "bmcs"])
def test_a_part_that_died_is_started_again(rack: Commands, part: str) -> None:
    dead = running(rack)[part]
    os.kill(dead, signal.SIGKILL)
    SOON.until("its end noticed", lambda: part not in running(rack) or NotYet(f"process {dead}"))
    assert f"started {part}, which was down" in rack("up")
    assert running(rack)[part] != dead


def test_nothing_outlives_the_supervisor_and_up_starts_all_again(rack: Commands) -> None:
    supervisor = os.getpgid(running(rack)[SERVER])
    parts = running(rack).values()
    os.kill(supervisor, signal.SIGKILL)
    SOON.until(
        "all ended",
        lambda: not any(Path(f"/proc/{part}/ns/net").exists() for part in parts) or NotYet("some"),
    )
    rack("up")
    assert rack.state(SERVER)["power"] == "On"


def test_two_racks_with_equal_addresses_never_meet(rack: Commands) -> None:
    other = commands("two")
    try:
        other("up")
        keys = {
            run("exec", "--", "ssh-keyscan", "-t", "ed25519", "10.10.1.1").split()[-1]
            for run in (rack, other)
        }
        assert len(keys) == 2
        other("cut", "server", "management")
        assert "0% packet loss" in rack("exec", "--", "ping", "-c", "1", "-W", "2", "10.10.1.1")
    finally:
        other("down")
    assert rack("up").strip().endswith("as it did")


def test_down_leaves_nothing() -> None:
    run = commands("gone")
    run("up")
    run("power", "node1", "on")
    names, inodes = namespaces_of(run.places)
    assert len(names) == 11
    assert "is down" in run("down")
    assert left_of(run.places, names, inodes) == []
    assert "there is no rack" in run("down")


def test_down_spares_who_calls_it_from_inside_the_lab() -> None:
    run = commands("caller")
    run("up")
    names, inodes = namespaces_of(run.places)
    inside = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "from virtual_lab import down, kernel, places\n"
        f"at = places.Places(places.home(), {run.places.instance!r})\n"
        "kernel.enter(at.namespace('lab'), kernel.CLONE_NEWNET)\n"
        "down.take_down(at); print('still here')\n"
    )
    done = subprocess.run([sys.executable, "-c", inside], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "still here", done.stderr
    run("down")
    assert left_of(run.places, names, inodes) == []


@pytest.mark.parametrize("seconds", [0.35, 0.5, 0.6, 0.8, 1.0, 1.3, 1.8, 2.5])
def test_down_after_up_was_killed(seconds: float) -> None:
    run = commands("killed")
    up = run.start("up")
    try:
        up.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.kill(up.pid, signal.SIGKILL)
        up.communicate()
    names, inodes = namespaces_of(run.places) if run.places.plan.exists() else ([], [])
    run("down")
    assert left_of(run.places, names, inodes) == []


def test_up_after_up_was_killed() -> None:
    run = commands("again")
    up = run.start("up")
    try:
        up.communicate(timeout=0.6)
    except subprocess.TimeoutExpired:
        os.kill(up.pid, signal.SIGKILL)
        up.communicate()
    try:
        assert "stands" in run("up")
    finally:
        run("down")


def test_entering_a_namespace_for_one_call_leaves_the_caller_where_it_was(rack: Commands) -> None:
    here = Path("/proc/thread-self/ns/net").stat().st_ino
    there = kernel.within(
        rack.places.namespace("lab"), lambda: Path("/proc/thread-self/ns/net").stat().st_ino
    )
    assert there != here == Path("/proc/thread-self/ns/net").stat().st_ino
