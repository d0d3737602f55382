"""The hands at a BMC of the virtual rack: its own server and application, in a process of its own, over TLS."""

from __future__ import annotations

import hashlib
import os
import signal
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import bcrypt
import pytest
import trustme

from provision.boot_service.boards import Boards
from provision.boot_service.hands_config import HandsConfig, HandsConsole, HandsNode, KeptSecret
from provision.errors import GaveUp, IdentityMismatch
from provision.redfish import Board, Timing

USER, PASSWORD = "ADMIN", "correct horse"
SERIAL, MACS = "S123", ("ac:1f:6b:6c:5a:76", "02:00:00:00:00:01")
SERVE = """
import json, sys
from pathlib import Path
from virtual_lab import bmc
from virtual_lab.bmc_state import Bmc, Console

folder, machine = Path(sys.argv[1]), {"power": "On", "override": {"target": "None", "enabled": "Disabled", "mode": "UEFI"}}
boots = (folder / "boots").open("a", buffering=1)

def board(_path, request):  # the machine behind the BMC: it boots by its override, once
    if request["do"] == "override":
        machine["override"] |= {key: value for key, value in request.items() if key != "do"}
    if request["do"] == "power":
        machine["power"] = "Off" if request["action"] == "ForceOff" else "On"
        print(request["action"], machine["override"]["target"], file=boots)
        if machine["power"] == "On":
            machine["override"] |= {"target": "None", "enabled": "Disabled"}
    return machine

class Quiet(Bmc):
    def __init__(self, console):
        super().__init__(console, board)

bmc.Bmc = Quiet
console = Console(
    node="node1", netns=folder, address="127.0.0.1", mac="ac:1f:6b:6c:58:31", certificate=folder / "cert", key=folder / "key",
    users=folder / "users", board_socket=folder, quirk=folder / "quirk", serial=sys.argv[2], product="SYS", manufacturer="Supermicro",
    uuid="4916e828-6e75-5c5c-9dd5-ad61d583e613", bios_version="3.4", memory_gib=128, cores=32,
    nics={"eno1": sys.argv[3], "eno3": sys.argv[4]}, port=0,
)
server = bmc.Server(console)
print(server.server_port, flush=True)
server.serve_forever()
"""


class Machine:
    """A BMC of the virtual rack with a machine that boots, and the hands for it."""

    def __init__(self, folder: Path, port: int, fingerprint: str) -> None:
        self._folder = folder
        console = HandsConsole.model_validate({
            "name": "console-node1", "address": "127.0.0.1", "mac": "ac:1f:6b:6c:58:31", "trust": "pinned",
            "fingerprint": fingerprint, "user": KeptSecret(reference="env:U", value=USER),
            "password": KeptSecret(reference="env:P", value=PASSWORD),
        })  # fmt: skip
        node = HandsNode(name="node1", serial=SERIAL, mac=MACS[0], macs=MACS, bmc=console)
        self._config = HandsConfig(lab="test", url="https://10.10.1.1", seconds=3.0, nodes=(node,))
        self._port = port

    def hands(self) -> Boards:
        """Hands that have done nothing yet."""

        def board(node: HandsNode, timing: Timing) -> Board:
            return Board(node, port=self._port, timing=timing)

        return Boards(self._config, board=board)

    def quirk(self, name: str) -> None:
        (self._folder / "quirk").write_text(name)

    def boots(self) -> list[str]:
        """Every power action since the last call, with the override that it met."""
        file = self._folder / "boots"
        lines = file.read_text().splitlines()
        file.write_text("")
        return lines


@pytest.fixture(scope="module")
def only_machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    folder = tmp_path_factory.mktemp("virtual-bmc")
    certificate = trustme.CA().issue_cert("127.0.0.1")
    pem = certificate.cert_chain_pems[0].bytes()
    (folder / "cert").write_bytes(pem)
    certificate.private_key_pem.write_to_path(folder / "key")
    (folder / "users").write_text(f"{USER}:{bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()}\n")
    fingerprint = hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem.decode())).digest().hex(":")
    command = [sys.executable, "-c", SERVE, str(folder), SERIAL, *MACS]
    root = Path(__file__).parents[2]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, cwd=root, env=dict(os.environ)
    ) as process:
        try:
            assert process.stdout is not None
            yield Machine(folder, int(process.stdout.readline()), fingerprint)
        finally:
            process.send_signal(signal.SIGTERM)


@pytest.fixture
def machine(only_machine: Machine) -> Iterator[Machine]:
    only_machine.quirk("supermicro-x11")
    yield only_machine
    only_machine.boots()


def test_it_is_switched_off_on_and_booted_once_from_the_network(machine: Machine) -> None:
    boards = machine.hands()
    state = boards.state("node1")
    assert state.power == "On" and "serial number S123" in str(state.identity)
    assert "ForceOff: power is Off" in boards.power("node1", "off")
    assert boards.state("node1").power == "Off"
    assert "On: power is On" in boards.power("node1", "on")
    assert "ForceOff and On: power is On" in boards.power("node1", "cycle", "network")
    assert machine.boots() == ["ForceOff None", "On None", "ForceOff Pxe", "On Pxe"]


QUIRKS: dict[str, tuple[Callable[[Boards], Any], list[str]]] = {
    "x10": (lambda boards: boards.power("node1", "cycle", "disk"), ["ForceOff Hdd", "On Hdd"]),
    "lost-answer": (lambda boards: boards.power("node1", "cycle"), ["ForceOff None", "On None"]),
    "busy": (lambda boards: boards.power("node1", "cycle"), ["ForceOff None", "On None"]),
}


@pytest.mark.parametrize("quirk", QUIRKS)
def test_a_quirk_of_its_bmc_changes_nothing(machine: Machine, quirk: str) -> None:
    machine.quirk(quirk)
    act, boots = QUIRKS[quirk]
    act(machine.hands())
    assert machine.boots() == boots


def test_a_bmc_that_ignores_network_boots_is_found_out_before_a_reset(machine: Machine) -> None:
    machine.quirk("ignores-pxe")
    with pytest.raises(GaveUp, match="accepted but not kept"):
        machine.hands().power("node1", "cycle", "network")
    assert machine.boots() == []


def test_another_machines_bmc_is_left_alone(machine: Machine) -> None:
    machine.quirk("wrong-serial")
    with pytest.raises(IdentityMismatch, match="serial number S123"):
        machine.hands().power("node1", "off")
    assert machine.boots() == []
