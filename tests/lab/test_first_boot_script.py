"""The first boot's script on a node of the rack: it changes nothing twice, and tells of its own failures."""

from __future__ import annotations

from typing import Any

import pytest

from tests.lab.conftest import Lab

SCRIPT = "/var/lib/proxmox-first-boot/proxmox-first-boot"


def last_failure(lab: Lab, node: str) -> dict[str, Any]:
    """The last failure that the boot service was told of a node."""
    newest = lab.operator(f"/api/v1/nodes/{node}/events")
    found: dict[str, Any] = next(event for event in newest if event["kind"] == "failed")
    return found


def again(lab: Lab, node: str, *changes: str) -> str:
    """Run a node's first-boot script once more, changed by these sed scripts; what it said at last."""
    edits = " ".join(f"-e '{change}'" for change in changes)
    return lab.on(
        node, f"sed {edits or '-n -e p'} {SCRIPT} >/root/again && bash /root/again 2>&1; echo rc $?"
    )


def everything(lab: Lab, node: str) -> str:
    """The digest of every file that the first boot could have written.

    ifupdown2 makes its table of VRFs, empty, when it first reloads.
    """
    own = "-name ifupdown2_vrf_map.conf"
    return lab.on(node, f"find /etc /usr/local -type f ! {own} -exec sha256sum {{}} + | sort")


def test_a_second_run_changes_nothing(lab: Lab) -> None:
    before = everything(lab, "node2")
    said = again(lab, "node2")
    assert said.endswith("rc 0"), said
    assert everything(lab, "node2") == before


@pytest.mark.parametrize(
    ("change", "where"),
    [("s|systemctl start chrony|systemctl start no-such-unit|", "clock: line "),
     ("s|address 10.10.1.23/24|address 10.10.77.23/24|", "networks: line ")],
    ids=["a part that fails", "networks that cut the server off"],
)  # fmt: skip
def test_a_failure_is_reported_with_its_place_and_log_and_nothing_is_cut_off(
    lab: Lab, change: str, where: str
) -> None:
    before = everything(lab, "node3")
    said = again(lab, "node3", "s/patience=60/patience=2/", change)
    assert said.endswith("rc 1"), said
    failure = last_failure(lab, "node3")
    assert failure["text"].startswith(where)
    assert "== networks" in failure["facts"]["log"]
    assert everything(lab, "node3") == before
    assert lab.on("node3", "ping -c 1 -W 2 10.10.1.1 >/dev/null && echo there") == "there"
