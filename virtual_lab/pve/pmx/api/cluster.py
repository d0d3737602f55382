"""/cluster: its status and its configuration."""

from __future__ import annotations

from typing import Any

from .. import formation, guest_status, tasks
from ..cluster import (
    certificate_of,
    fingerprint_of,
    members,
    node_address,
    node_name,
    read_conf,
)
from ..corosync import MAX_LINK, parse_link
from ..errors import Failure
from ..router import ROOT, Call, endpoint
from ..schema import FINGERPRINT, NODE, NODE_ID, Rule
from . import facts
from .access import TICKETS

_LINKS: dict[str, Rule] = {
    f"link{number}": {"type": "string", "format": parse_link, "optional": True}
    for number in range(MAX_LINK + 1)
}
_FORCE = {"type": "boolean", "optional": True}
_KIND = {"type": "string", "optional": True, "enum": ("vm", "storage", "node", "sdn")}
_VOTES = {"type": "integer", "minimum": 0, "optional": True}


@endpoint("GET", "/cluster")
def index(_call: Call) -> list[dict[str, str]]:
    """What is below."""
    return [{"name": name} for name in ("config", "resources", "status", "tasks")]


@endpoint("GET", "/cluster/status")
def status(_call: Call) -> list[dict[str, Any]]:
    """The cluster and its nodes; of a node that is in no cluster only itself, with node id 0."""
    found = members()
    if "cluster" not in found:
        me = node_name()
        return [{"type": "node", "id": f"node/{me}", "name": me, "ip": node_address(me), "local": 1,
                 "nodeid": 0, "online": 1, "level": ""}]  # fmt: skip
    cluster = {"type": "cluster", "id": "cluster", "name": found["cluster"]["name"],
               "nodes": found["cluster"]["nodes"], "version": found["cluster"]["version"],
               "quorate": found["cluster"]["quorate"]}  # fmt: skip
    return [cluster, *(_node_row(name, node) for name, node in found["nodelist"].items())]


def _node_row(name: str, node: dict[str, Any]) -> dict[str, Any]:
    row = {"type": "node", "id": f"node/{name}", "name": name, "nodeid": node["id"], "online": node["online"],
           "local": int(name == node_name()), "level": ""}  # fmt: skip
    return {**row, "ip": node["ip"]} if "ip" in node else row


@endpoint("GET", "/cluster/resources", params={"type": _KIND})
def resources(call: Call) -> list[dict[str, Any]]:
    """Nodes, guests and storages."""
    wanted = call.params.get("type")
    found = [*facts.nodes(), *facts.storage_resources()] if wanted != "vm" else []
    found += guest_status.of_cluster(TICKETS.make("root@pam")) if wanted in (None, "vm") else []
    return [row for row in found if wanted in (None, "vm", row["type"])]


@endpoint("GET", "/cluster/tasks")
def cluster_tasks(_call: Call) -> list[dict[str, Any]]:
    """Recent tasks, of this node only."""
    return tasks.recent(25)


@endpoint("GET", "/cluster/config")
def config(_call: Call) -> list[dict[str, str]]:
    """What is below; it says nothing about being in a cluster."""
    return [{"name": name} for name in ("nodes", "totem", "join", "qdevice", "apiversion")]


@endpoint("GET", "/cluster/config/apiversion")
def api_version(_call: Call) -> int:
    """Which join protocol this node speaks."""
    return formation.JOIN_API_VERSION


@endpoint("GET", "/cluster/config/nodes")
def config_nodes(_call: Call) -> list[dict[str, str]]:
    """corosync's nodelist."""
    conf = read_conf()
    return [{"node": name, **node} for name, node in conf.nodes.items()] if conf else []


@endpoint("GET", "/cluster/config/totem")
def totem(_call: Call) -> dict[str, Any] | None:
    """corosync's totem section."""
    conf = read_conf()
    return conf.totem if conf else None


@endpoint("GET", "/cluster/config/qdevice", protected=True)
def qdevice(_call: Call) -> dict[str, str]:
    """There is none."""
    return {}


@endpoint("GET", "/cluster/config/join", params={"node": {**NODE, "optional": True}})
def join_info(call: Call) -> dict[str, Any]:
    """What a node that wants to join must know."""
    conf = read_conf()
    if conf is None:
        raise Failure("node is not in a cluster, no join info available!", code=424)
    preferred = call.params.get("node", node_name())
    if preferred not in conf.nodes:
        raise Failure(f"unknown node '{preferred}'")
    nodes = [{**node, "pve_fp": fingerprint_of(certificate_of(name)), "pve_addr": node_address(name)}
             for name, node in conf.nodes.items()]  # fmt: skip
    return {"nodelist": nodes, "preferred_node": preferred, "totem": conf.totem, "config_digest": conf.digest}


_CREATE: dict[str, Rule] = {
    "clustername": {**NODE, "maxLength": 15},
    "nodeid": NODE_ID,
    "votes": {"type": "integer", "minimum": 1, "optional": True},
    "token-coefficient": {"type": "integer", "minimum": 0, "default": 125},
    **_LINKS,
}


@endpoint("POST", "/cluster/config", right=ROOT, protected=True, params=_CREATE)
def create(call: Call) -> str:
    """Make a cluster of this node."""
    formation.refuse_second_cluster()
    return str(tasks.start("clustercreate", call.params["clustername"], call.caller.user, call.params))


_JOIN: dict[str, Rule] = {
    "hostname": {"type": "string"},
    "fingerprint": FINGERPRINT,
    "password": {"type": "string", "maxLength": 128},
    "nodeid": NODE_ID,
    "votes": _VOTES,
    "force": _FORCE,
    **_LINKS,
}


@endpoint("POST", "/cluster/config/join", right=ROOT, protected=True, params=_JOIN)
def join(call: Call) -> str:
    """Make this node a member of another one's cluster."""
    return str(tasks.start("clusterjoin", "", call.caller.user, call.params))


_ADD_NODE: dict[str, Rule] = {
    "nodeid": NODE_ID,
    "votes": _VOTES,
    "force": _FORCE,
    "new_node_ip": {"type": "string", "format": "ip", "optional": True},
    "apiversion": {"type": "integer", "optional": True},
    **_LINKS,
}


@endpoint("POST", "/cluster/config/nodes/{node}", right=ROOT, protected=True, params=_ADD_NODE)
def add_node(call: Call) -> dict[str, Any]:
    """Take a joining node in; the node itself calls this."""
    return formation.take_in(call.params["node"], call.params)


@endpoint("DELETE", "/cluster/config/nodes/{node}", right=ROOT, protected=True)
def delete_node(call: Call) -> None:
    """Let a node go."""
    formation.let_go(call.params["node"])
