"""/nodes/{node}/ceph and /cluster/ceph, all but the OSDs."""

from __future__ import annotations

from typing import Any

from .. import ceph, ceph_cluster, ceph_daemons, ceph_pools, tasks
from ..errors import Failure
from ..router import USER, Answer, Call, endpoint
from ..schema import Rule

_TEXT: Rule = {"type": "string", "optional": True}
_FLAG: Rule = {"type": "boolean", "optional": True}
_COPIES: Rule = {"type": "integer", "minimum": 1, "maximum": 7, "optional": True}
_CIDR: Rule = {"type": "string", "format": "CIDR", "maxLength": 128, "optional": True}
_NEW: Rule = {"type": "string", "pattern": ceph_daemons.SERVICE, "maxLength": 200}
_OLD: Rule = {"type": "string", "pattern": ceph_daemons.SERVICE}
_NAME: Rule = {"type": "string", "pattern": r"[^:/\s]+"}


def _start(call: Call, kind: str, name: str, params: dict[str, Any]) -> str:
    order = {**params, "user": call.caller.user}
    return str(tasks.start(kind, name, call.caller.user, order))


# -- the whole


@endpoint("GET", "/nodes/{node}/ceph")
def index(_call: Call) -> list[dict[str, str]]:
    """What is below."""
    names = ("cmd-safety", "cfg", "crush", "fs", "init", "log", "mds", "mgr", "mon", "osd", "pool",
             "releases", "restart", "restart-bulk", "rules", "start", "status", "stop")  # fmt: skip
    return [{"name": name} for name in names]


@endpoint("GET", "/cluster/ceph", right=USER)
def cluster_index(_call: Call) -> list[dict[str, str]]:
    """What is below."""
    return [{"name": name} for name in ("flags", "health-mute", "metadata", "restart-bulk", "status")]


@endpoint("GET", "/nodes/{node}/ceph/status", protected=True)
def status(_call: Call) -> dict[str, Any]:
    """The cluster's state."""
    return ceph_cluster.status()


@endpoint("GET", "/cluster/ceph/status", protected=True)
def cluster_status(_call: Call) -> dict[str, Any]:
    """The cluster's state."""
    return ceph_cluster.status()


_SCOPE: Rule = {"type": "string", "enum": ("all", "versions"), "optional": True}


@endpoint("GET", "/cluster/ceph/metadata", protected=True, params={"scope": _SCOPE})
def metadata(call: Call) -> dict[str, Any]:
    """What every daemon says of itself."""
    return ceph_cluster.metadata(call.params.get("scope", "all"))


@endpoint("GET", "/nodes/{node}/ceph/releases")
def releases(_call: Call) -> list[dict[str, Any]]:
    """The releases that there are."""
    return ceph_cluster.releases()


_INIT: dict[str, Rule] = {
    "network": _CIDR,
    "cluster-network": {**_CIDR, "requires": "network"},
    "size": _COPIES,
    "min_size": _COPIES,
    "pg_bits": {"type": "integer", "minimum": 6, "maximum": 14, "optional": True},
    "disable_cephx": _FLAG,
}


@endpoint("POST", "/nodes/{node}/ceph/init", protected=True, params=_INIT)
def init(call: Call) -> None:
    """Configure Ceph for the cluster."""
    ceph_cluster.initialize(call.params)


@endpoint("GET", "/nodes/{node}/ceph/crush", protected=True)
def crush(_call: Call) -> str:
    """The CRUSH map."""
    return ceph_cluster.crush_map()


@endpoint("GET", "/nodes/{node}/ceph/rules", protected=True)
def rules(_call: Call) -> list[dict[str, str]]:
    """The CRUSH rules."""
    ceph.check_initialized()
    return [{"name": name} for name in ceph.mon_command("osd crush rule ls")]


_COUNT: Rule = {"type": "integer", "minimum": 0, "optional": True}
_LINES: dict[str, Rule] = {"start": _COUNT, "limit": _COUNT}


@endpoint("GET", "/nodes/{node}/ceph/log", protected=True, params=_LINES)
def log(call: Call) -> Answer:
    """Lines of the cluster's log."""
    rows, total = ceph_cluster.log_lines(call.params.get("start", 0), call.params.get("limit", 50))
    return Answer(rows, {"total": total})


_SAFETY: dict[str, Rule] = {
    "service": {"type": "string", "enum": ("osd", "mon", "mds")},
    "id": {"type": "string"},
    "action": {"type": "string", "enum": ("stop", "destroy")},
}


@endpoint("GET", "/nodes/{node}/ceph/cmd-safety", protected=True, params=_SAFETY)
def cmd_safety(call: Call) -> dict[str, Any]:
    """Whether a service may be stopped or destroyed."""
    return ceph_cluster.safety(call.params["service"], call.params["id"], call.params["action"])


# -- configuration


@endpoint("GET", "/nodes/{node}/ceph/cfg", right=USER)
def config_index(_call: Call) -> list[dict[str, str]]:
    """What is below."""
    return [{"name": name} for name in ("raw", "db", "value")]


@endpoint("GET", "/nodes/{node}/ceph/cfg/raw")
def config_file(_call: Call) -> str:
    """The cluster's ceph.conf."""
    ceph.check_initialized()
    return ceph.CONFIG.read_text()


@endpoint("GET", "/nodes/{node}/ceph/cfg/db", protected=True)
def config_database(_call: Call) -> list[dict[str, Any]]:
    """The monitors' configuration database."""
    return ceph_cluster.config_database()


_KEY = r"[0-9a-zA-Z\-_.]+:[0-9a-zA-Z\-_]+"
_KEYS: Rule = {"type": "string", "pattern": f"{_KEY}(?:[;, ]{_KEY})*", "maxLength": 4096}


@endpoint("GET", "/nodes/{node}/ceph/cfg/value", protected=True, params={"config-keys": _KEYS})
def config_values(call: Call) -> dict[str, dict[str, str]]:
    """Some settings."""
    return ceph_cluster.config_values(call.params["config-keys"])


# -- flags


_WHICH: Rule = {"type": "string", "enum": tuple(ceph_cluster.FLAGS)}


@endpoint("GET", "/cluster/ceph/flags", protected=True)
def flags(_call: Call) -> list[dict[str, Any]]:
    """All flags."""
    ceph.check_configured()
    found = ceph_cluster.set_flags()
    return [{"name": name, "description": text, "value": int(name in found)}
            for name, text in ceph_cluster.FLAGS.items()]  # fmt: skip


@endpoint("PUT", "/cluster/ceph/flags", protected=True, params=dict.fromkeys(ceph_cluster.FLAGS, _FLAG))
def change_flags(call: Call) -> str:
    """Set and clear flags."""
    ceph.check_configured()
    return _start(call, "cephsetflags", "", dict(call.params))


@endpoint("GET", "/cluster/ceph/flags/{flag}", protected=True, params={"flag": _WHICH})
def flag(call: Call) -> int:
    """One flag."""
    ceph.check_configured()
    return int(call.params["flag"] in ceph_cluster.set_flags())


@endpoint("PUT", "/cluster/ceph/flags/{flag}", protected=True,
          params={"flag": _WHICH, "value": {"type": "boolean"}})  # fmt: skip
def change_flag(call: Call) -> None:
    """Set or clear one flag."""
    ceph_cluster.set_flag(call.params["flag"], on=call.params["value"])


# -- services


_SERVICE: dict[str, Rule] = {
    "service": {**_TEXT, "pattern": rf"(ceph|mon|mds|osd|mgr)(\.{ceph_daemons.SERVICE})?"}
}


def _service(call: Call, kind: str) -> str:
    ceph.check_initialized()
    if not ceph.config():
        raise Failure("no configuration")
    service = call.params.get("service", "")
    return _start(call, kind, service or "ceph", {"service": service})


@endpoint("POST", "/nodes/{node}/ceph/start", protected=True, params=_SERVICE)
def start(call: Call) -> str:
    """Start a service, or all."""
    return _service(call, "srvstart")


@endpoint("POST", "/nodes/{node}/ceph/stop", protected=True, params=_SERVICE)
def stop(call: Call) -> str:
    """Stop a service, or all."""
    return _service(call, "srvstop")


@endpoint("POST", "/nodes/{node}/ceph/restart", protected=True, params=_SERVICE)
def restart(call: Call) -> str:
    """Restart a service, or all."""
    return _service(call, "srvrestart")


_ROLLING: dict[str, Rule] = {
    "service-type": {"type": "string", "enum": ("mon", "mgr", "mds", "osd")},
    "timeout": {"type": "integer", "minimum": 30, "maximum": 1800, "optional": True},
    **dict.fromkeys(("dry-run", "force", "only-outdated"), _FLAG),
}
_ROLLING_OSDS: dict[str, Rule] = {
    **_ROLLING,
    "service-type": {"type": "string", "enum": ("osd",)},
    **dict.fromkeys(("resume", "set-noout"), _FLAG),
}


@endpoint("POST", "/nodes/{node}/ceph/restart-bulk", protected=True, params=_ROLLING_OSDS)
def restart_osds(call: Call) -> str:
    """Restart the node's OSDs one after the other."""
    ceph.check_initialized()
    order = {**call.params, "rolling": "node"}
    return _start(call, "srvrestart", f"{call.params['node']}-osd", order)


@endpoint("POST", "/cluster/ceph/restart-bulk", protected=True, params=_ROLLING)
def restart_cluster(call: Call) -> str:
    """Restart the cluster's daemons of a kind one after the other."""
    kind = call.params["service-type"]
    if call.params.get("only-outdated") and kind != "osd":
        wrong = {"only-outdated": "only supported with service-type=osd"}
        raise Failure("Parameter verification failed.", code=400, errors=wrong)
    ceph.check_initialized()
    return _start(call, "srvrestart", f"cluster-{kind}", {**call.params, "rolling": "cluster"})


# -- health


@endpoint("GET", "/cluster/ceph/health-mute", protected=True)
def mutes(_call: Call) -> list[dict[str, Any]]:
    """The health checks that are muted."""
    ceph.check_initialized()
    rows: list[dict[str, Any]] = ceph.mon_command("health", detail="detail")["mutes"]
    return rows


_MUTE: dict[str, Rule] = {
    "code": {"type": "string", "pattern": "[A-Z][A-Z0-9_]+", "maxLength": 64},
    "value": {"type": "boolean"},
    "ttl": {**_TEXT, "pattern": r"(?:\d+[ \t]*[a-z]+[ \t]*)+"},
    "sticky": _FLAG,
}


@endpoint("PUT", "/cluster/ceph/health-mute/{code}", protected=True, params=_MUTE)
def mute(call: Call) -> None:
    """Mute a health check, or let it speak again."""
    ceph.check_initialized()
    ceph_cluster.mute(call.params)


# -- monitors, managers, metadata servers


@endpoint("GET", "/nodes/{node}/ceph/mon", protected=True)
def monitors(_call: Call) -> list[dict[str, Any]]:
    """The monitors."""
    return ceph_cluster.monitors()


_MON: dict[str, Rule] = {"monid": _NEW, "mon-address": {**_TEXT, "format": "ip-list"}}


@endpoint("POST", "/nodes/{node}/ceph/mon/{monid}", protected=True, params=_MON)
def create_monitor(call: Call) -> str:
    """Make a monitor."""
    order = ceph_daemons.monitor_order(call.params)
    return _start(call, "cephcreatemon", f"mon.{order['monid']}", order)


@endpoint("DELETE", "/nodes/{node}/ceph/mon/{monid}", protected=True, params={"monid": _OLD})
def destroy_monitor(call: Call) -> str:
    """Destroy a monitor."""
    name = call.params["monid"]
    ceph_daemons.check_monitor_removal(name)
    return _start(call, "cephdestroymon", f"mon.{name}", {"monid": name})


@endpoint("GET", "/nodes/{node}/ceph/mgr", protected=True)
def managers(_call: Call) -> list[dict[str, Any]]:
    """The managers."""
    return ceph_cluster.managers()


@endpoint("POST", "/nodes/{node}/ceph/mgr/{id}", protected=True, params={"id": _NEW})
def create_manager(call: Call) -> str:
    """Make a manager."""
    ceph.check_installed("mgr")
    ceph.check_initialized()
    ceph.link_config()
    name = call.params["id"]
    return _start(call, "cephcreatemgr", f"mgr.{name}", {"id": name})


@endpoint("DELETE", "/nodes/{node}/ceph/mgr/{id}", protected=True, params={"id": _OLD})
def destroy_manager(call: Call) -> str:
    """Destroy a manager."""
    ceph.check_initialized()
    name = call.params["id"]
    return _start(call, "cephdestroymgr", f"mgr.{name}", {"id": name})


@endpoint("GET", "/nodes/{node}/ceph/mds", protected=True)
def metadata_servers(_call: Call) -> list[dict[str, Any]]:
    """The metadata servers."""
    return ceph_cluster.metadata_servers()


@endpoint("POST", "/nodes/{node}/ceph/mds/{name}", protected=True,
          params={"name": _NEW, "hotstandby": _FLAG})  # fmt: skip
def create_mds(call: Call) -> str:
    """Make a metadata server."""
    ceph.check_installed("mds")
    ceph.check_initialized()
    name = call.params["name"]
    if name[0].isdigit():
        raise Failure("ID of the MDS cannot start with a number!")
    return _start(call, "cephcreatemds", f"mds.{name}", {"name": name})


@endpoint("DELETE", "/nodes/{node}/ceph/mds/{name}", protected=True, params={"name": _OLD})
def destroy_mds(call: Call) -> str:
    """Destroy a metadata server."""
    ceph.check_initialized()
    name = call.params["name"]
    return _start(call, "cephdestroymds", f"mds.{name}", {"name": name})


# -- pools and file systems


_POOL: dict[str, Rule] = {
    "name": _NAME,
    "size": _COPIES,
    "min_size": _COPIES,
    "pg_num": {"type": "integer", "minimum": 1, "maximum": 32768, "optional": True},
    "pg_num_min": {"type": "integer", "maximum": 32768, "optional": True},
    "crush_rule": _TEXT,
    "application": {"type": "string", "enum": ("rbd", "cephfs", "rgw"), "optional": True},
    "pg_autoscale_mode": {"type": "string", "enum": ("on", "off", "warn"), "optional": True},
    "target_size": {"type": "string", "pattern": r"(\d+(\.\d+)?)([KMGT])?", "optional": True},
    "target_size_ratio": {"type": "number", "optional": True},
}
_NEW_POOL: dict[str, Rule] = {
    **_POOL,
    "add_storages": _FLAG,
    "erasure-coding": {"type": "string", "format": ceph_pools.check_erasure, "optional": True},
}


@endpoint("GET", "/nodes/{node}/ceph/pool", protected=True)
def pools(_call: Call) -> list[dict[str, Any]]:
    """The pools."""
    return ceph_cluster.pools()


@endpoint("POST", "/nodes/{node}/ceph/pool", protected=True, params=_NEW_POOL)
def create_pool(call: Call) -> str:
    """Make a pool."""
    order = ceph_pools.pool_order(call.params)
    return _start(call, "cephcreatepool", order["name"], order)


@endpoint("GET", "/nodes/{node}/ceph/pool/{name}")
def pool_index(_call: Call) -> list[dict[str, str]]:
    """What is below."""
    return [{"name": "status"}]


@endpoint("GET", "/nodes/{node}/ceph/pool/{name}/status", protected=True, params={"verbose": _FLAG})
def pool_status(call: Call) -> dict[str, Any]:
    """One pool."""
    return ceph_cluster.pool_status(call.params["name"], verbose=bool(call.params.get("verbose")))


@endpoint("PUT", "/nodes/{node}/ceph/pool/{name}", protected=True, params=_POOL)
def change_pool(call: Call) -> str:
    """Change a pool."""
    ceph.check_configured()
    name = call.params["name"]
    order = {"name": name, "settings": ceph_pools.settings(call.params)}
    return _start(call, "cephsetpool", name, order)


_OLD_POOL: dict[str, Rule] = dict.fromkeys(("force", "remove_storages", "remove_ecprofile"), _FLAG)


@endpoint("DELETE", "/nodes/{node}/ceph/pool/{name}", protected=True, params=_OLD_POOL)
def destroy_pool(call: Call) -> str:
    """Destroy a pool."""
    ceph.check_initialized()
    return _start(call, "cephdestroypool", call.params["name"], dict(call.params))


@endpoint("GET", "/nodes/{node}/ceph/fs", protected=True)
def filesystems(_call: Call) -> list[dict[str, Any]]:
    """The file systems."""
    return ceph_cluster.filesystems()


_NEW_FS: dict[str, Rule] = {
    "name": _NAME,
    "pg_num": {"type": "integer", "minimum": 8, "maximum": 32768, "optional": True},
    "add-storage": _FLAG,
}


@endpoint("POST", "/nodes/{node}/ceph/fs/{name}", protected=True, params=_NEW_FS)
def create_filesystem(call: Call) -> str:
    """Make a file system."""
    order = ceph_pools.filesystem_order(call.params)
    return _start(call, "cephfscreate", order["name"], order)


_OLD_FS: dict[str, Rule] = dict.fromkeys(("remove-storages", "remove-pools"), _FLAG)


@endpoint("DELETE", "/nodes/{node}/ceph/fs/{name}", protected=True, params=_OLD_FS)
def destroy_filesystem(call: Call) -> str:
    """Destroy a file system."""
    ceph_pools.check_filesystem(call.params["name"])
    return _start(call, "cephdestroyfs", call.params["name"], dict(call.params))
