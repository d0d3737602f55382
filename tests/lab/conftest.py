"""What stands in this folder raises virtual racks; the labs themselves: tests/lab_fixtures.py."""

from __future__ import annotations

import os

import pytest

from tests.lab_fixtures import ROOT, Lab

__all__ = ["ROOT", "Lab"]


@pytest.fixture(scope="session", autouse=True)
def _root() -> None:
    if os.geteuid() != 0:
        pytest.fail("tests/lab raises virtual racks, which takes root; tests/unit does not", pytrace=False)
