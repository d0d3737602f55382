"""The firmware without its network: which device comes first, and what iPXE knows of the machine."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Interface
from pathlib import Path

import pytest

from virtual_lab import efi, firmware, media
from virtual_lab.dhcp_client import Lease, Message
from virtual_lab.hardware import BootDevice, Dmi, Drive, Hardware, NoBootDevice, Override

PXE_ONCE = Override("Pxe", "Once", "UEFI")


@pytest.fixture
def hardware(tmp_path: Path) -> Hardware:
    dmi = Dmi(
        "Supermicro", "SYS-2029TP", "S1", "4916E828-6E75-5C5C-9DD5-AD61D583E613", "3.4", "X11", "B1", "C1"
    )
    return Hardware(
        name="node1", nics={"eno1": "ac:1f:6b:6c:5a:76"}, dmi=dmi, memory_mib=131072, cores=32,
        drive=Drive(tmp_path / "disk.img", 32 << 30, "S3Z8NX01", "SAMSUNG MZ7LH", "0x5002538e"),
        console_log=tmp_path / "console.log", layers=(), target=tmp_path / "node" / "root",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        (Override(), ("disk", "network")),
        (PXE_ONCE, ("network", "disk")),
        (Override("Pxe", "Continuous"), ("network", "disk")),
        (Override("Pxe", "Disabled"), ("disk", "network")),
        (Override("Hdd", "Once"), ("disk", "network")),
        (Override("None", "Once"), ("disk", "network")),
    ],
)
def test_an_active_override_comes_first(
    hardware: Hardware, override: Override, expected: tuple[BootDevice, ...]
) -> None:
    assert firmware.order(hardware, override) == expected


def test_an_empty_disk_alone_boots_nothing(hardware: Hardware) -> None:
    without_network = replace(hardware, boot_order=("disk",))
    assert isinstance(firmware.boot(without_network, Override()), NoBootDevice)
    assert "Reboot and Select proper Boot device" in hardware.console_log.read_text()


def test_memory_is_empty_after_every_start(hardware: Hardware) -> None:
    left = firmware.memory(hardware) / "left"
    left.parent.mkdir(parents=True)
    left.touch()
    firmware.boot(replace(hardware, boot_order=("disk",)), Override())
    assert not left.exists()


def test_ipxe_knows_the_lease_and_the_machine(hardware: Hardware) -> None:
    message = Message(op=2, xid=1, mac="", options={12: b"node1", 54: bytes([10, 10, 1, 1])})
    known = firmware.settings(hardware, Lease("eno1", IPv4Interface("10.10.1.21/24"), None, message))
    assert known["net0/mac"] == known["mac"] == "ac:1f:6b:6c:5a:76"
    assert (known["net0/ip"], known["netmask"]) == ("10.10.1.21", "255.255.255.0")
    assert (known["hostname"], known["next-server"]) == ("node1", "10.10.1.1")
    assert known["uuid"] == "4916e828-6e75-5c5c-9dd5-ad61d583e613"


def test_only_programs_for_this_machine_are_started(tmp_path: Path) -> None:
    media.build(tmp_path / "built", build_id="x")
    program = (tmp_path / "built" / "vmlinuz").read_bytes()
    assert efi.fault_of(program) is None
    for_arm = program[:0x84] + b"\x64\xaa" + program[0x86:]
    assert "not x86-64" in (efi.fault_of(for_arm) or "")
    for broken in (b"", b"#!ipxe\n", b"MZ" + bytes(100), program[:0x80], b"MZ" + b"\xff" * 100):
        assert efi.fault_of(broken) is not None
