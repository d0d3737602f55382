"""/nodes/{node}/qemu: the guests of a node; /cluster/nextid."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from .. import (
    cloudinit,
    drives,
    guest_clones,
    guest_drives,
    guest_status,
    guest_tasks,
    guests,
    storage,
    tasks,
)
from ..cluster import check_quorum
from ..errors import Failure
from ..router import USER, Call, endpoint
from ..schema import NODE, Rule
from .content import STORAGE, VMID

_FLAG: Rule = {"type": "boolean", "optional": True}
_TEXT: Rule = {"type": "string", "optional": True}
_WHOLE: Rule = {"type": "integer", "minimum": 0, "optional": True}
_COUNT: Rule = {"type": "integer", "minimum": 1, "optional": True}
_OSTYPES = ("other", "wxp", "w2k", "w2k3", "w2k8", "wvista", "win7", "win8", "win10", "win11", "l24", "l26",
            "solaris")  # fmt: skip
_SCSI = ("lsi", "lsi53c810", "virtio-scsi-pci", "virtio-scsi-single", "megasas", "pvscsi")


def _text(check: Any) -> Rule:
    return {"type": "string", "format": check, "optional": True}


OPTIONS: dict[str, Rule] = {
    **{name: _text(drives.check_drive) for name in drives.DRIVES},
    "efidisk0": _text(drives.check_efidisk), "tpmstate0": _text(drives.check_tpmstate),
    **{f"net{n}": _text(drives.check_net) for n in range(32)},
    **{f"ipconfig{n}": _text(drives.check_ipconfig) for n in range(32)},
    **{f"serial{n}": {"type": "string", "pattern": "(/dev/.+|socket)", "optional": True} for n in range(4)},
    **dict.fromkeys(("args", "audio0", "cdrom", "cpu", "hookscript", "hotplug", "machine",
                     "nameserver", "rng0", "searchdomain", "smbios1", "startdate", "startup", "vga",
                     "vmgenid", "watchdog"), _TEXT),
    **dict.fromkeys(("acpi", "autostart", "ciupgrade", "freeze", "kvm", "localtime", "numa", "onboot",
                     "protection", "reboot", "tablet", "tdf", "template"), _FLAG),
    "agent": _text(drives.check_agent),
    "balloon": _WHOLE,
    "bios": {"type": "string", "enum": ("seabios", "ovmf"), "optional": True},
    "boot": _text(drives.check_boot),
    "cicustom": _text(drives.check_cicustom),
    "cipassword": _TEXT,
    "citype": {"type": "string", "enum": ("configdrive2", "nocloud", "opennebula"), "optional": True},
    "ciuser": _TEXT,
    "cores": _COUNT,
    "cpulimit": {"type": "number", "minimum": 0, "maximum": 128, "optional": True},
    "cpuunits": _COUNT,
    "description": {"type": "string", "maxLength": 8192, "optional": True},
    "memory": {"type": "string", "pattern": r"(?:current=)?\d+", "optional": True},
    "name": _text(drives.check_dns_name),
    "ostype": {"type": "string", "enum": _OSTYPES, "optional": True},
    "scsihw": {"type": "string", "enum": _SCSI, "optional": True},
    "shares": _WHOLE,
    "sockets": _COUNT,
    "sshkeys": _text(drives.check_urlencoded),
    "tags": _text(drives.check_tags),
    "vcpus": _COUNT,
}  # fmt: skip
"""What a guest's configuration may say, of all that Proxmox knows."""

_GUEST: dict[str, Rule] = {"vmid": VMID}


def _task(kind: str, call: Call, params: Mapping[str, Any] | None = None) -> str:
    vmid = call.params["vmid"]
    return str(tasks.start(kind, str(vmid), call.caller.user, {**(params or call.params), "vmid": vmid}))


# -- listing


@endpoint("GET", "/nodes/{node}/qemu", right=USER, protected=True, params={"full": _FLAG})
def listing(_call: Call) -> list[dict[str, Any]]:
    """The node's guests."""
    return guest_status.of_node()


@endpoint("GET", "/nodes/{node}/qemu/{vmid}", right=USER, params=_GUEST)
def below(_call: Call) -> list[dict[str, str]]:
    """What is below."""
    names = ("agent", "clone", "cloudinit", "config", "resize", "status", "template")
    return [{"subdir": name} for name in names]


@endpoint("GET", "/cluster/nextid", right=USER, params={"vmid": {**VMID, "optional": True}})
def next_id(call: Call) -> str:
    """A free id, or whether one is free."""
    wanted = call.params.get("vmid")
    if wanted is None:
        return str(guests.next_id())
    try:
        guests.check_unused(wanted)
    except Failure as taken:
        wrong = {"vmid": taken.message.partition(" on node")[0]}
        raise Failure("Parameter verification failed.", code=400, errors=wrong) from None
    return str(wanted)


@endpoint("GET", "/nodes/{node}/qemu/{vmid}/status/current", protected=True, params=_GUEST)
def current(call: Call) -> dict[str, Any]:
    """What a guest is doing."""
    return guest_status.row(call.params["vmid"], full=True)


@endpoint("GET", "/nodes/{node}/qemu/{vmid}/config",
          params={**_GUEST, "current": _FLAG, "snapshot": _TEXT})  # fmt: skip
def config(call: Call) -> dict[str, Any]:
    """A guest's configuration."""
    conf = guests.read(call.params["vmid"])
    shown = {key: _shown(key, value) for key, value in conf.items()}
    return {**shown, "digest": guests.digest(conf)}


def _shown(key: str, value: str) -> str | int:
    if key == "cipassword":
        return "**********"
    whole = OPTIONS.get(key, _TEXT)["type"] in ("integer", "boolean")
    return int(value) if whole and value.isdigit() else value


@endpoint("GET", "/nodes/{node}/qemu/{vmid}/pending", params=_GUEST)
def pending(call: Call) -> list[dict[str, Any]]:
    """A guest's configuration; a played one has nothing pending."""
    conf = guests.read(call.params["vmid"])
    return [{"key": key, "value": _shown(key, value)} for key, value in sorted(conf.items())]


# -- making and changing


_CREATE: dict[str, Rule] = {
    **_GUEST, **OPTIONS,
    "archive": _TEXT, "force": _FLAG, "pool": _TEXT, "start": _FLAG, "unique": _FLAG, "bwlimit": _WHOLE,
    "storage": {**STORAGE, "optional": True}, "ha-managed": _FLAG, "live-restore": _FLAG,
}  # fmt: skip
_NO_PLAY = ("archive", "pool", "ha-managed", "live-restore")


@endpoint("POST", "/nodes/{node}/qemu", protected=True, params=_CREATE)
def create(call: Call) -> str:
    """Make a guest."""
    params, vmid = call.params, call.params["vmid"]
    for name in _NO_PLAY:
        if params.get(name):
            raise Failure(f"the played node makes no guests with '{name}'")
    given = _settings(call)
    try:
        guests.claim(vmid, "create")
    except Failure as taken:
        raise Failure(f"unable to create VM {vmid} - {taken.message}") from None
    order = {"conf": guest_tasks.new_config(given), "start": params.get("start")}
    return _task("qmcreate", call, order)


def _settings(call: Call) -> dict[str, str]:
    """The given settings as a configuration has them, checked as far as can be before the work begins."""
    given = {key: _written(value) for key, value in call.params.items() if key in OPTIONS}
    default = call.params.get("storage")
    given = {key: f"{default}:{value}" if default and key in drives.DRIVES and re.match(r"\d+(,|$)", value)
             else value for key, value in given.items()}  # fmt: skip
    if given.get("citype", "nocloud") not in cloudinit.KINDS:
        raise Failure(f"the played node makes no cloud-init drive of type '{given['citype']}'")
    guest_drives.check_new_drives(given, is_root=call.caller.user == "root@pam")
    if "sshkeys" in given:
        cloudinit.check_public_keys(given["sshkeys"])
    return given


def _written(value: Any) -> str:
    return (
        str(int(value))
        if isinstance(value, bool)
        else f"{value:g}"
        if isinstance(value, float)
        else str(value)
    )


_CHANGE: dict[str, Rule] = {
    **_GUEST, **OPTIONS, "delete": _TEXT, "digest": {"type": "string", "maxLength": 64, "optional": True},
    "force": _FLAG, "skiplock": _FLAG, "revert": _TEXT,
}  # fmt: skip


@endpoint("PUT", "/nodes/{node}/qemu/{vmid}/config", protected=True, params=_CHANGE)
def change(call: Call) -> None:
    """Change a guest's configuration, and wait for it."""
    guest_tasks.change(_changes(call))


@endpoint("POST", "/nodes/{node}/qemu/{vmid}/config", protected=True,
          params={**_CHANGE, "background_delay": _COUNT})  # fmt: skip
def change_later(call: Call) -> str:
    """Change a guest's configuration in a task."""
    return _task("qmconfig", call, _changes(call))


def _changes(call: Call) -> dict[str, Any]:
    vmid, deleted = call.params["vmid"], storage.split(call.params.get("delete", ""))
    guests.check_lock(guests.read(vmid))
    conf = guest_tasks.new_config(_settings(call))
    if not conf and not deleted:
        raise Failure("Parameter verification failed.", code=400,
                      errors={"no options specified": "no options specified"})  # fmt: skip
    for key in deleted:
        if key not in OPTIONS and not re.fullmatch(r"unused\d+", key):
            raise Failure("Parameter verification failed.", code=400,
                          errors={"delete": f"unknown option '{key}'"})  # fmt: skip
    return {"vmid": vmid, "conf": conf, "delete": deleted, "digest": call.params.get("digest")}


@endpoint("PUT", "/nodes/{node}/qemu/{vmid}/resize", protected=True, params={
    **_GUEST, "disk": {"type": "string", "enum": drives.DRIVES},
    "size": {"type": "string", "pattern": r"\+?\d+(\.\d+)?[KMGT]?"}, "skiplock": _FLAG,
    "digest": {"type": "string", "maxLength": 40, "optional": True},
})  # fmt: skip
def resize(call: Call) -> str:
    """Make a disk larger."""
    return _task("resize", call)


@endpoint("POST", "/nodes/{node}/qemu/{vmid}/template", protected=True,
          params={**_GUEST, "disk": {"type": "string", "enum": drives.DRIVES, "optional": True}})  # fmt: skip
def template(call: Call) -> str:
    """Make a guest a template."""
    guest_clones.check_template(call.params["vmid"])
    return _task("qmtemplate", call)


_CLONE: dict[str, Rule] = {
    **_GUEST, "newid": VMID, "name": _text(drives.check_dns_name), "description": _TEXT, "full": _FLAG,
    "storage": {**STORAGE, "optional": True}, "target": {**NODE, "optional": True}, "pool": _TEXT,
    "format": {"type": "string", "enum": ("raw", "qcow2", "vmdk"), "optional": True},
    "snapname": {"type": "string", "maxLength": 40, "optional": True}, "bwlimit": _WHOLE,
}  # fmt: skip


@endpoint("POST", "/nodes/{node}/qemu/{vmid}/clone", protected=True, params=_CLONE)
def clone(call: Call) -> str:
    """Make a guest of another."""
    if call.params.get("snapname"):
        raise Failure(f"snapshot '{call.params['snapname']}' does not exist")
    guest_clones.check_clone(call.params)
    return _task("qmclone", call)


@endpoint("DELETE", "/nodes/{node}/qemu/{vmid}", protected=True, params={
    **_GUEST, "purge": _FLAG, "skiplock": _FLAG,
    "destroy-unreferenced-disks": {"type": "boolean", "default": False},
})  # fmt: skip
def destroy(call: Call) -> str:
    """Destroy a guest and its volumes."""
    guest_tasks.check_destroy(call.params["vmid"])
    return _task("qmdestroy", call)


# -- cloud-init


@endpoint("PUT", "/nodes/{node}/qemu/{vmid}/cloudinit", protected=True, params=_GUEST)
def renew_cloudinit(call: Call) -> None:
    """Write the cloud-init drive anew."""
    vmid = call.params["vmid"]
    with guests.locked(vmid):
        conf = guests.read(vmid)
        guests.check_lock(conf)
        cloudinit.write_drives(vmid, conf)


@endpoint("GET", "/nodes/{node}/qemu/{vmid}/cloudinit/dump", params={
    **_GUEST, "type": {"type": "string", "enum": ("user", "network", "meta")},
})  # fmt: skip
def dump_cloudinit(call: Call) -> str:
    """A generated cloud-init file."""
    return cloudinit.dump(call.params["vmid"], call.params["type"])


# -- running


_SECONDS: dict[str, Rule] = {**_GUEST, "timeout": _WHOLE, "skiplock": _FLAG}


@endpoint("POST", "/nodes/{node}/qemu/{vmid}/status/start", protected=True, params={
    **_SECONDS, "machine": _TEXT, "force-cpu": _TEXT, "migratedfrom": {**NODE, "optional": True},
})  # fmt: skip
def start(call: Call) -> str:
    """Start a guest."""
    check_quorum()
    guests.read(call.params["vmid"])
    return _task("qmstart", call)


@endpoint("POST", "/nodes/{node}/qemu/{vmid}/status/stop", protected=True,
          params={**_SECONDS, "keepActive": _FLAG, "overrule-shutdown": _FLAG})  # fmt: skip
def stop(call: Call) -> str:
    """Pull a guest's plug."""
    guests.read(call.params["vmid"])
    return _task("qmstop", call)


@endpoint("POST", "/nodes/{node}/qemu/{vmid}/status/shutdown", protected=True,
          params={**_SECONDS, "keepActive": _FLAG, "forceStop": _FLAG})  # fmt: skip
def shutdown(call: Call) -> str:
    """Have a guest end in an orderly way."""
    guests.read(call.params["vmid"])
    return _task("qmshutdown", call)


@endpoint("POST", "/nodes/{node}/qemu/{vmid}/status/reboot", protected=True,
          params={**_GUEST, "timeout": _WHOLE})  # fmt: skip
def reboot(call: Call) -> str:
    """Shut a guest down and start it again."""
    vmid = call.params["vmid"]
    guests.read(vmid)
    if not guests.running(vmid):
        raise Failure(f"VM {vmid} not running")
    return _task("qmreboot", call)


@endpoint("POST", "/nodes/{node}/qemu/{vmid}/status/reset", protected=True,
          params={**_GUEST, "skiplock": _FLAG})  # fmt: skip
def reset(call: Call) -> str:
    """Press a guest's reset button."""
    vmid = call.params["vmid"]
    guests.read(vmid)
    if not guests.running(vmid):
        raise Failure(f"VM {vmid} not running")
    return _task("qmreset", call)
