"""Guests made templates, and guests made of others."""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

from . import drives, guests, storage, volumes
from .cluster import check_quorum, members, node_name
from .drives import Drive
from .errors import Failure
from .guest_drives import Making, say
from .guests import Config

_NOT_CLONED = ("lock", "template", *drives.DRIVES)


def check_template(vmid: int) -> Config:
    """The configuration of a guest that can be made a template; Failure when it cannot."""
    conf = guests.read(vmid)
    guests.check_lock(conf)
    if guests.is_template(conf):
        raise Failure("you can't convert a template to a template")
    if guests.running(vmid):
        raise Failure("you can't convert a VM to template if VM is running")
    return conf


def template(params: Mapping[str, Any]) -> None:
    """The task qmtemplate."""
    vmid = int(params["vmid"])
    with guests.locked(vmid):
        conf = check_template(vmid)
        conf["template"] = "1"
        guests.write(vmid, conf)
        for key, one in drives.drives(conf).items():
            if not one.is_cdrom:
                conf[key] = str(Drive(volumes.make_base(one.file), one.options))
                guests.write(vmid, conf)


def check_clone(params: Mapping[str, Any]) -> tuple[Config, bool]:
    """The configuration to clone, and whether in full; Failure when that cannot be done."""
    vmid, target = int(params["vmid"]), params.get("target")
    if target:
        _check_node(target)
    if params.get("storage"):
        _check_clone_storage(params["storage"], target)
    check_quorum()
    conf = guests.read(vmid)
    guests.check_lock(conf)
    full = bool(params.get("full", not guests.is_template(conf)))
    for name in ("storage", "format"):
        if params.get(name) and not full:
            raise Failure(f"parameter '{name}' not allowed for linked clones")
    if target and not is_shared(conf, params.get("storage")):
        raise Failure(f"can't clone VM to node '{target}' (VM uses local storage)")
    _check_clone_drives(conf, full=full)
    guests.check_unused(int(params["newid"]))
    return conf, full


def _check_node(name: str) -> None:
    if name != node_name() and name not in members().get("nodelist", {}):
        raise Failure(f"no such cluster node '{name}'")


def _check_clone_storage(name: str, target: str | None) -> None:
    one = storage.get(name)
    one.check_enabled()
    if "images" not in one.content:
        wrong = {"storage": f"storage '{name}' does not support vm images"}
        raise Failure("Parameter verification failed.", code=400, errors=wrong)
    if target:
        one.check_enabled(target)
        if not one.shared:
            raise Failure(f"can't clone to non-shared storage '{name}'")


def is_shared(conf: Config, given: str | None) -> bool:
    """Whether another node sees all that the clone would have."""
    found = (one for one in drives.drives(conf).values() if ":" in one.file)
    return all(storage.get(given if given and not one.is_cdrom else volumes.split_id(one.file)[0]).shared
               for one in found)  # fmt: skip


def _check_clone_drives(conf: Config, *, full: bool) -> None:
    for key, one in drives.drives(conf).items():
        if one.is_cdrom or full:
            continue
        if not volumes.parse(one.file).is_base:
            raise Failure(f"Linked clone feature is not supported for '{one.file}' ({key})")


def clone(params: Mapping[str, Any]) -> None:
    """The task qmclone."""
    vmid, new = int(params["vmid"]), int(params["newid"])
    with ExitStack() as stack:
        stack.enter_context(guests.locked(vmid, 1, shared=not guests.running(vmid)))
        stack.enter_context(guests.locked(new, 1))
        old, full = check_clone(params)
        say(f"creating a clone of VM {vmid} with ID {new}")
        guests.claim(new, "clone")
        making = Making(new)
        try:
            conf = _cloned(old, params)
            for key, one in drives.drives(old).items():
                conf[key] = str(_cloned_drive(making, key, one, params, full=full))
                guests.write(new, {**conf, "lock": "clone"})
            guests.write(new, conf)
            if params.get("target"):
                guests.config_path(new).rename(guests.config_path(new, params["target"]))
        except (Failure, OSError) as failed:
            making.undo()
            guests.config_path(new).unlink(missing_ok=True)
            raise Failure(f"clone failed: {failed}") from None


def _cloned(old: Config, params: Mapping[str, Any]) -> Config:
    """The clone's configuration, without its drives."""
    conf = {key: value for key, value in old.items()
            if key not in _NOT_CLONED and not key.startswith("unused")}  # fmt: skip
    nics = {key: value for key, value in conf.items() if re.fullmatch(r"net\d+", key)}
    conf |= {key: drives.with_mac(value, new=True) for key, value in nics.items()}
    conf["smbios1"] = re.sub(r"uuid=[^,]*", f"uuid={uuid.uuid4()}", conf.get("smbios1", "uuid="))
    if "vmgenid" in conf:
        conf["vmgenid"] = str(uuid.uuid4())
    conf["name"] = params.get("name") or f"Copy-of-VM-{old.get('name', params['vmid'])}"
    return {**conf, "description": params["description"]} if params.get("description") else conf


def _cloned_drive(making: Making, key: str, one: Drive, params: Mapping[str, Any], *, full: bool) -> Drive:
    new = int(params["newid"])
    if one.is_cdrom and not one.is_cloudinit:
        return one
    say(f"create {'full' if full or one.is_cloudinit else 'linked'} clone of drive {key} ({one.file})")
    source = volumes.parse(one.file)
    name = params.get("storage") or source.storage.name
    if one.is_cloudinit:
        return making.drive(key, Drive(f"{name}:cloudinit", {}))
    if not full:
        volid = volumes.clone(one.file, new)
        making.made.append(volid)
    else:
        size = volumes.size(one.file)
        form = params.get("format") or (source.format if storage.get(name).path else "raw")
        volid = volumes.allocate(name, new, size, form=form)
        making.made.append(volid)
        say(f"allocated target volume '{volid}'")
        volumes.convert(volumes.location(source), source.format, volumes.parse(volid))
        say(f"transferred {size} B of {size} B (100.00%)")
    return one.with_volume(volid, volumes.size(volid))
