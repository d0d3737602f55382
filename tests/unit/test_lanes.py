"""Tests that run beside those of the shared racks ask for none of these: two processes would act on one rack."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.lanes import OWN_RACKS

ROOT = Path(__file__).parents[2]


def test_who_raises_its_own_rack_asks_for_no_shared_one() -> None:
    plan = subprocess.run(
        [sys.executable, "-m", "pytest", "-c", "pyproject.toml", "--setup-plan", "-q", *OWN_RACKS],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "SETUP    S firmware_lab" in plan.stdout, plan.stdout + plan.stderr
    assert [line for line in plan.stdout.splitlines() if "SETUP    S default_lab" in line] == []
    assert [line for line in plan.stdout.splitlines() if "SETUP    S classic" in line] == []
