"""Three lanes for `-n 3`: what stands on the racks that a session shares, what raises its own, everything else."""

from __future__ import annotations

SHARED_RACKS = ("tests/lab/", "tests/faults/test_killed_run.py")
"""Where tests share standing racks, which one process raises; they mostly wait for machines."""
OWN_RACKS = (
    "tests/firmware/",
    "tests/lab/test_labs_of_their_own.py",
    "tests/lab/test_light_rack.py",
    "tests/lab/test_many_nodes.py",
    "tests/lab/test_mixed_lab.py",
    "tests/lab/test_pve_layer.py",
    "tests/lab/test_rack_life.py",
    "tests/lab/test_server_bridge.py",
    "tests/lab/test_server_step.py",
)
"""Where they raise what they need themselves, one after the other: a kernel holds three racks and no more."""


def lane_of(test: str) -> str:
    """The lane of a test, by its id."""
    if test.startswith(OWN_RACKS):
        return "own racks"
    return "shared racks" if test.startswith(SHARED_RACKS) else "others"
