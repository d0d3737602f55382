"""pmxcfs: mounts /etc/pve, keeps it in config.db, and shares it with the cluster through corosync."""

from __future__ import annotations

import argparse
import contextlib
import errno
import grp
import os
import selectors
import signal
import socket
import subprocess
import sys
import syslog
import time
from collections import deque
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from pathlib import Path

from .cfs import FileSystem
from .corosync import Conf, ConfError, parse
from .cpg import CorosyncError, Group, Quorum
from .fuse import Mount
from .memdb import MemDb, Op
from .replica import Replica
from .status import Status
from .store import Store

GROUP = "pve_dcdb_v1"
RETRY_SECONDS = 0.1
PID_FILE = Path("/run/pve-cluster.pid")


@dataclass(frozen=True, slots=True)
class Places:
    """Where things lie on the node."""

    mount: Path = Path("/etc/pve")
    database: Path = Path("/var/lib/pve-cluster/config.db")
    seed: Path = Path("/var/lib/pve-cluster/seed")
    conf: Path = Path("/etc/corosync/corosync.conf")


def log(text: str) -> None:
    """A line in the journal."""
    syslog.syslog(syslog.LOG_NOTICE, text)


def node_address(node: str) -> str:
    """The address that the node's own name resolves to; OSError when it is none or a loopback one."""
    for family, _, _, _, address in socket.getaddrinfo(node, None, type=socket.SOCK_STREAM):
        text = str(address[0])
        if family in (socket.AF_INET, socket.AF_INET6) and not text.startswith("127.") and text != "::1":
            return text
    raise OSError(errno.EADDRNOTAVAIL, f"Unable to resolve node name '{node}' to a non-loopback IP address - "
                  "missing entry in '/etc/hosts' or DNS?")  # fmt: skip


def first_tree(places: Places) -> MemDb:
    """What a fresh database holds: the cluster's corosync.conf after a join, else the installer's seed."""
    tree = MemDb()
    now = int(time.time())
    if places.conf.exists():
        seeds = {"corosync.conf": places.conf.read_bytes()}
    else:
        files = sorted(places.seed.glob("*")) if places.seed.is_dir() else []
        seeds = {file.name: file.read_bytes() for file in files if file.is_file()}
    for name, data in seeds.items():
        tree.apply(Op("create", name, time=now))
        tree.apply(Op("write", name, data=data, time=now))
    return tree


class Link:
    """The daemon's line to corosync; made again whenever it breaks."""

    def __init__(self, replica: Replica, on_quorum: Callable[[bool], None]) -> None:
        self._replica, self._on_quorum = replica, on_quorum
        self._group: Group | None = None
        self._quorum: Quorum | None = None
        self._out: deque[bytes] = deque()

    @property
    def up(self) -> bool:
        """Whether corosync is spoken to."""
        return self._group is not None

    @property
    def behind(self) -> bool:
        """Whether messages wait until corosync takes them."""
        return bool(self._out)

    def services(self) -> list[Group | Quorum]:
        """What to poll."""
        return [service for service in (self._group, self._quorum) if service]

    def connect(self) -> None:
        """Join the group; CorosyncError when corosync is not ready."""
        quorum = Quorum(self._on_quorum)
        try:
            group = Group(GROUP, self._replica.deliver, self._replica.membership)
        except CorosyncError:
            quorum.close()
            raise
        try:
            group.join()
            self._replica.joined((group.node_id, os.getpid()), self._multicast)
        except CorosyncError:
            group.close()
            quorum.close()
            raise
        self._group, self._quorum = group, quorum

    def disconnect(self) -> None:
        """corosync has gone, or this daemon goes."""
        for service in self.services():
            service.close()
        self._group = self._quorum = None
        self._out.clear()
        self._on_quorum(False)
        self._replica.left()

    def flush(self) -> None:
        """Hand corosync what it did not take at once."""
        while self._out and self._group and self._group.multicast(self._out[0]):
            self._out.popleft()

    def _multicast(self, message: bytes) -> None:
        # Only ever queued here: corosync's callbacks must not be re-entered from within themselves.
        self._out.append(message)


class Daemon:
    """One running pmxcfs."""

    def __init__(self, places: Places, *, force_local: bool) -> None:
        self.places, self.node = places, os.uname().nodename.partition(".")[0]
        address = node_address(self.node)
        self.store = Store(places.database)
        if self.store.fresh:
            self.store.replace(first_tree(places))
        self.replica = Replica(self.store.load(), self.store)
        self.status = Status(self.node)
        self.clustered = not force_local and self.replica.tree.read("corosync.conf") is not None
        self.link = Link(self.replica, self._quorum_changed)
        self.replica.introduce = lambda: (self.node, address)
        self.replica.on_change, self.replica.on_members = self._tree_changed, self._members_changed
        self.replica.on_acknowledged = self._reload_corosync
        self.mount = Mount(places.mount)
        self.files = FileSystem(self.mount, self.replica, self.status, gid=grp.getgrnam("www-data").gr_gid)
        self._children: list[subprocess.Popen[bytes]] = []
        self._stopping = False
        self._begin()

    def _begin(self) -> None:
        if self.clustered:
            self.replica.left()
            self._sync_conf(mine=False)
        else:
            self._quorum_changed(True)

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT, or until someone unmounts /etc/pve."""
        with contextlib.closing(self._woken_by_signals()) as wake, contextlib.suppress(_Unmounted):
            while not self._stopping:
                self._turn(wake)
        self.link.disconnect()
        self.mount.close()
        self.store.close()

    def _woken_by_signals(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        signal.set_wakeup_fd(theirs.detach())
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        return ours

    def _stop(self, *_: object) -> None:
        self._stopping = True

    def _turn(self, wake: socket.socket) -> None:
        if self.clustered and not self.link.up:
            with contextlib.suppress(CorosyncError):
                self.link.connect()
        services = self.link.services()
        with selectors.DefaultSelector() as selector:
            for source in (wake, self.mount, *services):
                selector.register(source, selectors.EVENT_READ)
            ready = {key.fileobj for key, _ in selector.select(self._patience())}
        self._take(ready, services)
        self._children = [child for child in self._children if child.poll() is None]

    def _patience(self) -> float | None:
        if self.link.behind:
            return 0.005
        if (self.clustered and not self.link.up) or self._children:
            return RETRY_SECONDS
        return None

    def _take(self, ready: Container[object], services: Sequence[Group | Quorum]) -> None:
        try:
            for service in services:
                if service in ready:
                    service.dispatch()
            if self.mount in ready:
                self._serve()
            self.link.flush()
        except CorosyncError as gone:
            log(f"[dcdb] crit: {gone}")
            self.link.disconnect()

    def _serve(self) -> None:
        try:
            for _ in range(64):
                request = self.mount.receive()
                if request is None:
                    return
                self.files.handle(request)
        except OSError as error:
            if error.errno == errno.ENODEV:
                raise _Unmounted from None
            raise

    # -- what the cluster tells

    def _quorum_changed(self, quorate: bool) -> None:
        if quorate != self.status.quorate:
            log(f"[status] notice: node {'has' if quorate else 'lost'} quorum")
            self.status.quorate = quorate
            self.status.changed()

    def _members_changed(self) -> None:
        names = ", ".join(f"{node}/{pid}" for node, pid in self.replica.members)
        log(f"[dcdb] notice: members: {names or 'none'}{', all data is up to date' * self.replica.synced}")
        self.status.online, self.status.addresses = self.replica.online, self.replica.addresses
        self.status.changed()

    def _tree_changed(self, path: str, mine: bool) -> None:
        if path == "corosync.conf":
            self._sync_conf(mine=mine)

    def _sync_conf(self, *, mine: bool) -> None:
        """Carry the cluster's corosync.conf to corosync's own place; whoever changed it has it reloaded."""
        new, there = self.replica.tree.read("corosync.conf"), self.places.conf
        old = there.read_bytes() if there.exists() else None
        parsed, before = _parsed(new), _parsed(old)
        if new and parsed is None:
            log("[dcdb] crit: unable to parse cluster config_version")
        if new is None or parsed is None:
            return
        if self.clustered:
            self.status.conf = parsed
            self.status.changed()
        if before and parsed.version < before.version:
            log("[dcdb] crit: local corosync.conf is newer")
            return
        if mine and before and self.clustered and new != old:
            self.replica.want_acknowledgements()
        if new != old:
            _write(there, new)
            log(f"[dcdb] notice: wrote new corosync config '{there}' (version = {parsed.version})")
        self.replica.acknowledge()

    def _reload_corosync(self) -> None:
        quiet = subprocess.DEVNULL
        self._children.append(subprocess.Popen(["corosync-cfgtool", "-R"], stdout=quiet, stderr=quiet))


class _Unmounted(Exception):
    """Someone took the mount away."""


def _parsed(raw: bytes | None) -> Conf | None:
    try:
        conf = parse((raw or b"").decode())
        return conf if conf.version > 0 else None
    except (ConfError, UnicodeDecodeError):
        return None


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(path.name + ".tmp")
    new.write_bytes(data)
    new.chmod(0o644)
    new.replace(path)


def _stay() -> None:
    """In the foreground nobody waits to be told."""


def daemonise() -> Callable[[], None]:
    """Go on in a child; the parent ends when the returned function is called, or with an error when never."""
    ready, tell = os.pipe()
    child = os.fork()
    if child:
        os.close(tell)
        os._exit(0 if os.read(ready, 1) else 1)
    os.close(ready)
    os.setsid()
    os.chdir("/")
    PID_FILE.write_text(f"{os.getpid()}\n")

    def up() -> None:
        os.write(tell, b"1")
        os.close(tell)
        null = os.open(os.devnull, os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(null, fd)

    return up


def main(arguments: Sequence[str] | None = None) -> int:
    """The command pmxcfs."""
    parser = argparse.ArgumentParser(prog="pmxcfs")
    parser.add_argument("-f", "--foreground", action="store_true", help="do not daemonize server")
    parser.add_argument("-l", "--local", action="store_true", help="force local mode")
    options = parser.parse_args(arguments)
    syslog.openlog("pmxcfs", syslog.LOG_PID, syslog.LOG_DAEMON)
    up = _stay if options.foreground else daemonise()
    try:
        daemon = Daemon(Places(), force_local=options.local)
    except OSError as error:
        log(f"[main] crit: {error}")
        print(f"{error.strerror or error}", file=sys.stderr)
        return 255
    up()
    daemon.run()
    PID_FILE.unlink(missing_ok=True)
    return 0
