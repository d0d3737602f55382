"""dnsmasq's lease file says who holds an address, also while it is being written."""

from __future__ import annotations

import os
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provision.boot_service import leases as module
from provision.boot_service.leases import Leases

# As dnsmasq 2.90 writes it: a name and none, a client id, an infinite lease, InfiniBand, IPv6.
FILE = """\
1000100 ac:1f:6b:00:00:01 10.10.1.21 node1 01:ac:1f:6b:00:00:01
1000100 ac:1f:6b:00:00:02 10.10.1.22 * *
0 ac:1f:6b:00:00:03 10.10.1.23 node3 *
999999 ac:1f:6b:00:00:04 10.10.1.24 late *
1000100 20-80:00:02:08:fe:80:00:00:00:00:00:00:f4:52:14:03:00:7b:cb:a1 10.10.1.25 * *
duid 00:01:00:01:2e:3f:4a:5b:ac:1f:6b:00:00:01
1000100 12345678 fd00::21 node1 00:01
1000100 ac:1f:6b:00:00:09 10.10.1.29 * *
"""


def write(path: Path, text: str, age: float = 10.0) -> None:
    path.write_text(text)
    old = path.stat().st_mtime - age
    os.utime(path, (old, old))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "dnsmasq.leases"
    write(path, FILE)
    return path


@pytest.mark.parametrize(
    ("address", "mac"),
    [
        ("10.10.1.21", "ac:1f:6b:00:00:01"),
        ("10.10.1.22", "ac:1f:6b:00:00:02"),
        ("10.10.1.23", "ac:1f:6b:00:00:03"),
        ("10.10.1.24", None),
        ("10.10.1.25", None),
        ("10.10.1.26", None),
        ("10.10.1.2", None),
        ("10.10.1.29", None),
        ("unknown", None),
        ("", None),
    ],
)
def test_the_holder_of_a_lease_is_its_mac_until_it_ends(path: Path, address: str, mac: str | None) -> None:
    assert Leases(path, clock=lambda: 1_000_000.0).holder(address) == mac


def test_a_lease_ends_to_the_second(path: Path) -> None:
    now = 1_000_099.9
    leases = Leases(path, clock=lambda: now)
    assert leases.holder("10.10.1.21") == "ac:1f:6b:00:00:01"
    now = 1_000_100.0
    assert leases.holder("10.10.1.21") is None


def test_a_changed_file_is_read_again_and_an_unchanged_one_is_not(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[Path] = []
    read = module._read

    def count(path: Path) -> Any:
        reads.append(path)
        return read(path)

    monkeypatch.setattr(module, "_read", count)
    leases = Leases(path, clock=lambda: 1_000_000.0)
    for _ in range(3):
        assert leases.holder("10.10.1.22") == "ac:1f:6b:00:00:02"
    assert len(reads) == 1
    write(path, FILE.replace("10.10.1.22", "10.10.1.32"))
    assert leases.holder("10.10.1.22") is None
    assert leases.holder("10.10.1.32") == "ac:1f:6b:00:00:02"
    assert len(reads) == 2


def test_a_change_within_one_time_stamp_is_seen(path: Path) -> None:
    """Two writes of the same size may have the same time stamp, which says nothing while it is fresh."""
    leases = Leases(path, clock=lambda: 1_000_000.0)
    write(path, FILE, age=0)
    stamp = path.stat().st_mtime_ns
    assert leases.holder("10.10.1.21") == "ac:1f:6b:00:00:01"
    path.write_text(FILE.replace("10.10.1.21", "10.10.1.31"))
    os.utime(path, ns=(stamp, stamp))
    assert leases.holder("10.10.1.21") is None


def test_without_a_file_nobody_holds_anything(path: Path) -> None:
    leases = Leases(path, clock=lambda: 1_000_000.0)
    assert leases.holder("10.10.1.21") is not None
    path.unlink()
    assert leases.holder("10.10.1.21") is None
    write(path, FILE)
    assert leases.holder("10.10.1.21") is not None
    assert Leases(path / "none").holder("10.10.1.21") is None


def test_a_file_that_is_being_written_is_looked_at_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """dnsmasq truncates its file and writes it anew: an installer that asks in between asks only once."""
    monkeypatch.setattr(module, "UNSETTLED_SECONDS", 0.5)
    whole = threading.Event()

    def look_again(_: float) -> None:
        write(path, FILE)
        whole.set()

    write(path, "", age=0)
    leases = Leases(path, clock=lambda: 1_000_000.0, patience=replace(module.PATIENCE, sleep=look_again))
    assert leases.holder("10.10.1.21") == "ac:1f:6b:00:00:01"
    assert whole.is_set()


def test_a_file_that_never_settles_does_not_hold_a_request_for_ever(path: Path) -> None:
    slept: list[float] = []

    def more(seconds: float) -> None:
        slept.append(seconds)
        os.utime(path)

    write(path, "", age=0)
    patience = replace(module.PATIENCE, sleep=more, now=lambda: sum(slept))
    assert Leases(path, patience=patience).holder("10.10.1.21") is None
    assert 1 <= len(slept) <= 10
    assert sum(slept) <= 0.5


@given(st.lists(st.text(), max_size=8))
def test_no_file_is_an_error(lines: list[str]) -> None:
    assert module._parse("\n".join(lines)).keys().isdisjoint({"10.10.1.21"})


@pytest.mark.parametrize(
    "line",
    ["x ac:1f:6b:00:00:01 10.10.1.21 * *", "1 nonsense 10.10.1.21 * *", "1", "", "1 ac:1f:6b:00:00:01 10.10.1.21",
     "-1 ac:1f:6b:00:00:01 10.10.1.21 * *", "² ac:1f:6b:00:00:01 10.10.1.21 * *"],
)  # fmt: skip
def test_a_line_that_is_no_lease_is_passed_over(line: str) -> None:
    assert module._parse(f"{line}\n0 ac:1f:6b:00:00:02 10.10.1.22 * *\n").keys() == {"10.10.1.22"}
