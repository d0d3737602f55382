"""iPXE's script language: what boots, what falls through to the next device, and what it is strict about."""

from __future__ import annotations

from pathlib import Path

import pytest

from virtual_lab import media
from virtual_lab.ipxe import Booted, Ended, Exited, Failed, Ipxe, LocalDisk

BASE = "http://10.10.1.1/boot/"
SETTINGS = {
    "net0/mac": "ac:1f:6b:6c:5a:76",
    "net0/ip": "10.10.1.21",
    "hostname": "node1",
    "buildarch": "x86_64",
}


class FakeMachine:
    """Serves files from a dict by address, and keeps what was said and slept."""

    def __init__(self, folder: Path, files: dict[str, bytes]) -> None:
        self.folder, self.files = folder, files
        self.said: list[str] = []
        self.fetched: list[str] = []
        self.waited = 0.0

    def fetch(self, uri: str) -> Path:
        self.fetched.append(uri)
        if uri not in self.files:
            raise Failed(f"{uri}... No such file or directory (https://ipxe.org/2d0c618e)")
        path = self.folder / str(len(self.fetched))
        path.write_bytes(self.files[uri])
        return path

    def say(self, text: str) -> None:
        self.said.append(text)

    def wait(self, seconds: float) -> None:
        self.waited += seconds


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("media") / "built"
    media.build(folder, build_id="test")
    return (folder / "vmlinuz").read_bytes()


@pytest.fixture
def machine(tmp_path: Path, kernel: bytes) -> FakeMachine:
    files = {"http://10.10.1.1/vmlinuz": kernel, "http://10.10.1.1/initrd.img": b"initrd",
             "http://10.10.1.1/pve.iso": b"iso"}  # fmt: skip
    return FakeMachine(tmp_path, files)


def run(machine: FakeMachine, *lines: str, head: str = "#!ipxe") -> Ended:
    machine.files[f"{BASE}x"] = "\n".join([head, *lines, ""]).encode()
    return Ipxe(machine, dict(SETTINGS)).autoboot(f"{BASE}x")


def test_the_installers_script_boots(machine: FakeMachine) -> None:
    ended = run(
        machine,
        "set base http://10.10.1.1",
        "kernel ${base}/vmlinuz rw quiet initrd=initrd.img proxmox-start-auto-installer || exit",
        "initrd ${base}/initrd.img",
        "initrd ${base}/pve.iso proxmox.iso",
        "boot || exit",
    )
    assert isinstance(ended, Booted)
    assert ended.kernel.args == "rw quiet initrd=initrd.img proxmox-start-auto-installer"
    assert [(image.name, image.args) for image in ended.initrds] == [
        ("initrd.img", ""),
        ("pve.iso", "proxmox.iso"),
    ]


def test_a_name_given_by_option_is_not_a_path_in_the_initramfs(machine: FakeMachine) -> None:
    ended = run(machine, "kernel /vmlinuz", "initrd --name proxmox.iso /pve.iso", "boot")
    assert isinstance(ended, Booted)
    assert [(image.name, image.args) for image in ended.initrds] == [("proxmox.iso", "")]


@pytest.mark.parametrize("last", ["exit", "exit 0", "", "echo done"])
def test_exit_and_the_end_of_the_script_leave_to_the_next_device(machine: FakeMachine, last: str) -> None:
    assert run(machine, last) == Exited()


def test_sanboot_of_a_drive_boots_the_disk(machine: FakeMachine) -> None:
    assert run(machine, "sanboot --no-describe --drive 0x80 || exit") == LocalDisk()


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("frobnicate", "frobnicate: command not found"),
        ("menu Install", "menu: command not found"),
        ("kernel http://10.10.1.1/none", "No such file"),
        ("kernel http://10.10.1.1/initrd.img", "Exec format error"),
        ("boot", "no kernel was selected"),
        ("goto nowhere", "no label nowhere"),
        ("initrd --bogus /initrd.img", "unrecognised option '--bogus'"),
        ("initrd --name", "requires an argument"),
        ("imgargs vmlinuz x", "Could not find image"),
        ("sanboot iscsi:10.10.1.1::::x", "Operation not supported"),
        ("sleep ten", "Usage: sleep"),
        ("iseq a", "Usage: iseq"),
        ("exit 1", "exit 1"),
    ],
)
def test_a_failing_command_ends_the_script(machine: FakeMachine, line: str, complaint: str) -> None:
    with pytest.raises(Failed, match=complaint):
        run(machine, line, "echo not reached")
    assert "not reached" not in machine.said
    assert any(complaint in said for said in machine.said)


@pytest.mark.parametrize("head", ["#!/bin/sh", "", "# !ipxe", "#!ipxey"])
def test_without_the_shebang_nothing_runs(machine: FakeMachine, head: str) -> None:
    with pytest.raises(Failed, match="Exec format error"):
        run(machine, "exit", head=head)


def test_operators_bind_in_order(machine: FakeMachine) -> None:
    run(machine, "isset && echo no || echo yes", "isset x && echo and ; echo then", "iseq a b || echo differ")
    assert [said for said in machine.said if "..." not in said] == ["yes", "and", "then", "differ"]


def test_settings_are_expanded_before_the_line_is_split(machine: FakeMachine) -> None:
    run(
        machine,
        "set word a b",
        "echo [${word}] ${net0/mac:hexhyp} ${net0/ip:hexraw} ${none}.",
        "set a ${a}1 && echo ${a}",
    )
    assert [said for said in machine.said if "..." not in said] == ["[a b] ac-1f-6b-6c-5a-76 0a0a0115 .", ""]


def test_nested_settings_are_expanded_from_within(machine: FakeMachine) -> None:
    run(
        machine,
        "set key hostname",
        "echo ${${key}} ${hostname:uristring}",
        "set odd a/b",
        "echo ${odd:uristring}",
    )
    assert [said for said in machine.said if "..." not in said] == ["node1 node1", "a%2Fb"]


def test_an_empty_setting_is_not_set(machine: FakeMachine) -> None:
    run(
        machine,
        "isset ${none} || echo unset",
        "isset ${hostname} && echo set",
        "clear hostname",
        "isset ${hostname} || echo gone",
    )
    assert [said for said in machine.said if "..." not in said] == ["unset", "set", "gone"]


def test_goto_runs_from_its_label(machine: FakeMachine) -> None:
    assert run(machine, "goto there", "frobnicate", "  :there", "exit") == Exited()


def test_a_script_that_runs_in_a_circle_is_stopped(machine: FakeMachine) -> None:
    with pytest.raises(Failed, match="circle"):
        run(machine, ":again", "goto again")


def test_comments_are_no_commands(machine: FakeMachine) -> None:
    assert run(machine, "# frobnicate", "echo hello # frobnicate || exit 1") == Exited()
    assert "hello" in machine.said


def test_a_chained_script_that_exits_gives_control_back(machine: FakeMachine) -> None:
    machine.files[f"{BASE}other"] = b"#!ipxe\nexit\n"
    run(machine, "chain other", "echo back")
    assert "back" in machine.said
    machine.said.clear()
    assert run(machine, "chain --replace other", "echo back") == Exited()
    assert "back" not in machine.said


def test_a_chained_script_may_boot(machine: FakeMachine) -> None:
    machine.files[f"{BASE}other"] = b"#!ipxe\nkernel /vmlinuz a\nimgargs vmlinuz b c\nboot\n"
    ended = run(machine, "chain other", "echo back")
    assert isinstance(ended, Booted)
    assert ended.kernel.args == "b c"
    assert ended.initrds == ()


def test_sleep_takes_its_time(machine: FakeMachine) -> None:
    run(machine, "sleep 3")
    assert machine.waited == 3
