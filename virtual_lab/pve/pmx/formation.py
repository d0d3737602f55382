"""How a node makes a cluster, takes a node in, joins and lets go, step by step as Proxmox does it."""

from __future__ import annotations

import gzip
import os
import sqlite3
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from . import certs, keys
from .apiclient import Client
from .clock import pause, wait_until
from .cluster import (
    AUTHKEY,
    CONF,
    check_quorum,
    conf_lock,
    guests,
    is_local_address,
    local_lock,
    node_address,
    node_name,
    quorate,
    read_conf,
    resolve,
    write_conf,
    write_file,
)
from .corosync import Conf, ConfError, add_node, find_node, link_arguments, mistakes, new_conf
from .errors import Failure
from .run import run, succeeds
from .schema import is_ip

JOIN_API_VERSION = 1
OLDEST_JOIN_API = 0
LOCAL_CONF = Path("/etc/corosync/corosync.conf")
DATABASE = Path("/var/lib/pve-cluster/config.db")
BACKUPS = Path("/var/lib/pve-cluster/backup")
UPDATE_SECONDS = 80.0


def say(text: str) -> None:
    """A line of a task's log."""
    print(text, flush=True)


def warn(text: str) -> None:
    """A line of a task's log that is no good news."""
    print(text, file=sys.stderr, flush=True)


# -- create


def refuse_second_cluster() -> None:
    """Failure when the node is in a cluster already."""
    if CONF.exists():
        raise Failure(f"cluster config '{CONF}' already exists")


def create(params: Mapping[str, Any]) -> None:
    """Make a cluster of this one node."""
    with local_lock():
        keys.allow_root_login()
        keys.ensure_root_key()
        keys.share_authorized_keys()
        _make_corosync_key()
        node = node_name()
        address = node_address(node)
        say("Writing corosync config to /etc/pve/corosync.conf")
        write_conf(new_conf(node, address, params))
        keys.merge_keys()
        certs.ensure_node_files(node, address)
        keys.merge_known_hosts(node, address)
        say("Restart corosync and cluster filesystem")
        run(["systemctl", "restart", "corosync", "pve-cluster"])


def _make_corosync_key() -> None:
    if AUTHKEY.exists():
        return
    say("Corosync Cluster Engine Authentication key generator.")
    say("Gathering 2048 bits for key from /dev/urandom.")
    say(f"Writing corosync key to {AUTHKEY}.")
    _write_secret(AUTHKEY, os.urandom(256))


def _write_secret(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o400), "wb") as file:
        file.write(data)


# -- take in, let go


def take_in(node: str, params: Mapping[str, Any]) -> dict[str, Any]:
    """Add a node that asks to join; what it needs to do so."""
    _refuse_old_joiner(params.get("apiversion", 0))
    check_quorum()
    with conf_lock():
        conf = _conf()
        wrong = mistakes(conf)
        if wrong:
            raise Failure(
                "invalid corosync.conf", errors={f"error{at}": text for at, text in enumerate(wrong)}
            )
        try:
            add_node(conf, node, params)
        except ConfError as refused:
            raise Failure(str(refused)) from None
        for part in ("", "/lxc", "/qemu-server", "/priv"):
            Path(f"/etc/pve/nodes/{node}{part}").mkdir(exist_ok=True)
        keys.merge_keys()
        write_conf(conf)
    return {"corosync_authkey": AUTHKEY.read_bytes().decode("latin-1"), "corosync_conf": CONF.read_text(),
            "warnings": []}  # fmt: skip


def _refuse_old_joiner(version: int) -> None:
    if version < OLDEST_JOIN_API:
        raise Failure(
            f"error: unsupported old API version on joining node ({version}), cluster node has "
            f"{JOIN_API_VERSION} and supports >= {OLDEST_JOIN_API}. Please upgrade node before joining"
        )


def let_go(wanted: str) -> None:
    """Take a node out of the cluster's configuration."""
    if wanted == node_name():
        raise Failure("Cannot delete myself from cluster!")
    check_quorum()
    with conf_lock():
        conf = _conf()
        try:
            name = find_node(conf, wanted)
        except ConfError as unknown:
            raise Failure(str(unknown)) from None
        entry = conf.nodes.pop(name)
        say(f"Killing node {entry['nodeid']}")
        if not succeeds(["corosync-cfgtool", "-k", entry["nodeid"]]):
            warn("Could not kill node (error = CS_ERR_NOT_EXIST)")
        write_conf(conf)


def _conf() -> Conf:
    conf = read_conf()
    if conf is None:
        raise Failure(f"Error: Corosync config '{CONF}' does not exist - is this node part of a cluster?")
    return conf


# -- join


def join(params: Mapping[str, Any]) -> None:
    """Make this node a member of the cluster of `hostname`; everything in its own /etc/pve is lost."""
    with local_lock():
        node = node_name()
        address = node_address(node)
        links = link_arguments(params)
        assert_joinable(address, links, force=bool(params.get("force")))
        keys.allow_root_login()
        keys.ensure_root_key()
        keys.share_authorized_keys()
        keys.unmerge_known_hosts()
        answer = _ask_to_be_taken_in(node, address, links, params)
        say("Join request OK, finishing setup locally")
        _finish(node, answer["corosync_conf"], answer["corosync_authkey"])


def assert_joinable(address: str, links: Mapping[int, Mapping[str, Any]], *, force: bool) -> None:
    """Failure, after all reasons were said, when this node may not join."""
    found = [*_leftovers(), *_address_errors("local node address", address)]
    for number, link in links.items():
        found += _address_errors(f"link{number}", link["address"])
    if not found:
        return
    warn("detected the following error(s):\n" + "\n".join(f"* {text}" for text in found))
    if not force:
        raise Failure("Check if node may join a cluster failed!")
    warn("\nWARNING : detected error but forced to continue!\n")


def _leftovers() -> list[str]:
    found = []
    if AUTHKEY.exists():
        found.append(f"authentication key '{AUTHKEY}' already exists")
    if CONF.exists():
        found.append(f"cluster config '{CONF}' already exists")
    if guests():
        found.append("this host already contains virtual guests")
    if succeeds(["corosync-quorumtool", "-l"]):
        found.append("corosync is already running, is this node already in a cluster?!")
    return found


def _address_errors(what: str, address: str) -> list[str]:
    try:
        found = address if is_ip(address) else resolve(address)
    except Failure as unknown:
        return [f"{what}: cannot use '{address}': {unknown.message}\n"]
    return [] if is_local_address(found) else [f"{what}: cannot use IP '{found}', not found on local node!\n"]


def _ask_to_be_taken_in(
    node: str, address: str, links: Mapping[int, Mapping[str, Any]], params: Mapping[str, Any]
) -> dict[str, Any]:
    say(f"Establishing API connection with host '{params['hostname']}'")
    client = Client(params["hostname"], params["fingerprint"])
    client.login(params["password"])
    say("Login succeeded.")
    say("check cluster join API version")
    version = client.call("GET", "/cluster/config/apiversion")
    if int(version) < OLDEST_JOIN_API:
        raise Failure(f"error: incompatible join API version on cluster ({version})")
    wanted = {
        name: int(params[name]) for name in ("force", "nodeid", "votes") if params.get(name) is not None
    }
    asked: dict[str, Any] = {**wanted, "apiversion": JOIN_API_VERSION}
    asked.update({f"link{number}": _link_text(link) for number, link in links.items()})
    if not links:
        asked["new_node_ip"] = address
        say(f"No cluster network links passed explicitly, fallback to local node IP '{address}'")
    say("Request addition of this node")
    try:
        answer: dict[str, Any] = client.call("POST", f"/cluster/config/nodes/{node}", asked)
    except Failure as refused:
        warn(f"An error occurred on the cluster node: {refused.message.partition(' ')[2] or refused.message}")
        for name, text in sorted(refused.errors.items()):
            warn(f"{'*' if name.startswith('warning') else '!'} {text}")
        raise Failure("Cluster join aborted!") from None
    return answer


def _link_text(link: Mapping[str, Any]) -> str:
    priority = f",priority={link['priority']}" if link.get("priority") is not None else ""
    return f"address={link['address']}{priority}"


def _finish(node: str, conf: str, authkey: str) -> None:
    _write_secret(AUTHKEY, authkey.encode("latin-1"))
    write_file(LOCAL_CONF, conf)
    say("stopping pve-cluster service")
    run(["systemctl", "stop", "pve-cluster"])
    _put_database_away()
    run(["systemctl", "start", "corosync", "pve-cluster"])
    _wait_for_quorum()
    _update(node, force=True, say=say)
    say("generated new node certificate, restart pveproxy and pvedaemon services")
    run(["systemctl", "reload-or-restart", "pvedaemon", "pveproxy"])
    say(f"successfully added node '{node}' to cluster.")


def _put_database_away() -> None:
    BACKUPS.mkdir(mode=0o700, exist_ok=True)
    backup = BACKUPS / f"config-{int(time.time())}.sql.gz"
    say(f"backup old database to '{backup}'")
    with gzip.open(backup, "wt", compresslevel=1) as out:
        database = sqlite3.connect(DATABASE)
        out.writelines(f"{line}\n" for line in database.iterdump())
        database.close()
    for name in ("config.db", "config.db-wal", "config.db-shm"):
        DATABASE.with_name(name).unlink(missing_ok=True)


def _wait_for_quorum() -> None:
    waited = False
    while not quorate():  # for ever, as the real one does
        if not waited:
            print("waiting for quorum...", end="", flush=True)
            waited = True
        pause(0.1)
    if waited:
        say("OK")


# -- certificates and keys


def update_certificates(*, force: bool, silent: bool, unmerge: bool = False) -> None:
    """Have everything below /etc/pve that this node needs; waits for quorum, but not for ever."""
    keys.ensure_root_key()
    if not quorate() and not silent:
        say("waiting for pmxcfs mount to appear and get quorate...")
    if not wait_until(quorate, UPDATE_SECONDS):
        text = ("got timeout when trying to ensure cluster certificates and base file hierarchy is set up - "
                "no quorum (yet) or hung pmxcfs?")  # fmt: skip
        if not silent:
            raise Failure(text)
        warn(text)
        return
    _update(node_name(), force=force, say=(lambda _: None) if silent else say)
    if unmerge:
        keys.unmerge_known_hosts()


def _update(node: str, *, force: bool, say: Any) -> None:
    if not quorate():
        raise Failure("no quorum - unable to update files")
    keys.ensure_root_key()
    keys.share_authorized_keys()
    say("(re)generate node files")
    if force:
        say("generate new node certificate")
    certs.ensure_node_files(node, node_address(node), force=force)
    say("merge authorized SSH keys")
    keys.merge_keys()
    keys.write_node_known_hosts(node)
