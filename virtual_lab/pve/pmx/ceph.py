"""What a node's programs ask of Ceph: whether it is there, its ceph.conf, and commands to its monitors."""

from __future__ import annotations

import errno
import json
import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Any

from .cluster import BASE, PRIVATE, cluster_lock, write_file
from .errors import Failure

Config = dict[str, dict[str, str]]

NAME = "ceph"
CONFIG = BASE / "ceph.conf"
SHARED = BASE / "ceph"
LOCAL = Path("/etc/ceph")
LOCAL_CONFIG = LOCAL / "ceph.conf"
ADMIN_KEYRING = PRIVATE / "ceph.client.admin.keyring"
LOCAL_ADMIN_KEYRING = LOCAL / "ceph.client.admin.keyring"
MON_KEYRING = PRIVATE / "ceph.mon.keyring"
CRASH_KEYRING = SHARED / "ceph.client.crash.keyring"
BOOTSTRAP_OSD_KEYRING = Path("/var/lib/ceph/bootstrap-osd/ceph.keyring")
BOOTSTRAP_MDS_KEYRING = Path("/var/lib/ceph/bootstrap-mds/ceph.keyring")
STATE = Path("/var/lib/ceph")
INSTALLING = Path("/run/pve-ceph-install-flag")
BINARIES: Mapping[str, Path] = {
    "ceph": Path("/usr/bin/ceph"), "mon": Path("/usr/bin/ceph-mon"), "mgr": Path("/usr/bin/ceph-mgr"),
    "osd": Path("/usr/bin/ceph-osd"), "mds": Path("/usr/bin/ceph-mds"),
    "volume": Path("/usr/sbin/ceph-volume"),
}  # fmt: skip
TIMEOUT = 5.0
LONG_TIMEOUT = 60.0
_SECTIONS = ("global", "client", "client\\..*", "mds", "mds\\..*", "mon", "mon\\..*", "osd", "osd\\..*",
             "mgr", "mgr\\..*", ".*")  # fmt: skip


# -- what there is


def is_installed(service: str = "ceph") -> bool:
    """Whether a program of BINARIES is there and no installation is under way."""
    return os.access(BINARIES[service], os.X_OK) and not INSTALLING.exists()


def check_installed(service: str = "ceph") -> None:
    """Failure when a program of BINARIES is not there, or an installation is under way."""
    if not is_installed(service):
        raise Failure(f"binary not installed: {BINARIES[service]}")


def is_initialized() -> bool:
    """Whether `pveceph init` was done in this cluster and Ceph is installed on this node."""
    return is_installed("mon") and CONFIG.is_file() and SHARED.is_dir()


def check_initialized() -> None:
    """Failure when Ceph is not installed here, or not configured in this cluster."""
    check_installed("mon")
    missing = [str(place) for place, there in ((CONFIG, CONFIG.is_file()), (SHARED, SHARED.is_dir()))
               if not there]  # fmt: skip
    if missing:
        named = ", ".join(f"missing '{place}'" for place in missing)
        raise Failure(f"pveceph configuration not initialized - {named}")


def check_configured() -> None:
    """Failure when Ceph cannot be administered from here."""
    check_initialized()
    if not ADMIN_KEYRING.is_file():
        raise Failure(f"ceph not fully configured - missing '{ADMIN_KEYRING}'")


# -- ceph.conf


def parse(text: str) -> Config:
    """The sections of a ceph.conf; Ceph takes blanks in a key for underscores."""
    found: Config = {}
    section: dict[str, str] | None = None
    for line in re.sub(r"\\\n\s*", "", text).splitlines():
        bare = re.sub(r"(?<!\\)[;#].*$", "", line).strip()
        head = re.fullmatch(r"\[\s*([^\]]+?)\s*\]", bare)
        if head:
            section = found.setdefault(head[1], {})
        elif section is not None and "=" in bare:
            key, _, value = bare.partition("=")
            section[re.sub(r"\s+", "_", key.strip())] = re.sub(r"\\([;#])", r"\1", _unquoted(value.strip()))
    return found


def _unquoted(value: str) -> str:
    return value[1:-1] if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"" else value


def render(conf: Mapping[str, Mapping[str, str]]) -> str:
    """The text of a ceph.conf, its sections in the order in which Proxmox writes them."""
    names = sorted(conf, key=lambda name: (_rank(name), name))
    return "".join(_section(name, conf[name]) for name in names)


def _rank(name: str) -> int:
    return next(at for at, pattern in enumerate(_SECTIONS) if re.fullmatch(pattern, name))


def _section(name: str, keys: Mapping[str, str]) -> str:
    lines = "".join(f"\t{key} = {keys[key]}\n" for key in sorted(keys))
    return re.sub(r"(?<!\\)([;#])", r"\\\1", f"[{name}]\n{lines}\n")


def config() -> Config:
    """The cluster's /etc/pve/ceph.conf, empty when there is none."""
    return parse(CONFIG.read_text()) if CONFIG.is_file() else {}


def write_config(conf: Mapping[str, Mapping[str, str]]) -> None:
    """Put a ceph.conf in place; hold config_lock for it."""
    write_file(CONFIG, render(conf))


@contextmanager
def locked(name: str) -> Iterator[None]:
    """Hold a lock of the whole cluster; what fails under it is told in the lock's words."""
    with cluster_lock(name):
        try:
            yield
        except Failure as failed:
            text = f"error during cfs-locked '{name}' operation: {failed.message}"
            raise Failure(text, code=failed.code, errors=failed.errors) from failed


def config_lock() -> Any:
    """Hold the cluster's lock on ceph.conf."""
    return locked("file-ceph_conf")


def link_config() -> None:
    """Make /etc/ceph/ceph.conf the cluster's; Failure when there is another one."""
    if LOCAL_CONFIG.is_file():
        if not LOCAL_CONFIG.is_symlink() or LOCAL_CONFIG.readlink() != CONFIG:
            raise Failure(f"file '{LOCAL_CONFIG}' already exists and is not a symlink to {CONFIG}")
        return
    LOCAL.mkdir(exist_ok=True)
    LOCAL_CONFIG.unlink(missing_ok=True)  # a link to nothing
    LOCAL_CONFIG.symlink_to(CONFIG)


def monitor_addresses(conf: Mapping[str, Mapping[str, str]]) -> list[str]:
    """The plain addresses in mon_host, in order."""
    words = re.split(r"[ ,;]+", conf.get("global", {}).get("mon_host", ""))
    hosts = [re.sub(r"/\d+\]?$", "", re.sub(r"^\[?v\d:", "", word)) for word in words]
    return [re.sub(r"^\[(.*)\](?::\d+)?$|:\d+$", r"\1", host) if host.count(":") < 2 or host[0] == "["
            else host for host in hosts if host]  # fmt: skip


# -- commands to the monitors


class Rados:
    """A connection to the monitors as client.admin, good for some commands."""

    def __init__(self, timeout: float = TIMEOUT) -> None:
        rados = _librados()
        self._errors: type[Exception] = rados.Error
        waits = ("client_mount_timeout", "rados_mon_op_timeout", "rados_osd_op_timeout")
        limits = dict.fromkeys(waits, f"{timeout:g}")
        try:
            self.handle = rados.Rados(conffile=str(CONFIG), rados_id="admin", conf=limits)
            self.handle.connect()
        except self._errors as refused:
            raise Failure(f"rados_connect failed - {_reason(refused)}") from None

    def __enter__(self) -> Rados:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:  # fmt: skip
        self.close()

    def close(self) -> None:
        """End the connection."""
        self.handle.shutdown()

    def raw(self, prefix: str, **args: Any) -> tuple[int, bytes, str]:
        """Return code (0 or a negative errno), output and message of a command."""
        order = json.dumps({"format": "json", **args, "prefix": prefix})
        try:
            code, output, message = self.handle.mon_command(order, b"")
        except self._errors as failed:
            raise Failure(f"error with '{prefix}': {_reason(failed)}") from None
        return code, output, message

    def command(self, prefix: str, **args: Any) -> Any:
        """What a command answers, from JSON; its bytes when called with format="plain". Failure as PVE's."""
        code, output, message = self.raw(prefix, **args)
        if code == -errno.ETIMEDOUT:
            raise Failure("got timeout")
        if code < 0:
            raise Failure(f"error with '{prefix}': mon_cmd failed - {message or os.strerror(-code)}")
        if args.get("format") == "plain":
            return output
        return json.loads(output) if output.strip() else None


def _librados() -> Any:
    # The interpreter was started without site-packages; librados' binding is a Debian package.
    if "/usr/lib/python3/dist-packages" not in sys.path:
        sys.path.append("/usr/lib/python3/dist-packages")
    try:
        return import_module("rados")  # here, because only Ceph's own calls should pay for it
    except ImportError:
        raise Failure("Can't locate the librados2 binding - please run 'pveceph install'") from None


def _reason(error: Exception) -> str:
    number = getattr(error, "errno", None)
    return os.strerror(abs(number)) if isinstance(number, int) else str(error)


def mon_command(prefix: str, *, timeout: float = TIMEOUT, **args: Any) -> Any:
    """What one command to the monitors answers, from JSON; Failure in Proxmox' words when it fails."""
    with Rados(timeout) as rados:
        return rados.command(prefix, **args)
