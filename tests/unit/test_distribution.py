"""Checks are shared out by units, to workers that come, work at their own pace, and die."""

from __future__ import annotations

import json
import subprocess
from collections import Counter, deque
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labs.large import written
from provision.distribution import AHEAD, Distribution
from tests.unit.test_suite import LAB, run_pytest


class Worker:
    """A worker that does as xdist.remote does: it begins a test when it knows the next, or that there is none."""

    def __init__(self, name: str) -> None:
        self.gateway = SimpleNamespace(id=name)
        self.queue: deque[int] = deque()
        self.shutting_down = False
        self.most = 0

    def send_runtest_some(self, indices: Sequence[int]) -> None:
        assert not self.shutting_down
        self.queue.extend(indices)
        self.most = max(self.most, len(self.queue))

    def shutdown(self) -> None:
        self.shutting_down = True

    @property
    def is_at_work(self) -> bool:
        return len(self.queue) > 1 or (bool(self.queue) and self.shutting_down)


class Session:
    """Tests in units, workers, and what became of them; plays what xdist.dsession does with a scheduler."""

    def __init__(self, sizes: dict[str, int], workers: int) -> None:
        self.tests = [
            f"{unit}/{number}"
            for number in range(max(sizes.values()))
            for unit in sizes
            if number < sizes[unit]
        ]
        self.told: list[Any] = []
        hook = SimpleNamespace(pytest_collectreport=lambda report: self.told.append(report.longrepr))
        config: Any = SimpleNamespace(option=SimpleNamespace(tx=[f"{workers}*popen"], dist="load"), hook=hook)
        config.getvalue = lambda name: getattr(config.option, name)
        self.scheduler = Distribution(config, lambda test: test.partition("/")[0])
        self.ran: list[tuple[str, str]] = []
        self.died_in: list[str] = []
        self.workers = [self.worker(f"gw{number}") for number in range(workers)]

    def worker(self, name: str, tests: Sequence[str] | None = None) -> Worker:
        """One that has started and collected."""
        worker = Worker(name)
        self.scheduler.add_node(worker)
        self.scheduler.add_node_collection(worker, tests or self.tests)
        if self.scheduler.collection_is_completed:
            self.scheduler.schedule()
        return worker

    def step(self, worker: Worker) -> None:
        """It ends one test."""
        place = worker.queue.popleft()
        self.ran.append((worker.gateway.id, self.tests[place]))
        self.scheduler.mark_test_complete(worker, place)
        if self.scheduler.tests_finished:
            for each in self.scheduler.nodes:
                each.shutdown()

    def die(self, worker: Worker) -> None:
        """It dies, in a test or between two; another is started in its place."""
        self.workers.remove(worker)
        died_in = self.scheduler.remove_node(worker)
        self.died_in += [died_in] if died_in else []
        self.workers.append(self.worker(f"gw{len(self.workers) + len(self.ran)}"))

    @property
    def at_work(self) -> list[Worker]:
        return [worker for worker in self.workers if worker.is_at_work]

    def run(self) -> dict[str, set[str]]:
        """To the end, each worker in turn; the workers of each unit."""
        while busy := self.at_work:
            for worker in busy:
                self.step(worker)
        return self.units()

    def units(self) -> dict[str, set[str]]:
        found: dict[str, set[str]] = {}
        for worker, test in self.ran:
            found.setdefault(test.partition("/")[0], set()).add(worker)
        return found


SIZES = st.dictionaries(st.sampled_from([f"node{n}" for n in range(9)]), st.integers(1, 12), min_size=1)


@given(SIZES, st.integers(1, 8), st.randoms())
def test_every_test_runs_once_and_no_unit_is_divided(
    sizes: dict[str, int], workers: int, random: Any
) -> None:
    session = Session(sizes, workers)
    while busy := session.at_work:
        session.step(random.choice(busy))
    assert sorted(test for _, test in session.ran) == sorted(session.tests)
    assert {unit: len(who) for unit, who in session.units().items()} == dict.fromkeys(sizes, 1)
    assert not session.scheduler.has_pending
    assert all(worker.shutting_down for worker in session.workers)


@given(SIZES, st.integers(1, 4), st.lists(st.integers(0, 30), max_size=6), st.randoms())
def test_whoever_dies_loses_one_test_and_no_more(
    sizes: dict[str, int], workers: int, deaths: list[int], random: Any
) -> None:
    session = Session(sizes, workers)
    moment = 0
    while busy := session.at_work:
        worker = random.choice(busy)
        session.die(worker) if moment in deaths else session.step(worker)
        moment += 1
    assert sorted([test for _, test in session.ran] + session.died_in) == sorted(session.tests)
    assert not session.scheduler.has_pending


def test_tests_of_a_unit_keep_their_order() -> None:
    session = Session({"node1": 7, "node2": 5, "node3": 3}, 2)
    session.run()
    for unit in ("node1", "node2", "node3"):
        assert [test for _, test in session.ran if test.startswith(unit)] == [
            test for test in session.tests if test.startswith(unit)
        ]


def test_the_largest_go_first_and_whoever_is_done_takes_over_a_whole_one() -> None:
    session = Session({"node1": 4, "node2": 40, "node3": 8, "node4": 20}, 2)
    assert session.run() == {"node2": {"gw0"}, "node4": {"gw1"}, "node3": {"gw1"}, "node1": {"gw1"}}


def test_more_workers_than_units_end_at_once() -> None:
    session = Session({"node1": 4, "node2": 4}, 5)
    assert [worker.shutting_down for worker in session.workers[2:]] == [True] * 3
    assert [len(worker.queue) for worker in session.workers] == [4, 4, 0, 0, 0]
    assert session.run() == {"node1": {"gw0"}, "node2": {"gw1"}}


def test_a_worker_has_few_tests_before_it_so_that_it_can_be_stopped() -> None:
    session = Session({"node1": 100, "node2": 3}, 1)
    session.run()
    assert session.workers[0].most == AHEAD


def test_a_worker_that_ends_early_leaves_no_test_that_it_died_in() -> None:
    """As after -x: it has run what it was sent, and is not sent the rest."""
    session = Session({"node1": 10}, 1)
    (worker,) = session.workers
    worker.shutdown()
    while worker.queue:
        session.step(worker)
    assert session.scheduler.remove_node(worker) is None
    assert session.scheduler.has_pending


def test_a_worker_with_other_tests_takes_no_part_and_that_is_told() -> None:
    session = Session({"node1": 3, "node2": 3}, 1)
    other = session.worker("gw9", ["node1/0", "node7/0"])
    assert other.shutting_down and not other.queue
    assert session.told == [
        "worker gw9 took no part: its tests are not those of the first worker, it has no node1/1 and a node7/0"
    ]
    with pytest.raises(KeyError):
        session.scheduler.remove_node(other)
    assert sum(map(len, session.run().values())) == 2


CONCERNS = """\
import json, pathlib
from labs.large import written
from provision.distribution import unit_of

def pytest_collection_finish(session):
    found = {item.nodeid.rpartition("/")[2]: unit_of(item) for item in session.items}
    pathlib.Path(__file__).with_suffix(".json").write_text(json.dumps(found))
"""


def test_what_checks_ask_for_decides_which_machine_they_concern(tmp_path: Path) -> None:
    (tmp_path / "concerns.py").write_text(CONCERNS)
    run_pytest(tmp_path, "-m", "verify", "--collect-only", "-q", "-p", "concerns", PYTHONPATH=str(tmp_path))
    found = json.loads((tmp_path / "concerns.json").read_text())
    assert set(found.values()) == {"node1", "node2", "node3", "node4", "the server", "the lab"}
    wanted = {
        "check_mtu.py::test_mtu_of_bridge[node2-storage]": "node2",
        "check_mtu.py::test_largest_packet_passes[node3-node1-storage]": "node3",
        "check_answer.py::test_installer_takes_it[node4]": "node4",
        "check_bmc.py::test_node_is_on[node2]": "node2",
        "check_cluster.py::test_api_agrees[node3]": "node3",
        "check_dns.py::test_name_has_its_address[node1.lab.example.net]": "the server",
        "check_boot_files.py::test_boot_script_of_node[node2-boot]": "the server",
        "check_network.py::test_reaches_the_world_by_nat[node2]": "the lab",
        "check_ssh.py::test_host_key_is_no_other_nodes[node2]": "the lab",
        "check_ceph.py::test_monitor_of_node[node2]": "the lab",
        "check_templates.py::test_snippet_is_on_node[node2-ubuntu-24.04]": "the lab",
        "check_overview.py::test_overview": "the lab",
    }
    assert {name: found.get(name) for name in wanted} == wanted


DYING = """\
import os, pytest

def pytest_configure(config):
    if "NEVER_BEGINS" in os.environ and hasattr(config, "workerinput"):
        raise pytest.UsageError(os.environ["NEVER_BEGINS"])

def pytest_runtest_call(item):
    if item.name in os.environ["DIES_IN"].split() and hasattr(item.config, "workerinput"):
        os._exit(9)
"""


def verify(folder: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """A verification of two nodes and a server that cannot be reached, of checks that say so at once."""
    (folder / "attic.yaml").write_text(LAB)
    (folder / "dying.py").write_text(DYING)
    return run_pytest(folder, "-m", "verify", "--lab", str(folder / "attic.yaml"), "-p", "dying", "-k",
                      "check_answer or check_dns or test_full_name", *arguments, **{"PYTHONPATH": str(folder), "DIES_IN": "", **env})  # fmt: skip


def cases(folder: Path) -> list[str]:
    suite = ElementTree.parse(folder / "out" / "latest" / "junit.xml").getroot()[0]
    return [str(case.get("name")) for case in suite.iter("testcase")]


def errors(folder: Path) -> dict[str, str]:
    suite = ElementTree.parse(folder / "out" / "latest" / "junit.xml").getroot()[0]
    return {
        str(case.get("name")): str(error.text)
        for case in suite.iter("testcase")
        for error in case.iter("error")
    }


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("alone")
    verify(folder)
    return cases(folder)


def test_the_report_has_the_order_of_one_process_and_what_failed_can_be_run_again_alone(
    alone: list[str], tmp_path: Path
) -> None:
    cache = ("-o", f"cache_dir={tmp_path / 'cache'}")
    result = verify(tmp_path, "-n", "3", *cache)
    assert result.returncode == 1, result.stdout + result.stderr
    assert cases(tmp_path) == alone
    assert "2 nodes · 3 workers" in result.stdout
    assert "created" not in result.stdout
    lines = (tmp_path / "out" / "latest" / "events.jsonl").read_text().splitlines()
    events = [json.loads(line) for line in lines]
    assert [event["kind"] for event in events].count("run-ended") == 1
    # What workers said stands in it, too: each looked into the nodes that its own checks blame.
    assert {event["node"] for event in events if event["kind"] == "diagnosed"} >= {"node1", "node2"}
    failed = list(errors(tmp_path))
    verify(tmp_path, "-n", "2", "--lf", *cache)
    assert sorted(cases(tmp_path)) == sorted(failed)
    assert 0 < len(failed) < len(alone)


def test_what_a_worker_died_in_is_an_error_and_the_rest_is_run_elsewhere(
    alone: list[str], tmp_path: Path
) -> None:
    result = verify(tmp_path, "-n", "2", DIES_IN="test_installer_takes_it[node2]")
    assert result.returncode == 1, result.stdout + result.stderr
    assert cases(tmp_path) == alone
    told = errors(tmp_path)
    assert "died while it ran this" in told["test_installer_takes_it[node2]"]
    assert "Connection refused" in told["test_full_name[node2]"]
    assert result.stdout.count("worker-died") == 1


def test_what_no_worker_is_left_for_is_an_error_too(alone: list[str], tmp_path: Path) -> None:
    result = verify(
        tmp_path, "-n", "1", "--max-worker-restart", "0", DIES_IN="test_installer_takes_it[node1]"
    )
    assert result.returncode == 1, result.stdout + result.stderr
    assert cases(tmp_path) == alone
    said = Counter(text.partition(":")[0] for text in errors(tmp_path).values())
    assert said["not run"] == 3


def test_nothing_selected_is_nothing_selected_by_workers_too(tmp_path: Path) -> None:
    assert verify(tmp_path, "-n", "2", "-k", "no_such_check").returncode == 5


def test_enough_failures_end_it_like_those_of_one_process(alone: list[str], tmp_path: Path) -> None:
    result = verify(tmp_path, "-n", "2", "--maxfail", "2")
    assert result.returncode == 1, result.stdout + result.stderr
    assert 2 <= len(errors(tmp_path)) < len(alone) / 2
    assert "interrupted" not in (tmp_path / "out" / "latest" / "events.jsonl").read_text()


def test_workers_that_cannot_begin_are_an_error_with_their_reason(tmp_path: Path) -> None:
    """As where a worker of another machine has not the lab's secrets."""
    result = verify(tmp_path, "-n", "2", NEVER_BEGINS="the secret env:X is not set")
    assert result.returncode == 1, result.stdout + result.stderr
    assert "the secret env:X is not set" in result.stdout.rpartition("✗")[2]
    assert "Traceback" not in result.stdout
    assert result.stdout.count("worker-died") == 6


def test_the_names_of_many_nodes_are_no_path(tmp_path: Path) -> None:
    (tmp_path / "light.yaml").write_text(written(256, "light"))
    names = ",".join(f"node{number:03}" for number in range(1, 257))
    result = run_pytest(
        tmp_path,
        "-m",
        "verify",
        "--lab",
        str(tmp_path / "light.yaml"),
        "--nodes",
        names,
        "--collect-only",
        "-q",
    )
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr
