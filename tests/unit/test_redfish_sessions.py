"""How a BMC is logged in to and asked: a budget of logins, pace, waiting as asked, sessions always closed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from provision.errors import GaveUp, LabError, Refused, Unreachable
from provision.inventory import Node, Secret
from provision.redfish import Board, Timing, refusals, sensors
from provision.redfish.body import local, number
from provision.redfish.connection import retry_after
from provision.wait import NotYet, Patience
from tests.lab_fixtures import ROOT as PROJECT
from tests.unit import redfish_bmc as fake
from tests.unit.redfish_bmc import ROOT, Answer, Bmc
from tests.unit.redfish_inside import inside
from tests.unit.test_redfish import Clock, Serve, clock, node, serve, timing

__all__ = ["clock", "serve", "timing"]


def knowing(password: str) -> Node:
    """The node, as somebody knows it who has this password."""
    return node(console={"password": Secret.known(password, reference="file:/etc/rackproof/bmc")})


def ask(bmc: Bmc, password: str = fake.PASSWORD, timing: Timing | None = None) -> str | None:
    """Ask for the power state, over a connection of its own."""
    with inside({"127.0.0.1": bmc}), Board(knowing(password), timing=timing or Timing()) as board:
        return board.power_state()


# The budget of logins


def test_a_refused_login_is_remembered_and_not_tried_again() -> None:
    bmc = Bmc(fake.written())
    with pytest.raises(Refused, match="refuses the login"):
        ask(bmc, "wrong")
    asked = len(bmc.requests)
    with pytest.raises(
        Refused, match=r"401 wrong user or password, \d s ago; not asked again for \d+ s"
    ) as told:
        ask(bmc, "wrong")
    assert (bmc.failed_logins, len(bmc.requests)) == (1, asked)
    assert told.value.likely and "remove" in told.value.likely


def test_another_password_is_tried_and_after_two_none() -> None:
    bmc = Bmc(fake.written())
    for password in ("wrong", "wronger"):
        with pytest.raises(Refused):
            ask(bmc, password)
    with pytest.raises(Refused, match="2 logins with other passwords were refused within 600 s"):
        ask(bmc)
    assert (bmc.failed_logins, bmc.logins) == (2, 0)


def test_a_login_that_is_taken_ends_the_memory_and_so_does_time(monkeypatch: pytest.MonkeyPatch) -> None:
    bmc = Bmc(fake.written())
    with pytest.raises(Refused):
        ask(bmc, "wrong")
    assert ask(bmc) == "On"
    with pytest.raises(Refused):
        ask(bmc, "wrong")
    assert bmc.failed_logins == 2
    monkeypatch.setattr(refusals, "REMEMBERED", 0.0)
    with pytest.raises(Refused):
        ask(bmc, "wrong")
    assert bmc.failed_logins == 3


def test_what_is_remembered_has_no_password_and_is_its_owners_alone() -> None:
    with pytest.raises(Refused):
        ask(Bmc(fake.written()), "canary-7Zq4x")
    kept = [path for path in refusals.folder().iterdir() if path.suffix == ".json"]
    assert len(kept) == 1 and "canary" not in kept[0].read_text()
    assert refusals.folder().stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("spoilt", ["", "{", "[1]", '[{"at": "x"}]', "null"])
def test_a_spoilt_memory_is_none(spoilt: str) -> None:
    bmc = Bmc(fake.written())
    with pytest.raises(Refused):
        ask(bmc, "wrong")
    for path in refusals.folder().glob("*.json"):
        path.write_text(spoilt)
    assert ask(bmc) == "On"


def test_without_a_place_to_remember_a_bmc_is_asked_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(refusals, "folder", lambda: tmp_path / "file" / "below")
    assert ask(Bmc(fake.written())) == "On"


def test_of_many_that_log_in_at_once_with_a_wrong_password_one_is_refused() -> None:
    bmc = Bmc(fake.written())
    with fake.serving(bmc), ThreadPoolExecutor(6) as pool:
        boards = [Board(knowing("wrong"), port=bmc.port) for _ in range(6)]
        errors = [future.exception() for future in [pool.submit(board.power_state) for board in boards]]
    assert [type(error) for error in errors] == [Refused] * 6
    assert bmc.failed_logins == 1


@pytest.mark.parametrize("sessions", [True, False])
def test_another_bmc_at_the_same_address_has_a_memory_of_its_own(sessions: bool) -> None:
    tree = fake.written()
    if not sessions:
        del tree[ROOT]["Links"]
    bmc = Bmc(tree)
    with pytest.raises(Refused):
        ask(bmc, "wrong")
    other = node(console={"password": Secret.known("wrong"), "fingerprint": ":".join(["00"] * 32)})
    with inside({"127.0.0.1": bmc}), Board(other) as board, pytest.raises(Refused, match="401 wrong user"):
        board.power_state()
    assert bmc.failed_logins == 2


# Patience and pace


class Slow(Bmc):
    """A BMC that takes three seconds for each answer, on a clock that nothing else moves."""

    clock: Clock
    seconds = 3.0

    def handle(self, *request: Any) -> tuple[int, dict[str, str], Any]:
        self.clock.time += self.seconds
        return super().handle(*request)


def test_a_slow_bmc_is_given_as_long_as_it_takes(clock: Clock, timing: Timing) -> None:
    bmc = Slow(fake.written())
    bmc.clock = clock
    assert ask(bmc, timing=timing) == "On"
    asked = sum(line.startswith("GET") for line in bmc.requests)
    assert 3 * (asked - 1) <= clock.slept <= 3 * asked + 1


def test_a_bmc_that_is_silent_to_the_end_is_told_as_unreachable(clock: Clock, timing: Timing) -> None:
    bmc = Slow(fake.written(), lose_get=1000)
    bmc.clock, bmc.seconds = clock, 35.0
    with pytest.raises(Unreachable, match="gives no answer") as error:
        ask(bmc, timing=timing)
    assert error.value.likely and error.value.likely.startswith("the BMC is off, unplugged or rebooting")
    assert len(bmc.requests) == 2


def test_a_wait_beyond_all_patience_is_told_at_once(clock: Clock, timing: Timing) -> None:
    bmc = Bmc(fake.written(), busy=[Answer(503, Retry_After="86400")])
    with pytest.raises(GaveUp, match="asks to wait 86399 s, and no more than 60 s are waited for it"):
        ask(bmc, timing=timing)
    assert clock.slept <= 1


@pytest.mark.parametrize("given", ["²", "-1", "soon", "1.5", " ", "9" * 400])
def test_an_odd_time_to_come_back_at_is_none_or_never(given: str) -> None:
    assert retry_after({"Retry-After": given}) in (None, float("inf"))


def test_an_answer_that_ends_in_the_middle_is_asked_for_again(serve: Serve) -> None:
    bmc, board = serve(None, None, cut_get=2)
    assert board.power_state() == "On"
    assert bmc.requests.count("GET /redfish/v1/") == 3


# Tasks


def test_a_task_that_stands_in_the_answer_is_awaited(serve: Serve) -> None:
    bmc, board = serve(None, None, task_polls=3, task_in_body=True)
    assert board.set_boot_once_pxe().once_from_network
    assert bmc.faults.task_polls == 0


def test_a_task_without_end_is_given_up_on_in_time(serve: Serve, clock: Clock) -> None:
    _, board = serve(None, None, task_polls=10_000)
    with pytest.raises(GaveUp, match="the end of task /tasks/1: not reached within 60 s") as error:
        board.set_boot_once_pxe()
    assert error.value.last_seen == "task Running"
    assert clock.slept < 70


@pytest.mark.parametrize("state", [None, "", [], {}, 7])
def test_a_task_of_an_odd_state_is_judged_by_its_status(serve: Serve, state: Any) -> None:
    _, board = serve(None, None, task_polls=1, task_end=state)
    assert board.set_boot_once_pxe().once_from_network


# Links and numbers


def test_a_link_leads_nowhere_but_to_its_own_bmc() -> None:
    tree = fake.written()
    tree[f"{ROOT}/Systems"]["Members"] = [{"@odata.id": f"https://elsewhere.example.net{ROOT}/Systems/1"}]
    bmc = Bmc(fake.written())
    bmc.tree = tree
    assert ask(bmc) == "On"
    assert local(f"//elsewhere{ROOT}?$skip=2") == f"{ROOT}?$skip=2"
    for odd in ("", "Systems/1", "mailto:x", "http://["):
        with pytest.raises(ValueError, match=r"no link|IPv6"):
            local(odd)


def test_what_is_a_number_and_what_is_none() -> None:
    assert [number(one) for one in (0, 2.5, "37", " 4.5 ")] == [0, 2.5, 37, 4.5]
    none: tuple[Any, ...] = (None, True, "", "N/A", "nan", float("inf"), 10**400, [], {})
    assert {number(one) for one in none} == {None}


# Sessions


def test_sessions_that_end_in_the_middle_are_renewed_and_all_are_closed() -> None:
    bmc = Bmc(fake.recorded("dell_r750"), token_uses=2)
    with inside({"127.0.0.1": bmc}), Board(node()) as board:
        assert board.ask("its sensors", sensors.read)
    assert bmc.logins > 2 and not bmc.sessions


LAB = """\
name: hall-3
domain: lab.example.net
server: {{host: local, wan: enp1s0}}
networks:
  management: {{cidr: 127.0.0.0/24, gateway: 127.0.0.254, dns: [127.0.0.254], nic: eno1, bridge: vmbr0}}
defaults:
  os: proxmox-9
  bmc: {{user: env:BMC_USER, password: env:BMC_PASSWORD, trust: pinned, fingerprint: "{fingerprint}"}}
  root_password: env:NOWHERE
  disk: {{serial: S3Z8*}}
nodes:
  node1: {{mac: "02:00:00:00:01:01", management: 127.0.0.21, bmc: {{address: 127.0.0.1}}}}
"""
PROGRAM = """\
import sys
from functools import partial
from provision.redfish import Board
from provision.redfish.__main__ import main
sys.exit(main(sys.argv[2:], partial(Board, port=int(sys.argv[1]))))
"""


@contextmanager
def asking(bmc: Bmc, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """The command line in a process of its own, asking this BMC for its sensors."""
    file = folder / "hall-3.yaml"
    file.write_text(LAB.format(fingerprint=fake.FINGERPRINT))
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(bmc.port), "all", "sensors", "--lab", str(file)],
        cwd=PROJECT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={"PATH": "/usr/bin:/bin", "RACKPROOF_HOME": str(folder), "BMC_USER": fake.USER, "BMC_PASSWORD": fake.PASSWORD},
    ) as process:  # fmt: skip
        yield process


def test_a_process_that_is_ended_closes_its_session(tmp_path: Path) -> None:
    bmc = Bmc(fake.written(), slow=0.3)
    with fake.serving(bmc), asking(bmc, tmp_path) as process:
        Patience(30, most=0.05).until("a login", lambda: bool(bmc.sessions) or NotYet("none"))
        process.terminate()
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (2, ""), err
    assert "interrupted, and logged out" in err
    assert (bmc.logins, bmc.sessions) == (1, {})


def test_a_bmc_that_breaks_off_leaves_an_error_and_no_session() -> None:
    bmc = Bmc(fake.written())
    with inside({"127.0.0.1": bmc}), Board(node()) as board:
        board.power_state()
        bmc.faults.lose_get = 1000
        with pytest.raises(LabError, match="gives no answer"):
            board.ask("its sensors", sensors.read)
    assert not bmc.sessions
