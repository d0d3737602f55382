"""What hypothesis is told for all unit tests; and no BMC of one is remembered by another."""

from __future__ import annotations

from itertools import count

import pytest
from hypothesis import HealthCheck, settings

from provision.redfish import refusals

# How long something takes on a machine that others use, too, is no outcome of a test.
settings.register_profile("shared", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared")

_numbers = count()


@pytest.fixture(autouse=True)
def _refusals_of_its_own(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path_factory.getbasetemp() / f"bmc-logins-{next(_numbers)}"
    monkeypatch.setattr(refusals, "folder", lambda: folder)
