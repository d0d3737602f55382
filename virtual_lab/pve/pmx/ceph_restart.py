"""Rolling restarts of Ceph's daemons: one after the other, each only when Ceph says that it may stop."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from . import ceph, ceph_daemons
from .apiclient import Client
from .auth import Tickets
from .ceph import LONG_TIMEOUT, Rados
from .clock import wait_until
from .cluster import certificate_of, fingerprint_of, node_address, node_name
from .errors import Failure
from .formation import say

_BENIGN = ("MON_CLOCK_SKEW", "RECENT_CRASH", "TELEMETRY_CHANGED", "AUTH_INSECURE_GLOBAL_ID_RECLAIM_ALLOWED",
           "AUTH_INSECURE_GLOBAL_ID_RECLAIM", "BLUESTORE_DISK_SIZE_MISMATCH", "BLUESTORE_SLOW_OP_ALERT",
           "PG_NOT_SCRUBBED", "PG_NOT_DEEP_SCRUBBED", "LARGE_OMAP_OBJECTS")  # fmt: skip
_BENIGN_FLAGS = ("noout", "noscrub", "nodeep-scrub", "notieragent", "sortbitwise", "recovery_deletes",
                 "purged_snapdirs", "pglog_hardlimit")  # fmt: skip
_POLL = 1.0


# -- of a node's OSDs


def restart_osds(params: Mapping[str, Any]) -> None:
    """The task srvrestart for all OSDs of this node."""
    dry = bool(params.get("dry-run"))
    if params.get("resume"):
        raise Failure(f"no resumable bulk-restart state found for node '{node_name()}'")
    with Rados(LONG_TIMEOUT) as rados:
        if not dry:
            _check_health(rados, "osd", force=bool(params.get("force")))
        numbers = sorted((int(name) for name, facts in ceph_daemons.local()["osd"].items()
                          if facts.get("service") and name.isdigit()))  # fmt: skip
        names = [str(number) for number in numbers]
        if params.get("only-outdated"):
            names = _outdated(rados, names)
        if not _announce([f"osd.{name}" for name in names], f" on '{node_name()}'", "osd", dry=dry):
            return
        with _no_out(rados, names if params.get("set-noout", True) else []):
            _one_by_one(rados, "osd", [(node_name(), name) for name in names], params)
    say(f"rolling restart of 'osd' daemons on node '{node_name()}' finished")


def _outdated(rados: Rados, names: Sequence[str]) -> list[str]:
    mine = ceph_daemons.version().get("version", {}).get("str")
    running = {str(row["id"]): row.get("ceph_version_short") for row in rados.command("osd metadata")}
    return [name for name in names if running.get(name) != mine]


def _announce(names: Sequence[str], where: str, kind: str, *, dry: bool) -> bool:
    if not names:
        say(f"no '{kind}' daemons found{where.replace(' on', ' on node') or ' in cluster'}, nothing to do")
        return False
    prefix = "[DRY-RUN] " if dry else ""
    say(f"{prefix}planned rolling restart order{where}:")
    for at, name in enumerate(names, 1):
        say(f"  [{at}/{len(names)}] {name}")
    if dry:
        say("[DRY-RUN] no daemons were restarted")
    return not dry


@contextmanager
def _no_out(rados: Rados, names: Sequence[str]) -> Iterator[None]:
    if not names:
        yield
        return
    osds = [f"osd.{name}" for name in names]
    say(f"setting 'noout' flag on {len(osds)} OSDs")
    rados.command("osd set-group", flags="noout", who=osds)
    try:
        yield
    finally:
        say(f"unsetting 'noout' flag on {len(osds)} OSDs")
        rados.command("osd unset-group", flags="noout", who=osds)


# -- of the cluster's daemons


def restart_cluster(params: Mapping[str, Any]) -> None:
    """The task srvrestart for all daemons of a kind; of OSDs it is one task on each node in turn."""
    kind, dry = params["service-type"], bool(params.get("dry-run"))
    with Rados(LONG_TIMEOUT) as rados:
        if not dry:
            _check_health(rados, kind, force=bool(params.get("force")))
        if kind == "osd":
            _restart_nodes(rados, params, dry=dry)
            return
        found = ceph_daemons.services(kind, ceph.config(), rados)
        daemons = [(str(row["host"]), name) for name, row in sorted(found.items()) if row.get("host")]
        if _announce([f"{host}: {kind}.{name}" for host, name in daemons], "", kind, dry=dry):
            _one_by_one(rados, kind, daemons, params)
            say(f"rolling restart of '{kind}' daemons across the cluster finished")


def _restart_nodes(rados: Rados, params: Mapping[str, Any], *, dry: bool) -> None:
    nodes: dict[str, list[str]] = {}
    for row in rados.command("osd metadata") or []:
        nodes.setdefault(row["hostname"], []).append(str(row["id"]))
    rows = [f"{node} ({len(osds)} OSDs)" for node, osds in sorted(nodes.items())]
    if not _announce(rows, "", "osd", dry=dry):
        return
    asked = {key: int(params[key]) for key in ("timeout", "force", "only-outdated") if key in params}
    for at, (node, osds) in enumerate(sorted(nodes.items()), 1):
        tag = f"[{at}/{len(nodes)}]"
        say(f"{tag} waiting for recovery to allow restart on {node} (probing osd.{osds[0]}, up to "
            f"{_timeout(params):g}s)")  # fmt: skip
        _wait_until_safe(rados, "osd", osds[0], tag, _timeout(params))
        say(f"{tag} starting per-node OSD bulk-restart on {node} ({len(osds)} OSDs)")
        _task_on(node, "restart-bulk", {"service-type": "osd", **asked}, _timeout(params) * len(osds))
    say("cluster-wide OSD rolling restart finished")


def _task_on(node: str, call: str, params: Mapping[str, Any], seconds: float) -> None:
    client = Client(node_address(node), fingerprint_of(certificate_of(node)))
    client.login(Tickets().make("root@pam"))
    upid = client.call("POST", f"/nodes/{node}/ceph/{call}", params)
    say(f"sub-task UPID: {upid}")
    last: dict[str, Any] = {}

    def ended() -> bool:
        last.update(client.call("GET", f"/nodes/{node}/tasks/{upid}/status"))
        return bool(last["status"] == "stopped")

    if not wait_until(ended, seconds, every=_POLL):
        raise Failure(f"task '{upid}' on node '{node}' did not end within {seconds:g} seconds")
    if last["exitstatus"] != "OK":
        raise Failure(f"task '{upid}' on node '{node}' failed: {last['exitstatus']}")


# -- the steps


def _timeout(params: Mapping[str, Any]) -> float:
    return float(params.get("timeout", 600))


def _one_by_one(
    rados: Rados, kind: str, daemons: Sequence[tuple[str, str]], params: Mapping[str, Any]
) -> None:
    seconds = _timeout(params)
    for at, (host, name) in enumerate(daemons, 1):
        tag = f"[{at}/{len(daemons)}]"
        if rados.command("health")["status"] == "HEALTH_ERR":
            raise Failure(f"{tag} Ceph cluster degraded to HEALTH_ERR mid-restart, aborting")
        _wait_until_safe(rados, kind, name, tag, seconds)
        say(f"{tag} restarting {kind}.{name}")
        if host == node_name():
            ceph_daemons.command("restart", f"{kind}.{name}")
        else:
            _task_on(host, "restart", {"service": f"{kind}.{name}"}, seconds)
        say(f"{tag} waiting up to {seconds:g}s for {kind}.{name} to come back up")
        if not wait_until(_is_up(rados, kind, name), seconds, every=_POLL):
            raise Failure(f"daemon '{kind}.{name}' did not come up within {seconds:g} seconds")
        say(f"{tag} {kind}.{name} is up")


def _wait_until_safe(rados: Rados, kind: str, name: str, tag: str, seconds: float) -> None:
    said = ""

    def safe() -> bool:
        nonlocal said
        if kind == "mgr":
            dump = rados.command("mgr dump")
            said = "no standby mgr available for failover, would cause mgr outage"
            return bool(dump["standbys"]) or dump["active_name"] != name
        code, _, said = rados.raw(f"{kind} ok-to-stop", ids=[name], format="plain")
        return code == 0

    if not wait_until(safe, seconds, every=_POLL):
        raise Failure(f"{tag} Ceph reports '{kind}.{name}' is not safe to stop: {said}")


def _is_up(rados: Rados, kind: str, name: str) -> Callable[[], bool]:
    def up() -> bool:
        if kind == "osd":
            return any(str(row["osd"]) == name and row["up"] for row in rados.command("osd dump")["osds"])
        if kind == "mon":
            return name in rados.command("quorum_status")["quorum_names"]
        if kind == "mds":
            return name in ceph_daemons.mds_states(rados)
        dump = rados.command("mgr dump")
        names = {dump["active_name"], *(row["name"] for row in dump["standbys"])}
        return bool(dump["available"]) and name in names

    return up


def _check_health(rados: Rados, kind: str, *, force: bool) -> None:
    health = rados.command("health")
    checks = sorted(set(health["checks"]) - set(_BENIGN))
    blockers = [f"{name}: {health['checks'][name]['summary']['message']}" for name in checks
                if name != "OSDMAP_FLAGS" or not _flags_are_benign(rados)]  # fmt: skip
    listed = "\n  - ".join(["", *blockers])
    if health["status"] == "HEALTH_ERR":
        raise Failure(f"Ceph cluster is in HEALTH_ERR state, refusing rolling restart of '{kind}' daemons:"
                      f"{listed}")  # fmt: skip
    if blockers and not force:
        raise Failure("Ceph cluster has blocking HEALTH_WARN issues, refusing rolling restart of "
                      f"'{kind}' daemons (pass force=1 to override):{listed}")  # fmt: skip
    if blockers:
        say(f"WARNING: proceeding past HEALTH_WARN blockers due to force=1:{listed}")


def _flags_are_benign(rados: Rados) -> bool:
    return set(str(rados.command("osd dump")["flags"]).split(",")) <= {"", *_BENIGN_FLAGS}
