"""The dashboard of a standing lab: live, by role, and an operator's word ends in a node that is installed anew."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.lab.conftest import Lab
from virtual_lab.places import home

CHROMIUM = Path("/usr/bin/chromium")
VISIT = Path(__file__).with_name("dashboard_visit.py")


@pytest.mark.skipif(not CHROMIUM.exists(), reason="needs Debian's chromium; ./bootstrap installs it")
def test_an_operator_has_a_node_installed_and_sees_it_come(lab: Lab) -> None:
    """Without a run of the harness, without a reload; a viewer is offered nothing, a wrong name does nothing."""
    rack = home() / "racks" / lab.instance
    before = lab.on("node4", "cat /etc/rackproof/install.json")
    lab.whole = False
    said = lab.rack("exec", "--", sys.executable, str(VISIT), str(rack / "made-up-secrets.json"))
    seen = json.loads(said.splitlines()[-1])
    assert seen["buttons of the viewer"] == ["Log out"]
    words = " ".join(seen["states"])
    assert "installing" in words
    assert "registered" in seen["states"][-1]
    assert json.loads(before)["nonce"][:8] not in seen["states"][-1]
    assert "permit an install: node4: refused: type node4 to confirm" in _flat(seen["audit"])
    assert "power off: node4: done" in _flat(seen["audit"])
    status = [line.split()[:3] for line in lab.rack("status").splitlines()]
    assert ["node4", "Off", "off"] in status


def _flat(text: str) -> str:
    return text.replace("\t", ": ")
