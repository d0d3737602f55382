"""How a pytest session becomes a run: its mode, its lab, the order of its tests, what a failure skips."""

from __future__ import annotations

import os
import signal
from collections.abc import Generator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from provision import controller, inventory, read_only
from provision.controller import step_of
from provision.distribution import refuse_paths, workers_asked
from provision.errors import InventoryError, LabError, RackproofError, WriteRefused
from provision.run import STEPS
from provision.session import NAMED, SESSION, Mode, Request, Session, point_latest

FAILED_STEP = pytest.StashKey[str]()
ROOT = Path(__file__).parent.parent

# The selections that concern a lab, spelled out: anything else that mentions provisioning is
# refused rather than guessed at. The value is the mode.
SELECTIONS: dict[str, Mode] = {
    "provision": "provision",
    "provision or verify": "provision",
    "verify": "verify",
}


class Interruption:
    """Notes that the session was interrupted, for the run's outcome."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def pytest_keyboard_interrupt(self, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        """Fixtures unwind after this."""
        # pytest-xdist ends a session in the same way when -x or --maxfail has had enough.
        if str(excinfo.value).startswith("stopping after"):
            self._session.had_enough = True
        else:
            self._session.interrupted = True


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Read the lab file before anything else happens; a mistake in it is exit code 4."""
    # A CI job that is cancelled sends SIGTERM: it unwinds like Ctrl-C. Not what SIGINT does in this
    # process: a shell has that ignored by what it starts in the background.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    mode = _mode(config)
    _check_drift(config, mode)
    if mode is None:
        if config.args_source is pytest.Config.ArgsSource.TESTPATHS:
            config.args = [str(ROOT / "tests")]
        return
    try:
        session = Session.prepare(_request(config, mode))
        if not _lists_only(config):
            session.judge_answers()
    except RackproofError as error:
        raise pytest.UsageError(str(error)) from None
    if mode == "verify":
        reading = ExitStack()
        reading.enter_context(read_only.only_reading())
        config.add_cleanup(reading.close)
    config.stash[SESSION] = session
    # Warnings are errors in the project's own tests; nobody's rebuild may fail because a library warns.
    config.known_args_namespace.pythonwarnings = ["default"]
    config.pluginmanager.register(Interruption(session), "rackproof-interruption")
    if hasattr(config, "workerinput"):
        config.pluginmanager.register(controller.Part(config), "rackproof-part")
    elif not _lists_only(config):
        _make_folder(config, session)
        if workers_asked(config):
            config.pluginmanager.register(controller.Controller(config, session), "rackproof-controller")


def pytest_cmdline_main(config: pytest.Config) -> int | None:
    """In place of a session, `--plan` says what one would do."""
    if not config.option.plan or config.option.help:
        return None
    from provision.planning import plan  # noqa: PLC0415 (only acting and planning need it)

    if _mode(config) != "provision":
        raise pytest.UsageError("--plan says what -m provision would do: give both")
    try:
        session = Session.prepare(_request(config, "provision"))
        session.judge_answers()
        return plan(session)
    except InventoryError as error:
        raise pytest.UsageError(str(error)) from None
    except LabError as error:
        print(f"no plan: {error}")
        return pytest.ExitCode.TESTS_FAILED


def _lists_only(config: pytest.Config) -> bool:
    return bool(config.option.collectonly or config.option.setupplan)


def _mode(config: pytest.Config) -> Mode | None:
    selection = config.option.markexpr
    if selection not in SELECTIONS:
        if "provision" in selection or "verify" in selection:
            raise pytest.UsageError(
                f"-m {selection!r}: say one of {', '.join(map(repr, SELECTIONS))}, and choose by -k"
            )
        return None
    if SELECTIONS[selection] == "provision" and workers_asked(config):
        raise pytest.UsageError(
            "-m provision runs in one process, because every worker would act on the lab again: drop -n"
        )
    if getattr(config.option, "dist", "no") not in ("no", "load"):
        raise pytest.UsageError(
            f"--dist {config.option.dist}: checks are shared out by machines, "
            "so that each worker logs in to its own: drop --dist"
        )
    refuse_paths(config)
    return SELECTIONS[selection]


def _check_drift(config: pytest.Config, mode: Mode | None) -> None:
    option = config.option
    if option.drift and mode != "verify":
        raise pytest.UsageError("--drift compares what stands and changes nothing: say -m verify --drift")
    if option.accept and not option.drift:
        raise pytest.UsageError("--accept takes what --drift compares: give both")
    if option.accept and option.watch:
        raise pytest.UsageError("--accept once, and then --watch: each pass would take what it finds")
    if option.reason is not None and not option.accept:
        raise pytest.UsageError("--reason says why --accept is given: give both")


def _request(config: pytest.Config, mode: Mode) -> Request:
    option = config.option
    worker: dict[str, str] = getattr(config, "workerinput", {})
    # A deed for the templates means them alone: `--templates remove --wipe NAME` reinstalls no node.
    alone = option.templates and not (option.from_step or option.until_step)
    only_step = option.only_step or ("templates" if alone else None)
    return Request(
        mode=mode, lab=option.lab or inventory.default_lab_file(os.environ),
        virtual=option.virtual, wipe=option.wipe, nodes=option.nodes,
        from_step=option.from_step, until_step=option.until_step, only_step=only_step,
        resume=option.resume, wait=60 * option.wait, out=option.out, deed=option.templates or "create",
        plan=option.plan, notify=tuple(option.notify), notify_when=option.notify_when,
        run_id=worker.get(controller.RUN), named=os.environ.get(NAMED), drift=option.drift,
        whole=config.args_source is pytest.Config.ArgsSource.TESTPATHS
        and not (option.keyword or option.deselect),
    )  # fmt: skip


def _make_folder(config: pytest.Config, session: Session) -> None:
    session.folder.mkdir(parents=True)
    point_latest(session.request.out, session.run_id)
    if not config.option.xmlpath:
        config.option.xmlpath = str(session.folder / "junit.xml")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """A lab session collects steps and checks; any other the project's own tests."""
    own_tests = SESSION not in config.stash
    skipped = ("provision", "checks") if own_tests else ("tests",)
    if collection_path.name == "check_drift.py" and not config.option.drift:
        return True
    return True if any(collection_path.is_relative_to(ROOT / name) for name in skipped) else None


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put each step's own test before its checks, and note which steps were selected."""
    if SESSION not in config.stash:
        return
    _leave_out(config, items, [item for item in items if _needless(item, config.stash[SESSION])])
    items.sort(key=lambda item: (_rank(item), item.get_closest_marker("acts") is None))
    steps = (step_of(item) for item in items if item.get_closest_marker("acts"))
    config.stash[SESSION].selected = frozenset(step for step in steps if step)


def _needless(item: pytest.Item, session: Session) -> bool:
    """Whether the session is not to reach the test's step, or takes away what the check would look for."""
    if step_of(item) == "templates" and session.request.deed == "remove":
        return item.get_closest_marker("acts") is None
    return _rank(item) > session.last_rank


def _leave_out(config: pytest.Config, items: list[pytest.Item], needless: Sequence[pytest.Item]) -> None:
    if needless:
        left_out = set(needless)
        items[:] = [item for item in items if item not in left_out]
        config.hook.pytest_deselected(items=needless)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what a failed step left unreached, before any fixture of it runs."""
    failed = item.config.stash.get(FAILED_STEP, None)
    if failed and _rank(item) >= STEPS.index(failed):
        pytest.skip(f"not reached: {failed} failed")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Note the first step that failed, and tell a check's own fault from a failure of what it looked at."""
    report = yield
    if call.excinfo is not None and isinstance(call.excinfo.value, WriteRefused) and call.when == "call":
        # To JUnit an error is what fails outside of the test itself.
        report.when = "setup"
    if report.failed and SESSION in item.config.stash:
        item.config.stash[SESSION].failed = True
        if call.excinfo is not None:
            item.config.stash[SESSION].blame(item, call.excinfo.value)
        if item.get_closest_marker("acts"):
            item.config.stash.setdefault(FAILED_STEP, step_of(item) or STEPS[0])
    return report


def _rank(item: pytest.Item) -> int:
    step = step_of(item)
    return STEPS.index(step) if step else len(STEPS)
