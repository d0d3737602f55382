"""Writes that come together share a commit, and what one worker has changed all others know."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import closing
from functools import partial
from itertools import pairwise
from threading import Event as Flag
from threading import Thread
from typing import Any

import pytest
from sqlalchemy import Connection, event
from sqlalchemy.exc import DatabaseError, OperationalError

from provision.boot_service import permit_cache
from provision.boot_service.messages import Grant, Rack, RackNode
from provision.boot_service.news import NewsRoom
from provision.boot_service.nginx_log import NginxLog
from provision.boot_service.published import Published
from provision.boot_service.service import Service
from provision.boot_service.shared import Marks, ProcessLock
from provision.boot_service.store import Permit, Store
from provision.ledger import Event
from tests.unit.boot_bench import ANSWER_TOKEN, PERMIT_SECONDS, REPORT_TOKEN, grant, rack

NOW = 1_000_000.0


@pytest.fixture
def store(store_url: str) -> Iterator[Store]:
    with closing(Store(store_url)) as store:
        store.put_rack(rack(), NOW)
        yield store


@pytest.fixture
def two(store_url: str) -> Iterator[tuple[Store, Store]]:
    """The stores of two workers."""
    marks, turn = Marks(), ProcessLock()
    with (
        closing(Store(store_url, marks=marks, turn=turn)) as one,
        closing(Store(store_url, marks=marks, turn=turn)) as other,
    ):
        one.put_rack(rack(), NOW)
        yield one, other


def news_of(number: int, **other: Any) -> Event:
    about: dict[str, Any] = {"run": "r1", "lab": "hall", "step": None, "node": "node1", "kind": "status"}
    about |= {"time": NOW, "text": f"{number}"}
    return Event(**(about | other))


def permit_of(store: Store, **other: Any) -> Permit:
    store.grant(Grant(**grant(NOW, **other)), NOW)
    permit = store.current_permit("node1")
    assert permit is not None
    return permit


# Groups


def test_many_at_once_cost_few_commits_and_keep_their_order(store: Store) -> None:
    commits: list[Connection] = []
    event.listen(store.engine, "commit", commits.append)

    async def scene() -> list[Event]:
        service = Service(store)
        return list(await asyncio.gather(*(service.append(news_of(number)) for number in range(300))))

    kept = asyncio.run(scene())
    assert len(commits) <= 3
    assert [each.text for each in kept] == [str(number) for number in range(300)]
    assert all(after.seq == before.seq + 1 for before, after in pairwise(kept))
    assert [each for each in store.events() if each.kind == "status"] == kept


def test_one_that_cannot_be_kept_takes_no_other_with_it(store: Store) -> None:
    permit = permit_of(store)

    async def scene() -> list[Any]:
        service = Service(store)
        bad = news_of(2, text=None, facts={"secret": "CANARY"})
        odd = news_of(3, facts={"what": object()})
        jobs = (
            service.append(news_of(1)),
            service.append(bad),
            service.spend(permit, NOW, as_json=False),
            service.append(odd),
            service.spend(permit, NOW, as_json=False),
            service.finish(permit, news_of(4, kind="registered")),
        )
        return list(await asyncio.gather(*jobs, return_exceptions=True))

    first, bad, won, odd, lost, last = asyncio.run(scene())
    assert (first.text, won, lost, last.text) == ("1", "CANARY-ANSWER", None, "4")
    assert isinstance(bad, DatabaseError)
    assert "CANARY" not in str(bad)
    assert isinstance(odd, Exception)
    assert [each.kind for each in store.events()] == ["rack", "permit", "status", "answer", "registered"]
    assert len({each.seq for each in store.events()}) == 5


def test_when_the_commit_fails_nobody_is_told_that_it_was_kept(store: Store) -> None:
    def fail(_connection: Connection) -> None:
        raise OperationalError("COMMIT", {}, OSError("disk full"))

    event.listen(store.engine, "commit", fail)

    async def scene() -> list[Any]:
        service = Service(store)
        jobs = [service.append(news_of(number)) for number in range(3)]
        return list(await asyncio.gather(*jobs, return_exceptions=True))

    assert [type(each) for each in asyncio.run(scene())] == [OperationalError] * 3
    event.remove(store.engine, "commit", fail)
    assert [each.kind for each in store.events()] == ["rack"]


def test_what_was_begun_is_kept_though_nobody_waits_for_it_any_more(store: Store) -> None:
    async def scene() -> None:
        service = Service(store)
        waiting = [asyncio.create_task(service.append(news_of(number))) for number in range(3)]
        await asyncio.sleep(0)
        waiting[1].cancel()
        await asyncio.gather(*waiting, return_exceptions=True)

    asyncio.run(scene())
    assert [each.text for each in store.events() if each.kind == "status"] == ["0", "1", "2"]


def test_numbers_appear_in_the_order_in_which_they_were_given(two: tuple[Store, Store]) -> None:
    """Whoever follows by number would else pass over one that was committed late."""
    over = Flag()

    def write(store: Store) -> None:
        for number in range(40):
            job = partial(store.enter, event=news_of(number))
            store.write_together([job] * (1 + number % 3))

    writers = [Thread(target=write, args=(store,)) for store in two for _ in range(2)]
    heard: list[int] = []

    def follow() -> None:
        last = 0
        while True:
            ended = over.is_set()
            found = [each.seq for each in two[0].events(after=last)]
            heard.extend(found)
            last = found[-1] if found else last
            if ended and not found:
                return

    follower = Thread(target=follow)
    for thread in (follower, *writers):
        thread.start()
    for thread in writers:
        thread.join()
    over.set()
    follower.join()
    assert heard == [each.seq for each in two[1].events()]
    assert len(heard) == 1 + 4 * sum(1 + number % 3 for number in range(40))


# What other workers did


def test_a_permit_that_another_worker_revokes_is_revoked_at_once_for_all(two: tuple[Store, Store]) -> None:
    one, other = two
    permit = permit_of(one)
    assert one.spend(permit, NOW) is not None
    known = one.permit_by_report_token(REPORT_TOKEN)
    assert known is not None
    assert one.reporting(REPORT_TOKEN) is known
    other.revoke(NOW, node="node1")
    assert one.reporting(REPORT_TOKEN) is None
    again = one.permit_by_report_token(REPORT_TOKEN)
    assert again is not None
    assert again.state(NOW) == "revoked"


def test_a_permit_that_a_stranger_to_the_service_revokes_is_known_soon(
    store: Store, store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.monotonic()
    monkeypatch.setattr("provision.boot_service.permit_cache.time.monotonic", lambda: now)
    permit_of(store)
    assert store.permit_by_report_token(REPORT_TOKEN) is not None
    with closing(Store(store_url)) as stranger:
        stranger.revoke(NOW, node="node1")
    now += permit_cache.MOST_AGE + 0.01
    assert store.reporting(REPORT_TOKEN) is None


def test_what_a_permit_carries_is_forgotten_in_memory_too(store: Store) -> None:
    permit_of(store)
    assert store.permit_by_report_token(REPORT_TOKEN) is not None
    store.forget_reporting()
    assert store.reporting(REPORT_TOKEN) is None


def test_a_rack_that_another_worker_is_given_is_known_at_once(two: tuple[Store, Store]) -> None:
    one, other = two
    assert other.rack == rack()
    one.put_rack(Rack(lab="other", nodes=()), NOW)
    assert other.rack == Rack(lab="other", nodes=())
    assert not other.put_rack(Rack(lab="other", nodes=()), NOW)


def test_whoever_listens_at_one_worker_hears_at_once_what_another_keeps(two: tuple[Store, Store]) -> None:
    async def scene(room: NewsRoom) -> str:
        here, there = (Service(store, news=room.of(number)) for number, store in enumerate(two))
        here.news.hear(asyncio.get_running_loop())
        async with asyncio.timeout(5):  # a heartbeat would come after 15 s
            stream = here.stream(two[0].last_seq())
            following = asyncio.ensure_future(anext(stream))
            await asyncio.to_thread(two[0].last_seq)
            await there.append(news_of(1))
            return await following

    with closing(NewsRoom(2)) as room:
        assert '"text": "1"' in asyncio.run(scene(room))


def test_a_worker_at_which_nobody_listens_is_not_woken(two: tuple[Store, Store]) -> None:
    async def scene(room: NewsRoom) -> None:
        room.of(0)
        await Service(two[1], news=room.of(1)).append(news_of(1))
        with pytest.raises(BlockingIOError):
            room._ears[0][0].recv(16)

    with closing(NewsRoom(2)) as room:
        asyncio.run(scene(room))


def test_a_lock_holds_in_every_process_that_was_forked() -> None:
    lock = ProcessLock()
    go, begun, went_in = os.pipe(), os.pipe(), os.pipe()
    child = os.fork()
    if not child:
        os.read(go[0], 1)
        os.write(begun[1], b"b")
        with lock:
            os.write(went_in[1], b"in")
        os._exit(0)
    with lock:
        os.write(go[1], b"g")
        assert os.read(begun[0], 1) == b"b"
        os.set_blocking(went_in[0], False)
        with pytest.raises(BlockingIOError):
            os.read(went_in[0], 2)
        os.set_blocking(went_in[0], True)
    assert os.read(went_in[0], 2) == b"in"
    assert os.waitpid(child, 0)[1] == 0
    for end in (*go, *begun, *went_in):
        os.close(end)


# What is published


class Board(Published):
    """Published scripts: whether each node boots what its permit says."""

    def __init__(self) -> None:
        self.live: dict[str, bool] = {}
        self.fails = False

    def refresh(self, node: RackNode, permit: Permit | None, now: float) -> None:
        if self.fails:
            raise OSError("disk full")
        self.live[node.name] = permit is not None and permit.state(now) == "live"

    def refresh_all(self, rack: Rack, permits: Iterable[Permit], now: float) -> None:
        of = {permit.node: permit for permit in permits}
        self.live = {}
        for node in rack.nodes:
            self.refresh(node, of.get(node.name), now)


@pytest.fixture
def board(store: Store) -> Board:
    return Board()


def test_a_change_is_published_before_it_is_acknowledged(store: Store, board: Board) -> None:
    now = NOW
    service = Service(store, clock=lambda: now, published=board)
    service.publish_all()
    assert board.live == {"node1": False, "node2": False}
    permit = permit_of(store)
    assert board.live == {"node1": True, "node2": False}
    assert asyncio.run(service.spend(permit, NOW, as_json=False)) is not None
    assert board.live == {"node1": False, "node2": False}
    asyncio.run(service.finish(permit, news_of(1, kind="registered")))
    permit_of(store, answer_token_sha256="a" * 64, report_token_sha256="b" * 64)
    assert board.live["node1"]
    store.revoke(NOW, run="r1")
    assert not board.live["node1"]
    permit_of(store, answer_token_sha256="c" * 64, report_token_sha256="d" * 64)
    now += PERMIT_SECONDS
    store.scrub(now)
    assert not board.live["node1"]
    store.put_rack(Rack(lab="hall", nodes=rack().nodes[1:]), NOW)
    assert board.live == {"node2": False}


def test_what_could_not_be_published_is_published_later_and_nothing_else_fails(
    store: Store, board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("provision.boot_service.service.SCRUB_SECONDS", 0.001)
    service = Service(store, clock=lambda: NOW, published=board)
    board.fails = True
    permit_of(store)
    assert board.live == {}
    board.fails = False

    async def scene() -> None:
        tidying = asyncio.create_task(service.tidy_until_stopped())
        async with asyncio.timeout(5):
            while not board.live:
                await asyncio.sleep(0)
        service.stop()
        await tidying

    asyncio.run(scene())
    assert board.live == {"node1": True}


def test_a_store_that_fails_for_a_while_ends_no_worker(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("provision.boot_service.service.SCRUB_SECONDS", 0.001)
    asked: list[str] = []
    again = {"scrub": threading.Event(), "keep": threading.Event()}

    def fail_first(what: str) -> None:
        asked.append(what)
        if asked.count(what) == 1:
            raise OperationalError("SELECT", {}, OSError("the server is away"))
        again[what].set()

    async def keep(lines: list[str]) -> None:
        nginx.send(b"another line")
        fail_first("keep")

    monkeypatch.setattr(store, "scrub", lambda now: fail_first("scrub"))

    async def scene(log: socket.socket) -> None:
        service = Service(store)
        async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
            tasks.create_task(service.tidy_until_stopped())
            tasks.create_task(NginxLog(log, keep).follow_until(service.stopping))
            nginx.send(b"a line")
            for each in again.values():
                assert await asyncio.to_thread(each.wait, 5)
            service.stop()

    log, nginx = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with log, nginx:
        asyncio.run(scene(log))


def test_of_two_that_publish_the_last_one_publishes_what_is_newest(
    two: tuple[Store, Store], board: Board
) -> None:
    """The first is held up between its commit and its publication; the second revokes meanwhile."""
    one, other = two
    publishing = ProcessLock()
    Service(one, clock=lambda: NOW, published=board, publishing=publishing)
    Service(other, clock=lambda: NOW, published=board, publishing=publishing)
    committed, go_on = Flag(), Flag()
    publish = one.publish

    def held_up(names: Collection[str]) -> None:
        committed.set()
        go_on.wait(10)
        publish(names)

    one.publish = held_up
    granting = Thread(target=one.grant, args=(Grant(**grant(NOW)), NOW))
    granting.start()
    assert committed.wait(10)
    other.revoke(NOW, node="node1")
    go_on.set()
    granting.join()
    assert board.live == {"node1": False}


def test_a_spent_permit_is_refused_without_being_spent_again(store: Store) -> None:
    permit = permit_of(store)
    assert store.spend(permit, NOW, as_json=True) is None  # it has no answer in this form
    assert store.spend(permit, NOW) == "CANARY-ANSWER"
    assert store.spend(permit, NOW) is None
    known = store.permit_by_answer_token(ANSWER_TOKEN)
    assert known is not None
    assert (known.spent, known.answered_json) == (NOW, False)


def test_jobs_may_be_anything_that_uses_the_connection(store: Store) -> None:
    def failing(_connection: Connection) -> int:
        raise LookupError("no such thing")

    jobs: list[Callable[[Connection], int]] = [lambda _: 1, failing, lambda _: 3]
    one, error, three = store.write_together(jobs)
    assert (one, three) == (1, 3)
    assert isinstance(error, LookupError)
