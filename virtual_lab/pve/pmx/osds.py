"""A node's Ceph OSDs: made of its disks by ceph-volume, taken away, and shown as Proxmox shows them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from . import ceph, ceph_daemons, disks
from .ceph import Rados
from .cluster import node_name
from .errors import Failure
from .run import run

DEVICES = ("dev", "db_dev", "wal_dev")
_SHARE = {"db_dev": 10, "wal_dev": 100}
"""What part of the data device a DB or WAL volume is when no size is given (10 and 1 per cent)."""

_PLAYED_SYSFS = {"SYSTEMD_DEVICE_VERIFY_SYSFS": "0"}
"""Has libudev take /sys/block as it is here; without, ceph-volume works as well, but says much of it."""


# -- making one


def order(params: Mapping[str, Any]) -> dict[str, Any]:
    """Check that an OSD can be made so; what the task cephcreateosd needs. Failure says why not.

    Source: pve-manager, PVE/API2/Ceph/OSD.pm, createosd.
    """
    ceph.check_initialized()
    ceph.link_config()
    ceph.check_installed("osd")
    ceph.check_installed("volume")
    _check_network()
    named = _devices(params)
    if params.get("encrypted"):
        raise Failure("encrypted OSDs need dm-crypt, which this node's kernel has not")
    _check_disks(named)
    _have_bootstrap_keyring()
    keep = ("db_dev_size", "wal_dev_size", "crush-device-class", "osds-per-device")
    return named | {key: params[key] for key in keep if key in params}


def _check_network() -> None:
    section = ceph.config().get("global", {})
    network = section.get("cluster_network") or section.get("public_network")
    if network and not any(ceph_daemons.local_addresses(one.strip()) for one in network.split(",")):
        raise Failure(f"No address from ceph cluster network ({network}) found on node '{node_name()}'. "
                      "Check your network config.")  # fmt: skip


def _devices(params: Mapping[str, Any]) -> dict[str, str]:
    """The paths of the devices, links followed, by what each is for."""
    if "osds-per-device" in params and any(key in params for key in DEVICES[1:]):
        raise _wrong("osds-per-device", "cannot be used together with 'db_dev' or 'wal_dev'")
    named: dict[str, str] = {}
    for key in DEVICES:
        if params.get(key):
            path = disks.path_of(params[key])
            if path in named.values():
                raise _wrong(key, f"cannot chose '{path}' for more than one type.")
            named[key] = path
    return named


def _wrong(name: str, text: str) -> Failure:
    return Failure("Parameter verification failed.", code=400, errors={name: text})


def _check_disks(named: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """What the disks' list says of the devices, by what each is for. Failure when one is in use."""
    names = {Path(path).name for path in named.values()}
    rows = disks.listing(names, smart=False, partitions=True)
    found = {key: rows.get(Path(path).name) for key, path in named.items()}
    for key, row in found.items():
        if row is None:
            kind = "" if key == "dev" else f" for type {key}"
            raise Failure(f"unable to get device info for '{named[key]}'{kind}")
        use = row.get("used")
        if use and key == "dev":
            raise Failure(f"device '{named[key]}' is already in use")
        if use == "partitions" and not row["gpt"]:
            raise Failure(f"device '{named[key]}' is not GPT partitioned")
        if use and use not in ("partitions", "LVM"):
            raise Failure(f"device '{named[key]}' is already in use and has no LVM on it")
    return {key: row for key, row in found.items() if row is not None}


def _have_bootstrap_keyring() -> None:
    place = ceph.BOOTSTRAP_OSD_KEYRING
    if place.is_file() and place.stat().st_size:
        return
    caps = ["mon", "allow profile bootstrap-osd"]
    text = ceph.mon_command("auth get-or-create", entity="client.bootstrap-osd", caps=caps, format="plain")
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(text)
    place.chmod(0o600)


def create(params: Mapping[str, Any]) -> None:
    """The task cephcreateosd."""
    named = {key: params[key] for key in DEVICES if key in params}
    fsid = ceph.mon_command("quorum_status", timeout=ceph.LONG_TIMEOUT)["monmap"]["fsid"]
    with disks.locked():
        rows = _check_disks(named)
        command = _command(params, fsid)
        print(f"create OSD on {params['dev']} (bluestore)")
        for key, kind in (("db_dev", "db"), ("wal_dev", "wal")):
            if key in named:
                print(f"creating block.{kind} on '{named[key]}'")
                volume = _volume(rows[key], _bytes(params, key, rows), f"osd-{kind}")
                print(f"using '{volume}' for block.{kind}")
                command += [f"--block.{kind}", volume]
        disks.wipe_device(params["dev"])
        _told(command)


def _command(params: Mapping[str, Any], fsid: str) -> list[str]:
    device, several = params["dev"], params.get("osds-per-device", 1)
    words = ["lvm", "create", "--cluster-fsid", fsid, "--data", device]
    if several > 1:
        words = ["lvm", "batch", "--osds-per-device", str(several), "--yes", device]
    kind = params.get("crush-device-class")
    return ["ceph-volume", *words, *(["--crush-device-class", kind] if kind else [])]


def _bytes(params: Mapping[str, Any], key: str, rows: Mapping[str, Mapping[str, Any]]) -> int:
    given = params.get(f"{key}_size")
    return int(given * 2**30) if given is not None else int(rows["dev"]["size"]) // _SHARE[key]


def _volume(row: Mapping[str, Any], size: int, kind: str) -> str:
    """A new logical volume of that size on the device: `group/name`."""
    device = row["devpath"]
    if row["size"] < size:
        raise Failure(f"'{device}' is smaller than requested size '{size}' bytes")
    name = f"{kind}-{uuid.uuid4()}"
    if not row.get("used"):
        group = f"ceph-{uuid.uuid4()}"
        run(["pvcreate", "--metadatasize", "250k", "-y", "-ff", device])
        run(["vgcreate", group, device])
    elif row["used"] == "LVM":
        group = _group_with_room(device, size)
    else:
        raise Failure(f"cannot use '{device}' for '{kind}'")
    run(["lvcreate", "-aly", "-Wy", "--yes", "--size", f"{size}b", "--name", name, group])
    return f"{group}/{name}"


def _group_with_room(device: str, size: int) -> str:
    said = run(["pvs", "--noheadings", "--units", "b", "--nosuffix", "-o", "vg_name,vg_free", device])
    words = said.decode().split()
    if len(words) < 2 or not words[0].startswith("ceph-"):
        raise Failure(f"no ceph vg found on '{device}'")
    if int(words[1]) < size:
        raise Failure(f"vg '{words[0]}' has not enough free space")
    return words[0]


def _told(command: list[str]) -> None:
    """Run a command, and tell what it says as it says it."""
    sys.stdout.flush()
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**os.environ, **_PLAYED_SYSFS},
    ) as running:  # fmt: skip
        for line in running.stdout or ():
            print(line, end="")
    if running.returncode:
        raise Failure(f"command '{' '.join(command)}' failed: exit code {running.returncode}")


# -- taking one away


def check_removal(number: int) -> None:
    """Failure unless the OSD is this node's, out and down."""
    ceph.check_initialized()
    with Rados() as rados:
        nodes = rados.command("osd tree")["nodes"]
        own = [node.get("children", ()) for node in nodes
               if node["type"] == "host" and node["name"] == node_name()]  # fmt: skip
        if not any(number in children for children in own):
            raise Failure(f"OSD osd.{number} does not belong to node {node_name()}!")
        state = _state(rados, number)
    if state["in"]:
        raise Failure("osd is in use (in == 1)")
    if state["up"]:
        raise Failure("osd is still running (up == 1)")


def _state(rados: Rados, number: int) -> Mapping[str, Any]:
    for row in rados.command("osd dump")["osds"]:
        if row["osd"] == number:
            found: Mapping[str, Any] = row
            return found
    raise Failure(f"no such OSD '{number}'")


def destroy(params: Mapping[str, Any]) -> None:
    """The task cephdestroyosd; with `cleanup` the disks are free again."""
    number, name = params["osdid"], f"osd.{params['osdid']}"
    print(f"destroy OSD {name}")
    for action in ("stop", "disable"):
        _try(partial(ceph_daemons.command, action, name))
    with Rados(ceph.LONG_TIMEOUT) as rados:
        print(f"Remove {name} from the CRUSH map")
        rados.command("osd crush remove", name=name, format="plain")
        print(f"Remove the {name} authentication key.")
        rados.command("auth del", entity=name, format="plain")
        print(f"Remove OSD {name}")
        rados.command("osd rm", ids=[name], format="plain")
    _free(number, cleanup=bool(params.get("cleanup")))


def _free(number: int, *, cleanup: bool) -> None:
    """Unmount and zap what the OSD was made of; as in Proxmox, the task does not fail when this does."""
    devices = {device for part in _parts(number) for device in part["devices"]}
    if not devices:
        return
    zap = ["ceph-volume", "lvm", "zap", "--osd-id", str(number), *(["--destroy"] if cleanup else [])]
    _try(partial(_told, zap))
    for device in sorted(devices) if cleanup else ():
        # Mostly zap has done it; a disk with other volumes on it stays as it is.
        subprocess.run(["/sbin/pvremove", device], capture_output=True, check=False)


def _parts(number: int) -> list[dict[str, Any]]:
    """What ceph-volume knows of an OSD: a row for each of its volumes."""
    listed = json.loads(run(["ceph-volume", "lvm", "list", "--format", "json"]))
    return list(listed.get(str(number), []))


def _try(action: Callable[[], object]) -> None:
    try:
        action()
    except Failure as failed:
        print(failed.message.strip())


# -- showing them


def tree() -> dict[str, Any]:
    """What `GET nodes/{node}/ceph/osd` says: the CRUSH tree with each OSD's state."""
    ceph.check_initialized()
    with Rados() as rados:
        nodes = rados.command("osd tree")["nodes"]
        dump = rados.command("osd dump")
        usage = rados.command("pg dump", dumpcontents=["osds"])
        said = rados.command("osd metadata")
    if not nodes:
        raise Failure("no tree nodes found")
    roots = tree_of(nodes, dump["osds"], usage["osd_stats"], said)
    return {"root": {"leaf": 0, "children": roots}, "flags": dump.get("flags", ""),
            "versions": ceph_daemons.versions()}  # fmt: skip


def tree_of(
    nodes: Sequence[Mapping[str, Any]],
    states: Iterable[Mapping[str, Any]],
    usage: Iterable[Mapping[str, Any]],
    said: Iterable[Mapping[str, Any]],
) -> list[dict[str, Any]]:
    """The roots of the tree, from `osd tree`, `osd dump`, `pg dump osds` and `osd metadata`."""
    by_id = {row["osd"]: row for row in states}, {row["osd"]: row for row in usage}
    metadata = {row["id"]: row for row in said}
    rows = {node["id"]: _row(node, *by_id, metadata) for node in nodes}
    return _hung_up(nodes, rows)


def _row(node: Mapping[str, Any], states: Mapping[int, Any], stats: Mapping[int, Any],
         metadata: Mapping[int, Any]) -> dict[str, Any]:  # fmt: skip
    number = node["id"]
    keys = ("id", "name", "type", "status", "crush_weight", "reweight", "device_class")
    row = {key: node[key] for key in keys if key in node}
    if number in states:
        row["in"] = states[number]["in"]
    if number in stats:
        row |= _usage(stats[number])
    said = metadata.get(number)
    if node["type"] == "osd" and said:
        nodes = {"blfsdev": "bluestore_bdev", "dbdev": "bluefs_db", "waldev": "bluefs_wal"}
        row["osdtype"] = said.get("osd_objectstore", "bluestore")
        row |= {key: said.get(f"{prefix}_dev_node") for key, prefix in nodes.items()}
        row |= {key: said[key] for key in ("ceph_version", "ceph_version_short") if key in said}
    return row


def _usage(stat: Mapping[str, Any]) -> dict[str, Any]:
    total, used = (stat.get("kb") or 1) * 1024, stat.get("kb_used", 0) * 1024
    speed = stat.get("perf_stat", {})
    latencies = {key: speed[key] for key in ("commit_latency_ms", "apply_latency_ms") if key in speed}
    return {"total_space": total, "bytes_used": used, "percent_used": used * 100 / total, **latencies}


def _hung_up(nodes: Sequence[Mapping[str, Any]], rows: Mapping[int, dict[str, Any]]) -> list[dict[str, Any]]:
    """Put every row below its parent; returns those without one."""
    below: set[int] = set()
    for node in nodes:
        row, children = rows[node["id"]], node.get("children", ())
        row["leaf"] = int(not children and node["id"] >= 0)
        if children:
            row["children"] = [rows[child] for child in children]
            below |= set(children)
        for child in row.get("children", ()):
            if node["type"] == "host" and child["type"] == "osd":
                child["host"] = node["name"]
    return [rows[node["id"]] for node in nodes if node["id"] not in below]


def set_in(number: int, *, into: bool) -> None:
    """Take the OSD into the cluster, or out of it."""
    ceph.check_initialized()
    with Rados() as rados:
        _state(rados, number)
        rados.command("osd in" if into else "osd out", ids=[f"osd.{number}"], format="plain")


def scrub(number: int, *, deep: bool) -> None:
    """Have the OSD's data checked."""
    ceph.check_initialized()
    with Rados() as rados:
        _state(rados, number)
        rados.command("osd deep-scrub" if deep else "osd scrub", who=str(number), format="plain")


def metadata(number: int) -> dict[str, Any]:
    """What `GET nodes/{node}/ceph/osd/{osdid}/metadata` says: the daemon, its devices, its addresses."""
    said = _own_metadata(number)
    show = ["/bin/systemctl", "show", f"ceph-osd@{number}.service", "--property", "MainPID,MemoryCurrent"]
    shown = dict(line.partition("=")[::2] for line in run(show).decode().splitlines())
    keys = ("hostname", "id", "osd_data", "osd_objectstore", "front_addr", "back_addr", "hb_front_addr",
            "hb_back_addr")  # fmt: skip
    daemon = {key: said.get(key) for key in keys} | {
        "version": f"{said['ceph_version_short']} ({said['ceph_release']})",
        "pid": int(shown["MainPID"]),
        "mem_usage": int(shown["MemoryCurrent"]) if shown["MemoryCurrent"].isdigit() else 0,
    }
    kinds = {"block": "bluestore_bdev", "db": "bluefs_db", "wal": "bluefs_wal"}
    found = [_device(kind, prefix, said) for kind, prefix in kinds.items() if f"{prefix}_dev_node" in said]
    return {"osd": daemon, "devices": found}


def _own_metadata(number: int) -> Mapping[str, Any]:
    ceph.check_initialized()
    with Rados() as rados:
        said: Mapping[str, Any] = rados.command("osd metadata", id=number)
    if said["hostname"] != node_name():
        raise Failure(f"OSD '{number}' does not exists on host '{node_name()}'")
    return said


def _device(kind: str, prefix: str, said: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "device": kind,
        "dev_node": said[f"{prefix}_dev_node"],
        "physical_device": said[f"{prefix}_devices"],
        "size": int(said[f"{prefix}_size"]),
        "support_discard": int(said.get(f"{prefix}_support_discard", 0)),
        "type": said.get(f"{prefix}_type", ""),
    }


def volume_info(number: int, kind: str) -> dict[str, Any]:
    """What `GET nodes/{node}/ceph/osd/{osdid}/lv-info` says of the OSD's block, db or wal volume."""
    ceph.check_initialized()
    parts = _parts(number)
    if not parts:
        raise Failure(f"OSD '{number}' not found in 'ceph-volume lvm list' on node '{node_name()}'.\n"
                      "Maybe it was created before LVM became the default?")  # fmt: skip
    part = next((part for part in parts if part["type"] == kind), None)
    if part is None:
        raise Failure(f"volume type '{kind}' not found for OSD {number}")
    listed = json.loads(run(["/sbin/lvs", part["lv_path"], "--reportformat", "json", "-o", "lv_time"]))
    keys = ("lv_name", "lv_path", "lv_uuid", "vg_name")
    return {key: part[key] for key in keys} | {
        "lv_size": int(part["lv_size"]),
        "creation_time": listed["report"][0]["lv"][0]["lv_time"],
    }
