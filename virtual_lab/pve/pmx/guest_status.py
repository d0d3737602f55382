"""What guests are doing: of this node from its own processes, of other nodes from their API."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from . import drives, guests
from .apiclient import Client
from .cluster import certificate_of, fingerprint_of, members, node_address, node_name
from .errors import Failure
from .guests import Config

_MEMORY = 512  # MiB, of a guest that does not say


def row(vmid: int, *, full: bool = False) -> dict[str, Any]:
    """What GET qemu lists of a guest of this node, and GET status/current with `full`."""
    conf, pid = guests.read(vmid), guests.running(vmid)
    status = "running" if pid else "stopped"
    cores = int(conf.get("cores", 1)) * int(conf.get("sockets", 1))
    found: dict[str, Any] = {
        "vmid": vmid, "name": conf.get("name", f"VM {vmid}"), "status": status,
        "cpus": min(cores, os.cpu_count() or 1), "maxmem": _memory(conf) << 20, "maxdisk": _boot_size(conf),
        "disk": 0, "cpu": 0, "mem": 0, "uptime": _uptime(pid) if pid else 0, "diskread": 0, "diskwrite": 0,
        **_traffic(vmid),
    }  # fmt: skip
    found.update({"pid": pid} if pid else {})
    found.update({"template": 1} if guests.is_template(conf) else {})
    found.update({"serial": 1} if any(key.startswith("serial") for key in conf) else {})
    found.update({key: conf[key] for key in ("lock", "tags") if key in conf})
    return {**found, **_current(conf, status)} if full else found


def _current(conf: Config, status: str) -> dict[str, Any]:
    found: dict[str, Any] = {"qmpstatus": status, "ha": {"managed": 0}}
    found.update({"agent": 1} if drives.has_agent(conf) else {})
    found.update({"running-machine": "pc-q35-11.0+pve0", "running-qemu": "11.0.0"}
                 if status == "running" else {})  # fmt: skip
    return found


def _memory(conf: Config) -> int:
    text = conf.get("memory", str(_MEMORY))
    return int(text.partition(",")[0].removeprefix("current="))


def _boot_size(conf: Config) -> int:
    found = drives.drives(conf)
    sizes = [found[name].options.get("size", "0") for name in drives.boot_order(conf) if name in found]
    return drives.size_bytes(sizes[0]) if sizes else 0


def _uptime(pid: int) -> int:
    try:
        return int(time.time() - Path(f"/proc/{pid}").stat().st_ctime)
    except FileNotFoundError:
        return 0


def _traffic(vmid: int) -> dict[str, int]:
    taps = list(Path("/sys/class/net").glob(f"tap{vmid}i*"))

    def total(name: str) -> int:
        return sum(int((tap / "statistics" / name).read_text()) for tap in taps)

    return {"netin": total("tx_bytes"), "netout": total("rx_bytes")}


def of_node() -> list[dict[str, Any]]:
    """The guests of this node."""
    return [row(vmid) for vmid in guests.of_node()]


def of_cluster(ticket: str) -> list[dict[str, Any]]:
    """The guests of all nodes, as GET cluster/resources lists them; `ticket` is root's, to ask the others."""
    online = [name for name, node in members().get("nodelist", {node_name(): {"online": 1}}).items()
              if node["online"]]  # fmt: skip
    rows: list[dict[str, Any]] = []
    for node in online:
        found = of_node() if node == node_name() else _ask(node, ticket)
        rows += [_resource(node, one) for one in found]
    return sorted(rows, key=lambda one: int(one["vmid"]))


def _ask(node: str, ticket: str) -> list[dict[str, Any]]:
    try:
        client = Client(node_address(node), fingerprint_of(certificate_of(node)))
        client.login(ticket)
        found: list[dict[str, Any]] = client.call("GET", f"/nodes/{node}/qemu")
    except (Failure, OSError):
        return []  # it has just gone: a node's figures are those that it last told
    return found


def _resource(node: str, one: dict[str, Any]) -> dict[str, Any]:
    kept = ("vmid", "name", "status", "maxmem", "maxdisk", "disk", "cpu", "mem", "uptime", "netin", "netout",
            "diskread", "diskwrite", "lock", "tags")  # fmt: skip
    shown = {key: one[key] for key in kept if key in one}
    return {"id": f"qemu/{one['vmid']}", "type": "qemu", "node": node, "template": one.get("template", 0),
            "maxcpu": one["cpus"], **shown}  # fmt: skip
