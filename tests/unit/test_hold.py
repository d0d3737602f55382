"""One run at a time acts on a lab; others are refused by name, or wait their turn."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from queue import Queue
from threading import Event as Flag

import pytest

from provision import hold, state
from provision.errors import LabError
from provision.hold import held


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RACKPROOF_HOME", str(tmp_path))
    monkeypatch.delenv("RACKPROOF_INSTANCE", raising=False)
    monkeypatch.setattr(hold, "SELDOM", 0.2)


def test_a_lab_is_held_by_one_run_and_named_to_the_others() -> None:
    with (
        held("hall", "run-1"),
        pytest.raises(LabError, match=r"lab hall is held by run run-1, process \d+, .*, since .*--wait"),
        held("hall", "run-2"),
    ):
        pytest.fail("two runs in one lab")
    with held("hall", "run-2"), held("attic", "run-3"):
        pass


def test_a_run_that_waits_is_told_its_place_and_has_the_lab_when_it_is_free() -> None:
    told = list[str]()
    waits, order = Flag(), list[str]()

    def tell(text: str) -> None:
        told.append(text)
        waits.set()

    def second() -> None:
        with held("hall", "run-2", wait=30, tell=tell):
            order.append("run-2")

    with ThreadPoolExecutor() as pool:
        with held("hall", "run-1"):
            waiting = pool.submit(second)
            assert waits.wait(10)
            order.append("run-1")
        waiting.result(20)
    assert order == ["run-1", "run-2"]
    assert "held by run run-1" in told[0]
    assert told[0].endswith("place 1 in the queue")
    assert not list((state.folder("hall") / "queue").iterdir())


def test_who_came_first_is_served_first() -> None:
    order, places = list[str](), Queue[str]()

    def wait(run: str) -> None:
        with held("hall", run, wait=30, tell=lambda text: places.put(f"{run} {text.rpartition('; ')[2]}")):
            order.append(run)

    with ThreadPoolExecutor() as pool:
        waiting = list[Future[None]]()
        with held("hall", "run-0"):
            for place, run in enumerate(("run-1", "run-2", "run-3"), start=1):
                waiting.append(pool.submit(wait, run))
                assert places.get(timeout=10) == f"{run} place {place} in the queue"
        for each in waiting:
            each.result(30)
    assert order == ["run-1", "run-2", "run-3"]


def test_patience_ends_with_the_name_of_the_holder() -> None:
    with (
        held("hall", "run-1"),
        pytest.raises(LabError, match=r"held by run run-1.*it was waited for"),
        held("hall", "run-2", wait=0.3),
    ):
        pytest.fail("two runs in one lab")


def test_what_a_dead_run_left_is_in_nobodys_way() -> None:
    queue = state.folder("hall") / "queue"
    queue.mkdir()
    (queue / "00000000000000000001-run-dead").touch()
    (state.folder("hall") / "lock").write_text("run run-dead, process 4711")
    with held("hall", "run-2"):
        assert "run-2" in (state.folder("hall") / "lock").read_text()
    assert not list(queue.iterdir())
