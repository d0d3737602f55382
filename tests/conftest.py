"""What all folders of the project's own tests may ask for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from provision.ledger import Ledger
from tests.lab_fixtures import classic, default_lab, full_lab, lab, whole_default_lab
from tests.postgresql_server import postgresql, store_url

__all__ = ["classic", "default_lab", "full_lab", "lab", "postgresql", "store_url", "whole_default_lab"]


ROOT = Path(__file__).parent

# How long something takes on a machine that others use, too, is no outcome of a test.
settings.register_profile("shared", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared")


@pytest.hookimpl(tryfirst=True)  # xdist reads the groups in the same hook
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that need a standing lab come last: racks at the same time share one kernel's limits.

    With `-n 2 --dist loadgroup` those that raise racks, which mostly wait, are one lane, and the others another.
    """
    items.sort(key=_labs)
    for item in items:
        item.add_marker(pytest.mark.xdist_group("racks" if _raises_racks(item) else "others"))


def _raises_racks(item: pytest.Item) -> bool:
    return _labs(item) > 0 or item.path.is_relative_to(ROOT / "lab")


def _labs(item: pytest.Item) -> int:
    asked = getattr(item, "fixturenames", ())
    return 4 * ("full_lab" in asked) + 2 * ("classic" in asked) + ("default_lab" in asked)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    """An empty ledger, closed in the end."""
    with closing(Ledger(tmp_path / "ledger.db")) as ledger:
        yield ledger
