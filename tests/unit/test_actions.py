"""What an operator may do: checked, written down, done by hands in the right order, or taken back."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import threading
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest

from provision.boot_service.actions import ActionRefused, Actions
from provision.boot_service.hands import HandsServer
from provision.boot_service.hands_client import HandsClient, HandsRefused
from provision.boot_service.messages import Grant, Rack, RackNode, StandingOrder
from provision.boot_service.service import Service
from provision.boot_service.store import Permit, Store
from provision.ledger import Event

T = TypeVar("T")
NOW = 1_763_848_800.0
PATIENCE = 3600.0
MARKS = "@RUN@ @ANSWER_TOKEN@ @REPORT_TOKEN@ @HOOK_TOKEN@ @NONCE@"
Answer = tuple[int, dict[str, Any]]


@dataclass
class Hand:
    """Answers for the hands over a real socket; a test puts its own answers in the place of "done"."""

    asked: list[tuple[str, str, Any]] = field(default_factory=list)
    answers: dict[str, Callable[[], Answer]] = field(default_factory=dict)

    def answer(self, method: str, path: str, body: bytes) -> Answer:
        what = path.rpartition("/")[2] if method != "GET" else "state"
        self.asked.append((method, path, json.loads(body) if body else None))
        if given := self.answers.get(what):
            return given()
        usual: dict[str, dict[str, Any]] = {"answers": {"changed": True}, "state": {"power": "On"}}
        return 200, usual.get(what) or {"done": f"{path.split('/')[2]}: did {what}"}

    def did(self) -> list[str]:
        return [
            f"{path.rpartition('/')[2]} {list(body.values())}"
            for method, path, body in self.asked
            if method != "GET"
        ]


class Bench:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = Store(folder / "store.sqlite")
        self.now = NOW
        self.hand = Hand()
        self.actions = self.worker(self.store)
        self.put_rack()

    def worker(self, store: Store, *, hands: bool = True) -> Actions:
        service = Service(store, clock=lambda: self.now)
        return Actions(service, HandsClient(self.folder / "hands.sock") if hands else None)

    def put_rack(self, **changed: Any) -> None:
        order = StandingOrder(
            patience=PATIENCE, boot_script=f"boot {MARKS}", grub_script=f"grub {MARKS}", answer=f"answer {MARKS}",
            answer_json=f"json {MARKS}", first_boot=f"first {MARKS}", deadlines={"dhcp": 5.0},
            system=changed.pop("system", "proxmox"),
        )  # fmt: skip
        given = {"standing_order": order, "rescue_script": "#!ipxe rescue", "rescue_grub": "rescue"} | changed
        nodes = tuple(
            RackNode.model_validate({"name": f"node{i}", "macs": (f"02:00:00:00:00:0{i}",), "address": f"10.10.1.2{i}",
                                     "boot_script": "#!ipxe\nexit"} | given)
            for i in (1, 2)
        )  # fmt: skip
        self.store.put_rack(Rack(lab="test", nodes=nodes), self.now)

    def grant(self, run: str = "20251122-2200-abcd", node: str = "node1", **changed: Any) -> None:
        digests = {
            name: hashlib.sha256(f"{name} {run} {node}".encode()).hexdigest() for name in ("answer", "report")
        }
        self.store.grant(
            Grant.model_validate({
                "run": run, "lab": "test", "node": node, "answer_token_sha256": digests["answer"],
                "report_token_sha256": digests["report"], "expires": self.now + 100, "boot_script": "x", "answer": "y",
            } | changed),
            self.now,
        )  # fmt: skip

    def permit(self, node: str = "node1") -> Permit:
        permit = self.store.current_permit(node)
        assert permit is not None
        return permit

    def spend(self, node: str = "node1") -> None:
        assert self.store.spend(self.permit(node), self.now) is not None

    def do(self, what: Coroutine[Any, Any, T]) -> T:
        return asyncio.run(what)

    def refused(self, what: Coroutine[Any, Any, Any]) -> ActionRefused:
        with pytest.raises(ActionRefused) as error:
            self.do(what)
        assert "\n" not in error.value.why
        return error.value

    def events(self) -> list[Event]:
        return [event for event in self.store.events() if event.kind == "action"]

    def outcomes(self) -> list[str]:
        return [event.facts["outcome"] for event in self.events()]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    server = HandsServer(tmp_path / "hands.sock", bench.hand.answer)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield bench
    server.shutdown()
    thread.join()
    server.server_close()
    bench.store.close()


def install(bench: Bench, node: str = "node1") -> Coroutine[Any, Any, str]:
    return bench.actions.permit_install(node, "alice", node)


# Power and boot


@pytest.mark.parametrize("how", ["on", "off", "cycle"])
def test_power_is_asked_of_the_hands_and_told(bench: Bench, how: str) -> None:
    assert bench.do(bench.actions.power("node1", how, "alice")) == "node1: did power"
    assert bench.hand.asked == [("POST", "/nodes/node1/power", {"how": how})]
    first, last = bench.events()
    assert (first.facts, first.node) == (
        {"who": "alice", "action": f"power {how}", "outcome": "begun"},
        "node1",
    )
    assert last.facts["outcome"] == "done"
    assert last.text == f"alice: power {how}: done: node1: did power"


@pytest.mark.parametrize("source", ["network", "disk"])
def test_one_boot_from_there(bench: Bench, source: str) -> None:
    bench.do(bench.actions.boot_once("node2", source, "alice"))
    assert bench.hand.asked == [("POST", "/nodes/node2/boot-once", {"source": source})]
    assert bench.outcomes() == ["begun", "done"]


@pytest.mark.parametrize(
    ("told", "state"), [("On", "on"), ("Off", "off"), ("PoweringOn", "poweringon"), (None, None)]
)
def test_the_power_state_is_what_the_hands_tell(bench: Bench, told: str | None, state: str | None) -> None:
    bench.hand.answers["state"] = lambda: (200, {"power": told})
    assert bench.do(bench.actions.power_state("node1")) == state
    assert not bench.events()


def test_a_power_state_that_cannot_be_had_is_not_known(bench: Bench, tmp_path: Path) -> None:
    bench.hand.answers["state"] = lambda: (502, {"detail": "no"})
    assert bench.do(bench.actions.power_state("node1")) is None
    assert bench.do(bench.worker(bench.store, hands=False).power_state("node1")) is None


REFUSALS: dict[str, tuple[Callable[[Actions], Coroutine[Any, Any, str]], int]] = {
    "unknown node": (lambda actions: actions.power("node9", "on", "alice"), 404),
    "unknown power": (lambda actions: actions.power("node1", "explode", "alice"), 422),
    "unknown source": (lambda actions: actions.boot_once("node1", "usb", "alice"), 422),
    "another name": (lambda actions: actions.permit_install("node1", "alice", "node2"), 422),
    "no name": (lambda actions: actions.permit_install("node1", "alice", ""), 422),
    "unknown to rescue": (lambda actions: actions.rescue("node9", "alice"), 404),
    "unknown to cancel": (lambda actions: actions.cancel("../node1", "alice"), 404),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_a_refused_call_does_nothing_and_is_written_down(bench: Bench, case: str) -> None:
    act, status = REFUSALS[case]
    assert bench.refused(act(bench.actions)).status == status
    assert not bench.hand.asked and bench.outcomes() == ["refused"] and not bench.store.permits(NOW)
    assert bench.events()[0].facts["who"] == "alice"


def test_without_hands_everything_is_refused_but_cancel(bench: Bench) -> None:
    actions = bench.worker(bench.store, hands=False)
    for act in (
        actions.power("node1", "on", "alice"), actions.boot_once("node1", "disk", "alice"),
        actions.permit_install("node1", "alice", "node1"), actions.rescue("node1", "alice"),
    ):  # fmt: skip
        assert bench.refused(act).status == 503
    assert bench.outcomes() == ["refused"] * 4
    bench.grant()
    assert "revoked" in bench.do(actions.cancel("node1", "alice"))
    assert bench.store.current_permit("node1") is None


@pytest.mark.parametrize(
    ("status", "outcome"), [(409, "refused"), (429, "refused"), (502, "failed"), (504, "failed")]
)
def test_what_the_hands_say_no_to_is_told_in_one_line(bench: Bench, status: int, outcome: str) -> None:
    bench.hand.answers["power"] = lambda: (
        status,
        {"detail": "node1: no\n  last seen: power On\n  likely: x"},
    )
    error = bench.refused(bench.actions.power("node1", "off", "alice"))
    assert (error.status, error.why) == (status, "node1: no; last seen: power On; likely: x")
    assert bench.outcomes() == ["begun", outcome]


def test_hands_that_do_not_answer_are_told(bench: Bench) -> None:
    (bench.folder / "hands.sock").rename(bench.folder / "away")
    error = bench.refused(bench.actions.power("node1", "off", "alice"))
    assert error.status == 503 and "the hands do not answer" in error.why
    assert bench.outcomes() == ["begun", "failed"]
    (bench.folder / "away").rename(bench.folder / "hands.sock")


def test_nothing_is_done_that_cannot_be_written_down_before(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(_service: Service, _event: Event) -> Event:
        raise OSError("disk full")

    monkeypatch.setattr(Service, "append", full)
    with pytest.raises(OSError, match="disk full"):
        bench.do(bench.actions.power("node1", "off", "alice"))
    assert not bench.hand.asked


@pytest.mark.parametrize("said", [b"", b"HTTP/1.0 200 OK\r\n\r\n", b"what?", b"HTTP/1.0 200 OK\r\n\r\n[]"])
def test_hands_that_answer_nonsense_are_told(tmp_path: Path, said: bytes) -> None:
    async def ask() -> None:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"}")
            writer.write(said)
            writer.close()

        async with await asyncio.start_unix_server(answer, tmp_path / "hands.sock"):
            await HandsClient(tmp_path / "hands.sock").power("node1", "on")

    with pytest.raises(HandsRefused, match="the hands do not answer") as error:
        asyncio.run(ask())
    assert error.value.status == 503


def test_actions_that_take_long_keep_no_node_waiting(bench: Bench) -> None:
    let_go = threading.Event()
    many, entered = 40, threading.Semaphore(0)

    def stuck() -> Answer:
        entered.release()
        let_go.wait(20)
        return 200, {"done": "late"}

    async def nodes_meanwhile() -> None:
        client = HandsClient(bench.folder / "hands.sock")
        tasks = [asyncio.create_task(client.power(f"node{i}", "cycle")) for i in range(many)]
        for _ in tasks:
            assert await asyncio.to_thread(entered.acquire, timeout=10)
        # The store's threads are free: what a node asks for is answered at once.
        assert await asyncio.wait_for(asyncio.to_thread(bench.store.current_permit, "node1"), 5) is None
        let_go.set()
        assert set(await asyncio.gather(*tasks)) == {"late"}

    bench.hand.answers["power"] = stuck
    bench.do(nodes_meanwhile())


# Leave to install


def test_leave_is_durable_before_dhcp_is_armed_and_armed_before_the_reset(bench: Bench) -> None:
    seen: dict[str, tuple[str, str]] = {}

    def look(what: str, answer: dict[str, Any]) -> Callable[[], Answer]:
        def answering() -> Answer:
            other = Store(bench.folder / "store.sqlite")
            permit = other.current_permit("node1")
            assert permit is not None
            seen[what] = (permit.state(NOW), permit.run)
            other.close()
            return 200, answer

        return answering

    bench.hand.answers |= {
        "answers": look("answers", {"changed": True}),
        "power": look("power", {"done": "booted"}),
    }
    done = bench.do(install(bench))
    run = "operator-20251122-220000"
    assert seen == dict.fromkeys(("answers", "power"), ("live", run)) and list(seen) == ["answers", "power"]
    assert done == f"booted; it may be installed once, until 23:00 UTC, as run {run}"
    assert bench.hand.asked[1] == ("POST", "/nodes/node1/power", {"how": "cycle", "source": "network"})
    assert bench.outcomes() == ["begun", "done"]


def test_the_permit_is_the_standing_order_with_fresh_words(bench: Bench) -> None:
    bench.do(install(bench))
    token = bench.hand.asked[0][2]["node1"]
    permit = bench.permit()
    assert (permit.purpose, permit.system, permit.expires) == ("install", "proxmox", NOW + PATIENCE)
    assert permit.deadlines == {"dhcp": 5.0} and re.fullmatch("[0-9a-f]{32}", str(permit.nonce))
    texts = [permit.boot_script, permit.grub_script, permit.answer, permit.answer_json, permit.first_boot]
    words = [str(text).split() for text in texts]
    assert [text[0] for text in words] == ["boot", "grub", "answer", "json", "first"]
    assert len({tuple(text[1:]) for text in words}) == 1
    run, answer, report, hook, nonce = words[0][1:]
    assert (run, answer, nonce) == (permit.run, token, permit.nonce)
    assert len({answer, report, hook}) == 3 and min(map(len, (answer, report, hook))) >= 32
    found = bench.store.permit_by_answer_token(answer), bench.store.permit_by_report_token(report)
    assert [one and one.id for one in found] == [permit.id] * 2
    assert permit.hook_token_sha256 == hashlib.sha256(hook.encode()).hexdigest()


def test_no_event_holds_a_token(bench: Bench) -> None:
    bench.do(install(bench))
    bench.hand.answers["power"] = lambda: (502, {"detail": "no"})
    bench.refused(install(bench, "node2"))
    tokens = [
        token for _, path, body in bench.hand.asked if path == "/answers" for token in body.values() if token
    ]
    told = json.dumps([[event.text, event.facts] for event in bench.store.events()])
    assert len(tokens) == 2 and not any(token in told for token in tokens)


def test_every_leave_has_words_of_its_own(bench: Bench) -> None:
    bench.do(install(bench))
    bench.do(install(bench))
    tokens = [body["node1"] for _, path, body in bench.hand.asked if path == "/answers"]
    assert len(set(tokens)) == 2
    assert [one.state for one in bench.store.permits(NOW)] == ["revoked", "live"]


def test_an_ubuntu_node_finds_its_seed_by_its_boot_script_and_not_by_dhcp(bench: Bench) -> None:
    bench.put_rack(system="ubuntu")
    bench.do(install(bench))
    assert bench.hand.did() == ["power ['cycle', 'network']"] and bench.permit().system == "ubuntu"


def test_without_a_standing_order_there_is_no_leave(bench: Bench) -> None:
    bench.put_rack(standing_order=None)
    assert bench.refused(install(bench)).status == 409
    assert not bench.store.permits(NOW) and not bench.hand.asked


@pytest.mark.parametrize("spent", [False, True], ids=["live", "spent"])
@pytest.mark.parametrize("action", ["install", "rescue"])
def test_a_run_of_the_harness_is_not_disturbed(bench: Bench, spent: bool, action: str) -> None:
    bench.grant()
    if spent:
        bench.spend()
    before = bench.permit()
    error = bench.refused(install(bench) if action == "install" else bench.actions.rescue("node1", "alice"))
    assert error.status == 409 and "run 20251122-2200-abcd is installing it" in error.why
    assert bench.permit() == before and not bench.hand.asked
    # Another node is none of that run's business.
    bench.do(install(bench, "node2"))


@pytest.mark.parametrize("end", ["expired", "expired after use", "revoked", "done", "an operator's own"])
def test_a_permit_that_has_ended_or_is_an_operators_does_not_stand_in_the_way(bench: Bench, end: str) -> None:
    bench.grant("operator-20251122-215900" if end == "an operator's own" else "20251122-2200-abcd")
    if end in ("expired after use", "done"):
        bench.spend()
    if end == "done":
        bench.store.finish(bench.permit(), bench.store.event(NOW, "registered", "done", node="node1"))
    if end == "revoked":
        bench.store.revoke(NOW, node="node1")
    if end.startswith("expired"):
        bench.now += 101
    bench.do(install(bench))
    assert bench.permit().run.startswith("operator-") and bench.permit().state(bench.now) == "live"


def test_when_the_hands_fail_the_leave_is_taken_back_and_that_is_told(bench: Bench) -> None:
    bench.hand.answers["power"] = lambda: (504, {"detail": "node1: power stays On"})
    error = bench.refused(install(bench))
    assert (error.status, error.why) == (
        504, "node1: power stays On; its permit is revoked: it is not installed, and boots from its disk"
    )  # fmt: skip
    assert bench.store.current_permit("node1") is None and bench.hand.asked[-1][2] == {"node1": ""}
    assert bench.outcomes() == ["begun", "failed"]


def test_when_dhcp_cannot_be_armed_nothing_is_reset(bench: Bench) -> None:
    bench.hand.answers["answers"] = lambda: (502, {"detail": "dnsmasq was not reloaded"})
    error = bench.refused(install(bench))
    assert error.why == (
        "dnsmasq was not reloaded; its permit is revoked, though DHCP still names the answer that it can no longer have"
    )
    assert bench.store.current_permit("node1") is None
    assert not [path for _, path, _ in bench.hand.asked if path.endswith("power")]


def test_a_node_that_fetched_its_answer_is_not_stranded_by_a_bmc_that_failed(bench: Bench) -> None:
    def spent() -> Answer:
        bench.spend()
        return 504, {"detail": "no effect was seen"}

    bench.hand.answers["power"] = spent
    assert "is being installed, though its BMC said: no effect was seen" in bench.do(install(bench))
    assert (
        bench.permit().state(NOW) == "spent"
        and [path for _, path, _ in bench.hand.asked].count("/answers") == 1
    )


def test_a_permit_that_took_its_place_meanwhile_is_left_alone(bench: Bench) -> None:
    def replaced() -> Answer:
        bench.grant("20251122-2201-efgh")
        return 502, {"detail": "no"}

    bench.hand.answers["power"] = replaced
    assert "cancelled, or replaced by another, meanwhile" in bench.refused(install(bench)).why
    assert bench.permit().run == "20251122-2201-efgh" and bench.hand.asked[-1][1] == "/nodes/node1/power"


def test_two_operators_at_once_in_two_workers_one_is_refused_and_the_other_served(bench: Bench) -> None:
    other = Store(bench.folder / "store.sqlite")
    refused: list[ActionRefused] = []

    def meanwhile() -> Answer:
        refused.append(bench.refused(bench.worker(other).permit_install("node1", "bob", "node1")))
        return 200, {"done": "booted"}

    bench.hand.answers["power"] = meanwhile
    bench.do(install(bench))
    assert refused[0].status == 409 and "another operator's leave" in refused[0].why
    assert bench.permit().state(NOW) == "live" and len(bench.store.permits(NOW)) == 1
    assert [(event.facts["who"], event.facts["outcome"]) for event in bench.events()] == [
        ("alice", "begun"), ("bob", "begun"), ("bob", "refused"), ("alice", "done")
    ]  # fmt: skip
    bench.hand.answers.clear()
    bench.do(bench.worker(other).permit_install("node1", "bob", "node1"))
    other.close()


def test_a_service_that_is_stopped_meanwhile_takes_the_leave_back(bench: Bench) -> None:
    reached, let_go = threading.Event(), threading.Event()

    def slow() -> Answer:
        reached.set()
        let_go.wait(10)
        return 200, {"done": "late"}

    async def cancelled() -> None:
        task = asyncio.create_task(install(bench))
        await asyncio.to_thread(reached.wait, 10)
        task.cancel()
        try:
            await task
        finally:
            let_go.set()

    bench.hand.answers["power"] = slow
    with pytest.raises(asyncio.CancelledError):
        bench.do(cancelled())
    assert bench.store.current_permit("node1") is None and bench.hand.asked[-1][2] == {"node1": ""}
    assert bench.outcomes() == ["begun", "failed"]


# Rescue and cancel


def test_rescue_gives_leave_to_boot_the_rescue_system_for_half_an_hour(bench: Bench) -> None:
    done = bench.do(bench.actions.rescue("node1", "alice"))
    permit = bench.permit()
    assert (permit.purpose, permit.expires, permit.answer) == ("rescue", NOW + 1800, None)
    assert (permit.boot_script, permit.grub_script) == ("#!ipxe rescue", "rescue")
    assert (
        bench.hand.did() == ["power ['cycle', 'network']"]
        and "may boot the rescue system, until 22:30 UTC" in done
    )


def test_without_a_rescue_system_there_is_no_rescue(bench: Bench) -> None:
    bench.put_rack(rescue_script=None, rescue_grub=None)
    assert bench.refused(bench.actions.rescue("node1", "alice")).status == 409
    assert not bench.hand.asked and not bench.store.permits(NOW)


def test_a_rescue_that_fails_leaves_no_leave(bench: Bench) -> None:
    bench.hand.answers["power"] = lambda: (502, {"detail": "no"})
    assert "its permit is revoked" in bench.refused(bench.actions.rescue("node1", "alice")).why
    assert bench.store.current_permit("node1") is None
    assert "/answers" not in [path for _, path, _ in bench.hand.asked]


@pytest.mark.parametrize(
    ("state", "told", "left"),
    [
        (None, "node1 had no permit", None),
        ("live", "its permit is revoked, unused", None),
        ("spent", "revoked after its use: an installer at work goes on, unheard", None),
        ("done", "node1 had no permit", "done"),
    ],
)
def test_cancel_revokes_and_disarms(bench: Bench, state: str | None, told: str, left: str | None) -> None:
    if state:
        bench.grant()
    if state in ("spent", "done"):
        bench.spend()
    if state == "done":
        bench.store.finish(bench.permit(), bench.store.event(NOW, "registered", "done", node="node1"))
    assert told in bench.do(bench.actions.cancel("node1", "alice"))
    current = bench.store.current_permit("node1")
    assert (current and current.state(NOW)) == left
    assert bench.hand.asked == [("PUT", "/answers", {"node1": ""})] and bench.outcomes() == ["begun", "done"]


def test_a_cancel_whose_hands_fail_has_revoked_and_says_so(bench: Bench) -> None:
    bench.grant()
    bench.hand.answers["answers"] = lambda: (502, {"detail": "no"})
    error = bench.refused(bench.actions.cancel("node1", "alice"))
    assert "its permit is revoked, unused; DHCP could not be disarmed" in error.why
    assert bench.store.current_permit("node1") is None and bench.outcomes() == ["begun", "failed"]
