"""Wires the telling into a lab session: terminal, JUnit properties, and the run's files."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Generator, Iterable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from _pytest.junitxml import xml_key

from provision.errors import LabError, RackproofError
from provision.run import STEPS
from provision.secrets import revealed
from provision.session import NAMED, SESSION, Session
from reports.story import Outcome, Result, Story

if TYPE_CHECKING:
    from provision.journal import Event, Evidence
    from provision.run import Run
    from reports.changes import Changes
    from reports.terminal import LabReporter

VERSION = "0.1"


class Telling:
    """One lab session as it is told; registered in the process that owns the terminal."""

    def __init__(self, config: pytest.Config, session: Session, reporter: LabReporter) -> None:
        self._config, self._session, self._reporter = config, session, reporter
        self._story = reporter.story
        self._events: list[Event] = []
        self._evidence: list[Evidence] = []
        self._secrets: dict[str, str] = {}
        self._changes: Changes | None = None
        session.subscribers.append(self.take)
        session.finishers.append(self.look_back)

    def take(self, event: Event) -> None:
        """One event of the run: told at once and kept at once."""
        from reports import files  # noqa: PLC0415

        self._story.take(event)
        self._reporter.tell(event)
        files.write_event(self._session.folder, event)

    def pytest_runtestloop(self) -> None:
        """The first line, before the first test; what is usual here, for whoever watches."""
        from reports import past  # noqa: PLC0415
        from reports.history import place  # noqa: PLC0415

        self._story.usual = past.usual(place(self._session.request.out), self._story.lab)
        self._reporter.begin()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """One test has ended, or has failed to begin."""
        result = _result(report)
        if result is None:
            return
        acts, step, said = "acts" in report.keywords, report.step, _said(report, result)
        self._story.note(Outcome(name_of(report.nodeid), step, result, report.duration, acts=acts, said=said))

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """A file of checks that cannot be read is told like a check that failed."""
        if report.failed:
            self._story.note(
                Outcome(f"collecting {report.nodeid}", "", "error", 0.0, said=report.longreprtext)
            )

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self) -> None:
        """After every fixture has been torn down: the summary, in the terminal and in files."""
        from reports import files  # noqa: PLC0415
        from reports.secrecy import struck  # noqa: PLC0415

        self._story.order([name_of(test) for test in self._session.order])
        # The terminal and the history tell what tests said, too.
        self._story.reword(lambda text: struck(text, self._secrets))
        self._story.interrupted = self._session.interrupted
        files.write_summary(self._session.folder, self._session.run_id, self._story, self._changes)
        self._remember()
        self._show()
        self._keep_secrets()
        self._notify()
        self._reporter.end()

    def _keep_secrets(self) -> None:
        """What a run has saved goes to CI and to people: a secret in it is struck out, and that is said."""
        from reports.secrecy import strike_out  # noqa: PLC0415

        for leak in strike_out(self._session.folder, self._secrets):
            file = leak.file.relative_to(self._session.folder)
            self._reporter.notes.append(f"the secret {leak.name} stood in {file}; it was struck out there")

    def _remember(self) -> None:
        """Keep the run in the history, which has more to say about it in `_about`."""
        from reports import past  # noqa: PLC0415
        from reports.history import RunRow, place  # noqa: PLC0415

        session, story = self._session, self._story
        run = RunRow(
            session.run_id, story.lab, session.request.mode, story.began, past.lasted(story.seconds),
            story.verdict, told_version(), past.digest(session.request.lab),
        )  # fmt: skip
        record = past.of_story(run, story, self._events)
        self._about, unsaid = past.remember(place(session.request.out), record, story)
        self._reporter.notes += unsaid

    def _show(self) -> None:
        """The page, which the last line then names; the run is what it is without one, too."""
        from reports import changes, page  # noqa: PLC0415

        session = self._session
        material = page.Material(
            session.run_id, session.request.mode, self._story, self._events, self._evidence,
            _addresses(session), list(properties(session, ())), self._about,
            self._changes or changes.Changes(),
        )  # fmt: skip
        try:
            page.write_page(session.folder, material)
        except page.PageUnwritable as error:
            self._reporter.notes.append(str(error))
        else:
            self._reporter.report = _shown(session.request.out / "latest" / "index.html")

    def _notify(self) -> None:
        """Tell those who asked to be told; whoever cannot be told changes nothing."""
        from reports import notify  # noqa: PLC0415
        from reports.culprits import culprits  # noqa: PLC0415

        request = self._session.request
        found = culprits(self._story)
        page = str((self._session.folder / "index.html").absolute())
        ended = notify.Ended(self._session.run_id, request.mode, self._story, page, found, self._about)
        for target in request.notify if notify.wanted(ended, request.notify_when) else ():
            try:
                notify.notify(target, ended)
            except LabError as error:
                self._reporter.notes.append(str(error))

    def look_back(self, run: Run) -> None:
        """Overview, node facts, changes and JUnit properties, while the ledger is still open."""
        from reports import changes, files  # noqa: PLC0415

        self._secrets = revealed(self._session.written) | run.secrets
        self._events = run.ledger.events(run=run.id)
        if self._session.workers:
            # What a worker said has come past this process.
            files.write_events(self._session.folder, self._events)
        self._story.sum_up(self._events)
        self._changes = changes.of_run(run)
        evidence = [found for step in STEPS if (found := run.ledger.recall(run.lab, step))]
        self._evidence = evidence
        files.write_nodes(self._session.folder, self._session.node_names, evidence)
        xml = self._config.stash.get(xml_key, None)
        if xml is not None:
            for name, value in properties(self._session, evidence):
                xml.add_global_property(name, value)


def pytest_cmdline_main(config: pytest.Config) -> int | None:
    """In place of a session, `--watch` begins one after the other."""
    option = config.option
    if option.watch is None or NAMED in os.environ or option.help or option.collectonly or option.setupplan:
        return None
    if option.markexpr != "verify":
        raise pytest.UsageError(
            "--watch repeats -m verify, which only reads: give both, and nothing else by -m"
        )
    from reports.watch import watch  # noqa: PLC0415

    return watch(config)


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    """A lab session is told by our reporter, in the process that owns the terminal."""
    session = config.stash.get(SESSION, None)
    listing = config.option.collectonly or config.option.setupplan
    if session is None or listing or hasattr(config, "workerinput"):
        return
    from reports.terminal import LabReporter  # noqa: PLC0415 (collecting needs no terminal of ours)

    plugins = config.pluginmanager
    plugins.unregister(plugins.getplugin("terminalreporter"))
    if controller := plugins.getplugin("dsession"):
        # pytest-xdist would write of its workers into the table.
        controller.terminal = None
        plugins.unregister(name="terminaldistreporter")
    story = Story(session.written.name, STEPS, session.node_names)
    folder = session.request.out / "latest"
    report = _shown(folder / "junit.xml")
    reporter = LabReporter(config, story, heading(session), report)
    plugins.register(reporter, "terminalreporter")
    plugins.register(Telling(config, session, reporter), "rackproof-telling")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Trouble of the lab is told in its own words, without the way it took through the code."""
    report = yield
    if call.excinfo is not None and isinstance(call.excinfo.value, RackproofError):
        report.longrepr = str(call.excinfo.value)
    mark = item.get_closest_marker("step")
    # Not one of pytest's user_properties: JUnit's schema knows no properties of a test case.
    report.step = mark.args[0] if mark else ""  # type: ignore[attr-defined]
    return report


def heading(session: Session) -> str:
    """What runs against what, on one line."""
    parts = [
        f"rackproof {VERSION}",
        f"lab {session.written.name}",
        _counted(len(session.node_names), "node"),
    ]
    parts += [_counted(session.workers, "worker")] if session.workers else []
    parts.append(f"run {session.run_id}")
    if session.request.mode == "provision":
        wiped = "virtual hardware" if session.virtual else f"the disks of {', '.join(session.node_names)}"
        parts.append(f"wiping: {wiped}")
    else:
        parts.append("reading only")
    return " · ".join(parts)


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'s' if number != 1 else ''}"


def name_of(nodeid: str) -> str:
    """A test's name as people say it: subject, check and case."""
    path, _, name = nodeid.partition("::")
    subject = Path(path).stem.removeprefix("check_")
    return (
        f"step {name.removeprefix('test_')}"
        if subject == "steps"
        else f"{subject}: {name.removeprefix('test_')}"
    )


def properties(session: Session, evidence: Iterable[Evidence]) -> Iterator[tuple[str, str]]:
    """The facts of the whole suite, for JUnit."""
    from reports.past import digest  # noqa: PLC0415

    yield "run", session.run_id
    yield "lab", session.written.name
    yield "mode", session.request.mode
    yield "virtual", str(session.virtual).lower()
    yield "rackproof", told_version()
    yield "lab_file", digest(session.request.lab)
    yield "python", platform.python_version()
    for package in ("pytest", "pytest-testinfra", "sushy", "proxmoxer"):
        yield package, version(package)
    for step in evidence:
        yield f"step.{step.step}", f"run {step.run}, {step.seconds:.1f} s"
        for node, facts in step.nodes.items():
            told = {name: value for name, value in facts.items() if isinstance(value, str | int | float)}
            yield f"{node}.{step.step}", ", ".join(f"{name} {value}" for name, value in told.items())


def told_version() -> str:
    """The version of rackproof, with its commit where that is known."""
    return f"{VERSION} {_commit()}".strip()


def _addresses(session: Session) -> dict[str, dict[str, str]]:
    """Where each node of the lab file is to be found, by network."""
    return {
        name: {network: str(address) for network, address in node.addresses.items()}
        | {"BMC": str(node.bmc.address)}
        for name, node in session.written.nodes.items()
    }


def _result(report: pytest.TestReport) -> Result | None:
    if report.skipped:
        return "skipped"
    if report.when == "call":
        return "passed" if report.passed else "failed"
    return "error" if report.failed else None


def _said(report: pytest.TestReport, result: Result) -> str:
    if result == "skipped":
        return str(report.longrepr[2]).removeprefix("Skipped: ") if isinstance(report.longrepr, tuple) else ""
    if result == "passed":
        return ""
    if isinstance(report.longrepr, str):
        return report.longrepr
    lines = report.longreprtext.splitlines()
    told = [line[1:].strip().removeprefix("AssertionError: ") for line in lines if line.startswith("E ")]
    return "\n".join(told or lines[-12:])


def _shown(path: Path) -> str:
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def _commit() -> str:
    described = subprocess.run(
        ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return described.stdout.strip()
