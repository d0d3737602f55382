"""What the node can say of itself: load, memory, interfaces, services, the cluster's nodes and storages."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

from .. import storage, versions
from ..cluster import certificate_of, fingerprint_of, members, node_name

INTERFACES = Path("/etc/network/interfaces")
SERVICES = ("chrony", "corosync", "cron", "pve-cluster", "pvedaemon", "pveproxy", "ssh")
_PHYSICAL = re.compile(r"^(?:eth\d+|en[^:.]+|ib[^:.]+|nic\d+|if\d+)$")


def nodes() -> list[dict[str, Any]]:
    """All nodes of the cluster; figures only of this one."""
    known = members().get("nodelist") or {node_name(): {"online": 1}}
    return [_node(name, online=bool(node["online"])) for name, node in known.items()]


def _node(name: str, *, online: bool) -> dict[str, Any]:
    row: dict[str, Any] = {"id": f"node/{name}", "node": name, "type": "node", "level": "",
                           "status": "online" if online else "offline"}  # fmt: skip
    certificate = certificate_of(name)
    if certificate.exists():
        row["ssl_fingerprint"] = fingerprint_of(certificate)
    return {**row, **_figures()} if name == node_name() else row


def _figures() -> dict[str, Any]:
    memory, disk = memory_info(), shutil.disk_usage("/")
    return {"cpu": 0, "maxcpu": os.cpu_count(), "mem": memory["used"], "maxmem": memory["total"],
            "disk": disk.used, "maxdisk": disk.total, "uptime": uptime()}  # fmt: skip


def uptime() -> int:
    """Seconds since the node's own systemd started."""
    ticks = int(Path("/proc/1/stat").read_text().rpartition(")")[2].split()[19])
    since_boot = float(Path("/proc/uptime").read_text().split()[0])
    return int(since_boot - ticks / os.sysconf("SC_CLK_TCK"))


def memory_info() -> dict[str, int]:
    """Bytes of memory."""
    rows = dict(re.findall(r"^(\w+):\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE))
    total, free = int(rows["MemTotal"]) * 1024, int(rows["MemAvailable"]) * 1024
    return {"total": total, "free": free, "available": free, "used": total - free}


def status() -> dict[str, Any]:
    """What GET nodes/{node}/status says."""
    disk, uname = shutil.disk_usage("/"), os.uname()
    cpu = re.findall(r"^(model name|MHz)\s*:\s*(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return {
        "uptime": uptime(),
        "loadavg": [f"{load:.2f}" for load in os.getloadavg()],
        "kversion": f"{uname.sysname} {uname.release} {uname.version}",
        "current-kernel": {"sysname": uname.sysname, "release": uname.release, "version": uname.version,
                           "machine": uname.machine},
        "pveversion": f"pve-manager/{versions.MANAGER}/{versions.REPOSITORY_ID}",
        "cpu": 0,
        "cpuinfo": {"cpus": os.cpu_count(), "model": dict(cpu).get("model name", ""), "sockets": 1},
        "memory": memory_info(),
        "rootfs": {"total": disk.total, "used": disk.used, "free": disk.free, "avail": disk.free},
        "boot-info": {"mode": "efi", "secureboot": 0},
    }  # fmt: skip


# -- interfaces


def stanzas(text: str) -> dict[str, dict[str, Any]]:
    """The interfaces of an /etc/network/interfaces by name: method, autostart and options."""
    found: dict[str, dict[str, Any]] = {}
    auto: set[str] = set()
    current: dict[str, Any] = {}
    for line in text.splitlines():
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if words[0] == "auto":
            auto |= set(words[1:])
        elif words[0] == "iface":
            current = found.setdefault(words[1], {"method": words[3], "families": [words[2]]})
        elif line[:1].isspace():
            current[words[0].replace("_", "-")] = " ".join(words[1:])
    return {name: {**stanza, "autostart": name in auto} for name, stanza in found.items()}


def interfaces() -> list[dict[str, Any]]:
    """What GET nodes/{node}/network says."""
    configured = stanzas(INTERFACES.read_text()) if INTERFACES.exists() else {}
    live = {name for name in os.listdir("/sys/class/net") if name != "lo"}  # noqa: PTH208
    names = sorted((live | set(configured)) - {"lo"})
    return [_interface(name, configured.get(name), live=name in live) for name in names]


def _interface(name: str, stanza: dict[str, Any] | None, *, live: bool) -> dict[str, Any]:
    given = stanza or {"method": "manual", "families": ["inet"], "autostart": False}
    row: dict[str, Any] = {"iface": name, "type": _type(name, given), "method": given["method"],
                           "families": given["families"], "priority": 3}  # fmt: skip
    row.update({"autostart": 1} if given["autostart"] else {})
    row.update({"exists": 1, "active": int(_is_up(name))} if live else {})
    for option in ("bridge-ports", "bridge-stp", "bridge-fd", "mtu", "gateway"):
        if option in given:
            row[option.replace("-", "_")] = given[option]
    if "address" in given:
        address, _, prefix = given["address"].partition("/")
        row.update({"cidr": given["address"], "address": address, "netmask": prefix})
    return row


def _type(name: str, stanza: dict[str, Any]) -> str:
    if "bridge-ports" in stanza:
        return "bridge"
    if "bond-slaves" in stanza:
        return "bond"
    if "." in name or "vlan-raw-device" in stanza:
        return "vlan"
    return "eth" if _PHYSICAL.match(name) else "unknown"


def _is_up(name: str) -> bool:
    return bool(int(Path(f"/sys/class/net/{name}/flags").read_text(), 16) & 1)


# -- services


def services() -> list[dict[str, Any]]:
    """What GET nodes/{node}/services says."""
    wanted = "Id,Description,LoadState,ActiveState,SubState,UnitFileState"
    units = [f"{name}.service" for name in SERVICES]
    done = subprocess.run(
        ["systemctl", "show", "-p", wanted, *units], capture_output=True, text=True, check=False
    )
    blocks = [dict(line.split("=", 1) for line in block.splitlines()) for block in done.stdout.split("\n\n")]
    return [_service(block) for block in blocks if block]


def _service(block: dict[str, str]) -> dict[str, Any]:
    name = block["Id"].removesuffix(".service")
    state = block["LoadState"] if block["LoadState"] == "not-found" else block["UnitFileState"] or "unknown"
    return {"service": name, "name": name, "desc": block["Description"], "state": block["SubState"],
            "active-state": block["ActiveState"], "unit-state": state}  # fmt: skip


# -- storages


def storage_resources() -> list[dict[str, Any]]:
    """The storages of every online node, as GET cluster/resources lists them."""
    online = [row["node"] for row in nodes() if row["status"] == "online"]
    return [_storage(node, one) for node in online for one in storage.all().values() if one.enabled(node)]


def _storage(node: str, one: storage.Storage) -> dict[str, Any]:
    return {"id": f"storage/{node}/{one.name}", "type": "storage", "storage": one.name, "node": node,
            "plugintype": one.type, "status": "available", "shared": int(one.shared),
            "content": ",".join(sorted(one.content))}  # fmt: skip


def local_time() -> dict[str, Any]:
    """What GET nodes/{node}/time says."""
    now = int(time.time())
    zone = Path("/etc/timezone")
    return {"time": now, "localtime": now + time.localtime(now).tm_gmtoff,
            "timezone": zone.read_text().strip() if zone.exists() else "UTC"}  # fmt: skip
