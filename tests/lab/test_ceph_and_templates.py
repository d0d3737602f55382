"""Ceph and VM templates on a lab that stands: over their own remains, left alone, killed, refused, removed."""

from __future__ import annotations

import os
import signal
import subprocess
from typing import Any

import pytest

from tests.lab_fixtures import Lab

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="a virtual rack needs root")

DISK = "/dev/sdb"
DIGEST = f"head -c 256M {DISK} | sha256sum"
"""Far beyond what a new file system with one small file has written."""
KEPT = "what nobody may lose"


def ceph(lab: Lab) -> Any:
    return lab.evidence()["ceph"]


def templates(lab: Lab) -> Any:
    return lab.evidence()["templates"]


def steps_that_acted(lab: Lab) -> list[str]:
    return [event["step"] for event in lab.events("step-started")]


def succeed(result: subprocess.CompletedProcess[str], lab: Lab) -> None:
    assert result.returncode == 0, result.stdout + result.stderr + lab.consoles()


def guests(lab: Lab, node: str = "node1") -> set[str]:
    """The ids of all guests that a node has."""
    return set(lab.on(node, "ls /etc/pve/nodes/*/qemu-server | sed -n 's/\\.conf$//p'").split())


def test_what_stands_is_left_as_it_is(full_lab: Lab) -> None:
    before = ceph(full_lab), templates(full_lab)
    succeed(full_lab.provision("--from", "ceph"), full_lab)
    assert steps_that_acted(full_lab) == ["ceph", "templates"]
    assert (ceph(full_lab).changed, templates(full_lab).changed) == ([], [])
    assert ceph(full_lab).facts == before[0].facts
    assert guests(full_lab) == {"9000"}
    full_lab.whole = True


def test_a_run_killed_in_either_step_is_taken_up(full_lab: Lab) -> None:
    """Over the remains of the Ceph that stood before: the nodes are new, their OSD disks are not."""
    before = ceph(full_lab).facts
    for step, kind, arguments in (
        ("ceph", "osd-created", ()),
        ("templates", "template-made", ("--resume",)),
    ):
        run = full_lab.start_pytest("-m", "provision", *arguments)
        try:
            full_lab.until(kind, run=run)
        finally:
            os.killpg(run.pid, signal.SIGKILL)
            run.communicate()
        assert full_lab.evidence()[step] is None
    succeed(full_lab.provision("--resume"), full_lab)
    assert steps_that_acted(full_lab) == ["templates"]
    after = ceph(full_lab).facts
    assert after["fsid"] != before["fsid"]
    assert {osd["serial"] for osd in after["osds"].values()} == {
        osd["serial"] for osd in before["osds"].values()
    }
    assert guests(full_lab) == {"9000"}
    assert full_lab.verify() == set()
    full_lab.whole = True


def test_a_disk_with_somebodys_data_stops_the_step_and_keeps_it(full_lab: Lab) -> None:
    number = next(
        number for number, osd in ceph(full_lab).facts["osds"].items() if osd["node"] == "node4"
    )  # fmt: skip
    lab, whole = full_lab, ceph(full_lab).facts
    lab.on("node4", f"systemctl stop ceph-osd@{number}; umount /var/lib/ceph/osd/ceph-{number} || true")
    lab.on("node4", f"ceph osd purge {number} --yes-i-really-mean-it && ceph-volume lvm zap --destroy {DISK}")
    lab.on("node4", f"printf '{KEPT}' >/root/kept && mkfs.ext4 -q -F -d /root {DISK}")
    before = lab.on("node4", DIGEST)
    result = lab.provision("--from", "ceph")
    assert result.returncode == 1, result.stdout + result.stderr
    told = result.stdout
    assert "node4" in told
    assert "ext4" in told
    assert whole["osds"][number]["serial"] in told
    assert lab.on("node4", DIGEST) == before
    assert lab.on("node4", f"debugfs -R 'cat /kept' {DISK} 2>/dev/null") == KEPT
    lab.on("node4", f"wipefs -q -a {DISK}")
    succeed(lab.provision("--from", "ceph"), lab)
    assert len(ceph(lab).facts["osds"]) == len(whole["osds"])
    lab.whole = True


def test_templates_are_tried_made_anew_and_removed(full_lab: Lab) -> None:
    lab = full_lab
    only = ("-k", "templates", "--templates")
    succeed(lab.provision(*only, "test"), lab)
    assert templates(lab).facts["templates"]["9000"]["tested"]["address"]
    refused = lab.provision(*only, "remove")
    assert refused.returncode == 4
    assert "--wipe virtual" in refused.stderr
    assert guests(lab) == {"9000"}
    lab.on("node2", "pvesh create /nodes/node2/qemu --vmid 500 --name innocent --memory 128")
    succeed(lab.provision(*only, "remove", "--wipe", "virtual"), lab)
    assert guests(lab) == {"500"}
    lab.on("node2", "qm destroy 500")
    succeed(lab.provision(*only, "recreate"), lab)
    assert guests(lab) == {"9000"}
    lab.whole = True
