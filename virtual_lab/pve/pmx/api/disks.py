"""/nodes/{node}/disks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .. import disks, tasks
from ..router import ROOT, USER, Call, endpoint
from ..schema import Rule

_FLAG: Rule = {"type": "boolean", "default": False}
_LIST: dict[str, Rule] = {
    "include-partitions": _FLAG,
    "skipsmart": _FLAG,
    "type": {"type": "string", "enum": ("unused", "journal_disks"), "optional": True},
}


@endpoint("GET", "/nodes/{node}/disks", right=USER)
def index(_call: Call) -> list[dict[str, str]]:
    """What is below."""
    return [{"name": name} for name in ("list", "wipedisk")]


@endpoint("GET", "/nodes/{node}/disks/list", protected=True, params=_LIST)
def listing(call: Call) -> list[dict[str, Any]]:
    """The node's disks."""
    found = disks.listing(smart=not call.params["skipsmart"], partitions=call.params["include-partitions"])
    wanted = call.params.get("type")
    return [row for _, row in sorted(found.items()) if _is_wanted(row, wanted)]


def _is_wanted(row: dict[str, Any], wanted: str | None) -> bool:
    use = row.get("used")
    if wanted == "unused":
        return not use
    if wanted == "journal_disks":
        return int(row["osdid"]) < 0 and (not use or use == "LVM" or (use == "partitions" and row["gpt"]))
    return True


_WIPE: dict[str, Rule] = {"disk": {"type": "string", "pattern": "/dev/[a-zA-Z0-9/]+"}}


@endpoint("PUT", "/nodes/{node}/disks/wipedisk", right=ROOT, protected=True, params=_WIPE)
def wipe(call: Call) -> str:
    """Wipe a disk or partition that nobody holds."""
    path = disks.path_of(call.params["disk"])
    disks.check_wipeable(path)
    return str(tasks.start("wipedisk", Path(path).name, call.caller.user, {"disk": path}))
