"""The guests' configuration files, /etc/pve/nodes/<node>/qemu-server/<id>.conf, and the locks on them."""

from __future__ import annotations

import fcntl
import hashlib
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote, unquote

from . import cluster
from .clock import pause
from .cluster import BASE, node_name, write_file
from .errors import Failure
from .guest_run import RUN, pid_file

LOCKS = Path("/var/lock/qemu-server")
LOCK_SECONDS = 10.0
Config = dict[str, str]


def config_path(vmid: int, node: str = "") -> Path:
    """Where a guest's configuration is; of this node unless another is named."""
    return BASE / f"nodes/{node or node_name()}/qemu-server/{vmid}.conf"


def read(vmid: int) -> Config:
    """The configuration of a guest of this node; Failure when there is none."""
    try:
        return parse(config_path(vmid).read_text())
    except FileNotFoundError:
        place = config_path(vmid).relative_to(BASE)
        raise Failure(f"Configuration file '{place}' does not exist") from None


def write(vmid: int, conf: Mapping[str, str]) -> None:
    """Put the configuration of a guest of this node in place."""
    write_file(config_path(vmid), render(conf))


def parse(text: str) -> Config:
    """The settings of a configuration; the comment lines at its top are the description."""
    notes, conf = [], {}
    for line in text.splitlines():
        if line.startswith("["):
            break  # snapshots and the like, of which a played guest has none
        if line.startswith("#"):
            notes.append(unquote(line[1:]))
        elif ":" in line:
            key, _, value = line.partition(":")
            conf[key.strip()] = value.strip()
    return {**conf, "description": "\n".join(notes) + "\n"} if notes else conf


def render(conf: Mapping[str, str]) -> str:
    """The text of a configuration."""
    notes = conf.get("description", "").rstrip("\n")
    lines = [f"#{quote(line, safe=' -_.:/,!')}" for line in notes.split("\n")] if notes else []
    lines += [f"{key}: {conf[key]}" for key in sorted(conf) if key != "description"]
    return "".join(f"{line}\n" for line in lines)


def digest(conf: Mapping[str, str]) -> str:
    """Changes with the configuration."""
    return hashlib.sha1(render(conf).encode()).hexdigest()  # noqa: S324


def is_template(conf: Mapping[str, str]) -> bool:
    """Whether it can be cloned and not be started."""
    return conf.get("template") == "1"


def of_node() -> list[int]:
    """The guests of this node."""
    return sorted(int(path.stem) for path in config_path(0).parent.glob("*.conf"))


def running(vmid: int) -> int:
    """The process id of a guest that runs on this node, else 0."""
    try:
        pid = int(pid_file(vmid).read_text())
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (OSError, ValueError):
        return 0
    return pid if [b"-id", str(vmid).encode()] == words[-3:-1] else 0


# -- locks


def check_lock(conf: Mapping[str, str]) -> None:
    """Failure while something else is under way with the guest."""
    if "lock" in conf:
        raise Failure(f"VM is locked ({conf['lock']})")


@contextmanager
def locked(vmid: int, seconds: float = LOCK_SECONDS, *, shared: bool = False) -> Iterator[None]:
    """Hold a guest's configuration against others on this node; Failure when they hold it for too long."""
    LOCKS.mkdir(parents=True, exist_ok=True)
    with _held(LOCKS / f"lock-{vmid}.conf", seconds, fcntl.LOCK_SH if shared else fcntl.LOCK_EX):
        yield


@contextmanager
def locked_agent(vmid: int, seconds: float) -> Iterator[None]:
    """Hold the line to a guest's agent, which hears one at a time."""
    RUN.mkdir(exist_ok=True)
    with _held(RUN / f"{vmid}.qga.lock", seconds, fcntl.LOCK_EX):
        yield


@contextmanager
def _held(path: Path, seconds: float, kind: int) -> Iterator[None]:
    ends = time.monotonic() + seconds
    with path.open("a") as file:
        while not _try(file.fileno(), kind):
            if time.monotonic() >= ends:
                raise Failure(f"can't lock file '{path}' - got timeout")
            pause(0.05)
        yield


def _try(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


# -- ids


def check_unused(vmid: int) -> None:
    """Failure when a guest of the cluster has the id."""
    found = cluster.guests().get(str(vmid))
    if found:
        kind = "VM" if found["type"] == "qemu" else "CT"
        raise Failure(f"{kind} {vmid} already exists on node '{found['node']}'")


def claim(vmid: int, lock: str) -> None:
    """Make an empty, locked configuration, which nobody else can make."""
    check_unused(vmid)
    path = config_path(vmid)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o640)
    except FileExistsError:
        raise Failure(f"config file already exists: {path}") from None
    with os.fdopen(descriptor, "w") as file:
        file.write(f"lock: {lock}\n")


def next_id() -> int:
    """The lowest id that no guest of the cluster has."""
    taken = cluster.guests()
    return next(vmid for vmid in range(100, 1_000_000) if str(vmid) not in taken)
