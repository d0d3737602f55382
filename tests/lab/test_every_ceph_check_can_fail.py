"""For every check of Ceph and its storages a fault is planted, is caught by those meant for it, and by no other."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import pytest

from checks.ceph_facts import is_clean
from provision.wait import NotYet, Patience
from tests.lab.conftest import ROOT, Lab
from tests.lab.planting import Fault, edited, judge, never_caught, planted, run, settle

RECOVERY = Patience(120, first=0.2, most=1)

OSD = "$(ls /var/lib/ceph/osd | sed s/ceph-//)"
"""The id of a node's one OSD."""

VOLUME = "$(lvs --noheadings -o lv_full_name | tr -d ' ')"
"""The logical volume that it is on."""

# systemd counts starts, and gives up on a unit after three in half an hour.
AGAIN = "systemctl reset-failed {unit} && systemctl start {unit}"

CRASH = """\
python3 - <<'PY' | ceph crash post -i -
import datetime, json
moment = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
name = moment + "_5f8d1b0e-0000-4000-8000-000000000001"
print(json.dumps({"crash_id": name, "timestamp": moment, "entity_name": "osd.3", "process_name": "ceph-osd"}))
PY
"""
NO_CRASH = "ceph crash rm $(ceph crash ls -f json | jq -r '.[].crash_id')"

# Ahead of the real module: it opens images as ever, and reads zeros.
ZEROS = "/usr/local/lib/python3.13/dist-packages/rbd.py"
READS_ZEROS = f"""\
cat >{ZEROS} <<'PY'
import glob, importlib.util, sys
place = glob.glob("/usr/lib/python3/dist-packages/rbd.*.so")[0]
spec = importlib.util.spec_from_file_location("rbd", place)
rbd = importlib.util.module_from_spec(spec)
spec.loader.exec_module(rbd)
class Image(rbd.Image):
    def read(self, *where, **more):
        return bytes(len(super().read(*where, **more)))
rbd.Image = Image
sys.modules["rbd"] = rbd
PY
"""

# A daemon says the version of the library that it runs with: here an older one, as after half an upgrade.
OLDER = "/run/systemd/system/ceph-mgr@node2.service.d"
RUNS_OLDER = f"""\
set -e
mkdir -p /opt/older {OLDER}
version=$(ceph-mgr --version | cut -d' ' -f3)
sed "s/$version/${{version%?}}1/g" /usr/lib/x86_64-linux-gnu/ceph/libceph-common.so.2 >/opt/older/libceph-common.so.2
printf '[Service]\\nEnvironment=LD_LIBRARY_PATH=/opt/older\\n' >{OLDER}/older.conf
systemctl daemon-reload
systemctl reset-failed ceph-mgr@node2
systemctl restart ceph-mgr@node2
ceph mgr fail node2 || true
"""
RUNS_AS_EVER = (
    f"rm -r {OLDER} /opt/older && systemctl daemon-reload && systemctl reset-failed ceph-mgr@node2"
    " && systemctl restart ceph-mgr@node2 && { ceph mgr fail node2 || true; }"
)

WHAT_CEPH_WAS_TOLD = [
    run("a daemon of an older version", "node2", RUNS_OLDER, RUNS_AS_EVER, "ceph::test_one_version_everywhere"),
    run("a stranger's monitor", "node1", "ceph mon add stranger 10.10.2.99", "ceph mon rm stranger",
        "ceph::test_no_monitor_of_a_stranger"),
    run("clocks that count as skewed", "node1", "ceph config set mon mon_clock_drift_allowed -1",
        "ceph config rm mon mon_clock_drift_allowed", "ceph::test_clocks_agree"),
    run("a foreign crash", "node1", CRASH, NO_CRASH, "ceph::test_no_new_crash", "ceph::test_health"),
    edited("another release", "node3", "/etc/apt/sources.list.d/ceph.sources", "s/ceph-squid/ceph-tentacle/",
           r"ceph::test_packages_are_of_the_release\[node3\]"),
    run("another device class", "node4",
        f"ceph osd crush rm-device-class osd.{OSD} && ceph osd crush set-device-class nvme osd.{OSD}",
        f"ceph osd crush rm-device-class osd.{OSD} && ceph osd crush set-device-class ssd osd.{OSD}",
        r"ceph_osds::test_device_class\[node4\]"),
    run("an OSD of which nobody knows", "node3",
        "ceph osd new $(cat /proc/sys/kernel/random/uuid) >/root/kept-osd"
        " && ceph osd crush add osd.$(cat /root/kept-osd) 0 host=node3"
        " && ceph osd crush set-device-class ssd osd.$(cat /root/kept-osd)",
        "ceph osd purge $(cat /root/kept-osd) --yes-i-really-mean-it && rm /root/kept-osd",
        r"ceph_osds::test_osds_of_node\[node3\]", r"ceph_osds::test_osds_are_up_and_in\[node3\]"),
    run("an OSD that is nowhere", "node1", "ceph osd new $(cat /proc/sys/kernel/random/uuid) >/root/kept-osd",
        "ceph osd purge $(cat /root/kept-osd) --yes-i-really-mean-it && rm /root/kept-osd",
        "ceph_osds::test_no_stray_osd"),
    run("a disk that is no OSD's", "node2", f"lvchange --deltag ceph.osd_id={OSD} {VOLUME}",
        f"lvchange --addtag ceph.osd_id={OSD} {VOLUME}",
        r"ceph_osds::test_osds_are_on_their_disks\[node2\]", r"ceph_osds::test_disks_of_the_lab_file_have_osds\[node2\]"),
    run("pool size 2", "node1", "ceph osd pool set rbd size 2",
        "ceph osd pool set rbd size 3 && ceph osd pool set rbd min_size 2", r"ceph_pools::test_pool_is_as_asked\[rbd\]"),
    run("a storage for images alone", "node1", "pvesh set /storage/rbd --content images",
        "pvesh set /storage/rbd --content images,rootdir", r"storages::test_storage_of_pool\[rbd\]"),
    run("migration by any network", "node1", "pvesh set /cluster/options --delete migration",
        "pvesh set /cluster/options --migration type=secure,network=10.10.2.0/24",
        "migration::test_migration_network"),
]  # fmt: skip

AN_IMAGE_THAT_READS_AS_ZEROS = [
    run("an image that reads as zeros", "node2", READS_ZEROS, f"rm {ZEROS}",
        r"ceph_pools::test_an_image_written_on_one_node_is_read_on_another\[rbd\]"),
]  # fmt: skip

WHAT_HAPPENED_TO_DAEMONS = [
    run("a manager gone", "node2", "systemctl stop ceph-mgr@node2 && { ceph mgr fail node2 || true; }",
        AGAIN.format(unit="ceph-mgr@node2"), "ceph::test_managers"),
    run("a storage switched off", "node1", "pvesh set /storage/rbd --disable 1",
        "pvesh set /storage/rbd --delete disable", r"storages::test_storages_are_active\[node[1-4]\]",
        r"templates::test_is_on_its_storage\[.*\]"),
    run("an OSD on another network", "node2",
        "cp /etc/pve/ceph.conf /root/kept-ceph.conf"
        f" && printf '\\n[osd.%s]\\n\\tpublic_network = 10.10.1.0/24\\n' {OSD} >>/etc/pve/ceph.conf"
        f" && systemctl reset-failed ceph-osd@{OSD} && systemctl restart ceph-osd@{OSD}",
        "cat /root/kept-ceph.conf >/etc/pve/ceph.conf && rm /root/kept-ceph.conf"
        f" && systemctl reset-failed ceph-osd@{OSD} && systemctl restart ceph-osd@{OSD}",
        r"ceph_osds::test_osd_addresses\[node2\]"),
    run("an OSD stopped", "node4", f"systemctl stop ceph-osd@{OSD}", AGAIN.format(unit=f"ceph-osd@{OSD}"),
        r"ceph_osds::test_osds_are_up_and_in\[node4\]", "ceph_pools::test_placement_groups_are_clean",
        "ceph::test_health"),
    # With copies missing, none are merged: the pool stays on its way.
    run("half the placement groups", "node1",
        "ceph osd pool get rbd pg_num -f json | jq .pg_num >/root/kept-pgs && ceph osd pool set rbd pg_autoscale_mode off"
        " && ceph osd pool set rbd pg_num $(($(cat /root/kept-pgs) / 2))",
        "ceph osd pool set rbd pg_num $(cat /root/kept-pgs) && ceph osd pool set rbd pg_autoscale_mode on"
        " && rm /root/kept-pgs",
        r"ceph_pools::test_pool_is_not_changing\[rbd\]", r"ceph_pools::test_pool_is_as_asked\[rbd\]"),
    run("a monitor stopped", "node3", "systemctl stop ceph-mon@node3", AGAIN.format(unit="ceph-mon@node3"),
        r"ceph::test_monitor_of_node\[node3\]"),
]  # fmt: skip


def ceph_status(lab: Lab) -> dict[str, Any]:
    """What `ceph status` says on node1; an empty one when it says nothing in time."""
    told = lab.on("node1", "timeout 15 ceph status -f json", check=False)
    return json.loads(told) if told.startswith("{") else {}


def whole(lab: Lab) -> None:
    """Wait until the cluster has all its links, and Ceph all its daemons and all copies."""
    settle(lab)
    RECOVERY.until("Ceph whole again", lambda: trouble(ceph_status(lab)))


def trouble(status: dict[str, Any]) -> NotYet | Literal[True]:
    """What the default lab's Ceph lacks; True when it lacks nothing."""
    if not status:
        return NotYet("no answer")
    osds, states = status["osdmap"], {row["state_name"] for row in status["pgmap"]["pgs_by_state"]}
    there = (
        len(status["quorum_names"]),
        status["mgrmap"]["num_standbys"],
        osds["num_osds"],
        osds["num_up_osds"],
    )
    health = status["health"]["status"]
    good = there == (3, 1, 4, 4) and health == "HEALTH_OK" and all(map(is_clean, states))
    return good or NotYet(f"{health}, {there}, {states}")


def managers_are_two(status: dict[str, Any]) -> bool:
    """Both managers are heard of again, and the monitors agree."""
    return bool(
        len(status["quorum_names"]) == 3
        and status["mgrmap"]["available"]
        and status["mgrmap"]["num_standbys"]
    )


def daemons_are_missed(status: dict[str, Any]) -> bool:
    """A monitor and an OSD are known to be gone, and what is left serves all data."""
    states = [row["state_name"] for row in status["pgmap"]["pgs_by_state"]]
    there = (len(status["quorum_names"]), status["osdmap"]["num_up_osds"])
    return (
        there == (2, 3)
        and status["mgrmap"]["available"]
        and all(state.startswith("active") for state in states)
    )


@pytest.mark.parametrize(
    ("batch", "seen"),
    [(WHAT_CEPH_WAS_TOLD, managers_are_two), (WHAT_HAPPENED_TO_DAEMONS, daemons_are_missed)],
    ids=["what Ceph was told", "what happened to daemons"],
)
def test_faults_are_caught_by_their_checks_alone(
    full_lab: Lab, batch: Sequence[Fault], seen: Callable[[dict[str, Any]], bool]
) -> None:
    def probe() -> bool | NotYet:
        status = ceph_status(full_lab)
        return (bool(status) and seen(status)) or NotYet(json.dumps(status))

    with planted(full_lab, batch, whole):
        RECOVERY.until("the faults known to the monitors", probe)
        caught = full_lab.verify()
    judge(caught, [fault.caught_by for fault in batch])


def test_an_image_that_reads_as_zeros_is_caught(full_lab: Lab) -> None:
    """By the check that writes, which is none of verify; where no step is chosen, no step acts."""
    batch = AN_IMAGE_THAT_READS_AS_ZEROS
    with planted(full_lab, batch):
        full_lab.pytest("-m", "provision", "-k", "an_image_written", timeout=100)
        caught = {name for name, bad in full_lab.cases() if bad}
        left = full_lab.on("node1", "rbd ls rbd")
    assert full_lab.events("step-started") == []
    judge(caught, [fault.caught_by for fault in batch])
    assert "rackproof-proof" not in left, "the check that failed took its image away"


def test_a_warning_passes_only_when_it_is_allowed(full_lab: Lab, tmp_path: Path) -> None:
    def allowing(warning: str) -> set[str]:
        text = (ROOT / "labs" / "virtual.yaml").read_text()
        file = tmp_path / "virtual.yaml"
        file.write_text(
            text.replace("  release: squid\n", f"  release: squid\n  allowed_warnings: [{warning}]\n")
        )
        return full_lab.verify("--lab", str(file), "-k", "test_health")

    full_lab.on("node1", "ceph osd set noout")
    try:
        assert allowing("OSDMAP_FLAGS") == set()
        assert allowing("OSD_DOWN") == {"ceph::test_health"}
    finally:
        full_lab.on("node1", "ceph osd unset noout")


def test_no_check_is_left_without_a_fault(full_lab: Lab) -> None:
    """And all faults are mended: this lab is as it was."""
    assert full_lab.verify("-k", "ceph or storages or migration") == set()
    assert never_caught(full_lab) == []
