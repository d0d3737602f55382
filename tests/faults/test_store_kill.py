"""What the boot service has acknowledged outlives kill -9, two hundred times, and is there once."""

from __future__ import annotations

import random
import sqlite3
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from threading import Event as Flag

import pytest
from sqlalchemy import make_url

from provision.boot_service.store import Store
from provision.wait import Deadline, NotYet, Signal
from tests.boot_process import NODES, BootProcess, Node
from tests.kennel import Kennel

ROOT = Path(__file__).parents[2]
SEED = 20261122
WRITERS = 16
WRITER_KILLS = {"sqlite": 180, "postgresql": 40}
SERVICE_KILLS = {"sqlite": 20, "postgresql": 4}

# Imports once and forks a process for every line it is told. That one keeps events as a worker of the
# service does, sixteen at a time by group commit, and says of each, by one write, that it is acknowledged.
KENNEL = f"""
import asyncio, os, sys, time
from provision.boot_service.service import Service
from provision.boot_service.store import Store
from provision.ledger import Event
import psycopg

async def write(service, name):
    number = 0
    while True:
        number += 1
        text = f"{{name}}.{{number}}"
        await service.append(Event(time.time(), "r", "hall", None, "node1", "load", text, {{"pad": "x" * 500}}))
        os.write(1, f"ack {{text}}\\n".encode())

async def work(url, writer):
    service = Service(Store(url))
    await asyncio.gather(*(write(service, f"{{writer}}.{{number}}") for number in range({WRITERS})))

for line in sys.stdin:
    url, writer = line.split()
    pid = os.fork()
    if not pid:
        asyncio.run(work(url, writer))
    os.write(1, f"pid {{pid}}\\n".encode())
    os.waitpid(pid, 0)
    os.write(1, b"ended\\n")
"""


def test_a_killed_writer_has_lost_nothing_of_a_group_that_it_acknowledged(store_url: str) -> None:
    """Proves the commit: a writer by group commit is killed between and in its transactions."""
    chance = random.Random(SEED)
    kills = WRITER_KILLS[make_url(store_url).get_backend_name()]
    acknowledged: list[str] = []
    with closing(Kennel(KENNEL, store_url)) as kennel:
        for writer in range(kills):
            acknowledged += kennel.write_and_kill(str(writer), chance.randrange(1, 60))
            if writer % 10 == 0:
                _all_there_once(store_url, "load", acknowledged, at_most=(writer + 1) * WRITERS)
    _all_there_once(store_url, "load", acknowledged, at_most=kills * WRITERS)
    assert len(acknowledged) > 10 * kills
    _whole(store_url)


@pytest.fixture
def service(store_url: str, tmp_path: Path) -> Iterator[BootProcess]:
    service = BootProcess(tmp_path, store_url, 4)
    yield service
    with closing(service):
        assert service.stop() == 0


def test_a_killed_service_has_lost_no_report_that_it_acknowledged(
    service: BootProcess, store_url: str
) -> None:
    """Proves the whole path: HTTP, four workers, restart over the sockets and the ledger that are left."""
    chance = random.Random(SEED)
    for number in range(NODES):
        service.grant(number)
        with closing(Node(service, number)) as node:
            assert node.answer()[0] == 200
    load = Load(service)
    with ThreadPoolExecutor(Load.THREADS) as pool:
        threads = [pool.submit(load.report, thread) for thread in range(Load.THREADS)]
        try:
            for _ in range(SERVICE_KILLS[make_url(store_url).get_backend_name()]):
                load.reach(len(load.acknowledged) + chance.randrange(20, 60))
                load.up.clear()
                service.kill()
                service.begin()
                _all_there_once(store_url, "failed", list(load.acknowledged))
                load.up.set()
        finally:
            load.enough.set()
            load.up.set()
        for thread in threads:
            thread.result()
    _all_there_once(store_url, "failed", load.acknowledged)
    _whole(store_url)


class Load:
    """Threads that report for all nodes in turn, whenever there is a service."""

    THREADS = 8

    def __init__(self, service: BootProcess) -> None:
        self._service = service
        self.acknowledged: list[str] = []
        self.up, self.enough = Flag(), Flag()
        self.up.set()
        self._news = Signal()

    def report(self, thread: int) -> None:
        """Report until it is enough, each time with another text."""
        nodes = [Node(self._service, number) for number in range(thread, NODES, self.THREADS)]
        count = 0
        while not self.enough.is_set():
            count += 1
            text = f"{thread}.{count}"
            if nodes[count % len(nodes)].report(text):
                self.acknowledged.append(text)
                self._news.notify()
            else:
                self.up.wait(20)
        for node in nodes:
            node.close()

    def reach(self, count: int) -> None:
        """Wait until so many reports are acknowledged."""
        self._news.until(
            f"{count} reports",
            lambda: len(self.acknowledged) >= count or NotYet(f"{len(self.acknowledged)}"),
            Deadline(30),
        )


def test_workers_end_when_their_parent_was_killed(service: BootProcess) -> None:
    """So that no worker of a service that is gone serves beside those of the next one."""
    workers = service.workers()
    service.kill_parent()
    service.begin()
    gone = [Path(f"/proc/{worker}/cmdline") for worker in workers]
    Signal().until("their end", lambda: not any(map(_runs, gone)) or NotYet("some run"), Deadline(20))


def _runs(command: Path) -> bool:
    try:
        return command.read_bytes() != b""  # that of a process that has ended is empty until it is reaped
    except OSError:
        return False


def _all_there_once(store_url: str, kind: str, acknowledged: list[str], at_most: int | None = None) -> None:
    with closing(Store(store_url)) as store:
        kept = Counter(event.text for event in store.events() if event.kind == kind)
    assert [text for text in acknowledged if text not in kept] == []
    assert set(kept.values()) <= {1}
    if at_most is not None:  # Each of the writers had at most one event under way when it was killed.
        assert len(kept) - len(acknowledged) <= at_most


def _whole(store_url: str) -> None:
    if store_url.startswith("sqlite"):
        with closing(sqlite3.connect(store_url.removeprefix("sqlite:///"))) as database:
            assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
