"""/nodes."""

from __future__ import annotations

import os
from typing import Any

from .. import tasks, versions
from ..certs import CA_CERTIFICATE, describe
from ..cluster import BASE, fingerprint_of, node_name
from ..errors import Failure
from ..router import AUDIT, USER, Answer, Call, endpoint
from ..schema import Rule
from . import facts

_TEXT: Rule = {"type": "string", "optional": True}


@endpoint("GET", "/nodes", right=USER)
def nodes(_call: Call) -> list[dict[str, Any]]:
    """The cluster's nodes."""
    return facts.nodes()


@endpoint("GET", "/nodes/{node}", right=USER)
def index(_call: Call) -> list[dict[str, str]]:
    """What is below."""
    names = ("apt", "ceph", "certificates", "disks", "network", "qemu", "services", "status", "storage",
             "tasks", "time", "version")  # fmt: skip
    return [{"name": name} for name in names]


@endpoint("GET", "/nodes/{node}/status", protected=True)
def status(_call: Call) -> dict[str, Any]:
    """Load, memory, versions."""
    return facts.status()


@endpoint("GET", "/nodes/{node}/version", right=USER)
def version(_call: Call) -> dict[str, str]:
    """Which Proxmox VE the node runs."""
    return {"release": versions.RELEASE, "repoid": versions.REPOSITORY_ID, "version": versions.MANAGER}


@endpoint("GET", "/nodes/{node}/time")
def local_time(_call: Call) -> dict[str, Any]:
    """The node's clock."""
    return facts.local_time()


@endpoint("GET", "/nodes/{node}/network", params={"type": _TEXT})
def network(call: Call) -> list[dict[str, Any]]:
    """The node's interfaces."""
    wanted = call.params.get("type")
    kinds = {"any_bridge": ("bridge", "OVSBridge")}.get(wanted or "", (wanted,))
    return [row for row in facts.interfaces() if wanted is None or row["type"] in kinds]


@endpoint("GET", "/nodes/{node}/network/{iface}")
def one_interface(call: Call) -> dict[str, Any]:
    """One interface."""
    for row in facts.interfaces():
        if row["iface"] == call.params["iface"]:
            return row
    wrong = {"iface": "interface does not exist"}
    raise Failure("Parameter verification failed.", code=400, errors=wrong)


@endpoint("GET", "/nodes/{node}/certificates/info", right=USER)
def certificates(_call: Call) -> list[dict[str, Any]]:
    """The node's certificates and their CA's."""
    home = BASE / "nodes" / node_name()
    files = [CA_CERTIFICATE, home / "pve-ssl.pem", home / "pveproxy-ssl.pem"]
    return [{**describe(file), "fingerprint": fingerprint_of(file)} for file in files if file.exists()]


@endpoint("GET", "/nodes/{node}/apt/versions")
def package_versions(_call: Call) -> list[dict[str, Any]]:
    """The versions of the packages that matter."""
    rows = [{"Package": name, "Version": version.partition(" ")[0], "OldVersion": version.partition(" ")[0],
             "CurrentState": "Installed"} for name, version in versions.listing()]  # fmt: skip
    rows[0]["RunningKernel"] = versions.running_kernel()
    rows[1]["ManagerVersion"] = f"{versions.MANAGER}/{versions.REPOSITORY_ID}"
    return rows


@endpoint("GET", "/nodes/{node}/services")
def services(_call: Call) -> list[dict[str, Any]]:
    """The node's services."""
    return facts.services()


@endpoint("GET", "/nodes/{node}/services/{service}/state")
def service_state(call: Call) -> dict[str, Any]:
    """One service."""
    for row in facts.services():
        if row["service"] == call.params["service"]:
            return row
    wrong = {"service": f"value '{call.params['service']}' does not have a value in the enumeration"}
    raise Failure("Parameter verification failed.", code=400, errors=wrong)


_LIST: dict[str, Rule] = {
    "limit": {"type": "integer", "minimum": 0, "default": 50},
    "start": {"type": "integer", "minimum": 0, "default": 0},
    "errors": {"type": "boolean", "optional": True},
    "source": {"type": "string", "enum": ("archive", "active", "all"), "optional": True},
    "typefilter": _TEXT,
}


@endpoint("GET", "/nodes/{node}/tasks", right=USER, params=_LIST)
def node_tasks(call: Call) -> list[dict[str, Any]]:
    """The node's tasks, newest first."""
    first, kind = call.params["start"], call.params.get("typefilter")
    found = [row for row in tasks.recent(first + call.params["limit"]) if kind in (None, row["type"])]
    return found[first:]


@endpoint("GET", "/nodes/{node}/tasks/{upid}/status", right=USER, protected=True)
def task_status(call: Call) -> dict[str, Any]:
    """Whether a task runs, and how it ended."""
    return tasks.status(_upid(call))


_LINES: dict[str, Rule] = {
    "start": {"type": "integer", "minimum": 0, "default": 0},
    "limit": {"type": "integer", "minimum": 0, "default": 50},
    "download": {"type": "boolean", "optional": True},
}


@endpoint("GET", "/nodes/{node}/tasks/{upid}/log", right=USER, protected=True, params=_LINES)
def task_log(call: Call) -> Answer:
    """The lines of a task's log."""
    lines, total = tasks.log_lines(_upid(call), call.params["start"], call.params["limit"])
    return Answer(lines, {"total": total})


@endpoint("DELETE", "/nodes/{node}/tasks/{upid}", right=AUDIT, protected=True)
def stop_task(call: Call) -> None:
    """Stop a task."""
    upid = _upid(call)
    if tasks.is_running(upid):
        os.kill(upid.pid, 15)


def _upid(call: Call) -> tasks.Upid:
    try:
        upid = tasks.Upid.parse(call.params["upid"])
    except ValueError as wrong:
        raise Failure("Parameter verification failed.", code=400, errors={"upid": str(wrong)}) from None
    if upid.node != call.params["node"]:
        raise Failure("no such task")
    return upid
