"""What stands is what stood when the baseline was taken; collected with --drift alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, cast

import pytest

from checks.drift_cases import Drifted
from provision.session import SESSION

if TYPE_CHECKING:
    from checks.comparison import Comparison, Subject
    from provision.inventory import Lab
    from provision.machines import Machines
    from provision.run import Run


@pytest.fixture(scope="session")
def comparison(
    pytestconfig: pytest.Config, request: pytest.FixtureRequest, run: Run, lab: Lab, machines: Machines
) -> Iterator[Comparison]:
    """What is read in this session, and its baseline; in the end both are kept in the ledger."""
    from checks.comparison import Comparison  # noqa: PLC0415

    comparison = Comparison(run, lab, machines, pytestconfig.option.reason)
    if not hasattr(pytestconfig, "workerinput"):
        # A worker of pytest-xdist does not know which cases will be its own.
        comparison.read_ahead(_machines_of(request.session.items))
    yield comparison
    comparison.keep()


@pytest.fixture
def subject(comparison: Comparison, request: pytest.FixtureRequest) -> Subject:
    """A subject of a machine as it is and as it was; trouble in reading it is an error."""
    machine, name = request.param
    return comparison.subject(machine, name)


def test_unchanged(pytestconfig: pytest.Config, comparison: Comparison, subject: Subject) -> None:
    """It is what it was, or that is accepted now."""
    for notice in subject.notices:
        print(f"no drift: {notice}")
    if pytestconfig.option.accept:
        comparison.accept(subject)
        return
    lab = pytestconfig.stash[SESSION].written.name
    assert subject.before is not None, (
        f"{subject.machine} {subject.name}: lab {lab} has no baseline of it; run pytest -m provision to its "
        "green end, or accept what stands: pytest -m verify --drift --accept"
    )
    if subject.drift:
        raise Drifted(subject.drift, subject.before)


def _machines_of(items: Iterable[pytest.Item]) -> Iterator[str]:
    for item in items:
        if isinstance(item, pytest.Function) and "subject" in item.fixturenames:
            machine, _ = cast(tuple[str, str], item.callspec.params["subject"])
            yield machine
