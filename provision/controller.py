"""A verification on several workers of pytest-xdist: one run, one report, whichever worker ran what."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Generator, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest
from _pytest.junitxml import xml_key

from provision import remote
from provision.distribution import SERVER, WHOLE, Distribution, unit_of, workers_asked

if TYPE_CHECKING:
    from provision.run import Run
    from provision.session import Session

RUN, CONCERNS, OPENED = "rackproof_run", "rackproof_concerns", "rackproof_opened"
"""What a worker is given: the run it is part of, and a channel on which it says what its tests concern.
And what it leaves: the machines that it connected to."""
RESTARTS = 2
"""How often, for each worker, one that died is replaced, unless --max-worker-restart says otherwise."""


class Controller:
    """Begins and ends the run whose checks the workers share out among themselves, and has the last word."""

    def __init__(self, config: pytest.Config, session: Session) -> None:
        self._config, self._session, self._running = config, session, ExitStack()
        self._run: Run | None = None
        self._concerns: dict[str, tuple[str, str]] = {}
        self._places: dict[str, int] = {}
        self._cases: dict[int, int] = {}
        self._ended: set[str] = set()
        self._died: dict[str, str] = {}
        if config.option.numprocesses:
            # Every worker costs a second, and more than there are units have nothing to do.
            config.option.tx = config.option.tx[: len(session.node_names) + len((SERVER, WHOLE))]
        session.workers = len(workers_asked(config))
        if config.option.maxworkerrestart is None:
            # Without a limit, one that cannot begin, as for want of a secret, would be begun anew for ever.
            config.option.maxworkerrestart = str(RESTARTS * session.workers)

    def pytest_sessionstart(self) -> None:
        """The run begins before any worker."""
        self._run = self._running.enter_context(self._session.run())

    def pytest_configure_node(self, node: Any) -> None:
        """Every worker belongs to this run."""
        channel = node.gateway.newchannel()
        channel.setcallback(self._concerns.update)
        node.workerinput |= {RUN: self._session.run_id, CONCERNS: channel}

    def pytest_xdist_make_scheduler(self) -> Distribution:
        """By machines."""
        return Distribution(self._config, lambda test: self._concerns[test][0])

    def pytest_xdist_node_collection_finished(self, ids: Sequence[str]) -> None:
        """The order of the report is that in which one process would run the tests."""
        if not self._places:
            self._places = {test: place for place, test in enumerate(ids)}
            self._session.order = tuple(ids)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> Generator[None, None, None]:
        """Workers judge nothing but their own share; note what is told where in JUnit."""
        self._session.failed |= report.failed
        if report.when not in ("setup", "call"):
            self._ended.add(report.nodeid)
        yield
        xml = self._config.stash.get(xml_key, None)
        if xml is not None and xml.node_reporters_ordered:
            # A case that is told to its end no longer knows its own name.
            place = self._places.get(report.nodeid, len(self._places))
            self._cases.setdefault(id(xml.node_reporters_ordered[-1]), place)

    def pytest_handlecrashitem(self, crashitem: str, report: pytest.TestReport) -> None:
        """Name what a worker died in as checks are named."""
        worker = report.node.gateway.id
        report.longrepr = f"worker {worker} died while it ran this; the others have taken over what it left"
        report.step = self._concerns[crashitem][1]  # type: ignore[attr-defined]

    def pytest_testnodedown(self, node: Any, error: object) -> None:
        """Add what a worker did; one that died leaves no word."""
        left: dict[str, list[str]] = getattr(node, "workeroutput", {})
        self._session.opened_by_workers += Counter(left.get(OPENED, ()))
        if error and self._run and not self._session.interrupted:
            self._died[node.gateway.id] = _reason(error)
            self._run.say("worker-died", f"worker {node.gateway.id} died: {_reason(error)}")

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """The run ends before JUnit is written: every test is in it, in the order of one process."""
        if self._session.had_enough:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        elif not self._session.interrupted:
            self._tell_lost()
            if not self._places:
                session.exitstatus = pytest.ExitCode.TESTS_FAILED
        xml = self._config.stash.get(xml_key, None)
        if xml is not None:
            xml.node_reporters_ordered.sort(key=lambda case: self._cases.get(id(case), -1))
        self._running.close()

    def _tell_lost(self) -> None:
        """A test that no worker was left for is an error; where none could begin, each worker is one."""
        for worker, reason in self._died.items() if not self._places else ():
            never_begun = pytest.CollectReport(f"worker {worker}", "failed", reason, [])
            self._config.hook.pytest_collectreport(report=never_begun)
        for test in [test for test in self._places if test not in self._ended]:
            place = test.partition("::")[0]
            said = "not run: the workers died, and --max-worker-restart allows no more"
            report = pytest.TestReport(
                test, (place, None, place), {}, "failed", said, "setup", step=self._concerns[test][1]
            )
            self._config.hook.pytest_runtest_logreport(report=report)


def _reason(error: object) -> str:
    """Why a worker ended: the end of its traceback, where it left one."""
    lines = str(error).strip().splitlines()
    raised = [number for number, line in enumerate(lines) if re.match(r"[\w.]+: ", line)]
    return "\n".join(lines[raised[-1] if raised else -1 :]).removeprefix("pytest.UsageError: ")


class Part:
    """What a worker tells the controller beside its reports."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._channel: Any = config.workerinput[CONCERNS]  # type: ignore[attr-defined] # pytest-xdist's own

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """What each test concerns, before pytest-xdist says which there are."""
        self._channel.send({item.nodeid: (unit_of(item), step_of(item)) for item in session.items})
        self._channel.close()

    def pytest_sessionfinish(self) -> None:
        """The controller adds up the connections."""
        self._config.workeroutput[OPENED] = remote.opened_to()  # type: ignore[attr-defined]


def step_of(item: pytest.Item) -> str:
    """The step that a test belongs to, "" for none."""
    mark = item.get_closest_marker("step")
    return str(mark.args[0]) if mark else ""
