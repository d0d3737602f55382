"""What a node's programs ask of /etc/pve: quorum, members, addresses, locks, corosync.conf."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import socket
import ssl
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .clock import pause
from .corosync import Conf, parse, render
from .errors import Failure

BASE = Path("/etc/pve")
PRIVATE = BASE / "priv"
CONF = BASE / "corosync.conf"
AUTHKEY = Path("/etc/corosync/authkey")
LOCAL_LOCK = Path("/var/lock/pvecm.lock")
LOCK_SECONDS = 10.0


def node_name() -> str:
    """This node's name."""
    return os.uname().nodename.partition(".")[0]


def quorate() -> bool:
    """Whether /etc/pve is there and may be written: the owner's write bit of the link `local`."""
    try:
        return bool((BASE / "local").lstat().st_mode & 0o200)
    except OSError:
        return False


def check_quorum() -> None:
    """Failure when the cluster may not be changed from here now."""
    if not quorate():
        raise Failure("cluster not ready - no quorum?")


def members() -> dict[str, Any]:
    """The content of /etc/pve/.members."""
    try:
        found: dict[str, Any] = json.loads((BASE / ".members").read_text())
    except OSError:
        raise Failure("ipcc_send_rec[1] failed: Connection refused") from None
    return found


def guests() -> dict[str, Any]:
    """The guests of the cluster by id, from /etc/pve/.vmlist."""
    ids: dict[str, Any] = json.loads((BASE / ".vmlist").read_text())["ids"]
    return ids


def resolve(host: str) -> str:
    """The first address of a host name; Failure when there is none."""
    try:
        return str(socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][4][0])
    except OSError as error:
        reason = error.strerror or "Name or service not known"
        raise Failure(
            f"hostname lookup '{host}' failed - failed to get address info for: {host}: {reason}"
        ) from None


def node_address(node: str) -> str:
    """A member's address as the cluster knows it, else as its name resolves."""
    known = members().get("nodelist", {}).get(node, {}).get("ip")
    return str(known) if known else resolve(node)


def is_local_address(address: str) -> bool:
    """Whether an interface of this node, the loopback one aside, has the address."""
    if address.startswith("127.") or address == "::1":
        return False
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return True


def certificate_of(node: str) -> Path:
    """The certificate that a node's API shows: the administrator's own, else the cluster's."""
    own = BASE / f"nodes/{node}/pveproxy-ssl.pem"
    return own if own.exists() else BASE / f"nodes/{node}/pve-ssl.pem"


def fingerprint_of(certificate: Path) -> str:
    """SHA-256 of a PEM file's first certificate, upper-case hex with colons."""
    text = certificate.read_text()
    end = "-----END CERTIFICATE-----"
    der = ssl.PEM_cert_to_DER_cert(text[text.index("-----BEGIN") : text.index(end) + len(end)])
    return colons(hashlib.sha256(der).hexdigest())


def colons(digest: str) -> str:
    """Hex as fingerprints are written."""
    return ":".join(digest[at : at + 2] for at in range(0, len(digest), 2)).upper()


def write_file(path: Path, data: bytes | str) -> None:
    """Replace a file in one act, as below /etc/pve nothing else is safe."""
    new = path.with_name(f"{path.name}.tmp.{os.getpid()}")
    new.write_bytes(data.encode() if isinstance(data, str) else data)
    new.replace(path)


def read_conf() -> Conf | None:
    """The cluster's corosync.conf, or None when this node is in no cluster."""
    try:
        return parse(CONF.read_text())
    except FileNotFoundError:
        return None


def write_conf(conf: Conf) -> None:
    """Raise config_version and put the configuration in place."""
    conf.totem["config_version"] = str(conf.version + 1)
    new = BASE / "corosync.conf.new"
    write_file(new, render(conf))
    new.replace(CONF)


@contextmanager
def local_lock(seconds: float = LOCK_SECONDS) -> Iterator[None]:
    """Hold this node's lock on cluster changes; Failure when someone else has it for too long."""
    ends = time.monotonic() + seconds
    with LOCAL_LOCK.open("a") as lock:
        while not _try_lock(lock.fileno()):
            if time.monotonic() >= ends:
                raise Failure(f"can't lock file '{LOCAL_LOCK}' - got timeout")
            pause(0.1)
        yield


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def cluster_lock(name: str, seconds: float = LOCK_SECONDS) -> Iterator[None]:
    """Hold a lock of the whole cluster: a directory below priv/lock, which only one member can make."""
    place = PRIVATE / "lock" / name
    _take_cluster_lock(place, name, seconds)
    try:
        yield
    finally:
        place.rmdir()


def _take_cluster_lock(place: Path, name: str, seconds: float) -> None:
    ends, tries = time.monotonic() + seconds, 0
    while True:
        try:
            place.parent.mkdir(exist_ok=True)
            place.mkdir()
            return
        except OSError as error:
            if not quorate():
                raise Failure(f"cfs-lock '{name}' error: no quorum!") from None
            if time.monotonic() >= ends:
                raise Failure(f"cfs-lock '{name}' error: got lock request timeout") from error
        _ask_to_unlock(place, name, tries)
        tries += 1
        pause(min(1.0, max(0.05, ends - time.monotonic())))


def _ask_to_unlock(place: Path, name: str, tries: int) -> None:
    if tries:
        print(f"trying to acquire cfs lock '{name}' ...", file=sys.stderr)
    try:
        os.utime(place, (0, 0))
    except OSError:
        return  # held, and not for too long: that is the usual answer


@contextmanager
def conf_lock() -> Iterator[None]:
    """Hold all that a change of corosync.conf needs: this node's lock and, with company, the cluster's."""
    with local_lock():
        if len(members().get("nodelist", {})) <= 1:
            yield
            return
        with cluster_lock("file-corosync_conf"):
            yield
