"""Makes test cases of drift: one for each subject of each machine, or one for each difference in it.

A case stands before anything is read; how many differences there will be is known only after. A subject that
is as it was is one passed case. One that is not is told as a failed case for each difference, in its place.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from copy import copy
from time import gmtime, strftime
from typing import TYPE_CHECKING

import pytest
from _pytest.runner import runtestprotocol

from provision.drift import Difference, told
from provision.session import SESSION

if TYPE_CHECKING:
    from provision.baseline import Kept

WORDS = {"green": "green run", "accepted": "accepted in run"}


class Drifted(AssertionError):
    """A subject is not what it was: every difference by itself."""

    def __init__(self, differences: Sequence[Difference], before: Kept) -> None:
        self.differences, self.before = differences, before
        super().__init__("\n".join(map(str, differences)))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One case for every machine and subject, each of the step that sets it up."""
    session = metafunc.config.stash.get(SESSION, None)
    if session is None or "subject" not in metafunc.fixturenames:
        return
    from checks.rack_facts import subjects_of  # noqa: PLC0415 (collecting other checks needs none of it)

    cases = [
        pytest.param((machine, subject), marks=pytest.mark.step(step), id=f"{machine}-{subject}")
        for machine, subject, step in subjects_of(session.written, session.node_names)
    ]
    metafunc.parametrize("subject", cases, indirect=True)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
    """Run a case of drift, and tell each difference that it found by itself."""
    if "subject" not in getattr(item, "fixturenames", ()):
        return None
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    for report in each_by_itself(runtestprotocol(item, log=False, nextitem=nextitem)):
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Keep with the report what differed."""
    report = yield
    if call.excinfo is not None and isinstance(call.excinfo.value, Drifted):
        found = call.excinfo.value
        report.differences = [(each.name, in_full(each, found.before)) for each in found.differences]  # type: ignore[attr-defined]
    return report


def each_by_itself(reports: Iterable[pytest.TestReport]) -> Iterator[pytest.TestReport]:
    """A case's reports (set-up, call, tear-down) as they are, or, when something differed, a set for each."""
    known = list(reports)
    found: list[tuple[str, str]] = next(
        (each.differences for each in known if hasattr(each, "differences")), []
    )
    if not found:
        yield from known
    for name, text in found:
        for report in known:
            yield _about(report, name, text)


def _about(report: pytest.TestReport, name: str, text: str) -> pytest.TestReport:
    """A copy of a case's report that is of one difference alone."""
    told_alone = copy(report)
    told_alone.nodeid = (
        report.nodeid.replace("::test_unchanged[", "::test_changed[").removesuffix("]") + f"-{name}]"
    )
    if hasattr(told_alone, "differences"):
        del told_alone.differences
        told_alone.longrepr = text
    return told_alone


def in_full(difference: Difference, before: Kept) -> str:
    """A difference for people, with the baseline that it is one from."""
    since = strftime("%-d %b %Y %H:%M UTC", gmtime(before.time))
    return "\n".join([
        str(difference),
        f"  before: {told(difference.before)}",
        f"  after: {told(difference.after)}",
        f"  baseline: {WORDS.get(before.how, before.how)} {before.run}, {since}",
    ])  # fmt: skip
