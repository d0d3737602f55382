"""Two lanes for `-n 2`: what stands on the racks that the session shares, and everything else."""

from __future__ import annotations

from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]

SHARED_RACKS = ("tests/lab/", "tests/faults/test_killed_run.py")
"""Where tests share standing racks, which one process raises; they mostly wait for machines."""
OWN_RACKS = tuple(
    f"tests/lab/test_{name}.py"
    for name in ("first_boot_script", "mixed_lab", "pve_layer", "rack_life", "server_bridge", "server_step")
)
"""Tests beside them that raise what they need themselves."""


class Lanes(LoadScopeScheduling):  # type: ignore[misc] # pytest-xdist is not typed
    """A scheduler of two scopes. --dist loadgroup groups nothing under pytest 9.2 (pytest-xdist 3.8)."""

    def _split_scope(self, nodeid: str) -> str:
        shared = nodeid.startswith(SHARED_RACKS) and not nodeid.startswith(OWN_RACKS)
        return "racks" if shared else "others"
