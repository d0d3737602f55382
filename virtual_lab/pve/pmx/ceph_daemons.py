"""Ceph's daemons: which there are in the cluster, and how a node gets a monitor, a manager, an MDS."""

from __future__ import annotations

import base64
import ipaddress
import json
import os
import re
import shutil
import struct
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from . import ceph, tasks
from .ceph import Config, Rados
from .cluster import BASE, node_address, node_name, write_file
from .errors import Failure
from .formation import say, warn
from .run import run

SERVICE = r"[a-zA-Z0-9]([a-zA-Z0-9\-]*[a-zA-Z0-9])?"
KINDS = ("mon", "mgr", "mds", "osd")
UNITS = Path("/usr/lib/systemd/system")
_REPORT = ".ceph"
"""Below nodes/NODE: what a node says of its daemons; Proxmox keeps it in pmxcfs' key-value store."""


# -- which there are


def local() -> dict[str, dict[str, dict[str, bool]]]:
    """This node's daemons by kind and id: whether there is an enabled unit, whether there is a directory."""
    found: dict[str, dict[str, dict[str, bool]]] = {kind: {} for kind in KINDS}
    for kind in KINDS:
        for base in ("/etc/systemd/system", "/run/systemd/system"):
            for unit in Path(base, f"ceph-{kind}.target.wants").glob(f"ceph-{kind}@*.service"):
                name = unit.name.partition("@")[2].removesuffix(".service")
                found[kind].setdefault(name, {})["service"] = True
        for place in (ceph.STATE / kind).glob(f"{ceph.NAME}-*"):
            found[kind].setdefault(place.name.partition("-")[2], {})["direxists"] = True
    return found


def version() -> dict[str, Any]:
    """The installed Ceph: its version as text and parts, and the commit it was built from; else nothing."""
    if not ceph.is_installed():
        return {}
    text = run([str(ceph.BINARIES["ceph"]), "--version"]).decode()
    match = re.match(r"^ceph.*\sv?(\d+(?:\.\d+)+)\S*\s+\(([a-zA-Z0-9]+)\)", text)
    if match is None:
        return {}
    return {"version": {"str": match[1], "parts": match[1].split(".")}, "buildcommit": match[2]}


def report(*, versions: bool = False) -> None:
    """Tell the cluster which daemons this node has, and with `versions` which Ceph; quiet without quorum."""
    place = BASE / "nodes" / node_name() / _REPORT
    with suppress(OSError, ValueError):
        old = json.loads(place.read_text()) if place.exists() else {}
        new = {**old, **local(), **({"version": version()} if versions or "version" not in old else {})}
        if new != old:
            write_file(place, json.dumps(new, sort_keys=True))


def reports() -> dict[str, dict[str, Any]]:
    """What every node has told, by node; of this one what is so now."""
    found: dict[str, dict[str, Any]] = {}
    for place in sorted((BASE / "nodes").glob(f"*/{_REPORT}")):
        with suppress(OSError, ValueError):
            found[place.parent.name] = json.loads(place.read_text())
    mine = found.get(node_name(), {})
    return {**found, node_name(): {**mine, **local()}}


def versions() -> dict[str, Any]:
    """The Ceph of every node that has one, by node."""
    found = {node: told["version"] for node, told in reports().items() if told.get("version")}
    mine = version()
    return {**found, node_name(): mine} if mine else found


def services(kind: str, conf: Config, rados: Rados | None) -> dict[str, dict[str, Any]]:
    """The cluster's daemons of a kind by id: name, host, addr, state, version, as far as known."""
    found: dict[str, dict[str, Any]] = {}
    for host, told in sorted(reports().items()):
        for name, facts in sorted(told.get(kind, {}).items()):
            state = "stopped" if facts.get("service") else "unknown"
            found[name] = {**facts, "host": host, "name": name, "state": state}
    for section, keys in conf.items():
        if section.startswith(f"{kind}."):
            _add_configured(found, kind, section.partition(".")[2], keys)
    if rados is not None:
        _add_metadata(found, rados.command(f"{kind} metadata") or [])
    return found


def _add_configured(found: dict[str, dict[str, Any]], kind: str, name: str, keys: Mapping[str, str]) -> None:
    row = found.setdefault(name, {"name": name, "state": "unknown"})
    for key in (f"{kind}_addr", "public_addr", "host"):
        if key in keys:
            row.setdefault("addr", keys[key])
    if "host" in keys:
        row.setdefault("host", keys["host"])


def _add_metadata(found: dict[str, dict[str, Any]], rows: Iterable[Mapping[str, Any]]) -> None:
    for row in rows:
        known = found.get(str(row.get("name", row.get("id"))))
        if known is None:
            continue
        for key in ("ceph_version_short", "ceph_version"):
            if key in row:
                known[key] = row[key]
        for key, source in (("host", "hostname"), ("addr", "addr")):
            if source in row:
                known.setdefault(key, row[source])


def unit_of(service: str) -> str:
    """The unit or target of `mon`, `mon.a`, and the like; ceph.target for anything else."""
    match = re.fullmatch(rf"(mon|osd|mds|mgr|radosgw)(?:\.({SERVICE}))?", service)
    if match is None:
        return "ceph.target"
    return f"ceph-{match[1]}@{match[2]}" if match[2] else f"ceph-{match[1]}.target"


def command(action: str, service: str = "") -> None:
    """Start, stop, restart, enable or disable a service; Failure with systemctl's words."""
    run(["/bin/systemctl", action, unit_of(service)])


def start(params: Mapping[str, Any]) -> None:
    """The task srvstart."""
    command("start", params["service"])


def stop(params: Mapping[str, Any]) -> None:
    """The task srvstop."""
    command("stop", params["service"])


def restart(params: Mapping[str, Any]) -> None:
    """The task srvrestart: of a service, or with `rolling` of many daemons in turn."""
    if "rolling" not in params:
        command("restart", params["service"])
        return
    from . import ceph_restart  # noqa: PLC0415  # which needs this module

    (ceph_restart.restart_osds if params["rolling"] == "node" else ceph_restart.restart_cluster)(params)


# -- keys


def _new_key() -> str:
    # CryptoKey::encode: type AES, creation time, length of the secret, secret.
    head = struct.pack("<HIIH", 1, int(time.time()), 0, 16)
    return base64.b64encode(head + os.urandom(16)).decode()


def _keyring(entity: str, caps: Mapping[str, str]) -> str:
    lines = "".join(f'\tcaps {kind} = "{what}"\n' for kind, what in caps.items())
    return f"[{entity}]\n\tkey = {_new_key()}\n{lines}"


def have_admin_keyring() -> None:
    """Make the cluster's client.admin, and this node's copy of it, unless they are there."""
    if ceph.ADMIN_KEYRING.is_file():
        return
    caps = dict.fromkeys(("mds", "mgr", "mon", "osd"), "allow *")
    write_file(ceph.ADMIN_KEYRING, _keyring("client.admin", caps))
    if not ceph.LOCAL_ADMIN_KEYRING.exists():
        ceph.LOCAL.mkdir(exist_ok=True)
        ceph.LOCAL_ADMIN_KEYRING.touch(mode=0o600)
        ceph.LOCAL_ADMIN_KEYRING.write_bytes(ceph.ADMIN_KEYRING.read_bytes())
        shutil.chown(ceph.LOCAL_ADMIN_KEYRING, "ceph", "ceph")


def _have_mon_keyring() -> None:
    if ceph.MON_KEYRING.is_file():
        return
    say("creating new monitor keyring")
    mon = _keyring("mon.", {"mon": "allow *"})
    write_file(ceph.MON_KEYRING, mon + ceph.ADMIN_KEYRING.read_text())


def _key_from_monitors(rados: Rados, entity: str, caps: Sequence[str]) -> str:
    text = rados.command("auth get-or-create", entity=entity, caps=list(caps), format="plain")
    return bytes(text).decode()


def give_to_ceph(place: Path) -> None:
    """Make the user ceph the owner of a directory and all in it."""
    shutil.chown(place, "ceph", "ceph")
    for below in place.rglob("*"):
        shutil.chown(below, "ceph", "ceph")


# -- monitors


def monitor_order(params: Mapping[str, Any]) -> dict[str, Any]:
    """Check that this node may get a monitor; what the task cephcreatemon needs. Failure says why not."""
    ceph.check_installed("mon")
    ceph.check_initialized()
    ceph.link_config()
    conf, rados = ceph.config(), _try_connection()
    try:
        known = services("mon", conf, rados)
        first = not known and "mon_host" not in conf.get("global", {})
        if rados is None and not first:
            raise Failure("Could not connect to ceph cluster despite configured monitors")
        name = params.get("monid") or node_name()
        addresses = _monitor_addresses(conf, rados, params.get("mon-address", ""))
        _check_new_monitor(conf, known, name, addresses)
    finally:
        if rados is not None:
            rados.close()
    return {"monid": name, "addresses": addresses, "first": first}


def _try_connection() -> Rados | None:
    try:
        return Rados()
    except Failure:
        return None


def _monitor_addresses(conf: Config, rados: Rados | None, wanted: str) -> list[str]:
    asked = list(dict.fromkeys(_words(wanted)))
    network = conf.get("global", {}).get("public_network", "")
    if rados is not None:
        text = rados.command("config get", who="mon.", key="public_network", format="plain")
        network = bytes(text).decode().strip() or network
    if not network:
        return asked or [node_address(node_name())]
    networks = _words(network)
    if len(networks) > 1:
        warn(f"Multiple Ceph public networks detected on {node_name()}: {network}")
        warn("Networks must be capable of routing to each other.")
    if asked:
        return _asked_addresses(asked, networks)
    return [_only_address(one) for one in networks]


def _asked_addresses(asked: Sequence[str], networks: Sequence[str]) -> list[str]:
    here = {address for network in networks for address in local_addresses(network)}
    for address in asked:
        if address not in here:
            raise Failure(f"Specified monitor IP '{address}' not configured or up on {node_name()}!")
    return list(asked)


def _only_address(network: str) -> str:
    found = local_addresses(network)
    if not found:
        raise Failure(f"No active IP found for the requested ceph public network '{network}' on node "
                      f"'{node_name()}'")  # fmt: skip
    if len(found) > 1:
        raise Failure(f"Multiple IPs for ceph public network '{network}' detected on {node_name()}:\n"
                      + "\n".join(found) + "\nuse 'mon-address' to specify one of them.")  # fmt: skip
    return found[0]


def local_addresses(network: str) -> list[str]:
    """This node's addresses, on links that are up, that a CIDR holds."""
    wide = str(ipaddress.ip_network(network, strict=False))
    text = run(["ip", "-o", "address", "show", "to", wide, "up"]).decode()
    return list(dict.fromkeys(re.findall(r"\binet6?\s+([0-9a-fA-F.:]+)/", text)))


def _words(text: str) -> list[str]:
    return [word for word in re.split(r"[,;\s]+", text) if word]


def _check_new_monitor(
    conf: Config, known: Mapping[str, Mapping[str, Any]], name: str, addresses: Sequence[str]
) -> None:
    used = set(ceph.monitor_addresses(conf))
    for row in known.values():
        used |= set(ceph.monitor_addresses({"global": {"mon_host": str(row.get("addr", ""))}}))
    for address in addresses:
        if address in used:
            raise Failure(f"monitor address '{address}' already in use")
    if name in known:
        raise Failure(f"monitor '{name}' already exists")


def create_monitor(params: Mapping[str, Any]) -> None:
    """The task cephcreatemon; the first monitor of a cluster brings a manager along, in a task of its own."""
    with ceph.config_lock():
        _create_monitor(params["monid"], params["addresses"], first=params["first"])
    if params["first"]:
        order = {"id": node_name()}
        tasks.start("cephcreatemgr", f"mgr.{node_name()}", params["user"], order)


def _create_monitor(name: str, addresses: Sequence[str], *, first: bool) -> None:
    conf = ceph.config()
    rados = None if first else Rados(ceph.LONG_TIMEOUT)
    known = services("mon", conf, rados)
    _check_new_monitor(conf, known, name, addresses)
    have_admin_keyring()
    _have_mon_keyring()
    place = ceph.STATE / "mon" / f"{ceph.NAME}-{name}"
    if place.is_dir():
        raise Failure(f"monitor filesystem '{place}' already exist")
    try:
        place.mkdir(parents=True)
        _bind_families(conf["global"], addresses, first=first)
        _make_store(name, addresses, rados)
        give_to_ceph(place)
    except (Failure, OSError):
        shutil.rmtree(place, ignore_errors=True)
        raise
    finally:
        if rados is not None:
            rados.close()
    _configure(conf, name, addresses, known)
    command("start", f"mon.{name}")
    if first:
        _after_first_monitor(conf)
    command("enable", f"mon.{name}")
    report()


def _bind_families(section: dict[str, str], addresses: Sequence[str], *, first: bool) -> None:
    for address in addresses:
        version, other = ("6", "4") if ":" in address else ("4", "6")
        section[f"ms_bind_ipv{version}"] = "true"
        if first:
            section[f"ms_bind_ipv{other}"] = "false"
        first = False


def _make_store(name: str, addresses: Sequence[str], rados: Rados | None) -> None:
    monmap = Path("/tmp/monmap")  # noqa: S108  # where Proxmox has it
    hosts = [f"[{address}]" if ":" in address else address for address in addresses]
    vector = ",".join(f"v2:{host}:3300,v1:{host}:6789" for host in hosts)
    tool = ["monmaptool", "--clobber", "--addv", name, f"[{vector}]", "--print", str(monmap)]
    try:
        if rados is None:
            tool.append("--create")
        else:
            monmap.write_bytes(rados.command("mon getmap", format="plain"))
        sys.stdout.write(run(tool).decode())
        run(["ceph-mon", "--mkfs", "-i", name, "--monmap", str(monmap), "--keyring", str(ceph.MON_KEYRING)])
    finally:
        monmap.unlink(missing_ok=True)
    log = Path(f"/var/log/ceph/ceph-mon.{name}.log")
    if log.exists():
        shutil.chown(log, "ceph", "ceph")


def _configure(
    conf: Config, name: str, addresses: Sequence[str], known: Mapping[str, Mapping[str, Any]]
) -> None:
    section = conf["global"]
    if "mon_host" not in section:
        section["mon_host"] = " ".join(str(known[other].get("addr", "")) for other in sorted(known))
    section["mon_host"] = f"{section['mon_host']} {' '.join(addresses)}".strip()
    conf[f"mon.{name}"] = {"public_addr": addresses[0]}
    ceph.write_config(conf)


def _after_first_monitor(conf: Config) -> None:
    say("created the first monitor, assume it's safe to disable insecure global ID reclaim for new setup")
    with Rados(ceph.LONG_TIMEOUT) as rados:
        rados.command("config set", who="mon", name="auth_allow_insecure_global_id_reclaim", value="false")
        say("Configuring keyring for ceph-crash.service")
        key = _key_from_monitors(rados, "client.crash", ("mon", "profile crash", "mgr", "profile crash"))
    write_file(ceph.CRASH_KEYRING, key)
    conf["client.crash"] = {"keyring": "/etc/pve/ceph/$cluster.$name.keyring"}
    ceph.write_config(conf)


def check_monitor_removal(name: str) -> None:
    """Failure when this node's monitor cannot be destroyed."""
    ceph.check_initialized()
    with Rados() as rados:
        _monitor_to_remove(rados, name)


def _monitor_to_remove(rados: Rados, name: str) -> Mapping[str, Any]:
    monitors = rados.command("quorum_status")["monmap"]["mons"]
    place = ceph.STATE / "mon" / f"{ceph.NAME}-{name}"
    mine: dict[str, Any] = next((row for row in monitors if row["name"] == name), {})
    if not mine and name not in services("mon", ceph.config(), rados):
        raise Failure(f"no such monitor id '{name}'")
    if not place.is_dir():
        raise Failure(f"monitor filesystem '{place}' does not exist on this node")
    if len(monitors) <= 1:
        raise Failure("can't remove last monitor")
    return mine


def destroy_monitor(params: Mapping[str, Any]) -> None:
    """The task cephdestroymon."""
    name = params["monid"]
    with ceph.config_lock():
        conf = ceph.config()
        with Rados(ceph.LONG_TIMEOUT) as rados:
            row = _monitor_to_remove(rados, name)
            rados.command("mon remove", name=name, format="plain")
        conf.pop(f"mon.{name}", None)
        _forget_addresses(conf, _addresses_of(row))
        ceph.write_config(conf)
        shutil.rmtree(ceph.STATE / "mon" / f"{ceph.NAME}-{name}", ignore_errors=True)
        _try("disable", f"mon.{name}")
        report()


def _addresses_of(monitor: Mapping[str, Any]) -> set[str]:
    vector = monitor.get("public_addrs", {}).get("addrvec", [])
    ends = [str(entry["addr"]) for entry in vector] or [str(monitor.get("addr", ""))]
    return {re.sub(r":\d+(?:/\d+)?$", "", end).strip("[]") for end in ends}


def _forget_addresses(conf: Config, gone: set[str]) -> None:
    section = conf.get("global", {})
    if "mon_host" in section:
        kept = [address for address in ceph.monitor_addresses(conf) if address not in gone]
        section["mon_host"] = " ".join(f"[{one}]" if ":" in one else one for one in kept)


def _try(action: str, service: str) -> None:
    try:
        command(action, service)
    except Failure as failed:
        warn(failed.message)


# -- managers


def create_manager(params: Mapping[str, Any]) -> None:
    """The task cephcreatemgr."""
    name = params["id"]
    place = ceph.STATE / "mgr" / f"{ceph.NAME}-{name}"
    with Rados(ceph.LONG_TIMEOUT) as rados:
        if place.is_dir():
            raise Failure(f"ceph manager directory '{place}' already exists")
        say(f"creating manager directory '{place}'")
        place.mkdir(parents=True)
        say(f"creating keys for 'mgr.{name}'")
        caps = ("mon", "allow profile mgr", "osd", "allow *", "mds", "allow *")
        _write_key(place, _key_from_monitors(rados, f"mgr.{name}", caps))
    say("setting owner for directory")
    give_to_ceph(place)
    _enable_and_start("mgr", name)


def _write_key(place: Path, key: str) -> None:
    keyring = place / "keyring"
    keyring.touch(mode=0o600)
    keyring.write_text(key)


def _enable_and_start(kind: str, name: str) -> None:
    say(f"enabling service 'ceph-{kind}@{name}.service'")
    command("enable", f"{kind}.{name}")
    say(f"starting service 'ceph-{kind}@{name}.service'")
    command("start", f"{kind}.{name}")
    report()


def destroy_manager(params: Mapping[str, Any]) -> None:
    """The task cephdestroymgr."""
    name = params["id"]
    place = ceph.STATE / "mgr" / f"{ceph.NAME}-{name}"
    if not place.is_dir():
        raise Failure(f"ceph manager directory '{place}' not found")
    _disable_and_stop("mgr", name)
    say(f"removing manager directory '{place}'")
    shutil.rmtree(place)
    say(f"removing authkeys for mgr.{name}")
    ceph.mon_command("auth del", entity=f"mgr.{name}")
    report()


def _disable_and_stop(kind: str, name: str) -> None:
    say(f"disabling service 'ceph-{kind}@{name}.service'")
    command("disable", f"{kind}.{name}")
    say(f"stopping service 'ceph-{kind}@{name}.service'")
    command("stop", f"{kind}.{name}")


# -- metadata servers


def create_mds(params: Mapping[str, Any]) -> None:
    """The task cephcreatemds."""
    name = params["name"]
    section = f"mds.{name}"
    with Rados(ceph.LONG_TIMEOUT) as rados:
        conf = ceph.config()
        if section in conf:
            raise Failure(f"MDS '{name}' already referenced in ceph config, abort!")
        conf.setdefault("mds", {}).setdefault("keyring", "/var/lib/ceph/mds/ceph-$id/keyring")
        conf[section] = {"host": node_name()}
        ceph.write_config(conf)
        try:
            _make_mds(name, rados)
        except Failure:
            warn(f"Encountered error, remove '{section}' from ceph.conf")
            conf = ceph.config()
            conf.pop(section, None)
            ceph.write_config(conf)
            raise


def _make_mds(name: str, rados: Rados) -> None:
    place = ceph.STATE / "mds" / f"{ceph.NAME}-{name}"
    if place.is_dir():
        raise Failure(f"ceph MDS directory '{place}' already exists")
    say(f"creating MDS directory '{place}'")
    place.mkdir(parents=True)
    say(f"creating keys for 'mds.{name}'")
    caps = ("mon", "allow profile mds", "osd", "allow rwx", "mds", "allow *")
    _write_key(place, _key_from_monitors(rados, f"mds.{name}", caps))
    say("setting ceph as owner for service directory")
    give_to_ceph(place)
    _enable_and_start("mds", name)


def destroy_mds(params: Mapping[str, Any]) -> None:
    """The task cephdestroymds."""
    name = params["name"]
    place = ceph.STATE / "mds" / f"{ceph.NAME}-{name}"
    with Rados(ceph.LONG_TIMEOUT) as rados:
        conf = ceph.config()
        if conf.pop(f"mds.{name}", None) is not None:
            ceph.write_config(conf)
        _disable_and_stop("mds", name)
        if place.is_dir():
            say(f"removing ceph-mds directory '{place}'")
            shutil.rmtree(place)
        else:
            warn(f"cannot cleanup MDS {name} directory, '{place}' not found")
        say(f"removing ceph auth for 'mds.{name}'")
        rados.command("auth del", entity=f"mds.{name}", format="plain")
    report()


def mds_states(rados: Rados) -> dict[str, dict[str, Any]]:
    """Every MDS that the cluster sees, by name: addr, rank, state, standby_replay, fs_name."""
    fsmap = rados.command("mds stat")["fsmap"]
    found = {row["name"]: _mds_row(row) for row in fsmap.get("standbys", [])}
    for one in fsmap.get("filesystems", []):
        mdsmap = one["mdsmap"]
        for row in mdsmap["info"].values():
            found[row["name"]] = {**_mds_row(row), "fs_name": mdsmap["fs_name"]}
    return found


def _mds_row(row: Mapping[str, Any]) -> dict[str, Any]:
    replay = bool(row.get("standby_replay")) or row["state"] == "up:standby-replay"
    return {"addr": row.get("addr"), "rank": row.get("rank"), "state": row["state"], "name": row["name"],
            "standby_replay": replay}  # fmt: skip
