"""A boot service of four workers: nothing acknowledged is lost, nothing is done twice, and all know the same."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path
from threading import Barrier

import pytest

from provision.boot_service.store import Store
from provision.ledger import Event
from provision.wait import Deadline, NotYet, Patience, Signal
from tests.boot_process import NODES, BootProcess, Node, mac

WORKERS = 4
REPORTS = 20
RACED = 8
SOON = Patience(20, first=0.001, most=0.02)


@pytest.fixture
def service(store_url: str, tmp_path: Path) -> Iterator[BootProcess]:
    service = BootProcess(tmp_path, store_url, WORKERS)
    yield service
    with closing(service):
        assert service.stop() == 0


def test_64_nodes_at_once_each_in_its_order_and_one_answer_each(service: BootProcess, store_url: str) -> None:
    for number in range(NODES):
        service.grant(number)
    nodes = [Node(service, number) for number in range(NODES)]
    gate = Barrier(NODES)

    def race(racer: int, number: int) -> tuple[int, str]:
        with closing(Node(service, number)) as node:
            gate.wait(20)
            return node.answer()

    def report(number: int) -> list[str]:
        gate.wait(20)
        texts = [f"{number}.{count}" for count in range(REPORTS)]
        return [text for text in texts if nodes[number].report(text)]

    with ThreadPoolExecutor(NODES) as pool:
        for number in range(RACED):
            raced = list(pool.map(race, range(NODES), [number] * NODES))
            assert [text for status, text in raced if status == 200] == [f"the answer of node{number}"]
            assert sorted(status for status, _ in raced)[1:] == [410] * (NODES - 1)
        answered = list(pool.map(lambda node: node.answer()[0], nodes[RACED:]))
        assert set(answered) == {200}
        acknowledged = list(pool.map(report, range(NODES)))
    for node in nodes:
        node.close()
    assert {len(each) for each in acknowledged} == {REPORTS}
    with closing(Store(store_url)) as store:
        for number in range(NODES):
            kept = [
                event for event in store.events(node=f"node{number}") if event.kind in ("failed", "answer")
            ]
            assert [event.text for event in kept[1:]] == acknowledged[number]
            assert kept[0].kind == "answer"
        assert {permit.state for permit in store.permits(0)} == {"spent"}


def test_whoever_listens_hears_at_once_what_any_worker_keeps_and_a_rack_is_known_to_all(
    service: BootProcess,
) -> None:
    """Each follower and each node may be at another worker; a heartbeat comes only after 15 s."""
    heard: list[list[Event]] = [[] for _ in range(2 * WORKERS)]
    news = Signal()

    def taking(mine: list[Event]) -> object:
        def take(event: Event) -> None:
            mine.append(event)
            news.notify()

        return service.operator.follow(0, take)

    followers = [taking(mine) for mine in heard]
    service.grant(0)
    with closing(Node(service, 0)) as node:
        assert node.answer()[0] == 200
    for number in range(4 * WORKERS):
        text = f"report {number}"
        with closing(Node(service, 0)) as node:
            assert node.report(text)
        news.until("the report", partial(_all_heard, heard, text), Deadline(5))
    for follower in followers:
        follower.stop()  # type: ignore[attr-defined]
    assert all(mine == heard[0] for mine in heard)


def test_a_worker_that_dies_is_replaced_and_the_others_go_on(service: BootProcess, store_url: str) -> None:
    service.grant(0)
    with closing(Node(service, 0)) as node:
        assert node.answer()[0] == 200
    before = service.workers()
    assert len(before) == WORKERS
    for worker in before:
        os.kill(worker, signal.SIGKILL)
        SOON.until("a new worker", partial(_replaced, service, worker))
        with closing(Node(service, 0)) as node:
            assert node.report(f"after {worker}")
    assert not set(service.workers()) & set(before)
    with closing(Store(store_url)) as store:
        kept = [event.text for event in store.events() if event.kind == "failed"]
    assert kept == [f"after {worker}" for worker in before]


def test_a_change_at_any_worker_is_published_and_what_nginx_serves_is_an_event(
    service: BootProcess,
) -> None:
    script = service.folder / "published/10.10.1.1" / f"{mac(0)}.ipxe"
    assert script.read_text() == "#!ipxe\nexit\n"
    for number in range(2 * WORKERS):
        service.grant(0, f"-{number}")
        assert script.read_text() == "#!ipxe"
        assert service.operator.revoke_node("node0") == 1
        assert script.read_text() == "#!ipxe\nexit\n"
    heard: list[Event] = []
    news = Signal()

    def take(event: Event) -> None:
        heard.append(event)
        news.notify()

    follower = service.operator.follow(service.operator.health().last, take)
    line = f'<190>Nov 22 22:00:01 nginx: {{"who":"10.10.1.1","path":"/boot/{mac(0)}","status":200}}'
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as nginx:
        nginx.sendto(line.encode(), str(service.folder / "nginx.sock"))
    news.until("the event", lambda: bool(heard) or NotYet("nothing"), Deadline(5))
    follower.stop()
    assert (heard[0].kind, heard[0].node) == ("boot-script", "node0")


def _all_heard(heard: list[list[Event]], text: str) -> bool | NotYet:
    return all(mine and mine[-1].text == text for mine in heard) or NotYet("not by all")


def _replaced(service: BootProcess, worker: int) -> bool | NotYet:
    workers = service.workers()
    return (len(workers) == WORKERS and worker not in workers) or NotYet(f"{workers}")
