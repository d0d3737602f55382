"""Two lanes for `-n 2`: what raises racks, which mostly waits for them, and everything else."""

from __future__ import annotations

from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]

RACKS = ("tests/lab/", "tests/firmware/", "tests/faults/test_killed_run.py")
"""Where tests raise racks."""


class Lanes(LoadScopeScheduling):  # type: ignore[misc] # pytest-xdist is not typed
    """A scheduler of two scopes. --dist loadgroup groups nothing under pytest 9.2 (pytest-xdist 3.8)."""

    def _split_scope(self, nodeid: str) -> str:
        return "racks" if nodeid.startswith(RACKS) else "others"
