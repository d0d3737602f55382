"""/nodes/{node}/ceph/osd."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .. import osds, tasks
from ..router import ROOT, Call, endpoint
from ..schema import Rule

_DEVICE: Rule = {"type": "string", "optional": True}
_CREATE: dict[str, Rule] = {
    "dev": {"type": "string"},
    "db_dev": _DEVICE,
    "db_dev_size": {"type": "number", "minimum": 1, "optional": True, "requires": "db_dev"},
    "wal_dev": _DEVICE,
    "wal_dev_size": {"type": "number", "minimum": 0.5, "optional": True, "requires": "wal_dev"},
    "encrypted": {"type": "boolean", "default": False},
    "crush-device-class": {"type": "string", "optional": True},
    "osds-per-device": {"type": "integer", "minimum": 1, "optional": True},
}
_ID: Rule = {"type": "integer"}


@endpoint("GET", "/nodes/{node}/ceph/osd", protected=True)
def tree(_call: Call) -> dict[str, Any]:
    """The CRUSH tree with its OSDs."""
    return osds.tree()


@endpoint("POST", "/nodes/{node}/ceph/osd", right=ROOT, protected=True, params=_CREATE)
def create(call: Call) -> str:
    """Make an OSD of a disk."""
    order = osds.order(call.params)
    return str(tasks.start("cephcreateosd", Path(order["dev"]).name, call.caller.user, order))


_DESTROY: dict[str, Rule] = {"osdid": _ID, "cleanup": {"type": "boolean", "default": False}}


@endpoint("DELETE", "/nodes/{node}/ceph/osd/{osdid}", right=ROOT, protected=True, params=_DESTROY)
def destroy(call: Call) -> str:
    """Take an OSD away."""
    number = call.params["osdid"]
    osds.check_removal(number)
    order = {"osdid": number, "cleanup": call.params["cleanup"]}
    return str(tasks.start("cephdestroyosd", f"osd.{number}", call.caller.user, order))


@endpoint("GET", "/nodes/{node}/ceph/osd/{osdid}", params={"osdid": _ID})
def index(_call: Call) -> list[dict[str, str]]:
    """What is below."""
    return [{"name": name} for name in ("metadata", "lv-info")]


@endpoint("GET", "/nodes/{node}/ceph/osd/{osdid}/metadata", protected=True, params={"osdid": _ID})
def metadata(call: Call) -> dict[str, Any]:
    """What an OSD says of itself."""
    return osds.metadata(call.params["osdid"])


_VOLUME: dict[str, Rule] = {
    "osdid": _ID,
    "type": {"type": "string", "enum": ("block", "db", "wal"), "default": "block"},
}


@endpoint("GET", "/nodes/{node}/ceph/osd/{osdid}/lv-info", protected=True, params=_VOLUME)
def volume(call: Call) -> dict[str, Any]:
    """One of an OSD's logical volumes."""
    return osds.volume_info(call.params["osdid"], call.params["type"])


@endpoint("POST", "/nodes/{node}/ceph/osd/{osdid}/in", protected=True, params={"osdid": _ID})
def take_in(call: Call) -> None:
    """Let an OSD hold data."""
    osds.set_in(call.params["osdid"], into=True)


@endpoint("POST", "/nodes/{node}/ceph/osd/{osdid}/out", protected=True, params={"osdid": _ID})
def take_out(call: Call) -> None:
    """Let an OSD hold no data."""
    osds.set_in(call.params["osdid"], into=False)


_SCRUB: dict[str, Rule] = {"osdid": _ID, "deep": {"type": "boolean", "default": False}}


@endpoint("POST", "/nodes/{node}/ceph/osd/{osdid}/scrub", protected=True, params=_SCRUB)
def scrub(call: Call) -> None:
    """Check an OSD's data."""
    osds.scrub(call.params["osdid"], deep=call.params["deep"])
