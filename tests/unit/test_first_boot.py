"""The script of the first boot: shellcheck's word on it, and each of its parts run on a machine made of files."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from provision import inventory, proxmox_answer, ubuntu_seed
from provision.certificate import Certificate
from provision.inventory import Lab, Node
from provision.permit import Permit
from tests.certificates import certificate_of

ROOT = Path(__file__).parents[2]
LABS = sorted((ROOT / "labs").glob("*.yaml"))
PARTS = [part for part in proxmox_answer.FIRST_BOOT_PARTS if part != "host_key"]
"""A host key is given by those alone who have it made (tests/unit/test_host_key.py)."""
TOOLS = ("chronyc", "ifreload", "ip", "python3", "sleep", "sync", "systemctl", "timeout")
"""What a part calls beside the tools that every system has; here each writes down that it was called."""

STUB = """\
#!/bin/bash
name=${0##*/}
echo "$name $*" >>@/calls
[ ! -e "@/answers/$name" ] || . "@/answers/$name"
"""
OWN_PATHS = re.compile(r"(?<![\w.}/-])/(etc|sys|proc|var|boot|usr/local)/")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return certificate_of(tmp_path_factory.mktemp("tls"))


def load(path: Path = ROOT / "labs" / "virtual.yaml") -> Lab:
    return inventory.load(path, {})


def permit(node: Node, run: str = "run-1") -> Permit:
    return Permit(node, run, 0.0, "answer-token", "report-token", "hook-token", "0123456789abcdef")


def script_of(lab: Lab, given: Permit, certificate: Certificate) -> str:
    make = proxmox_answer.first_boot if given.node.is_proxmox else ubuntu_seed.first_boot
    return make(lab, given, certificate)


def shellcheck(*scripts: str) -> str:
    """What shellcheck has to say of scripts, all of them in one go."""
    said = [
        subprocess.run(["shellcheck", "-"], input=text, text=True, capture_output=True, check=False).stdout
        for text in scripts
    ]
    return "\n".join(said).strip()


@dataclass
class Machine:
    """A machine that is a folder: the script's own paths lie in it, and its tools are stubs that tell of it."""

    root: Path
    lab: Lab
    certificate: Certificate

    def __post_init__(self) -> None:
        for folder in ("bin", "answers", "var/log", "etc/network", "sys/class/net"):
            (self.root / folder).mkdir(parents=True)
        for tool in TOOLS:
            self.answer(tool, None)
        self.write("etc/network/interfaces", "auto lo\n")
        for nic, mac in (("eno1", "52:54:00:a1:01:22"), ("eno3", "52:54:00:a1:02:22")):
            self.write(f"sys/class/net/{nic}/address", f"{mac}\n")

    def write(self, path: str, text: str) -> None:
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(text)

    def read(self, path: str) -> str:
        return (self.root / path).read_text()

    def answer(self, tool: str, shell: str | None) -> None:
        """Let the machine have this tool, which does what `shell` says once its call is written down."""
        stub = self.root / "bin" / tool
        stub.write_text(STUB.replace("@", str(self.root)))
        stub.chmod(0o755)
        if shell is not None:
            self.write(f"answers/{tool}", shell)

    def boot(self, run: str = "run-1", **asked: Any) -> subprocess.CompletedProcess[str]:
        """Run the script of node2, with what is asked of it there."""
        node = self.lab.nodes["node2"].model_copy(update=asked)
        text = script_of(self.lab, permit(node, run), self.certificate).replace("patience=60", "patience=0")
        (self.root / "calls").write_text("")
        return subprocess.run(
            ["bash", "-c", OWN_PATHS.sub(rf"{self.root}/\1/", text)], text=True, capture_output=True,
            check=False, env={"PATH": f"{self.root / 'bin'}:{os.environ['PATH']}"},
        )  # fmt: skip

    def calls(self, tool: str) -> list[str]:
        """With what a tool was called in the last boot."""
        lines = [line.split(" ", 1) for line in self.read("calls").splitlines()]
        return [rest for name, rest in lines if name == tool]

    def reports(self) -> list[tuple[str, str]]:
        """The phases and texts that were reported in the last boot."""
        found = (re.match(r"- (\S+) \S+ (.*?) (?:/.*)?$", call + " ") for call in self.calls("python3"))
        return [(match[1], match[2].strip()) for match in found if match]

    def digests(self) -> dict[str, str]:
        """Every file of /etc by its content."""
        files = [path for path in (self.root / "etc").rglob("*") if path.is_file()]
        return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture
def machine(tmp_path: Path, certificate: Certificate) -> Machine:
    return Machine(tmp_path, load(), certificate)


# The script


@pytest.mark.parametrize("path", LABS, ids=[path.stem for path in LABS])
def test_shellcheck_finds_nothing_in_the_first_boot_of_any_lab(path: Path, certificate: Certificate) -> None:
    lab = load(path)
    assert shellcheck(script_of(lab, permit(next(iter(lab.nodes.values()))), certificate)) == ""


@pytest.mark.parametrize("system", ["proxmox-9", "ubuntu-24.04"])
def test_shellcheck_finds_nothing_whatever_the_run_is_called(system: str, certificate: Certificate) -> None:
    lab = load()
    node = lab.nodes["node1"].model_copy(update={"os": system})
    assert shellcheck(script_of(lab, permit(node, 'it\'s; "&" <|>\n{#}'), certificate)) == ""


def test_shellcheck_does_find_what_is_wrong() -> None:
    assert "SC2086" in shellcheck("#!/bin/bash\nrm $1\n")


def test_the_script_is_short_enough_for_the_installer(certificate: Certificate) -> None:
    lab = load()
    assert len(script_of(lab, permit(lab.nodes["node1"]), certificate).encode()) < 1024 * 1024


def test_every_part_reports_and_the_last_word_is_that_it_is_done(machine: Machine) -> None:
    done = machine.boot()
    assert done.returncode == 0, done.stdout
    parts = [("status", f"{part}: changed") for part in PARTS]
    assert machine.reports() == [
        ("first-boot", "first boot has begun"), *parts, ("registered", "first boot is done"),
    ]  # fmt: skip


def test_a_second_run_changes_no_file_and_touches_no_network(machine: Machine) -> None:
    machine.boot()
    before = machine.digests()
    done = machine.boot()
    assert done.returncode == 0, done.stdout
    assert machine.digests() == before
    assert machine.calls("ifreload") == []
    assert {text for phase, text in machine.reports() if phase == "status"} == {
        f"{part}: as it was" for part in PARTS
    }


def test_a_part_that_fails_ends_the_script_and_says_where(machine: Machine) -> None:
    machine.answer("systemctl", "[ $1 != reload ] || { echo no such unit; exit 5; }")
    done = machine.boot()
    assert done.returncode == 1
    phase, text = machine.reports()[-1]
    assert phase == "failed"
    assert re.fullmatch(r"ssh: line \d+: systemctl reload ssh", text)
    assert "no such unit" in machine.read("var/log/rackproof-first-boot.log")
    assert not (machine.root / "etc/rackproof/install.json").exists()


def test_what_fails_inside_of_a_substitution_is_told_once(machine: Machine) -> None:
    shutil.rmtree(machine.root / "sys/class/net/eno3")
    assert machine.boot().returncode == 1
    failures = [text for phase, text in machine.reports() if phase == "failed"]
    assert len(failures) == 1
    assert failures[0].startswith("networks: line ")


@pytest.mark.parametrize("run", ['$(touch /tmp/x)`id`"\\', "two\nlines; id"])
def test_what_is_left_of_its_install_is_json_whatever_the_run_is_called(machine: Machine, run: str) -> None:
    assert machine.boot(run=run).returncode == 0
    left = json.loads(machine.read("etc/rackproof/install.json"))
    assert (left["run"], left["node"], left["nonce"]) == (run, "node2", "0123456789abcdef")


# The networks


def test_networks_are_written_with_mtu_and_broadcast(machine: Machine) -> None:
    machine.boot()
    text = machine.read("etc/network/interfaces")
    for line in ("broadcast 10.10.1.255", "broadcast 10.10.2.255", "mtu 9000", "bridge-ports eno3"):
        assert f"\t{line}\n" in text
    assert text.count("gateway") == 1
    assert not (machine.root / "etc/network/interfaces.before-rackproof").exists()


def test_networks_that_cut_the_server_off_are_taken_back(machine: Machine) -> None:
    machine.answer("timeout", f"grep -q '^auto lo$' {machine.root}/etc/network/interfaces"
                              f" && ! grep -q vmbr1 {machine.root}/etc/network/interfaces")  # fmt: skip
    done = machine.boot()
    assert done.returncode == 1
    assert machine.read("etc/network/interfaces") == "auto lo\n"
    assert len(machine.calls("ifreload")) == 2
    phase, text = machine.reports()[-1]
    assert phase == "failed"
    assert text.endswith("the server was out of reach by the new networks, and the old ones are back")


def test_networks_that_were_not_proved_before_a_power_cut_are_proved_by_the_next_boot(
    machine: Machine,
) -> None:
    machine.answer("ifreload", "kill -9 $PPID; exit 1")
    assert machine.boot().returncode == -9
    assert machine.read("etc/network/interfaces.before-rackproof") == "auto lo\n"
    machine.write("answers/ifreload", "")
    assert machine.boot().returncode == 0
    assert len(machine.calls("ifreload")) == 1
    assert not (machine.root / "etc/network/interfaces.before-rackproof").exists()


# Access and clock


def test_sshd_is_reloaded_only_when_its_settings_are_new(machine: Machine) -> None:
    machine.boot()
    assert "reload ssh" in machine.calls("systemctl")
    machine.boot()
    assert "reload ssh" not in machine.calls("systemctl")


def test_the_clock_follows_the_server(machine: Machine) -> None:
    machine.boot()
    assert machine.read("etc/chrony/sources.d/rackproof.sources") == "server 10.10.1.1 iburst prefer\n"
    assert machine.calls("chronyc") == ["reload sources"]


def test_the_other_permits_of_a_node_make_the_same_script_but_for_their_words(
    certificate: Certificate,
) -> None:
    lab = load()
    given = permit(lab.nodes["node1"])
    other = replace(given, nonce="fedcba9876543210")
    texts = [script_of(lab, one, certificate).replace(one.nonce, "") for one in (given, other)]
    assert texts[0] == texts[1]
