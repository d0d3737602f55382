"""What a permitted node is handed, and how its phases are followed."""

from __future__ import annotations

import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

from provision import install, inventory
from provision.errors import GaveUp, LabError
from provision.install import Permit
from provision.inventory import Lab
from provision.ledger import Event, Ledger
from provision.run import Run

ROOT = Path(__file__).parents[2]
PASSWORD = "canary-Sesame-2"


@pytest.fixture
def lab(monkeypatch: pytest.MonkeyPatch) -> Lab:
    monkeypatch.setenv("RACKPROOF_ROOT_PASSWORD", PASSWORD)
    lab = inventory.load(ROOT / "labs" / "virtual.yaml")
    quick = dict.fromkeys(type(lab.deadlines).model_fields, 0.01)
    return lab.model_copy(update={"deadlines": lab.deadlines.model_copy(update=quick)})


@pytest.fixture
def permit(lab: Lab) -> Permit:
    return Permit(lab.nodes["node2"], "run-1", 0.0, "answer-token", "report-token", "0123456789abcdef")


@pytest.fixture
def run(ledger: Ledger) -> Run:
    return Run("virtual", "run-1", ledger, acting=frozenset(["install"]))


def test_answer_is_toml_that_says_what_the_lab_file_says(lab: Lab, permit: Permit) -> None:
    answer = tomllib.loads(install.answer(lab, permit))
    assert set(answer) == {"global", "network", "disk-setup", "post-installation-webhook", "first-boot"}
    assert answer["global"]["fqdn"] == "node2.lab.example.net"
    assert answer["global"]["root-password-hashed"].startswith("$6$")
    assert answer["network"] == {
        "source": "from-answer",
        "cidr": "10.10.1.22/24",
        "gateway": "10.10.1.1",
        "dns": "10.10.1.1",
        "filter": {"ID_NET_NAME_MAC": "*525400a10122"},
    }
    assert answer["disk-setup"] == {"filesystem": "ext4", "filter": {"ID_SERIAL_SHORT": "RPVDISK0000002"}}
    assert answer["first-boot"]["ordering"] == "fully-up"


def test_nothing_handed_out_holds_the_password(lab: Lab, permit: Permit) -> None:
    handed = [make(lab, permit) for make in (install.answer, install.boot_script, install.first_boot)]
    assert PASSWORD not in "".join(handed)


def test_boot_script_starts_the_unattended_installer_from_one_build(lab: Lab, permit: Permit) -> None:
    lines = install.boot_script(lab, permit).splitlines()
    assert lines[0] == "#!ipxe"
    kernel = next(line for line in lines if line.startswith("kernel "))
    assert kernel.split()[1] == "http://10.10.1.1/media/proxmox-9/vmlinuz"
    assert "proxmox-start-auto-installer" in kernel.split()
    assert "initrd http://10.10.1.1/media/proxmox-9/proxmox.iso proxmox.iso" in lines
    assert lines[-1] == "boot"


def test_first_boot_is_a_shell_script_that_bash_can_read(lab: Lab, permit: Permit) -> None:
    script = install.first_boot(lab, permit)
    assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0
    assert len(script.encode()) < 1024 * 1024  # the installer cuts off what is longer
    for line in ("broadcast 10.10.1.255", "broadcast 10.10.2.255", "mtu 9000", "bridge-ports ${nic_2}"):
        assert line in script


def event(run: Run, kind: str, node: str = "node2", text: str = "", **facts: Any) -> None:
    run.take(Event(1.0, run.id, "virtual", None, node, kind, text, facts))


def reach(run: Run, *kinds: str) -> None:
    event(run, "permitted", nonce="0123456789abcdef")
    for kind in kinds:
        event(run, kind, text=f"did {kind}")


def test_a_node_that_stays_is_named_with_its_phase_and_last_word(lab: Lab, run: Run) -> None:
    reach(run, "dhcp", "boot-script")
    with pytest.raises(GaveUp, match="phase answer") as caught:
        install._follow_phases(lab, run, "node2")
    assert (caught.value.node, caught.value.last_seen) == ("node2", "boot-script: did boot-script")
    assert "8 GB" in str(caught.value.likely)


def test_a_node_in_bios_mode_is_recognised(lab: Lab, run: Run) -> None:
    reach(run)
    event(run, "dhcp", text="DISCOVER, BIOS (0), PXEClient")
    with pytest.raises(GaveUp) as caught:
        install._follow_phases(lab, run, "node2")
    assert caught.value.likely == "node2 boots in BIOS mode; the lab asks for UEFI"


def test_a_reported_failure_ends_the_wait_at_once_with_the_logs_end(lab: Lab, run: Run) -> None:
    reach(run, "dhcp", "boot-script", "answer", "installed", "first-boot")
    event(run, "failed", text="line 12: ifreload -a", log="first\nsecond\nerror: vmbr1: no such port\n")
    with pytest.raises(LabError, match="line 12: ifreload -a") as caught:
        install._follow_phases(lab, run, "node2")
    assert "no such port" in str(caught.value.last_seen)


def test_what_was_before_the_leave_does_not_count(lab: Lab, run: Run) -> None:
    for phase in install.PHASES:
        event(run, phase)
    reach(run, "dhcp")
    with pytest.raises(GaveUp, match="phase boot-script"):
        install._follow_phases(lab, run, "node2")


def test_another_nodes_events_are_not_this_ones(lab: Lab, run: Run) -> None:
    reach(run)
    for phase in install.PHASES:
        event(run, phase, node="node1")
    with pytest.raises(GaveUp, match="phase dhcp"):
        install._follow_phases(lab, run, "node2")


def test_all_phases_end_the_wait(lab: Lab, run: Run) -> None:
    reach(run, *install.PHASES)
    assert list(install._follow_phases(lab, run, "node2")) == ["permitted", *install.PHASES]


def test_no_leave_no_install(lab: Lab, run: Run) -> None:
    with pytest.raises(LabError, match="has no leave"):
        install._follow_phases(lab, run, "node2")
