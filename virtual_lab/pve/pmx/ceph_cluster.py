"""What Ceph's cluster says of itself, in the shapes in which Proxmox' API gives it on."""

from __future__ import annotations

import re
import tempfile
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from . import ceph, ceph_daemons
from .ceph import Rados
from .errors import Failure
from .formation import say, warn
from .run import run

LOG = Path("/var/log/ceph/ceph.log")
FLAGS: Mapping[str, str] = {
    "nobackfill": "Backfilling of PGs is suspended.",
    "nodeep-scrub": "Deep Scrubbing is disabled.",
    "nodown": "OSD failure reports are being ignored, such that the monitors will not mark OSDs down.",
    "noin": "OSDs that were previously marked out will not be marked back in when they start.",
    "noout": "OSDs will not automatically be marked out after the configured interval.",
    "norebalance": "Rebalancing of PGs is suspended.",
    "norecover": "Recovery of PGs is suspended.",
    "noscrub": "Scrubbing is disabled.",
    "notieragent": "Cache tiering activity is suspended.",
    "noup": "OSDs are not allowed to start.",
    "pause": "Pauses read and writes.",
}
_KNOWN_RELEASES = (
    ("octopus", "15.2"), ("pacific", "16.2"), ("quincy", "17.2"), ("reef", "18.2"), ("squid", "19.2"),
    ("tentacle", "20.2"),
)  # fmt: skip
RELEASES = ("squid", "tentacle")
DEFAULT_RELEASE = "tentacle"
_SAFETY = {
    ("osd", "stop"): "ok-to-stop", ("osd", "destroy"): "safe-to-destroy", ("mon", "stop"): "ok-to-stop",
    ("mon", "destroy"): "ok-to-rm", ("mds", "stop"): "ok-to-stop",
}  # fmt: skip


def releases() -> list[dict[str, Any]]:
    """Every release that Proxmox VE 9.2 knows of."""
    return [{"release": name, "version": number, "available": int(name in RELEASES),
             "is-default": int(name == DEFAULT_RELEASE), "unsupported": 0}
            for name, number in _KNOWN_RELEASES]  # fmt: skip


def number_of(release: str) -> str:
    """The number of a release that can be installed."""
    return dict(_KNOWN_RELEASES)[release]


def initialize(params: Mapping[str, Any]) -> None:
    """POST nodes/{node}/ceph/init: the cluster's ceph.conf and client.admin, and this node's link to it.

    What is in ceph.conf already stays, but the networks, which are set anew.
    """
    ceph.check_installed()
    ceph.SHARED.mkdir(exist_ok=True)
    auth = "none" if params.get("disable_cephx") else "cephx"
    with ceph.config_lock():
        conf = ceph.config()
        if "global" not in conf:
            conf["global"] = _first_settings(params, auth)
        if auth == "cephx":
            conf.setdefault("client", {})["keyring"] = "/etc/pve/priv/$cluster.$name.keyring"
        if "network" in params:
            conf["global"]["public_network"] = params["network"]
            conf["global"]["cluster_network"] = params.get("cluster-network", params["network"])
        ceph.write_config(conf)
        if auth == "cephx":
            ceph_daemons.have_admin_keyring()
        ceph.link_config()
    ceph_daemons.report(versions=True)


def _first_settings(params: Mapping[str, Any], auth: str) -> dict[str, str]:
    return {
        "fsid": str(uuid.uuid4()),
        "auth_cluster_required": auth, "auth_service_required": auth, "auth_client_required": auth,
        "osd_pool_default_size": str(params.get("size", 3)),
        "osd_pool_default_min_size": str(params.get("min_size", 2)),
        "mon_allow_pool_delete": "true",
    }  # fmt: skip


def status() -> dict[str, Any]:
    """`ceph status`, with the health's details, the monitors' map and the managers' map whole."""
    ceph.check_initialized()
    with Rados() as rados:
        found: dict[str, Any] = rados.command("status")
        found["health"] = rados.command("health", detail="detail")
        found["monmap"] = rados.command("mon dump")
        found["mgrmap"] = rados.command("mgr dump")
    return found


def metadata(scope: str) -> dict[str, Any]:
    """The Ceph of every node, and unless the scope is `versions` what every daemon says of itself."""
    nodes = ceph_daemons.versions()
    found: dict[str, Any] = {"node": nodes} if nodes else {}
    if scope == "versions":
        return found
    ceph.check_initialized()
    told = ceph_daemons.reports()
    with Rados() as rados:
        for kind in ("mon", "mgr", "mds"):
            found[kind] = _metadata_of(rados.command(f"{kind} metadata") or [], kind, told)
        found["osd"] = rados.command("osd metadata") or []
    return found


def _metadata_of(
    rows: Sequence[Mapping[str, Any]], kind: str, told: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    found: dict[str, Any] = {
        f"{name}@{host}": {**facts, "host": host, "name": name}
        for host, kinds in told.items()
        for name, facts in kinds.get(kind, {}).items()
    }
    for row in rows:
        if row.get("hostname"):
            key = f"{row.get('name', row.get('id'))}@{row['hostname']}"
            found[key] = {**row, **found.get(key, {})}
    return found


def set_flags() -> set[str]:
    """The flags that are set, as in FLAGS."""
    with Rados() as rados:
        return _set_flags(rados)


def _set_flags(rados: Rados) -> set[str]:
    words = str(rados.command("osd dump").get("flags", "")).split(",")
    return {"pause" if word == "pauserd" else word for word in words}


def set_flag(name: str, *, on: bool) -> None:
    """Set or clear one flag."""
    ceph.check_configured()
    ceph.mon_command(f"osd {'set' if on else 'unset'}", key=name)


def change_flags(params: Mapping[str, Any]) -> None:
    """The task cephsetflags."""
    failures = 0
    with Rados() as rados:
        now = _set_flags(rados)
        for name in FLAGS:
            if name not in params or bool(params[name]) == (name in now):
                continue
            verb = "set" if params[name] else "unset"
            say(f"{verb} {name}")
            try:
                rados.command(f"osd {verb}", key=name)
            except Failure as failed:
                warn(f"error with {name}: '{failed.message}'")
                failures += 1
    if failures:
        raise Failure(f"could not set/unset {failures} flags")


def mute(params: Mapping[str, Any]) -> None:
    """Mute the health check `code`, for `ttl` when that is given, or with a false `value` unmute it."""
    if not params["value"]:
        ceph.mon_command("health unmute", code=params["code"], format="plain")
        return
    more = {"ttl": params["ttl"].replace(" ", "")} if "ttl" in params else {}
    if params.get("sticky"):
        more["sticky"] = True
    ceph.mon_command("health mute", code=params["code"], format="plain", **more)


def monitors() -> list[dict[str, Any]]:
    """GET nodes/{node}/ceph/mon."""
    ceph.check_initialized()
    conf = ceph.config()
    try:
        rados = Rados()
    except Failure:
        found = ceph_daemons.services("mon", conf, None)
        return [{**row, "state": "unknown"} for row in found.values()]
    with rados:
        found = ceph_daemons.services("mon", conf, rados)
        quorum = rados.command("quorum_status")
        for row in quorum["monmap"]["mons"]:
            mine = found.setdefault(row["name"], {"name": row["name"]})
            mine.update({"rank": row["rank"], "addr": row["addr"]})
            if row["rank"] in quorum["quorum"]:
                mine.update({"quorum": 1, "state": "running"})
    return list(found.values())


def managers() -> list[dict[str, Any]]:
    """GET nodes/{node}/ceph/mgr."""
    ceph.check_initialized()
    with Rados() as rados:
        found = ceph_daemons.services("mgr", ceph.config(), rados)
        dump = rados.command("mgr dump")
    states = {row["name"]: "standby" for row in dump["standbys"]}
    if dump["active_name"]:
        states[dump["active_name"]] = "active"
    for name, state in states.items():
        found.setdefault(name, {"name": name})["state"] = state
    return list(found.values())


def metadata_servers() -> list[dict[str, Any]]:
    """GET nodes/{node}/ceph/mds."""
    ceph.check_initialized()
    with Rados() as rados:
        found = ceph_daemons.services("mds", ceph.config(), rados)
        for name, row in ceph_daemons.mds_states(rados).items():
            found.setdefault(name, {}).update(row)
    return list(found.values())


def pools() -> list[dict[str, Any]]:
    """GET nodes/{node}/ceph/pool."""
    ceph.check_initialized()
    with Rados() as rados:
        stats = {row["id"]: row["stats"] for row in rados.command("df")["pools"]}
        dump = rados.command("osd dump")["pools"]
        rules = {row["rule_id"]: row["rule_name"] for row in rados.command("osd crush rule dump")}
        scaling = _scaling(rados)
    return [_pool(row, stats.get(row["pool"]), rules, scaling) for row in dump]


def _scaling(rados: Rados) -> dict[str, dict[str, Any]]:
    try:
        rows = rados.command("osd pool autoscale-status")
    except Failure:
        return {}
    return {row["pool_name"]: row for row in rows}


def _pool(
    row: Mapping[str, Any],
    stats: Mapping[str, Any] | None,
    rules: Mapping[int, str],
    scaling: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    keys = ("pool", "pool_name", "size", "min_size", "pg_num", "crush_rule", "pg_autoscale_mode",
            "application_metadata")  # fmt: skip
    found = {key: row[key] for key in keys if key in row}
    found["type"] = {1: "replicated", 3: "erasure"}.get(row["type"], "unknown")
    if row["crush_rule"] in rules:
        found["crush_rule_name"] = rules[row["crush_rule"]]
    if scaling:
        mine, options = scaling.get(row["pool_name"]), row.get("options", {})
        found |= {"autoscale_status": mine, "pg_num_final": mine and mine.get("pg_num_final"),
                  "pg_num_min": options.get("pg_num_min"), "target_size": options.get("target_size_bytes"),
                  "target_size_ratio": options.get("target_size_ratio")}  # fmt: skip
    if stats:
        found |= {"bytes_used": stats["bytes_used"], "percent_used": stats["percent_used"]}
    return {key: value for key, value in found.items() if value is not None}


_SWITCHES = ("noscrub", "nodeep-scrub", "nodelete", "nopgchange", "nosizechange", "write_fadvise_dontneed",
             "hashpspool", "use_gmt_hitset", "fast_read")  # fmt: skip


def pool_status(pool: str, *, verbose: bool) -> dict[str, Any]:
    """GET nodes/{node}/ceph/pool/{name}/status."""
    ceph.check_initialized()
    with Rados() as rados:
        now = rados.command("osd pool get", pool=pool, var="all")
        keys = ("size", "min_size", "pg_num", "pg_num_min", "pgp_num", "crush_rule", "pg_autoscale_mode",
                "target_size_ratio")  # fmt: skip
        found = {"id": now["pool_id"], "name": pool, "target_size": now.get("target_size_bytes"),
                 **{key: now.get(key) for key in keys},
                 **{key: bool(now.get(key)) for key in _SWITCHES}}  # fmt: skip
        if verbose:
            found |= _more_of_pool(rados, pool)
    return {key: value for key, value in found.items() if value is not None}


def _more_of_pool(rados: Rados, pool: str) -> dict[str, Any]:
    rows = [row for row in rados.command("df")["pools"] if row["name"] == pool]
    applications = rados.command("osd pool application get", pool=pool)
    return {"statistics": rows[0]["stats"] if rows else None, "application_list": list(applications),
            "autoscale_status": _scaling(rados).get(pool)}  # fmt: skip


def filesystems() -> list[dict[str, Any]]:
    """GET nodes/{node}/ceph/fs."""
    ceph.check_initialized()
    return [{**row, "data_pool": row["data_pools"][0]} for row in ceph.mon_command("fs ls")]


def safety(service: str, name: str, action: str) -> dict[str, Any]:
    """GET nodes/{node}/ceph/cmd-safety."""
    ceph.check_initialized()
    word = _SAFETY.get((service, action))
    if word is None:
        raise Failure(f"Service does not support this action: {service}: {action}")
    which: dict[str, Any] = {"id": name} if word == "ok-to-rm" else {"ids": [name]}
    with Rados() as rados:
        code, _, message = rados.raw(f"{service} {word}", format="plain", **which)
    return {"safe": code == 0, **({"status": message} if message else {})}


def crush_map() -> str:
    """GET nodes/{node}/ceph/crush: the CRUSH map as text."""
    ceph.check_initialized()
    with tempfile.TemporaryDirectory(dir="/var/tmp") as place:  # where Proxmox has it
        binary = Path(place) / "map"
        binary.write_bytes(ceph.mon_command("osd getcrushmap", format="plain"))
        return run(["crushtool", "-d", str(binary)]).decode()


def log_lines(first: int, limit: int) -> tuple[list[dict[str, Any]], int]:
    """GET nodes/{node}/ceph/log: rows of the cluster's log, and how many there are."""
    ceph.check_initialized()
    try:
        lines = LOG.read_text(errors="replace").splitlines()
    except OSError as error:
        return [{"n": 1, "t": f"unable to open file - {error.strerror}"}], 0
    rows = [{"n": at + 1, "t": text} for at, text in enumerate(lines)][first : first + limit]
    return rows or [{"n": 1, "t": "no content"}], len(lines)


def config_values(keys: str) -> dict[str, dict[str, str]]:
    """GET nodes/{node}/ceph/cfg/value: settings from the database and, with priority, from ceph.conf."""
    ceph.check_initialized()
    wanted = {tuple(pair.replace("_", "-").split(":")) for pair in re.split(r"[;, ]+", keys)}
    rows = [(row["section"], row["name"], row["value"]) for row in ceph.mon_command("config dump")]
    rows += [(section, key, value) for section, own in ceph.config().items() for key, value in own.items()]
    found: dict[str, dict[str, str]] = {}
    for section, key, value in rows:
        place = (section.replace("_", "-"), key.replace("_", "-"))
        if place in wanted:
            found.setdefault(place[0], {})[place[1]] = value
    return found


def config_database() -> list[dict[str, Any]]:
    """GET nodes/{node}/ceph/cfg/db."""
    ceph.check_initialized()
    rows: list[dict[str, Any]] = ceph.mon_command("config dump")
    return [{**row, "can_update_at_runtime": int(row["can_update_at_runtime"])} for row in rows]
