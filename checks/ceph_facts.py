"""What Ceph says of itself, asked once, and read into what its checks compare."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any

from provision.errors import LabError
from provision.remote import Remote, Result

if TYPE_CHECKING:
    from provision.pve.ceph import Disk

ON_NODE = Path(__file__).parent / "on_node"
SECONDS = 30.0
"""How long a script may take on its node."""

ASKED = {
    "quorum_status": "mon",
    "mgr stat": "mon",
    "mgr metadata": "mon",
    "osd dump": "mon",
    "osd tree": "mon",
    "osd metadata": "mon",
    "status": "mon",
    "health": "mon",
    "versions": "mon",
    "time-sync-status": "mon",
    "fs dump": "mon",
    "crash ls": "mgr",
}
"""Every command that facts are read from, and who answers it."""

BACKGROUND = frozenset({"scrubbing", "deep", "snaptrim", "snaptrim_wait"})
"""What a placement group may be doing and yet be clean."""


@dataclass(frozen=True, slots=True)
class Monitor:
    """A monitor of the monitor map."""

    addresses: frozenset[IPv4Address | IPv6Address]
    in_quorum: bool


@dataclass(frozen=True, slots=True)
class Osd:
    """An OSD: where CRUSH and its own last start put it, and how the cluster has it.

    `public` are its addresses towards clients and monitors (the front), `cluster` those towards other OSDs
    (the back). `host` is None for one outside of CRUSH, `hostname` for one that never started.
    """

    id: int
    host: str | None
    hostname: str | None
    device_class: str | None
    up: bool
    taken_in: bool
    public: frozenset[IPv4Address | IPv6Address]
    cluster: frozenset[IPv4Address | IPv6Address]
    own_db: bool
    own_wal: bool


@dataclass(frozen=True, slots=True)
class PoolFound:
    """A pool: `pg_num` and `pgp_num` with what Ceph is on the way to; `target_ratio` 0 when there is none."""

    applications: frozenset[str]
    size: int
    min_size: int
    autoscale: str
    target_ratio: float
    pg_num: int
    pg_num_target: int
    pgp_num: int
    pgp_num_target: int


@dataclass(frozen=True, slots=True)
class Crash:
    """A daemon's crash, as `ceph crash ls` lists it."""

    id: str
    daemon: str
    moment: datetime


class CephFacts:
    """The answers to ASKED, by command; each part raises LabError when its command was refused.

    Shapes are those of Reef, Squid and Tentacle (src/mon/MonMap.cc, src/osd/OSDMap.cc, src/osd/osd_types.cc,
    src/mon/health_check.h, src/pybind/mgr/crash/module.py).
    """

    def __init__(self, answers: Mapping[str, Mapping[str, Any]], node: str) -> None:
        self._answers, self._node = answers, node

    @cached_property
    def monitors(self) -> dict[str, Monitor]:
        """Monitors by name."""
        status = self._answer("quorum_status")
        quorum = set(status["quorum_names"])
        return {
            mon["name"]: Monitor(_addresses(mon, "public"), mon["name"] in quorum)
            for mon in status["monmap"]["mons"]
        }

    @property
    def active_manager(self) -> str | None:
        """The manager that works, None while there is none."""
        stat = self._answer("mgr stat")
        return stat["active_name"] or None if stat["available"] else None

    @property
    def managers(self) -> frozenset[str]:
        """All managers that the monitors hear of, active and standing by."""
        return frozenset(str(row["name"]) for row in self._answer("mgr metadata"))

    @cached_property
    def osds(self) -> dict[int, Osd]:
        """OSDs by id."""
        tree = {row["id"]: row for row in self._answer("osd tree")["nodes"]}
        hosts = {
            child: row["name"] for row in tree.values() if row["type"] == "host" for child in row["children"]
        }
        started = {row["id"]: row for row in self._answer("osd metadata")}
        return {
            row["osd"]: _osd(row, hosts.get(row["osd"]), tree, started.get(row["osd"], {}))
            for row in self._answer("osd dump")["osds"]
        }

    def osds_of(self, host: str) -> dict[int, Osd]:
        """The OSDs that CRUSH has on a host, by id."""
        return {number: osd for number, osd in self.osds.items() if osd.host == host}

    @property
    def pools(self) -> dict[str, PoolFound]:
        """Pools by name."""
        return {row["pool_name"]: _pool(row) for row in self._answer("osd dump")["pools"]}

    @property
    def unclean(self) -> dict[str, int]:
        """How many placement groups are in each state that is not clean; scrubbing and trimming ones are."""
        states = self._answer("status")["pgmap"].get("pgs_by_state", [])
        return {row["state_name"]: row["count"] for row in states if not is_clean(row["state_name"])}

    @property
    def placement_groups(self) -> int:
        """How many placement groups there are."""
        return int(self._answer("status")["pgmap"]["num_pgs"])

    @property
    def complaints(self) -> dict[str, str]:
        """What health checks say by their code, muted ones too: "HEALTH_WARN: 1 osds down"."""
        checks = self._answer("health")["checks"]
        return {code: f"{row['severity']}: {row['summary']['message']}" for code, row in checks.items()}

    @property
    def versions(self) -> dict[str, dict[str, int]]:
        """How many daemons of each kind (mon, mgr, osd, …) run each version."""
        return {kind: rows for kind, rows in self._answer("versions").items() if kind != "overall"}

    @property
    def clocks(self) -> dict[str, str]:
        """What the leading monitor says of the clock of each in the quorum, itself included: "HEALTH_OK"."""
        skews = self._answer("time-sync-status").get("time_skew_status", {})
        return {name: row["health"] for name, row in skews.items()}

    @property
    def crashes(self) -> list[Crash]:
        """Every crash that was reported and not removed, archived ones too."""
        return [
            Crash(row["crash_id"], row.get("entity_name", "a daemon"), moment_of(row["timestamp"]))
            for row in self._answer("crash ls")
        ]

    @property
    def metadata_servers(self) -> dict[str, dict[str, str]]:
        """State ("up:active") of metadata servers by filesystem and name; those that stand by under ""."""
        dump = self._answer("fs dump")
        told = {"": _servers(dump.get("standbys", []))}
        for row in dump.get("filesystems", []):
            told[row["mdsmap"]["fs_name"]] = _servers(row["mdsmap"]["info"].values())
        return told

    def _answer(self, command: str) -> Any:
        found = self._answers[command]
        if found["code"] != 0:
            why = found["said"] or os.strerror(abs(found["code"]))
            raise LabError(f'Ceph did not answer "{command}": {why}', node=self._node)
        return found["answer"]


def read(machine: Remote) -> CephFacts:
    """Ask Ceph from a node; raises LabError when it cannot be asked there."""
    result = on_node(machine, "ask_ceph", json.dumps(ASKED))
    if result.rc != 0:
        raise LabError(
            "Ceph cannot be asked: have its monitors a quorum?",
            node=machine.name,
            last_seen=last_line(result.stderr),
        )
    return CephFacts(json.loads(result.stdout), machine.name)


def on_node(machine: Remote, script: str, *words: str) -> Result:
    """Run a script of checks/on_node by the node's python3, whatever it ends with."""
    text = (ON_NODE / f"{script}.py").read_text(encoding="utf-8")
    return machine.run(shlex.join(["python3", "-", *words]), stdin=text, timeout=SECONDS)


def last_line(said: str) -> str:
    """The last line of what a script said: the error that ended it."""
    return (said.strip().splitlines() or ["nothing"])[-1]


def is_clean(state: str) -> bool:
    """Whether a placement group in a state ("active+clean+scrubbing") is all right."""
    words = set(state.split("+"))
    return {"active", "clean"} <= words <= {"active", "clean"} | BACKGROUND


def moment_of(text: str) -> datetime:
    """The moment of a crash: ISO 8601 as ceph-crash writes it, in UTC also when it does not say so."""
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def osds_on(disk: Disk) -> set[int]:
    """The OSDs that have their data on a disk, as Proxmox lists it (pve-storage, src/PVE/Diskmanage.pm).

    `osdid-list` is there when it may be several; an `osdid` of -1 means none.
    """
    told = disk.model_extra or {}
    listed = told.get("osdid-list") or [told.get("osdid", -1)]
    return {int(number) for number in listed} - {-1}


def _osd(
    row: Mapping[str, Any],
    host: str | None,
    tree: Mapping[int, Mapping[str, Any]],
    started: Mapping[str, Any],
) -> Osd:
    return Osd(
        id=row["osd"],
        host=host,
        hostname=started.get("hostname"),
        device_class=tree.get(row["osd"], {}).get("device_class"),
        up=bool(row["up"]),
        taken_in=bool(row["in"]),
        public=_addresses(row, "public", "heartbeat_front"),
        cluster=_addresses(row, "cluster", "heartbeat_back"),
        own_db=started.get("bluefs_dedicated_db") == "1",
        own_wal=started.get("bluefs_dedicated_wal") == "1",
    )


def _pool(row: Mapping[str, Any]) -> PoolFound:
    return PoolFound(
        applications=frozenset(row["application_metadata"]),
        size=row["size"],
        min_size=row["min_size"],
        autoscale=row["pg_autoscale_mode"],
        target_ratio=float(row.get("options", {}).get("target_size_ratio", 0)),
        pg_num=row["pg_num"],
        pg_num_target=row["pg_num_target"],
        pgp_num=row["pg_placement_num"],
        pgp_num_target=row["pg_placement_num_target"],
    )


def _servers(rows: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    return {str(row["name"]): str(row["state"]) for row in rows}


def _addresses(row: Mapping[str, Any], *kinds: str) -> frozenset[IPv4Address | IPv6Address]:
    """A daemon's addresses of these kinds (`public_addrs`, …) without their ports."""
    return frozenset(address for kind in kinds for address in _vector(row.get(f"{kind}_addrs", {})))


def _vector(addresses: Mapping[str, Any]) -> Iterator[IPv4Address | IPv6Address]:
    # An OSD that never started has none, or (type "none") one that is no address.
    for entry in addresses.get("addrvec", []):
        if entry["type"] in ("v1", "v2", "any"):
            yield ip_address(str(entry["addr"]).rpartition(":")[0].strip("[]"))
