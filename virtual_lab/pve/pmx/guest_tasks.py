"""Guests made, changed and destroyed."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from . import drives, guests, storage, volumes
from .drives import Drive
from .errors import Failure
from .guest_drives import Making, say
from .guest_power import start
from .guest_run import forget
from .guests import Config
from .run import run
from .volumes import Volume


def new_config(given: Mapping[str, str]) -> Config:
    """The configuration that a guest is made with, before its volumes are."""
    conf = {key: value for key, value in given.items() if key != "vmid"}
    nics = {key: drives.with_mac(value) for key, value in conf.items() if re.fullmatch(r"net\d+", key)}
    conf |= nics
    if "cipassword" in conf:
        conf["cipassword"] = encrypted(conf["cipassword"])
    return conf


def encrypted(password: str) -> str:
    """A password as cloud-init is given it."""
    if re.match(r"^\$(?:5|6|y)\$", password):
        return password
    return run(["openssl", "passwd", "-5", "-stdin"], stdin=password.encode()).decode().strip()


def create(params: Mapping[str, Any]) -> None:
    """The task qmcreate."""
    vmid, conf = int(params["vmid"]), dict(params["conf"])
    what = f"unable to create VM {vmid} - "
    try:
        with guests.locked(vmid, 1):
            _create(vmid, conf, what)
    except (Failure, OSError):
        guests.config_path(vmid).unlink(missing_ok=True)
        raise
    if params.get("start"):
        say("Execute autostart")
        start({"vmid": vmid})


def _create(vmid: int, conf: Config, what: str) -> None:
    making = Making(vmid)
    try:
        for key, one in drives.drives(conf).items():
            _refuse_second_cloudinit(conf, key, one)
            conf[key] = str(making.drive(key, one))
            say(f"{key}: successfully created disk '{conf[key]}'")
        conf.setdefault("boot", f"order={';'.join(_default_order(conf))}")
        conf.setdefault("smbios1", f"uuid={uuid.uuid4()}")
        conf.setdefault("vmgenid", str(uuid.uuid4()))
        conf["meta"] = f"creation-qemu=11.0.0,ctime={int(time.time())}"
        guests.write(vmid, conf)
    except (Failure, OSError) as failed:
        making.undo()
        raise Failure(what + str(failed)) from None


def _default_order(conf: Config) -> list[str]:
    nics = sorted((key for key in conf if re.fullmatch(r"net\d+", key)), key=lambda key: int(key[3:]))
    return [*drives.boot_order(conf)[:1], *nics[:1]]


def _refuse_second_cloudinit(conf: Config, key: str, one: Drive) -> None:
    others = [name for name, other in drives.drives(conf).items() if other.is_cloudinit and name != key]
    if one.is_cloudinit and others and "media" in conf[others[0]]:
        raise Failure(f"{key} - cloud-init drive is already attached at '{others[0]}'")


def change(params: Mapping[str, Any]) -> None:
    """The task qmconfig, and PUT config: set and delete settings."""
    vmid, given, deleted = int(params["vmid"]), dict(params["conf"]), list(params["delete"])
    with guests.locked(vmid):
        conf = guests.read(vmid)
        guests.check_lock(conf)
        if params.get("digest") and params["digest"] != guests.digest(conf):
            raise Failure("checksum mismatch (file change by other user?)")
        for key in deleted:
            _delete(conf, key)
        guests.write(vmid, conf)
        making = Making(vmid)
        try:
            for key, one in drives.drives(given).items():
                _refuse_second_cloudinit(conf, key, one)
                made, before = making.drive(key, one), conf.get(key)
                if before and drives.drive(before).file != made.file:
                    _detach(conf, key)
                given[key] = str(made)
        except (Failure, OSError):
            making.undo()
            raise
        guests.write(vmid, {**conf, **given})


def _delete(conf: Config, key: str) -> None:
    if key in conf and (key in drives.DRIVES or key.startswith("unused")):
        _detach(conf, key)
    conf.pop(key, None)
    if "order=" in conf.get("boot", ""):
        conf["boot"] = f"order={';'.join(name for name in drives.boot_order(conf) if name != key)}"


def _detach(conf: Config, key: str) -> None:
    """Take a drive off: its volume stays as an unused one, but for what nobody could want again."""
    one = drives.drive(conf.pop(key))
    if one.is_cloudinit or key.startswith("unused"):
        volumes.free(one.file)
    elif not one.is_cdrom:
        number = next(at for at in range(256) if f"unused{at}" not in conf)
        conf[f"unused{number}"] = one.file


def resize(params: Mapping[str, Any]) -> None:
    """The task resize."""
    vmid, key, text = int(params["vmid"]), params["disk"], params["size"]
    with guests.locked(vmid):
        conf = guests.read(vmid)
        guests.check_lock(conf)
        if key not in conf:
            raise Failure(f"disk '{key}' does not exist")
        one = drives.drive(conf[key])
        if one.is_cdrom:
            raise Failure("you can't resize a cdrom")
        have = volumes.size(one.file)
        wanted = drives.size_bytes(text.removeprefix("+")) + (have if text.startswith("+") else 0)
        if wanted < have:
            raise Failure("shrinking disks is not supported")
        if wanted == have:
            return
        if guests.running(vmid):
            raise Failure("the played node resizes disks of stopped guests only")
        volumes.grow(one.file, wanted)
        conf[key] = str(one.with_volume(one.file, volumes.size(one.file)))
        guests.write(vmid, conf)


# -- destroy


def check_destroy(vmid: int) -> Config:
    """The configuration of a guest that can be destroyed; Failure when it cannot."""
    conf = guests.read(vmid)
    if conf.get("protection") == "1":
        raise Failure(f"can't remove VM {vmid} - protection mode enabled")
    if guests.running(vmid):
        raise Failure(f"VM {vmid} is running - destroy failed")
    return conf


def destroy(params: Mapping[str, Any]) -> None:
    """The task qmdestroy."""
    vmid = int(params["vmid"])
    with guests.locked(vmid):
        conf = check_destroy(vmid)
        guests.check_lock(conf)
        own = _own_volumes(vmid, conf)
        if guests.is_template(conf):
            for volume in own:
                if volumes.is_used(volume):
                    raise Failure(f"base volume '{volume.id}' is still in use by linked cloned")
        for volume in own:
            _remove(volume.id)
        if params.get("destroy-unreferenced-disks"):
            for one in storage.all().values():
                if "images" in one.content and one.enabled():
                    _remove_all(one, vmid)
        if params.get("purge"):
            say(f"purging VM {vmid} from related configurations..")
        forget(vmid)
        guests.config_path(vmid).unlink()


def _own_volumes(vmid: int, conf: Config) -> list[Volume]:
    named = [drives.drive(value) for key, value in sorted(conf.items())
             if key in drives.DRIVES or re.fullmatch(r"unused\d+", key)]  # fmt: skip
    found = (volumes.parse(one.file) for one in named if ":" in one.file)
    return [volume for volume in found if volume.kind == "images" and volume.vmid == vmid]


def _remove(volid: str) -> None:
    try:
        volumes.free(volid)
    except (Failure, OSError) as failed:
        say(f"WARN: Could not remove disk '{volid}', check manually: {failed}")


def _remove_all(one: storage.Storage, vmid: int) -> None:
    with suppress(Failure, OSError):
        for row in volumes.content(one, "images", vmid):
            _remove(row["volid"])
