"""How Ceph is set up, as facts that last: no epoch, no counter, no id that is given out anew."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from checks.ceph_facts import last_line, on_node
from provision.errors import LabError
from provision.remote import Remote

ASKED = {
    "quorum_status": "mon",
    "mgr metadata": "mon",
    "osd dump": "mon",
    "osd tree": "mon",
    "osd metadata": "mon",
    "versions": "mon",
    "config dump": "mon",
    "fs dump": "mon",
}
"""Every command that facts are read from, and who answers it."""
POOL = (
    "size", "min_size", "crush_rule", "flags_names", "erasure_code_profile", "quota_max_bytes",
    "quota_max_objects", "options",
)  # fmt: skip
NOT_TOLD = re.compile(r"pass|secret|key|token|cred", re.IGNORECASE)


def read(machine: Remote) -> dict[str, Any]:
    """Ask Ceph from a node; raises LabError when it cannot be asked there, or refuses."""
    result = on_node(machine, "ask_ceph", json.dumps(ASKED))
    if result.rc != 0:
        raise LabError("Ceph cannot be asked", node=machine.name, last_seen=last_line(result.stderr))
    answers = json.loads(result.stdout)
    refused = [command for command, found in answers.items() if found["code"] != 0]
    if refused:
        raise LabError(f"Ceph did not answer {', '.join(refused)}", node=machine.name)
    return lasting({command: found["answer"] for command, found in answers.items()})


def lasting(answers: Mapping[str, Any]) -> dict[str, Any]:
    """The facts in the answers to ASKED (src/osd/OSDMap.cc, src/mon/MonMap.cc)."""
    dump, monmap = answers["osd dump"], answers["quorum_status"]["monmap"]
    return {
        "id": dump["fsid"],
        "monitors": {mon["name"]: _addresses(mon["public_addrs"]) for mon in monmap["mons"]},
        "managers": sorted(row["name"] for row in answers["mgr metadata"]),
        "versions": {kind: sorted(_short(each) for each in rows)
                     for kind, rows in answers["versions"].items() if kind != "overall"},
        "release": dump["require_osd_release"],
        "flags": sorted(dump["flags_set"]),
        "ratios": {name: round(dump[f"{name}_ratio"], 4) for name in ("nearfull", "backfillfull", "full")},
        "pools": {pool["pool_name"]: _pool(pool) for pool in dump["pools"]},
        "osds": _osds(answers),
        "settings": {f"{row['section']} {row['mask']} {row['name']}".replace("  ", " "): _value(row)
                     for row in answers["config dump"]},
        "filesystems": {row["mdsmap"]["fs_name"]: {"ranks": row["mdsmap"]["max_mds"],
                                                   "data pools": len(row["mdsmap"]["data_pools"])}
                        for row in answers["fs dump"].get("filesystems", [])},
    }  # fmt: skip


def _pool(row: Mapping[str, Any]) -> dict[str, Any]:
    """A pool's settings; the name of its placement groups' number says whether the autoscaler moves it."""
    mode = row["pg_autoscale_mode"]
    groups = "placement groups, autoscaled" if mode == "on" else "placement groups"
    return {name: row[name] for name in POOL} | {
        "applications": sorted(row["application_metadata"]), "autoscale": mode, groups: row["pg_num_target"],
    }  # fmt: skip


def _osds(answers: Mapping[str, Any]) -> dict[str, Any]:
    """OSDs by host and disk, as numbers are given out anew."""
    tree = {row["id"]: row for row in answers["osd tree"]["nodes"]}
    taken = {row["osd"]: bool(row["in"]) for row in answers["osd dump"]["osds"]}
    found = {}
    for row in answers["osd metadata"]:
        number, leaf = row["id"], tree.get(row["id"], {})
        found[_place(row)] = {
            "class": leaf.get("device_class"), "weight": round(leaf.get("crush_weight", 0), 4),
            "reweight": leaf.get("reweight"), "affinity": leaf.get("primary_affinity"),
            "in": taken.get(number), "store": row.get("osd_objectstore"),
        }  # fmt: skip
    return found


def _place(row: Mapping[str, Any]) -> str:
    """Host and disks of an OSD, by the disks' model and serial ("sdb=INTEL_SSDSC2KB480G8_BTYF1")."""
    disks = sorted(each.partition("=")[2] for each in row.get("device_ids", "").split(",") if "=" in each)
    return " ".join([row.get("hostname", "?"), *(disks or [f"osd.{row['id']}"])])


def _addresses(vector: Mapping[str, Any]) -> list[str]:
    return sorted(f"{each['type']} {each['addr']}" for each in vector["addrvec"])


def _short(version: str) -> str:
    """ "ceph version 18.2.7 (6b0e9…) reef (stable)" without the words around it."""
    return version.removeprefix("ceph version ").partition(" ")[0]


def _value(row: Mapping[str, Any]) -> str:
    return "(not told)" if NOT_TOLD.search(row["name"]) else str(row["value"])
