"""The board's power and boot override, with a machine that only says what was done to it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from virtual_lab.board import Board, Kept
from virtual_lab.hardware import Override
from virtual_lab.machine import FAULT, OFF, REBOOT


@dataclass
class Played:
    override: Override
    done: list[str] = field(default_factory=list)
    phase: str = "system"
    leader: int | None = 42

    def cut(self) -> None:
        self.done.append("cut")

    def press(self) -> None:
        self.done.append("press")


@dataclass
class Bench:
    kept: Kept = field(default_factory=Kept)
    started: list[Played] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.board = Board(self.kept, self.start, self.remember)

    def start(self, override: Override) -> Played:
        self.started.append(Played(override))
        return self.started[-1]

    def remember(self, kept: Kept) -> None:
        self.kept = kept

    def power(self, action: str) -> dict[str, object]:
        return self.board.answer({"do": "power", "action": action})


def test_a_new_board_is_off() -> None:
    state = Bench().board.state()
    assert (state["power"], state["phase"], state["boots"], state["leader"]) == ("Off", "off", 0, None)


def test_power_on_starts_a_machine_once() -> None:
    bench = Bench()
    bench.power("On")
    bench.power("On")
    assert len(bench.started) == 1
    assert bench.board.state() | {"override": None} == {
        "power": "On", "phase": "system", "boots": 1, "leader": 42, "override": None,
    }  # fmt: skip


def test_force_off_cuts_and_is_off_only_when_the_machine_has_ended() -> None:
    bench = Bench()
    bench.power("On")
    assert bench.power("ForceOff")["power"] == "On"
    assert bench.started[0].done == ["cut"]
    bench.board.ended(OFF)
    assert (bench.board.state()["power"], bench.kept.power) == ("Off", "Off")


@pytest.mark.parametrize(
    ("action", "done"), [("ForceRestart", "cut"), ("PowerCycle", "cut"), ("GracefulRestart", "press")]
)
def test_a_restart_starts_again_when_the_machine_has_ended(action: str, done: str) -> None:
    bench = Bench()
    bench.power("On")
    bench.power(action)
    assert (bench.started[0].done, len(bench.started)) == ([done], 1)
    bench.board.ended(OFF)
    assert (len(bench.started), bench.board.state()["boots"]) == (2, 2)
    bench.board.ended(OFF)
    assert bench.board.state()["power"] == "Off"


@pytest.mark.parametrize("action", ["ForceRestart", "GracefulRestart", "PushPowerButton", "ForceOn"])
def test_actions_that_switch_a_dark_board_on(action: str) -> None:
    bench = Bench()
    bench.power(action)
    assert len(bench.started) == 1


def test_a_restart_is_called_off_by_force_off() -> None:
    bench = Bench()
    bench.power("On")
    bench.power("GracefulRestart")
    bench.power("ForceOff")
    bench.board.ended(OFF)
    assert bench.board.state()["power"] == "Off"


def test_a_machine_that_reboots_goes_through_the_firmware_again() -> None:
    bench = Bench()
    bench.power("On")
    bench.board.ended(REBOOT)
    assert (bench.board.state()["power"], len(bench.started)) == ("On", 2)


def test_a_machine_that_crashed_is_off() -> None:
    bench = Bench()
    bench.power("On")
    bench.board.ended(FAULT)
    assert bench.board.state()["power"] == "Off"


def test_a_one_time_override_is_used_up_by_the_next_boot() -> None:
    bench = Bench()
    bench.board.answer({"do": "override", "target": "Pxe", "enabled": "Once", "mode": "UEFI"})
    assert bench.kept.override == Override("Pxe", "Once", "UEFI")
    bench.power("On")
    assert bench.started[0].override == Override("Pxe", "Once", "UEFI")
    assert bench.board.state()["override"] == {"target": "None", "enabled": "Disabled", "mode": "UEFI"}
    bench.board.ended(REBOOT)
    assert not bench.started[1].override.active


def test_a_continuous_override_stays() -> None:
    bench = Bench()
    bench.board.answer({"do": "override", "target": "Pxe", "enabled": "Continuous"})
    bench.power("On")
    bench.board.ended(REBOOT)
    assert bench.started[1].override.enabled == "Continuous"


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        ({"do": "power", "action": "Explode"}, "On, ForceOn, ForceOff"),
        ({"do": "power"}, "a power action is one of"),
        ({"do": "override", "target": "Tape"}, "target is one of None, Pxe, UefiHttp, Hdd"),
        ({"do": "override", "enabled": []}, "enabled is one of"),
        ({"do": "dance"}, "state, power or override"),
        ({}, "state, power or override"),
    ],
)
def test_what_is_not_understood_changes_nothing(request_: dict[str, object], says: str) -> None:
    bench = Bench()
    assert says in str(bench.board.answer(request_)["error"])
    assert (bench.started, bench.kept) == ([], Kept())


def test_a_board_that_was_on_comes_on_again_after_a_power_failure(tmp_path: Path) -> None:
    file = tmp_path / "board.json"
    Kept("On", Override("Hdd", "Continuous")).save(file)
    bench = Bench(Kept.load(file))
    assert bench.started[0].override.target == "Hdd"
    assert Kept.load(tmp_path / "none.json") == Kept()
