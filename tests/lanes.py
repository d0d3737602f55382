"""Three lanes for `-n 3`: what stands on the racks that a session shares, what raises its own, everything else."""

from __future__ import annotations

from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]

SHARED_RACKS = ("tests/lab/", "tests/faults/test_killed_run.py")
"""Where tests share standing racks, which one process raises; they mostly wait for machines."""
OWN_RACKS = (
    "tests/firmware/",
    "tests/lab/test_light_rack.py",
    "tests/lab/test_mixed_lab.py",
    "tests/lab/test_pve_layer.py",
    "tests/lab/test_rack_life.py",
    "tests/lab/test_server_bridge.py",
    "tests/lab/test_server_step.py",
)
"""Where they raise what they need themselves, one after the other: a kernel holds three racks and no more."""


class Lanes(LoadScopeScheduling):  # type: ignore[misc] # pytest-xdist is not typed
    """A scheduler of three scopes. --dist loadgroup groups nothing under pytest 9.2 (pytest-xdist 3.8)."""

    def _split_scope(self, nodeid: str) -> str:
        if nodeid.startswith(OWN_RACKS):
            return "own racks"
        return "shared racks" if nodeid.startswith(SHARED_RACKS) else "others"
