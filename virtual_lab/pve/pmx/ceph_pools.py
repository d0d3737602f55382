"""Ceph's pools and file systems, made and destroyed as Proxmox does it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from . import ceph, ceph_daemons, storage
from .ceph import LONG_TIMEOUT, Rados
from .clock import pause
from .cluster import check_quorum
from .errors import Failure
from .formation import say, warn
from .propstring import parse_property_string
from .run import run
from .schema import Rule

ERASURE: dict[str, Rule] = {
    "k": {"type": "integer", "minimum": 2},
    "m": {"type": "integer", "minimum": 1},
    "failure-domain": {"type": "string", "optional": True},
    "device-class": {"type": "string", "optional": True},
    "profile": {"type": "string", "optional": True},
}
_DEFAULTS = {"pg_num": 128, "size": 3, "min_size": 2, "application": "rbd", "pg_autoscale_mode": "warn"}
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def check_erasure(text: str) -> None:
    """ValueError when a profile of erasure coding cannot be so."""
    parse_property_string(text, ERASURE)


def settings(params: Mapping[str, Any]) -> dict[str, Any]:
    """What of a call's parameters is set on the pool, in Ceph's words."""
    names = ("size", "min_size", "pg_num", "pg_num_min", "crush_rule", "application", "pg_autoscale_mode",
             "target_size_ratio")  # fmt: skip
    found = {name: params[name] for name in names if name in params}
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([KMGT]?)", params.get("target_size", ""))
    return {**found, "target_size_bytes": int(float(match[1]) * _UNITS[match[2]])} if match else found


# -- create


def pool_order(params: Mapping[str, Any]) -> dict[str, Any]:
    """Check that a pool may be made; what the task cephcreatepool needs. Failure says why not."""
    check_quorum()
    ceph.check_configured()
    name = params["name"]
    erasure = parse_property_string(params["erasure-coding"], ERASURE) if "erasure-coding" in params else {}
    with Rados() as rados:
        profile = erasure.get("profile")
        if profile and profile not in rados.command("osd erasure-code-profile ls"):
            raise Failure(f"Erasure code profile '{profile}' does not exist.")
    add = params.get("add_storages", bool(erasure))
    if add:
        _check_storage_name(name)
    return {"name": name, "add": add, "erasure": erasure, "settings": {**_DEFAULTS, **settings(params)}}


def _check_storage_name(name: str) -> None:
    try:
        storage.check_name(name)
    except ValueError as wrong:
        raise Failure(str(wrong).removeprefix("invalid format - ")) from None


def create_pool(params: Mapping[str, Any]) -> None:
    """The task cephcreatepool."""
    name, wanted, erasure = params["name"], dict(params["settings"]), params["erasure"]
    options = {"pool": name, "krbd": "0", "content": "rootdir,images"}
    with Rados(LONG_TIMEOUT) as rados:
        if erasure:
            options.update({"pool": f"{name}-metadata", "data-pool": f"{name}-data"})
            _create_erasure_pool(rados, name, wanted, erasure)
            wanted["pg_num"] = 32
        _create(rados, options["pool"], wanted)
    if params["add"]:
        try:
            storage.create(name, "rbd", options)
        except Failure as failed:
            raise Failure(f"adding PVE storage for ceph pool '{name}' failed: {failed.message}") from failed


def _create_erasure_pool(
    rados: Rados, name: str, wanted: Mapping[str, Any], erasure: Mapping[str, Any]
) -> None:
    profile = erasure.get("profile") or f"pve_ec_{name}"
    if not erasure.get("profile"):
        _create_profile(rados, profile, erasure)
    data = {key: value for key, value in wanted.items() if key not in ("size", "min_size", "crush_rule")}
    more = {"pool_type": "erasure", "erasure_code_profile": profile}
    _create(rados, f"{name}-data", {**data, "allow_ec_overwrites": "true"}, **more)


def _create_profile(rados: Rados, name: str, erasure: Mapping[str, Any]) -> None:
    words = [f"crush-failure-domain={erasure.get('failure-domain', 'host')}", f"k={erasure['k']}",
             f"m={erasure['m']}"]  # fmt: skip
    if "device-class" in erasure:
        words.append(f"crush-device-class={erasure['device-class']}")
    try:
        rados.command("osd erasure-code-profile set", name=name, profile=words, format="plain")
    except Failure as failed:
        raise Failure(f"could not create erasure code profile '{name}': {failed.message}") from None
    say(f"created new erasure code profile '{name}'")


def _create(rados: Rados, pool: str, wanted: Mapping[str, Any], **more: str) -> None:
    count = int(wanted.get("pg_num", 128))
    rados.command("osd pool create", pool=pool, pg_num=count, format="plain", **more)
    apply(rados, pool, wanted)


# -- change


def change_pool(params: Mapping[str, Any]) -> None:
    """The task cephsetpool."""
    with Rados() as rados:
        apply(rados, params["name"], params["settings"])


def apply(rados: Rados, pool: str, wanted: Mapping[str, Any]) -> None:
    """Set what differs, `size` first because it resets min_size; Failure naming what could not be set."""
    now = rados.command("osd pool get", pool=pool, var="all")
    missing = []
    for name in sorted(wanted, key=lambda name: (name != "size", name)):
        value = wanted[name]
        if now.get("erasure_code_profile") and name in ("size", "crush_rule"):
            say(f"cannot set '{name}' for erasure coded pool")
        elif name in now and str(now[name]) == str(value):
            say(f"skipping '{name}', did not change")
        else:
            say(f"pool {pool}: applying {name} = {_shown(value)}")
            missing += [] if _set(rados, pool, name, _shown(value)) else [name]
    if missing:
        raise Failure(f"Could not set: {', '.join(sorted(missing))}")


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _set(rados: Rados, pool: str, name: str, value: str) -> bool:
    try:
        if name == "application":
            rados.command("osd pool application enable", pool=pool, app=value)
        else:
            rados.command("osd pool set", pool=pool, var=name, val=value, format="plain")
    except Failure as failed:
        say(failed.message.rstrip("\n"))
        return False
    return True


# -- destroy


def storages_of_pool(pool: str) -> dict[str, storage.Storage]:
    """The storages that keep their volumes in a pool, by name."""
    return {name: one for name, one in storage.all().items()
            if one.type == "rbd" and pool in (one.pool, one.options.get("data-pool"))}  # fmt: skip


def destroy_pool(params: Mapping[str, Any]) -> None:
    """The task cephdestroypool."""
    pool = params["name"]
    users = storages_of_pool(pool)
    if not params.get("force"):
        for name, one in users.items():
            say(f"checking storage '{name}' for RBD images..")
            if _images(one):
                raise Failure(f"ceph pool '{pool}' still in use by storage '{name}'")
    with Rados() as rados:
        found = rados.command("osd pool get", pool=pool, var="all")
        delete_pool(rados, pool)
        profile = found.get("erasure_code_profile")
        if profile:
            _destroy_profile(rados, profile, found["crush_rule"], also=params.get("remove_ecprofile", True))
    if params.get("remove_storages"):
        remove_storages(users)


def _images(one: storage.Storage) -> list[str]:
    return run(["rbd", "-c", str(ceph.CONFIG), "-p", one.pool, "ls"]).decode().split()


def delete_pool(rados: Rados, pool: str) -> None:
    """Delete a pool with all that is in it."""
    rados.command("osd pool delete", pool=pool, pool2=pool, yes_i_really_really_mean_it=True, format="plain")


def _destroy_profile(rados: Rados, profile: str, rule: str, *, also: bool) -> None:
    say(f"found erasure coded profile '{profile}', destroying its CRUSH rule")
    _attempt(rados, f"removing crush rule '{rule}' failed", "osd crush rule rm", rule)
    if also:
        say(f"destroying erasure coded profile '{profile}'")
        _attempt(rados, f"removing EC profile '{profile}' failed", "osd erasure-code-profile rm", profile)


def _attempt(rados: Rados, complaint: str, prefix: str, name: str) -> None:
    try:
        rados.command(prefix, name=name, format="plain")
    except Failure as failed:
        warn(f"{complaint}: {failed.message}")


def remove_storages(users: Mapping[str, storage.Storage]) -> None:
    """Forget storages, but those of other clusters; Failure when one stays."""
    failures = 0
    for name, one in users.items():
        if "monhost" in one.options:
            continue
        try:
            storage.delete(name)
        except Failure as failed:
            warn(f"failed to remove storage '{name}': {failed.message}")
            failures += 1
    if failures:
        raise Failure("failed to remove (some) storages - check log and remove manually!")


# -- file systems


def filesystem_order(params: Mapping[str, Any]) -> dict[str, Any]:
    """Check that a file system may be made; what the task cephfscreate needs. Failure says why not."""
    ceph.check_configured()
    name = params.get("name", "cephfs")
    with Rados() as rados:
        pools = {row["poolname"] for row in rados.command("osd lspools")}
        if pools & {f"{name}_data", f"{name}_metadata"}:
            raise Failure(f"ceph pools '{name}_data' and/or '{name}_metadata' already exist")
        if any(row["name"] == name for row in rados.command("fs ls")):
            raise Failure(f"ceph fs '{name}' already exists")
        states = ceph_daemons.mds_states(rados)
    if not states:
        raise Failure("no running Metadata Server (MDS) found!")
    if not any(row["state"] == "up:standby" for row in states.values()):
        raise Failure("no standby Metadata Server (MDS) found!")
    add = bool(params.get("add-storage"))
    if add:
        storage.check_unused(name)
    return {"name": name, "pg_num": params.get("pg_num", 128), "add": add}


def create_filesystem(params: Mapping[str, Any]) -> None:
    """The task cephfscreate."""
    name, count = params["name"], params["pg_num"]
    made: list[str] = []
    with Rados() as rados:
        try:
            for kind, pgs in (("data", count), ("metadata", count // 4 if count >= 32 else 8)):
                say(f"creating {kind} pool '{name}_{kind}'...")
                _create(rados, f"{name}_{kind}", {"application": "cephfs", "pg_num": pgs})
                made.append(f"{name}_{kind}")
            say(f"configuring new CephFS '{name}'")
            rados.command("fs new", fs_name=name, metadata=f"{name}_metadata", data=f"{name}_data",
                          format="plain")  # fmt: skip
        except Failure:
            _clean_up(rados, made)
            raise
        say(f"Successfully create CephFS '{name}'")
        if params["add"]:
            say(f"Adding '{name}' to storage configuration...")
            _wait_for_mds(rados, name)
    if params["add"]:
        _add_filesystem_storage(name)


def _clean_up(rados: Rados, made: list[str]) -> None:
    if made:
        warn("Encountered error after creating at least one pool")
    for pool in made:
        warn(f"cleaning up left over pool '{pool}'")
        delete_pool(rados, pool)


def _wait_for_mds(rados: Rados, name: str) -> None:
    for _ in range(10):
        if any(row.get("fs_name") == name and row["state"] == "up:active"
               for row in ceph_daemons.mds_states(rados).values()):  # fmt: skip
            return
        say("Waiting for an MDS to become active")
        pause(1)
    raise Failure("Need MDS to add storage, but none got active!")


def _add_filesystem_storage(name: str) -> None:
    options = {"content": "backup,iso,vztmpl", "fs-name": name}
    try:
        storage.create(name, "cephfs", options)
    except Failure as failed:
        raise Failure(f"adding storage for CephFS '{name}' failed, check log and add manually!\n"
                      f"{failed.message}") from failed  # fmt: skip


def check_filesystem(name: str) -> None:
    """Failure when there is no such file system."""
    ceph.check_initialized()
    if not any(row["name"] == name for row in ceph.mon_command("fs ls")):
        raise Failure(f"no such cephfs '{name}'")


def destroy_filesystem(params: Mapping[str, Any]) -> None:
    """The task cephdestroyfs; the file system's MDS must have been stopped before."""
    name = params["name"]
    with Rados() as rados:
        mine = next(row for row in rados.command("fs ls") if row["name"] == name)
        if params.get("remove-storages"):
            _remove_filesystem_storages(rados, name)
        rados.command("fs rm", fs_name=name, yes_i_really_mean_it=True, format="plain")
        if params.get("remove-pools"):
            _remove_filesystem_pools(rados, mine)


def _remove_filesystem_storages(rados: Rados, name: str) -> None:
    dump = rados.command("fs dump")
    default = {row["mdsmap"]["fs_name"] for row in dump["filesystems"] if row["id"] == dump["default_fscid"]}
    if not default:
        warn("no default fs found, maybe not all relevant storages are removed")
    unnamed = name if name in default else ""
    users = {key: one for key, one in storage.all().items()
             if one.type == "cephfs" and one.options.get("fs-name", unnamed) == name}  # fmt: skip
    for key, one in users.items():
        if not one.disabled:
            raise Failure(f"storage '{key}' is not disabled, make sure to disable and unmount the storage "
                          "first")  # fmt: skip
    remove_storages(users)


def _remove_filesystem_pools(rados: Rados, mine: Mapping[str, Any]) -> None:
    pools = {mine["metadata_pool"]: "metadata", **dict.fromkeys(mine["data_pools"], "data")}
    for pool, kind in pools.items():
        warn(f"removing {kind} pool '{pool}'")
        try:
            delete_pool(rados, pool)
        except Failure as failed:
            warn(failed.message)
