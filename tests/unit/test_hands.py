"""The hands do what is asked at the right machine and at no other, one thing at a time, and tell no secret."""

from __future__ import annotations

import asyncio
import json
import os
import pwd
import re
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest

from provision import inventory, server_plan, spans
from provision.boot_service import boards as boards_module
from provision.boot_service.answer_options import AnswerOptions
from provision.boot_service.boards import ACTIONS_A_MINUTE, Boards
from provision.boot_service.hands import LONGEST_BODY, Hands, HandsServer
from provision.boot_service.hands_client import HandsClient, HandsRefused
from provision.boot_service.hands_config import HandsConfig, HandsConsole, HandsNode, KeptSecret, hands_config
from provision.errors import LabError
from provision.redfish import Board, Timing, refusals
from provision.wait import NotYet, Patience
from tests.unit import redfish_bmc as fake
from tests.unit.redfish_bmc import ROOT, Answer, Bmc

REPOSITORY = Path(__file__).parents[2]
NAMES = ("node1", "node2")
URL, FINGERPRINT = "https://10.10.1.1", "ab" * 32
TOKEN, OTHER = "t0ken_-" * 4, "other_-" * 4
T = TypeVar("T")


def config(*, seconds: float = 5.0, fingerprint: str | None = None) -> HandsConfig:
    nodes = tuple(hands_node(name) for name in NAMES)
    return HandsConfig(lab="test", url=URL, fingerprint=fingerprint, seconds=seconds, nodes=nodes)


def hands_node(name: str, password: str = fake.PASSWORD) -> HandsNode:
    last = name[-1]
    return HandsNode(
        name=name, serial=f"S-{name}", mac=f"02:00:00:00:0{last}:01", macs=(f"02:00:00:00:0{last}:02",),
        bmc=HandsConsole(
            name=f"console-{name}", address="127.0.0.1", trust="pinned", fingerprint=fake.FINGERPRINT,
            user=KeptSecret(reference="env:BMC_USER", value=fake.USER),
            password=KeptSecret(reference="env:BMC_PASSWORD", value=password),
        ),
    )  # fmt: skip


def tree(name: str, **system: Any) -> dict[str, Any]:
    tree = fake.written(SerialNumber=f"S-{name}", **system)
    fake.add_nics(tree, f"{ROOT}/Systems/1", f"02:00:00:00:0{name[-1]}:01", f"02:00:00:00:0{name[-1]}:02")
    return tree


class Rack:
    """Hands on a real socket in front of two BMCs, with a client; waits at BMCs take no time."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder, self._stack = folder, stack
        self.bmcs: dict[str, Bmc] = {}
        self.time = self.slept = 0.0
        self.reloads = folder / "reloads"
        self.options_file = folder / "dhcp-options"
        self.options = AnswerOptions(
            self.options_file, url=URL, owner="root", reload=("sh", "-c", f"echo x >>{self.reloads}")
        )
        self.client = HandsClient(folder / "hands.sock")

    def start(self, config: HandsConfig, **given: Any) -> Boards:
        boards = Boards(config, now=lambda: self.time, **({"board": self.board} | given))
        server = HandsServer(self.folder / "hands.sock", Hands(config, boards, self.options).answer)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()

        def stop() -> None:
            server.shutdown()
            thread.join()
            server.server_close()

        self._stack.callback(stop)
        return boards

    def bmc(self, name: str, tree_: dict[str, Any] | None = None, **faults: Any) -> Bmc:
        bmc = Bmc(tree(name) if tree_ is None else tree_, **faults)
        self.bmcs[name] = self._stack.enter_context(fake.serving(bmc))
        return bmc

    def board(self, node: HandsNode, _timing: Timing) -> Board:
        def patience(seconds: float) -> Patience:
            return Patience(seconds, first=1.0, most=8.0, now=lambda: self.slept, sleep=self._sleep)

        timing = Timing(connect=2, read=2, busy=patience(20), kept=patience(5), reset=patience(20))
        return Board(node, port=self.bmcs[node.name].port, timing=timing)

    def _sleep(self, seconds: float) -> None:
        self.slept += seconds

    def ask(self, what: Coroutine[Any, Any, T]) -> T:
        return asyncio.run(what)

    def refused(self, what: Coroutine[Any, Any, Any]) -> HandsRefused:
        with pytest.raises(HandsRefused) as error:
            self.ask(what)
        return error.value

    def raw(self, request: bytes) -> tuple[int, str]:
        with socket.socket(socket.AF_UNIX) as peer:
            peer.settimeout(5)
            peer.connect(str(self.folder / "hands.sock"))
            peer.sendall(request)
            peer.shutdown(socket.SHUT_WR)
            answer = b"".join(iter(lambda: peer.recv(65536), b""))
        return int(answer.split()[1]), answer.decode()

    def reload_count(self) -> int:
        return len(self.reloads.read_text().split()) if self.reloads.exists() else 0


@pytest.fixture
def rack(tmp_path: Path) -> Iterator[Rack]:
    with ExitStack() as stack:
        rack = Rack(tmp_path, stack)
        yield rack
        assert not [bmc.sessions for bmc in rack.bmcs.values() if bmc.sessions]


# At the board


@pytest.mark.parametrize(
    ("power", "how", "sent", "end"),
    [
        ("Off", "on", ["On"], "On"),
        ("On", "off", ["ForceOff"], "Off"),
        ("On", "on", [], "On"),
        ("Off", "off", [], "Off"),
        ("On", "cycle", ["ForceOff", "On"], "On"),
        ("Off", "cycle", ["On"], "On"),
    ],
)
def test_power_is_switched_at_the_node_that_was_named(
    rack: Rack, power: str, how: str, sent: list[str], end: str
) -> None:
    bmc, other = rack.bmc("node1", tree("node1", PowerState=power)), rack.bmc("node2")
    rack.start(config())
    done = rack.ask(rack.client.power("node1", how))
    assert (bmc.resets, bmc.power) == (sent, end)
    assert done.startswith("node1: ") and "identity: serial number S-node1, MAC 02:00:00:00:01:01" in done
    assert not other.requests and (bmc.logins, bmc.sessions) == (1, {})


@pytest.mark.parametrize(("source", "target"), [("network", "Pxe"), ("disk", "Hdd")])
def test_one_boot_from_there_is_set_and_read_back_and_nothing_is_reset(
    rack: Rack, source: str, target: str
) -> None:
    bmc = rack.bmc("node1")
    rack.start(config())
    assert f"read back: target {target}, enabled Once" in rack.ask(rack.client.boot_once("node1", source))
    assert bmc.boot["BootSourceOverrideTarget"] == target and not bmc.resets


def test_a_cycle_with_a_source_boots_once_from_there_in_one_turn(rack: Rack) -> None:
    bmc = rack.bmc("node1")
    rack.start(config())
    done = rack.ask(rack.client.power("node1", "cycle", source="network"))
    rack.ask(rack.client.state("node1"))
    assert bmc.boots == ["Pxe"] and "ForceOff and On: power is On" in done and bmc.logins == 2


ACTIONS: dict[str, Callable[[HandsClient], Coroutine[Any, Any, Any]]] = {
    "on": lambda client: client.power("node1", "on"),
    "off": lambda client: client.power("node1", "off"),
    "cycle": lambda client: client.power("node1", "cycle"),
    "cycle once": lambda client: client.power("node1", "cycle", source="network"),
    "boot once": lambda client: client.boot_once("node1", "network"),
}


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("wrong", [{"SerialNumber": "S-node2"}, {"nics": True}], ids=["serial", "MACs"])
def test_at_another_machine_nothing_is_written(rack: Rack, action: str, wrong: dict[str, Any]) -> None:
    machine = tree("node1", PowerState="Off")
    if "nics" in wrong:
        fake.add_nics(machine, f"{ROOT}/Systems/1", "02:00:00:00:02:01")
    else:
        machine[f"{ROOT}/Systems/1"] |= wrong
    bmc = rack.bmc("node1", machine)
    rack.start(config())
    error = rack.refused(ACTIONS[action](rack.client))
    assert error.status == 409 and "console-node1" in error.why and "not the one in the lab file" in error.why
    assert not bmc.resets and not bmc.patches
    assert not [one for one in bmc.requests if one.startswith(("PATCH", "POST")) and "Session" not in one]


def test_identity_is_asked_for_before_anything_is_written(rack: Rack) -> None:
    bmc = rack.bmc("node1")
    rack.start(config())
    rack.ask(rack.client.power("node1", "cycle", source="network"))
    written = next(i for i, one in enumerate(bmc.requests) if one.startswith("PATCH"))
    assert any("EthernetInterfaces/0" in one for one in bmc.requests[:written])


def test_a_bmc_that_says_yes_and_does_nothing_is_found_out(rack: Rack) -> None:
    rack.bmc("node1", None, ignore_reset=True)
    rack.bmc("node2", None, drop_override=True)
    rack.start(config())
    error = rack.refused(rack.client.power("node1", "off"))
    assert error.status == 504 and "ForceOff was accepted; power On" in error.why
    error = rack.refused(rack.client.boot_once("node2", "network"))
    assert error.status == 504 and "accepted but not kept" in error.why


def test_after_a_reset_without_effect_the_network_boot_is_taken_back(rack: Rack) -> None:
    bmc = rack.bmc("node1", None, ignore_reset=True)
    rack.start(config())
    rack.refused(rack.client.power("node1", "cycle", source="network"))
    assert bmc.boot["BootSourceOverrideEnabled"] == "Disabled" and len(bmc.resets) == 1


@pytest.mark.parametrize("how", ["on", "off", "cycle"])
def test_a_lost_answer_makes_no_second_switch(rack: Rack, how: str) -> None:
    bmc = rack.bmc("node1", tree("node1", PowerState="Off" if how == "on" else "On"), lose_reset_answer=1)
    rack.start(config())
    rack.ask(rack.client.power("node1", how))
    assert bmc.resets == {"on": ["On"], "off": ["ForceOff"], "cycle": ["ForceOff", "On"]}[how]


def test_a_bmc_that_cannot_switch_off_is_asked_for_a_reset(rack: Rack) -> None:
    bmc = rack.bmc("node1", tree("node1", Actions=fake.resets("On", "ForceRestart")))
    rack.start(config())
    rack.ask(rack.client.power("node1", "cycle", source="network"))
    assert bmc.resets == ["ForceRestart"]


def test_a_wrong_password_is_tried_once_and_not_by_every_look(
    rack: Rack, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The hands' service may write nowhere where processes share what they remember of logins.
    monkeypatch.setattr(refusals, "folder", lambda: Path(__file__) / "none")
    bmc = rack.bmc("node1")
    wrong = "secret-Of-nobody"
    rack.start(config().model_copy(update={"nodes": (hands_node("node1", wrong),)}))
    error = rack.refused(rack.client.power("node1", "cycle"))
    assert error.status == 502 and "refuses the login, user from env:BMC_USER" in error.why
    assert wrong not in error.why and fake.USER not in error.why and bmc.failed_logins == 1
    for _ in range(3):
        assert rack.refused(rack.client.state("node1")).status == 502
    assert bmc.failed_logins == 2
    rack.time += boards_module.REFUSED_SECONDS
    rack.refused(rack.client.state("node1"))
    assert bmc.failed_logins == 3


def test_what_a_bmc_repeats_of_its_password_is_struck_out(rack: Rack) -> None:
    rack.bmc("node1", None, refuse_patch=[Answer(403, f"{fake.USER} with {fake.PASSWORD} may only look")])
    rack.start(config())
    why = rack.refused(rack.client.boot_once("node1", "disk")).why
    assert "403 [struck out] with [struck out] may only look" in why


def test_another_certificate_than_the_pinned_one_gets_no_password(rack: Rack) -> None:
    bmc = rack.bmc("node1")
    node = hands_node("node1")
    pinned = node.bmc.model_copy(update={"fingerprint": ":".join(["00"] * 32)})
    rack.start(config().model_copy(update={"nodes": (node.model_copy(update={"bmc": pinned}),)}))
    assert "another certificate than the pinned" in rack.refused(rack.client.power("node1", "off")).why
    assert not bmc.requests


def test_a_bmc_that_is_gone_is_told_as_unreachable(rack: Rack) -> None:
    closed = Bmc(tree("node1"))
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        closed.port = holder.getsockname()[1]
        rack.bmcs["node1"] = closed
        rack.start(config())
        error = rack.refused(rack.client.power("node1", "on"))
    assert error.status == 502 and "gives no answer" in error.why and "nodes.node1.bmc.address" in error.why


# What a look tells


def test_a_look_tells_power_and_proof_and_is_not_repeated_at_once(rack: Rack) -> None:
    bmc = rack.bmc("node1")
    rack.start(config())
    state = rack.ask(rack.client.state("node1"))
    assert (state["power"], state["under_way"]) == ("On", None)
    assert "serial number S-node1" in state["identity"]
    asked = len(bmc.requests)
    bmc.power = "Off"
    assert rack.ask(rack.client.state("node1"))["power"] == "On" and len(bmc.requests) == asked
    rack.time += boards_module.FRESH_SECONDS
    assert rack.ask(rack.client.state("node1"))["power"] == "Off"


def test_after_an_action_the_state_is_read_anew(rack: Rack) -> None:
    rack.bmc("node1")
    rack.start(config())
    assert rack.ask(rack.client.state("node1"))["power"] == "On"
    rack.ask(rack.client.power("node1", "off"))
    assert rack.ask(rack.client.state("node1"))["power"] == "Off"


def test_of_another_machine_no_power_is_told(rack: Rack) -> None:
    rack.bmc("node1", tree("node2"))
    rack.start(config())
    assert rack.refused(rack.client.state("node1")).status == 409


# One at a time, not too often, in time


class Stuck:
    """Boards whose identity does not come before it is let go; `until` says how it is waited for."""

    def __init__(self) -> None:
        self.entered, self.let_go = threading.Event(), threading.Event()
        self.closed = 0

    def board(self, node: HandsNode, _timing: Timing) -> Any:
        stuck = self

        class StuckBoard(Board):
            def identity(self) -> Any:
                stuck.entered.set()
                probe: Callable[[], Any] = lambda: stuck.let_go.is_set() or NotYet("stuck")  # noqa: E731
                Patience(60, first=0.01, most=0.01).until("an identity", probe, node=node.name)
                raise LabError("let go", node=node.name)

            def close(self) -> None:
                stuck.closed += 1

        return StuckBoard(node)


@contextmanager
def in_background(job: Callable[[], Any]) -> Iterator[None]:
    thread = threading.Thread(target=job)
    thread.start()
    try:
        yield
    finally:
        thread.join()


def test_a_second_action_is_refused_with_what_is_under_way(rack: Rack) -> None:
    stuck = Stuck()
    rack.start(config(seconds=30), board=stuck.board)
    with in_background(lambda: rack.refused(rack.client.power("node1", "cycle"))):
        assert stuck.entered.wait(5)
        error = rack.refused(rack.client.boot_once("node1", "disk"))
        assert error.status == 409
        assert re.search(r"node1: under way: power cycle, since \d\d:\d\d:\d\d UTC", error.why)
        assert "power cycle" in rack.ask(rack.client.state("node1"))["under_way"]
        assert rack.refused(rack.client.power("node3", "on")).status == 404
        stuck.let_go.set()
        # Another node is another board.
        assert "let go" in rack.refused(rack.client.power("node2", "off")).why


def test_an_action_waits_for_a_look_and_is_not_refused_by_it(rack: Rack) -> None:
    stuck = Stuck()
    rack.start(config(seconds=30), board=stuck.board)
    with in_background(lambda: rack.refused(rack.client.state("node1"))):
        assert stuck.entered.wait(5)
        threading.Timer(0.05, stuck.let_go.set).start()
        assert rack.refused(rack.client.power("node1", "off")).status == 502


def test_an_action_is_broken_off_at_its_deadline_and_its_session_closed(rack: Rack) -> None:
    stuck = Stuck()
    rack.start(config(seconds=0.2), board=stuck.board)
    error = rack.refused(rack.client.power("node1", "cycle"))
    assert error.status == 504 and "broken off after 0.2 s" in error.why and stuck.closed == 1
    stuck.let_go.set()
    assert "let go" in rack.refused(rack.client.power("node1", "cycle")).why


def test_the_end_of_the_process_breaks_off_what_is_under_way(rack: Rack) -> None:
    stuck = Stuck()
    boards = rack.start(config(seconds=600), board=stuck.board)
    with in_background(lambda: rack.refused(rack.client.power("node1", "cycle"))):
        assert stuck.entered.wait(5)
        boards.stop()
    assert stuck.closed == 1
    assert "broken off" in rack.refused(rack.client.power("node2", "cycle")).why


def test_nobody_cycles_a_node_ten_times_a_minute(rack: Rack) -> None:
    bmc, other = rack.bmc("node1"), rack.bmc("node2")
    rack.start(config())
    outcomes = []
    for _ in range(10):
        try:
            rack.ask(rack.client.power("node1", "cycle"))
            outcomes.append(200)
        except HandsRefused as error:
            outcomes.append(error.status)
    assert outcomes == [200] * ACTIONS_A_MINUTE + [429] * (10 - ACTIONS_A_MINUTE)
    assert len(bmc.resets) == 2 * ACTIONS_A_MINUTE
    rack.ask(rack.client.power("node2", "cycle"))
    rack.time += 60
    rack.ask(rack.client.power("node1", "cycle"))
    assert (len(bmc.resets), len(other.resets)) == (2 * ACTIONS_A_MINUTE + 2, 2)


def test_spans_are_not_collected_for_ever(rack: Rack) -> None:
    rack.bmc("node1")
    rack.start(config())
    rack.ask(rack.client.power("node1", "on"))
    assert not spans.recorded()


# Requests


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/", b"", 404),
        ("GET", "/nodes", b"", 404),
        ("GET", "/nodes/node3", b"", 404),
        ("GET", "/nodes/node1/power", b"", 404),
        ("GET", "/nodes/node1/", b"", 404),
        ("GET", "/nodes/../nodes/node1", b"", 404),
        ("GET", "/nodes/%6eode1", b"", 404),
        ("POST", "/nodes/node1", b"{}", 404),
        ("POST", "/nodes/node3/power", b'{"how": "on"}', 404),
        ("POST", "/nodes/node1;reboot/power", b'{"how": "on"}', 404),
        ("POST", "/nodes/node1/power?x=1", b'{"how": "on"}', 404),
        ("POST", "/nodes/node1/power", b"", 422),
        ("POST", "/nodes/node1/power", b"how=on", 422),
        ("POST", "/nodes/node1/power", b"[]", 422),
        ("POST", "/nodes/node1/power", b"\xff\xfe", 422),
        ("POST", "/nodes/node1/power", b"[" * 5000, 422),
        ("POST", "/nodes/node1/power", b'{"how": "explode CANARY"}', 422),
        ("POST", "/nodes/node1/power", b'{"how": ["on"]}', 422),
        ("POST", "/nodes/node1/power", b'{"how": "on", "CANARY": 1}', 422),
        ("POST", "/nodes/node1/power", b'{"how": "on", "source": "disk"}', 422),
        ("POST", "/nodes/node1/power", b'{"how": "cycle", "source": "usb"}', 422),
        ("POST", "/nodes/node1/boot-once", b'{"source": "Pxe"}', 422),
        ("POST", "/answers", b"{}", 404),
        ("PUT", "/nodes/node1/power", b'{"how": "on"}', 404),
        ("PUT", "/answers", b'{"node3": ""}', 404),
        ("PUT", "/answers", b'{"node1": "short"}', 422),
        ("PUT", "/answers", b'{"node1": "CANARY\\n\\"tag:node2,250"}', 422),
        ("PUT", "/answers", b'{"node1": "' + b"a" * 129 + b'"}', 422),
        ("PUT", "/answers", b'{"node1": 7}', 422),
        ("PUT", "/answers", b'["node1"]', 422),
        ("DELETE", "/answers", b"", 501),
    ],
)  # fmt: skip
def test_a_wrong_request_is_refused_and_does_nothing(
    rack: Rack, method: str, path: str, body: bytes, status: int
) -> None:
    bmc = rack.bmc("node1")
    rack.start(config())
    told = rack.raw(b"%s %s HTTP/1.1\r\nContent-Length: %d\r\n\r\n%s"
                    % (method.encode(), path.encode(), len(body), body))  # fmt: skip
    assert told[0] == status and "CANARY" not in told[1]
    assert not bmc.requests and not rack.options_file.exists() and not rack.reloads.exists()


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (b"", 411),
        (b"Content-Length: x\r\n", 411),
        (b"Content-Length: -1\r\n", 411),
        (b"Transfer-Encoding: chunked\r\n", 411),
        (b"Content-Length: %d\r\n" % (LONGEST_BODY + 1), 413),
        (b"Content-Length: 20\r\n", 422),
    ],
)
def test_a_body_without_an_honest_length_is_refused(rack: Rack, headers: bytes, status: int) -> None:
    rack.start(config())
    body = b'{"how": "on"' if b"20" in headers else b""
    assert rack.raw(b"POST /nodes/node1/power HTTP/1.1\r\n" + headers + b"\r\n" + body)[0] == status


def test_who_hangs_up_harms_nobody(rack: Rack, capfd: pytest.CaptureFixture[str]) -> None:
    rack.start(config())
    for _ in range(3):
        with socket.socket(socket.AF_UNIX) as peer:
            peer.connect(str(rack.folder / "hands.sock"))
            peer.sendall(b"POST /nodes/node1/po")
    assert rack.raw(b"GET /healthz HTTP/1.1\r\n\r\n")[0] == 200
    assert "Traceback" not in capfd.readouterr().err


def test_a_fault_of_the_hands_is_told_without_its_words(
    rack: Rack, capfd: pytest.CaptureFixture[str]
) -> None:
    def broken(_node: HandsNode, _timing: Timing) -> Board:
        raise RuntimeError("CANARY")

    rack.start(config(), board=broken)
    error = rack.refused(rack.client.power("node1", "on"))
    assert (error.status, error.why) == (500, "a fault of the hands: RuntimeError")
    told = capfd.readouterr()
    assert "RuntimeError" in told.err and "CANARY" not in told.err + told.out
    # Its turn has ended with it.
    assert rack.refused(rack.client.power("node1", "on")).status == 500


def test_hands_that_are_not_there_are_told(rack: Rack) -> None:
    error = rack.refused(rack.client.power("node1", "on"))
    assert error.status == 503 and "do not answer" in error.why


# DHCP


def planned(tokens: dict[str, str]) -> str:
    lab = inventory.load(REPOSITORY / "labs" / "virtual.yaml")
    return server_plan.options(lab, tokens, FINGERPRINT).content.decode()


def test_the_options_file_becomes_what_the_server_step_would_write(tmp_path: Path) -> None:
    file, url = tmp_path / "options", "https://10.10.1.1"
    file.write_text(planned({}))
    options = AnswerOptions(file, url=url, fingerprint=FINGERPRINT, owner="root", reload=("true",))
    assert options.put({"node1": TOKEN, "node3": OTHER})
    assert file.read_text() == planned({"node1": TOKEN, "node3": OTHER})
    assert options.put({"node1": "", "node3": ""})
    assert file.read_text() == planned({})


def test_a_fingerprint_goes_with_each_answer(tmp_path: Path) -> None:
    file = tmp_path / "options"
    options = AnswerOptions(file, url=URL, fingerprint=FINGERPRINT, owner="root", reload=("true",))
    options.put({"node1": TOKEN})
    assert file.read_text().splitlines()[-2:] == [
        f'tag:node1,250,"{URL}/answer/{TOKEN}"', f'tag:node1,251,"{FINGERPRINT}"'
    ]  # fmt: skip
    options.put({"node1": ""})
    assert "node1" not in file.read_text()


def test_lines_of_other_nodes_stay_as_they_are(rack: Rack) -> None:
    theirs = (
        '# by the harness\ntag:node2,250,"http://x/answer/theirs"\ntag:node10,250,"http://x/answer/ten"\n'
    )
    rack.options_file.write_text(theirs)
    rack.start(config())
    assert rack.ask(rack.client.answers({"node1": TOKEN}))
    assert rack.options_file.read_text() == theirs + f'tag:node1,250,"{URL}/answer/{TOKEN}"\n'
    assert rack.ask(rack.client.answers({"node1": OTHER}))
    assert TOKEN not in rack.options_file.read_text()
    assert rack.ask(rack.client.answers({"node1": ""}))
    assert rack.options_file.read_text() == theirs
    assert not rack.ask(rack.client.answers({"node1": ""}))
    assert rack.reload_count() == 3


def test_the_options_file_is_dnsmasqs_alone_and_nothing_is_left_beside_it(rack: Rack) -> None:
    rack.start(config())
    (rack.folder / ".dhcp-options.new").write_text("left by one that was killed")
    rack.ask(rack.client.answers({"node1": TOKEN}))
    about = rack.options_file.stat()
    assert (stat.S_IMODE(about.st_mode), about.st_uid, about.st_gid) == (
        0o400,
        pwd.getpwnam("root").pw_uid,
        0,
    )
    assert not (rack.folder / ".dhcp-options.new").exists()


def test_what_the_harness_writes_meanwhile_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "options"
    options = AnswerOptions(file, url=URL, owner="root", reload=("true",))
    create, theirs = AnswerOptions._create, ['tag:node2,250,"theirs"\n']

    def raced(self: AnswerOptions, path: Path, content: str) -> None:
        create(self, path, content)
        if theirs:
            file.write_text(theirs.pop())

    monkeypatch.setattr(AnswerOptions, "_create", raced)
    assert options.put({"node1": TOKEN})
    assert "theirs" in file.read_text() and TOKEN in file.read_text()


def test_a_reload_that_fails_is_told_and_made_up_for(rack: Rack) -> None:
    marker = rack.folder / "broken"
    marker.touch()
    reload = f"echo x >>{rack.reloads}; test ! -e {marker} || {{ echo dnsmasq.service is not active >&2; exit 1; }}"
    rack.options = AnswerOptions(rack.options_file, url=URL, owner="root", reload=("sh", "-c", reload))
    rack.start(config())
    error = rack.refused(rack.client.answers({"node1": TOKEN}))
    assert error.status == 502 and "dnsmasq.service is not active" in error.why and TOKEN not in error.why
    marker.unlink()
    assert rack.ask(rack.client.answers({"node1": TOKEN})) and rack.reload_count() == 2
    assert not rack.ask(rack.client.answers({"node1": TOKEN})) and rack.reload_count() == 2


def test_options_that_cannot_be_written_are_told(rack: Rack) -> None:
    rack.options = AnswerOptions(rack.folder / "none" / "options", url=URL, owner="root", reload=("true",))
    rack.start(config())
    error = rack.refused(rack.client.answers({"node1": TOKEN}))
    assert error.status == 502 and "No such file or directory" in error.why


# The configuration


def test_the_configuration_of_a_lab_has_what_the_board_needs_and_is_the_same_each_time(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("RACKPROOF_BMC_USER", "someone")
    monkeypatch.setenv("RACKPROOF_BMC_PASSWORD", "canary-Sesame-3")
    lab = inventory.load(REPOSITORY / "labs" / "virtual.yaml")
    node = lab.nodes["node1"]
    ca = tmp_path / "ca.pem"
    ca.write_bytes(fake.CA.cert_pem.bytes())
    trusting = node.model_copy(update={"bmc": node.bmc.model_copy(update={"trust": "ca", "ca": ca})})
    lab = lab.model_copy(update={"nodes": {**lab.nodes, "node1": trusting}})
    text = hands_config(lab, url=URL, fingerprint=FINGERPRINT).model_dump_json()
    assert text == hands_config(lab, url=URL, fingerprint=FINGERPRINT).model_dump_json()
    read = HandsConfig.model_validate_json(text)
    assert [node.name for node in read.nodes] == list(lab.nodes)
    first = read.nodes[0]
    assert (first.serial, first.mac, first.all_macs) == (node.serial, node.mac, node.all_macs)
    assert (first.bmc.user.reveal(), first.bmc.password.reveal()) == ("someone", "canary-Sesame-3")
    assert first.bmc.password.reference == "env:RACKPROOF_BMC_PASSWORD"
    assert (first.bmc.ca, first.bmc.address) == (ca.read_text(), node.bmc.address)
    assert "Sesame" not in repr(read)
    ca.write_text("")
    with pytest.raises(LabError, match=r"node1: the CA of .* is empty"):
        hands_config(lab, url=URL)


@pytest.mark.parametrize(
    "wrong",
    [
        {"url": "https://10.10.1.1/\n#"},
        {"fingerprint": 'x"'},
        {"seconds": 0},
        {"seconds": 100_000},
        {"more": "CANARY"},
    ],
)
def test_a_wrong_configuration_is_refused_without_its_values(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError) as error:
        HandsConfig.model_validate(config().model_dump() | wrong)
    assert fake.PASSWORD not in str(error.value) and "CANARY" not in str(error.value)


# The process


def command(folder: Path) -> list[str]:
    given = {"--config": folder / "hands.json", "--socket": folder / "h.sock", "--options-file": folder / "o"}
    return [
        sys.executable,
        "-m",
        "provision.boot_service.hands",
        *(str(word) for pair in given.items() for word in pair),
    ]


def write_config(folder: Path, text: str, mode: int = 0o400) -> None:
    file = folder / "hands.json"
    file.write_text(text)
    file.chmod(mode)


def test_the_process_serves_its_socket_says_so_and_ends_in_order(tmp_path: Path) -> None:
    write_config(tmp_path, config().model_dump_json())
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(20)
        with subprocess.Popen(command(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=REPOSITORY,
                              env=os.environ | {"NOTIFY_SOCKET": str(tmp_path / "notify")}) as process:  # fmt: skip
            try:
                assert manager.recv(100) == b"READY=1"
                assert stat.S_IMODE((tmp_path / "h.sock").stat().st_mode) == 0o660
                assert fake.PASSWORD not in Path(f"/proc/{process.pid}/cmdline").read_text()
                assert asyncio.run(HandsClient(tmp_path / "h.sock").answers({})) is False
            finally:
                process.send_signal(signal.SIGTERM)
            output = process.communicate(timeout=20)[0]
    assert (process.returncode, output) == (0, "")


def test_what_it_needs_of_this_project_is_little() -> None:
    code = "import sys, provision.boot_service.hands; print(*sorted(sys.modules))"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPOSITORY
    )
    names = set(loaded.stdout.split())
    assert "provision.redfish.board" in names
    assert not names & {
        "provision.inventory",
        "provision.boot_service.store",
        "provision.render",
        "sqlalchemy",
        "fastapi",
    }


@pytest.mark.parametrize("mode", [0o440, 0o444])
def test_a_configuration_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    from provision.boot_service import hands  # noqa: PLC0415

    write_config(tmp_path, config().model_dump_json(), mode)
    assert hands.main(command(tmp_path)[3:]) == 1
    assert not (tmp_path / "h.sock").exists()


@pytest.mark.parametrize("text", ["", "{}", json.dumps({"nodes": fake.PASSWORD})])
def test_a_broken_configuration_ends_the_process_with_one_clear_error(
    tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from provision.boot_service import hands  # noqa: PLC0415

    write_config(tmp_path, text)
    assert hands.main(command(tmp_path)[3:]) == 1
    told = capsys.readouterr().err
    assert told.startswith("the hands cannot start: ") and "hands.json" in told and fake.PASSWORD not in told
