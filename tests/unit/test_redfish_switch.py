"""Power on, power off and one boot from disk: judged by what reads back, like everything asked of a BMC."""

from __future__ import annotations

import re
from typing import Any

import pytest

from provision.errors import GaveUp, Refused, Unreachable
from provision.redfish import Board, Timing
from tests.unit import redfish_bmc as fake
from tests.unit.redfish_bmc import ENABLED, TARGET, Bmc
from tests.unit.test_redfish import Clock, Serve, clock, node, serve, timing

__all__ = ["clock", "serve", "timing"]


@pytest.mark.parametrize(
    ("power", "wanted", "offered", "sent"),
    [
        ("Off", "On", ["On", "ForceOff"], ["On"]),
        ("Off", "On", ["ForceOn", "ForceOff"], ["ForceOn"]),
        ("On", "Off", ["On", "ForceOff"], ["ForceOff"]),
        ("On", "On", ["On", "ForceOff"], []),
        ("Off", "Off", ["On", "ForceOff"], []),
    ],
)
@pytest.mark.parametrize("reads", [0, 3])
def test_power_is_switched_once_and_read_back(
    serve: Serve, power: str, wanted: Any, offered: list[str], sent: list[str], reads: int
) -> None:
    bmc, board = serve(fake.written(PowerState=power, Actions=fake.resets(*offered)), None, power_after=reads)
    done = board.switch(wanted)
    assert (bmc.resets, bmc.power) == (sent, wanted)
    assert done.how == (sent[0] if sent else "nothing sent")
    assert board.power_state() == wanted


@pytest.mark.parametrize(("power", "wanted"), [("Off", "On"), ("On", "Off")])
def test_a_lost_answer_makes_no_second_switch(serve: Serve, power: str, wanted: Any) -> None:
    bmc, board = serve(fake.written(PowerState=power), None, lose_reset_answer=1)
    board.switch(wanted)
    assert (len(bmc.resets), bmc.power) == (1, wanted)


def test_a_switch_that_is_accepted_and_ignored_is_found_out(serve: Serve, clock: Clock) -> None:
    bmc, board = serve(ignore_reset=True)
    with pytest.raises(GaveUp, match="ForceOff was accepted; power On"):
        board.switch("Off")
    assert bmc.resets == ["ForceOff"] and clock.slept == pytest.approx(40)


def test_power_that_was_told_wrong_is_read_anew(serve: Serve) -> None:
    bmc, board = serve(fake.written(PowerState="Off"))
    bmc.faults.stale_power = "On"
    assert board.switch("Off").how == "nothing sent"
    assert not bmc.resets


def test_a_bmc_that_cannot_switch_off_says_what_it_offers(serve: Serve) -> None:
    bmc, board = serve(fake.written(Actions=fake.resets("On", "GracefulShutdown")))
    with pytest.raises(Refused, match=r"console-node1.*On.*GracefulShutdown"):
        board.switch("Off")
    assert not bmc.resets


def test_one_boot_from_disk_is_kept_and_used_once(serve: Serve) -> None:
    bmc, board = serve()
    assert board.set_boot_once("Hdd").is_once("Hdd")
    assert bmc.patches[0][1] == {"Boot": {TARGET: "Hdd", ENABLED: "Once"}}
    board.reset()
    assert bmc.boots == ["Hdd"] and not board.boot_override().pending


def test_a_disk_boot_that_is_accepted_and_dropped_is_told(serve: Serve) -> None:
    _, board = serve(drop_override=True)
    with pytest.raises(GaveUp, match="one UEFI disk boot was accepted but not kept"):
        board.set_boot_once("Hdd")


def test_a_ca_as_text_is_trusted_and_no_other(serve: Serve) -> None:
    text = fake.CA.cert_pem.bytes().decode()
    for ca, trusted in ((text, True), (fake.STRANGER.cert_pem.bytes().decode(), False)):
        machine = node().model_copy(
            update={"bmc": node().bmc.model_copy(update={"trust": "ca", "ca": ca, "fingerprint": None})}
        )
        _, board = serve(None, machine)
        if trusted:
            assert board.power_state() == "On"
        else:
            with pytest.raises(Unreachable, match="the CA in its configuration does not vouch"):
                board.power_state()


@pytest.mark.parametrize("ca", ["", "no certificate"])
def test_a_ca_that_is_no_certificate_never_means_the_systems(serve: Serve, ca: str) -> None:
    console = node().bmc.model_copy(update={"trust": "ca", "ca": ca, "fingerprint": None})
    bmc, board = serve(None, node().model_copy(update={"bmc": console}))
    with pytest.raises(Unreachable, match=re.escape("cannot be read from its configuration")):
        board.power_state()
    assert not bmc.requests


class Relapsing(Bmc):
    """A machine that begins to come up, and is off again: a fuse, a firmware that gives up."""

    reads = 0

    def _told_power(self) -> str | None:
        self.reads += bool(self.resets)
        return super()._told_power() if not self.resets else "PoweringOn" if self.reads == 1 else "Off"


def test_power_that_does_not_stay_on_is_not_on(timing: Timing) -> None:
    with (
        fake.serving(Relapsing(fake.written(PowerState="Off"))) as bmc,
        Board(node(), port=bmc.port, timing=timing) as board,
        pytest.raises(GaveUp, match=r"(?s)power does not stay On.*then power Off"),
    ):
        board.switch("On")
