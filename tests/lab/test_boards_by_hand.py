"""`python -m provision.redfish` against the rack's own BMCs: each command for real, judged by the boards."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.lab.planting import settle
from tests.lab_fixtures import ROOT, Lab


def redfish(lab: Lab, words: str, code: int = 0) -> str:
    """What a command says on both its outputs; it must end with this code."""
    result = run(lab, words)
    assert result.returncode == code, result.stdout + result.stderr
    return result.stdout + result.stderr


def run(lab: Lab, words: str) -> subprocess.CompletedProcess[str]:
    return lab.run(sys.executable, "-m", "provision.redfish", *words.split(), timeout=90)


def facts(lab: Lab, words: str) -> dict[str, Any]:
    told = json.loads(redfish(lab, f"{words} --json"))
    return dict(told["nodes"])


def test_every_command_does_on_the_rack_what_it_says(lab: Lab) -> None:
    power = facts(lab, "all get Systems/1")
    assert {name: one["body"]["PowerState"] for name, one in power.items()} == dict.fromkeys(lab.nodes, "On")

    assert redfish(lab, "node4 boot pxe --once") == "node4  the next boot is from Pxe, mode UEFI\n"
    assert lab.board("node4")["override"] == {"target": "Pxe", "enabled": "Once", "mode": "UEFI"}
    assert redfish(lab, "node4 boot none") == "node4  boots in its own order\n"
    assert lab.board("node4")["override"]["enabled"] == "Disabled"

    redfish(lab, "node4 off")
    assert lab.board("node4")["power"] == "Off"
    assert redfish(lab, "node4,node3 on").count("power was On already (nothing sent)") == 1
    assert lab.board("node4")["power"] == "On"
    redfish(lab, "node4 boot disk --once")
    assert redfish(lab, "node4 reset") == "node4  the boot override was used up (ForceRestart)\n"
    assert redfish(lab, "node4 reset") == redfish(lab, "node4 cycle")
    settle(lab)

    sensors = facts(lab, "all sensors --filter temp")
    assert [one["sensors"][0]["unit"] for one in sensors.values()] == ["°C"] * 4
    assert facts(lab, "node1 inventory")["node1"]["serial"] == "RPV0000001"
    assert facts(lab, "node1 firmware")["node1"]["firmware"][1] == {"name": "BIOS", "version": "3.4"}

    # What these BMCs do not offer is not known, and what is asked for without it is refused.
    assert redfish(lab, "node1 log") == "node1  logs not known\n"
    assert facts(lab, "node1 boot-order") == {"node1": {"boot_order": None}}
    for words in ("boot cdrom", "boot bios --once", "log --clear", "boot-order --set Boot0001"):
        assert "node1  FAILED: console-node1 (10.10.1.11), asked for" in redfish(lab, f"node1 {words}", 1)


def test_a_dead_bmc_and_another_machines_hold_up_nobody(lab: Lab) -> None:
    lab.quirk("node2", "wrong-serial")
    try:
        with unplugged(lab, "node3"):
            told = redfish(lab, "all boot none", 1)
    finally:
        lab.quirk("node2", None)
    lines = told.splitlines()
    assert {"node1  boots in its own order", "node4  boots in its own order"} <= set(lines)
    assert "node2  FAILED: the machine behind console-node2" in told
    (last,) = [line for line in lines if line.startswith("node3")]
    assert last.startswith(
        "node3  FAILED: console-node3 (10.10.1.13), asked for its identity, gives no answer"
    )


@contextmanager
def unplugged(lab: Lab, node: str) -> Iterator[None]:
    """A node's BMC that nobody reaches from the lab's network."""
    route = ["nsenter", f"--net={lab.places.namespace('lab')}", "ip", "route"]
    address = f"10.10.1.1{node[-1]}/32"
    subprocess.run([*route, "add", "unreachable", address], check=True)
    try:
        yield
    finally:
        subprocess.run([*route, "del", "unreachable", address], check=True)


def test_a_lab_that_is_held_is_named_with_its_holder(lab: Lab) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, "virtual"],
        cwd=ROOT, env=lab.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as holder:  # fmt: skip
        assert holder.stdout and holder.stdout.readline() == "held\n"
        told = redfish(lab, "node1 off", 1)
        holder.communicate("")
    assert "lab virtual is held by run 20261122-0312-k7f3" in told
    assert lab.board("node1")["power"] == "On"


HOLDER = """\
import sys
from provision.hold import held
with held(sys.argv[1], "20261122-0312-k7f3"):
    print("held", flush=True)
    sys.stdin.read()
"""
