"""/nodes/{node}/qemu/{vmid}/agent: what is asked of a guest's own agent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .. import agent, guests
from ..router import USER, Call, endpoint
from ..schema import Rule
from .content import VMID

_BELOW = "/nodes/{node}/qemu/{vmid}/agent"
_GUEST: dict[str, Rule] = {"vmid": VMID}
_PLAIN = {
    "get-fsinfo": "GET", "get-host-name": "GET", "get-memory-block-info": "GET", "get-memory-blocks": "GET",
    "get-osinfo": "GET", "get-time": "GET", "get-timezone": "GET", "get-users": "GET", "get-vcpus": "GET",
    "info": "GET", "network-get-interfaces": "GET", "ping": "POST", "fsfreeze-status": "POST",
    "fstrim": "POST",
}  # fmt: skip


def _offer(name: str) -> Callable[[Call], dict[str, Any]]:
    def ask(call: Call) -> dict[str, Any]:
        return {"result": agent.command(_checked(call), name)}

    return ask


for _name, _method in _PLAIN.items():
    endpoint(_method, f"{_BELOW}/{_name}", protected=True, params=_GUEST)(_offer(_name))


@endpoint("GET", _BELOW, right=USER, params=_GUEST)
def index(_call: Call) -> list[dict[str, str]]:
    """What the agent can be asked."""
    return [{"name": name} for name in sorted((*_PLAIN, "exec", "exec-status", "file-read", "file-write"))]


_COMMAND: dict[str, Rule] = {
    **_GUEST,
    "command": {"type": "array"},
    "input-data": {"type": "string", "maxLength": 65536, "optional": True},
}


@endpoint("POST", f"{_BELOW}/exec", protected=True, params=_COMMAND)
def execute(call: Call) -> Any:
    """Start a program."""
    return agent.execute(_checked(call), call.params["command"], call.params.get("input-data"))


@endpoint("GET", f"{_BELOW}/exec-status", protected=True, params={**_GUEST, "pid": {"type": "integer"}})
def execution(call: Call) -> dict[str, Any]:
    """How far a started program is."""
    return agent.execution(_checked(call), call.params["pid"])


_READ: dict[str, Rule] = {
    **_GUEST,
    "file": {"type": "string"},
    "count": {"type": "integer", "minimum": 1, "maximum": agent.MAX_READ, "default": agent.MAX_READ},
    "offset": {"type": "integer", "minimum": 0, "default": 0},
    "decode": {"type": "boolean", "default": True},
}


@endpoint("GET", f"{_BELOW}/file-read", protected=True, params=_READ)
def read_file(call: Call) -> dict[str, Any]:
    """Read a file."""
    given = call.params
    return agent.read_file(_checked(call), given["file"], count=given["count"], offset=given["offset"],
                           decode=given["decode"])  # fmt: skip


_WRITE: dict[str, Rule] = {
    **_GUEST,
    "file": {"type": "string"},
    "content": {"type": "string", "maxLength": 61440},
    "encode": {"type": "boolean", "default": True},
}


@endpoint("POST", f"{_BELOW}/file-write", protected=True, params=_WRITE)
def write_file(call: Call) -> None:
    """Write a file."""
    given = call.params
    agent.write_file(_checked(call), given["file"], given["content"], encode=given["encode"])


def _checked(call: Call) -> int:
    vmid = int(call.params["vmid"])
    agent.check_available(vmid, guests.read(vmid))
    return vmid
