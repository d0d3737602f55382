"""A virtual lab whose nodes boot by real firmware is provisioned: what the real chain hands over is installed."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from provision.wait import NotYet, Patience
from tests.firmware.test_boot_chains import ARGUMENTS, BEFORE
from tests.lab_fixtures import INSTANCE, ROOT, Lab, raised
from virtual_lab import control, down
from virtual_lab.real_firmware import FROM_DISK, QEMU
from virtual_lab.telling_kernel import UP

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which(QEMU) is None, reason="real firmware needs root and qemu-system-x86"
)

NODES = {
    "node1": {"firmware": "uefi", "os": "proxmox-9"},
    "node2": {"firmware": "secure-boot", "os": "ubuntu-24.04"},
}
LOADERS = {"node1": "iPXE", "node2": "GRUB"}
EMULATED, SOON = Patience(300, first=0.2, most=0.5), Patience(30, first=0.02, most=0.1)


def described(folder: Path) -> Path:
    """The default lab's file with two of its nodes, each along a chain of its own, and no cluster."""
    text: dict[str, Any] = yaml.load((ROOT / "labs/virtual.yaml").read_text(), Loader=yaml.BaseLoader)
    for part in ("cluster", "ceph", "templates"):
        del text[part]
    text["defaults"]["real_firmware"] = True
    text["nodes"] = {name: text["nodes"][name] | more for name, more in NODES.items()}
    file = folder / "lab.yaml"
    file.write_text(yaml.safe_dump(text))
    return file


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """That lab, provisioned and proved once."""
    folder = tmp_path_factory.mktemp("real")
    arguments = ("--lab", str(described(folder)), "--until", "install")
    lab = raised(folder, f"{INSTANCE}-real", arguments=arguments)
    try:
        assert "\nPROVED" in lab.rebuild()
        yield lab
    finally:
        lab.down()


def console(lab: Lab, node: str) -> str:
    return lab.places.console(node).read_text()


def ask(lab: Lab, node: str, **request: str) -> dict[str, Any]:
    return control.ask(lab.places.board(node), request)


def boot_from_network(lab: Lab, node: str) -> int:
    """Start a node anew, once from network; returns how long its console is."""
    length = len(console(lab, node))
    ask(lab, node, do="override", target="Pxe", enabled="Once")
    ask(lab, node, do="power", action="ForceRestart")
    return length


def until(lab: Lab, node: str, patience: Patience, **wanted: object) -> None:
    def reached() -> bool | NotYet:
        state = lab.board(node)
        return wanted.items() <= state.items() or NotYet(f"{state} {console(lab, node)[-600:]}")

    patience.until(f"{wanted}", reached, node=node)


def emulators(lab: Lab, node: str) -> list[int]:
    """The QEMU processes that are a node's firmware, and not a trial of KVM."""
    inode = lab.places.namespace(node).stat().st_ino
    there = {process: Path(f"/proc/{process}/cmdline") for process in down.processes_of("", [inode])}
    return [
        process for process, line in there.items() if line.exists() and b"tap,id=cable" in line.read_bytes()
    ]


def in_firmware(lab: Lab, node: str) -> None:
    """Start a node from network, and come back once QEMU runs."""
    boot_from_network(lab, node)
    SOON.until("QEMU runs", lambda: emulators(lab, node) or NotYet("none"), node=node)


@pytest.mark.parametrize("node", NODES)
def test_the_installer_starts_with_what_the_real_chain_handed_over(real: Lab, node: str) -> None:
    said = console(real, node)
    handed = re.findall(rf"^{UP}(.*)$", said, re.MULTILINE)
    started = re.findall("^Command line: (.*)$", said, re.MULTILINE)
    before = re.escape(BEFORE[LOADERS[node], "UEFI"].format(system=NODES[node]["os"]))
    assert len(handed) == 1
    assert started == handed
    assert re.fullmatch(f"{before} {ARGUMENTS[NODES[node]['os']]}", handed[0])
    assert ("UEFI Secure Boot is enabled" in said) == (node == "node2")


def test_without_leave_the_real_chain_leads_to_the_disks_system(real: Lab) -> None:
    before = {node: (real.nonce(node), boot_from_network(real, node)) for node in NODES}
    for node, (nonce, length) in before.items():
        until(real, node, EMULATED, phase="system")
        said = console(real, node)[length:]
        assert f"rackproof: {node} boots from its disk" in said
        assert FROM_DISK in said
        assert UP not in said
        assert real.nonce(node) == nonce


@pytest.mark.parametrize(
    ("action", "power"), [("ForceOff", "Off"), ("PushPowerButton", "Off"), ("ForceRestart", "On")]
)
def test_the_power_ends_real_firmware_at_once(real: Lab, action: str, power: str) -> None:
    in_firmware(real, "node1")
    boots = real.board("node1")["boots"]
    ask(real, "node1", do="power", action=action)
    until(real, "node1", SOON, power=power, boots=boots + (power == "On"))
    if power == "Off":
        assert emulators(real, "node1") == []
    # The override was used up, so the next start is from the disk.
    ask(real, "node1", do="power", action="On")
    until(real, "node1", SOON, phase="system")
    assert emulators(real, "node1") == []


def test_nothing_is_left_of_a_rack_that_goes_down_while_firmware_runs(real: Lab) -> None:
    in_firmware(real, "node1")
    inode = real.places.namespace("node1").stat().st_ino
    mark = real.places.mark
    real.down()
    assert down.processes_of(mark, [inode]) == set()
    assert not real.places.namespace("node1").exists()
