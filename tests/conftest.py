"""What all folders of the project's own tests may ask for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from provision.ledger import Ledger
from tests.lab_fixtures import classic, default_lab, full_lab, lab, whole_default_lab
from tests.postgresql_server import postgresql, store_url

__all__ = ["classic", "default_lab", "full_lab", "lab", "postgresql", "store_url", "whole_default_lab"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that need a standing lab come last: racks at the same time share one kernel's limits."""
    items.sort(key=_labs)


def pytest_xdist_make_scheduler(config: pytest.Config) -> object:
    """Lanes, whatever --dist says."""
    from provision.distribution import Distribution  # noqa: PLC0415 (every session loads this module)
    from tests.lanes import lane_of  # noqa: PLC0415

    return Distribution(config, lane_of)


def _labs(item: pytest.Item) -> int:
    asked = getattr(item, "fixturenames", ())
    return 4 * ("full_lab" in asked) + 2 * ("classic" in asked) + ("default_lab" in asked)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    """An empty ledger, closed in the end."""
    with closing(Ledger(tmp_path / "ledger.db")) as ledger:
        yield ledger
