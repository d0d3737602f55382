"""Nodes with real firmware: the lab file's key, what the rack makes of it, and what is read off a real console."""

from __future__ import annotations

import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provision import inventory
from provision.errors import InventoryError, LabError
from provision.inventory.models import Lab
from provision.wait import NotYet
from virtual_lab import host, media, real_chain, ubuntu_media
from virtual_lab.firmware import order
from virtual_lab.hardware import Dmi, Drive, Hardware, Override, RealFirmware
from virtual_lab.places import Places
from virtual_lab.plan import RackPlan, differences, hardware, plan
from virtual_lab.played_lab import _deadlines
from virtual_lab.real_chain import Told, media_of, readable, told_by
from virtual_lab.real_firmware import FROM_DISK, NOWHERE, Place, _identity, _said
from virtual_lab.telling_kernel import DONE, FILES, ISO_CAME, RELEASE, UP

ROOT = Path(__file__).parents[2]
LAB = ROOT / "labs/virtual.yaml"
ARGS = "vmlinuz initrd=initrd.img ramdisk_size=16777216 rw quiet splash=silent proxmox-start-auto-installer"
CONSOLE = (
    "\x1b[2J\x1b[01;01H\x1b[=3h>>Start PXE over IPv4.\r\n  Station IP address is 10.10.1.21\r\n"
    f"rackproof: node1 is installed in run 1\r\n\x1b[0m{UP}{ARGS}\r\n{ISO_CAME}\r\n{RELEASE}6.12.1-amd64\r\n"
)


def described(folder: Path, before: str, after: str) -> Lab:
    """The default lab with a part of its file changed."""
    text = LAB.read_text()
    assert text.count(before) == 1
    file = folder / "lab.yaml"
    file.write_text(text.replace(before, after))
    return inventory.load(file, env={})


def one_real_node(folder: Path, firmware: str = "uefi") -> Lab:
    wanted = f"RPVDISK0000002}}\n    firmware: {firmware}\n    real_firmware: true\n"
    return described(folder, "RPVDISK0000002}\n", wanted)


# The key, and what becomes of it


def test_a_node_is_played_unless_it_asks_for_real_firmware(tmp_path: Path) -> None:
    assert not any(node.real_firmware for node in inventory.load(LAB, env={}).nodes.values())
    nodes = one_real_node(tmp_path).nodes
    assert [name for name, node in nodes.items() if node.real_firmware] == ["node2"]


def test_all_nodes_may_ask_under_defaults(tmp_path: Path) -> None:
    lab = described(tmp_path, "  os: proxmox-9\n", "  os: proxmox-9\n  real_firmware: true\n")
    assert all(node.real_firmware for node in lab.nodes.values())


def test_what_is_no_boolean_is_refused_with_its_line(tmp_path: Path) -> None:
    wrong = "  os: proxmox-9\n  real_firmware: ovmf\n"
    with pytest.raises(
        InventoryError, match=r'lab\.yaml:\d+: defaults\.real_firmware: "ovmf": .*boolean'
    ) as refused:
        described(tmp_path, "  os: proxmox-9\n", wrong)
    assert len(refused.value.mistakes) == 1


def test_the_rack_has_it_where_it_was_asked_for(tmp_path: Path) -> None:
    made, places = plan(one_real_node(tmp_path, "bios")), Places(tmp_path, "one")
    assert made.has_real_firmware
    assert {node.name: node.firmware for node in made.nodes if node.firmware} == {"node2": "bios"}
    machine = made.machine("node2")
    assert machine is not None
    assert hardware(places, machine, (), loaders=tmp_path).real_firmware == RealFirmware("bios", tmp_path)
    made.save(tmp_path / "plan.json")
    assert RackPlan.load(tmp_path / "plan.json") == made


def test_a_rack_without_is_as_it_was_and_is_built_anew_for_it(tmp_path: Path) -> None:
    before = plan(inventory.load(LAB, env={}))
    assert not before.has_real_firmware
    assert list(differences(before, plan(one_real_node(tmp_path)))) == ["node2: other firmware"]


def test_its_phases_have_time_for_an_emulated_processor(tmp_path: Path) -> None:
    played, real = _deadlines(inventory.load(LAB, env={})), _deadlines(one_real_node(tmp_path))
    assert (played.dhcp, played.boot_script, played.answer) == (30, 20, 30)
    assert (real.dhcp, real.boot_script, real.answer) == (240, 120, 180)
    assert real.installed == played.installed


def test_a_machine_without_qemu_is_told_before_a_rack_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "QEMU", "qemu-that-is-not-there")
    monkeypatch.setattr(host, "OVMF", Path("/nowhere"))
    with pytest.raises(LabError, match=r"a node has real firmware, .*apt-get install qemu-system-x86 ovmf"):
        host.check(real_firmware=True)


def test_http_is_a_network_boot(machine: Hardware) -> None:
    assert order(machine, Override("UefiHttp", "Once")) == ("network", "disk")


def test_the_real_board_says_who_it_is_with_qemus_commas(machine: Hardware) -> None:
    assert _identity(machine.dmi) == [
        "-smbios",
        "type=1,manufacturer=Supermicro,product=X11,serial=S1,,2,uuid=4916e828-6e75-5c5c-9dd5-ad61d583e613",
        "-smbios",
        "type=2,manufacturer=Supermicro,product=X11,serial=B1",
    ]


# What is read off the lines


@pytest.fixture
def machine(tmp_path: Path) -> Hardware:
    dmi = Dmi("Supermicro", "X11", "S1,2", "4916e828-6e75-5c5c-9dd5-ad61d583e613", "3.4", "X11", "B1", "C1")
    return Hardware(
        name="node1", nics={"eno1": "52:54:00:a1:01:21"}, dmi=dmi, memory_mib=1024, cores=1,
        drive=Drive(tmp_path / "disk.img", 32 << 30, "S", "M", "W"), console_log=tmp_path / "log", layers=(),
        target=tmp_path / "root",
    )  # fmt: skip


def test_the_kernel_says_its_command_line_and_its_release() -> None:
    assert told_by(f"{CONSOLE}{DONE}\r\n") == Told(ARGS, "6.12.1-amd64")


@pytest.mark.parametrize("missing", [UP, RELEASE])
def test_a_kernel_that_did_not_say_all_said_nothing(missing: str) -> None:
    assert told_by(CONSOLE) is None
    assert told_by(f"{CONSOLE}{DONE}\r\n".replace(missing, "")) is None


@given(st.text(), st.text(string.printable.strip() + " ", min_size=1), st.text())
def test_a_command_line_is_taken_as_it_is_whatever_was_said_before(
    before: str, args: str, after: str
) -> None:
    console = f"{before}\n{UP}{args}\r\n{RELEASE}6.12\r\n{DONE}\r\n{after}"
    told = told_by(console)
    assert told is not None
    assert (told.command_line == args) or UP in after or UP in args


@given(st.text())
def test_a_console_is_readable_whatever_came_over_the_line(text: str) -> None:
    assert not set(readable(text)) & set(map(chr, {*range(10), *range(11, 32), 127}))
    assert readable(text).count("\n") == text.count("\n")


def test_what_was_written_over_is_not_to_be_read() -> None:
    assert readable("\x1b[1mDownloading...1%\r  Downloading...2%\r\r\nok\b\r\n") == "  Downloading...2%\nok\n"


def test_the_console_has_each_line_once_and_none_in_halves(machine: Hardware) -> None:
    line, console = real_chain._Line(machine), f"{CONSOLE}{DONE}\r\nno end"
    for end in range(0, len(console) + 1, 7):
        line.hear(console[:end])
    line.hear(console)
    assert machine.console_log.read_text() == readable(f"{CONSOLE}{DONE}\r\n")


class Emulator:
    """A QEMU that runs, or has ended."""

    def __init__(self, ended: int | None = None) -> None:
        self.ended = ended

    def poll(self) -> int | None:
        return self.ended


def seen(folder: Path, console: str, emulator: Emulator) -> str | NotYet:
    place = Place(folder, "br0", folder)
    place.console.write_text(console)
    (folder / "qemu.log").write_text("could not open /dev/net/tun")
    return _said(emulator, place, (DONE, FROM_DISK), lambda _console: None)  # type: ignore[arg-type]


@pytest.mark.parametrize("end", [f"{DONE}\n", f"{FROM_DISK}\nmore", *NOWHERE])
def test_a_board_is_done_when_it_has_booted_something_or_nothing(tmp_path: Path, end: str) -> None:
    assert seen(tmp_path, f"before\n{end}", Emulator()) == f"before\n{end}"


def test_a_line_that_has_no_end_yet_is_waited_for(tmp_path: Path) -> None:
    assert seen(tmp_path, f"before\n{DONE}", Emulator()) == NotYet(f"before\n{DONE}")


def test_qemu_that_ended_says_why(tmp_path: Path) -> None:
    with pytest.raises(LabError) as ended:
        seen(tmp_path, "before\n", Emulator(1))
    assert "could not open /dev/net/tun" in str(ended.value)
    assert seen(tmp_path, f"before\n{DONE}\n", Emulator(0)) == f"before\n{DONE}\n"


TOLD = Told(ARGS, "6.12.1-amd64")


def second_line(archive: bytes) -> bytes:
    """As it comes: UEFI has written there, too."""
    return f"{CONSOLE}{FILES}\n".encode() + archive


def test_what_the_initramfs_held_is_what_the_installer_is_given(tmp_path: Path) -> None:
    files = {
        "./init": b"#!",
        "./lib/modules/6.12.1-amd64/modules.dep": b"x",
        "./.cd-info": b"",
        "./proxmox.iso": b"iso",
    }
    taken = media_of(TOLD, second_line(media.cpio(files)), tmp_path)
    kernel, initrd, iso = taken["kernel"], taken["initrd.0"], taken["/proxmox.iso"]
    assert isinstance(kernel, bytes)
    assert media.kernel_release(kernel) == TOLD.release
    assert isinstance(initrd, bytes)
    assert media.initrd_files(initrd) == {
        "init": b"#!", "lib/modules/6.12.1-amd64/modules.dep": b"x", ".cd-info": b"",
    }  # fmt: skip
    assert isinstance(iso, Path)
    assert iso.read_bytes() == b"iso"


@given(st.binary(), st.integers(0, 400))
def test_an_archive_that_is_broken_gives_no_file(
    tmp_path_factory: pytest.TempPathFactory, noise: bytes, end: int
) -> None:
    whole = media.cpio({"proxmox.iso": b"iso", "init": b"#!"})
    folder = tmp_path_factory.getbasetemp()
    for archive in (noise, whole[: min(end, len(whole) - 16)], whole[:110] + noise):
        taken = media_of(TOLD, second_line(archive), folder)
        initrd = taken["initrd.0"]
        assert isinstance(initrd, bytes)
        assert "/proxmox.iso" not in taken
        assert media.initrd_files(initrd) == {}


@pytest.mark.parametrize(("kind", "build"), [("pve", media.build), ("ubuntu", ubuntu_media.build)])
def test_media_carry_the_program_and_what_the_played_installer_looks_for(
    tmp_path: Path, kind: str, build: object
) -> None:
    assert callable(build)
    kernel = media.Kernel(
        "6.12.1-amd64", media.kernel_image("6.12.1-amd64"), {"init": b"#!tell", "busybox": b"b"}
    )
    build(tmp_path / kind, build_id="one", kernel=kernel)
    name = "initrd.img" if kind == "pve" else "initrd"
    files = media.initrd_files((tmp_path / kind / name).read_bytes())
    assert (files["init"], files["busybox"]) == (b"#!tell", b"b")
    assert "lib/modules/6.12.1-amd64/modules.dep" in files
    assert files.get(media.ID_FILE) == b"one\n" or files.get(ubuntu_media.UUID_FILE) == b"one\n"
