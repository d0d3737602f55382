"""SSH between the members: root's key, the shared authorized_keys, each node's known host key."""

from __future__ import annotations

import os
import re
from pathlib import Path

from .cluster import BASE, PRIVATE, write_file
from .run import run

ROOT_SSH = Path("/root/.ssh")
PRIVATE_KEY, PUBLIC_KEY = ROOT_SSH / "id_rsa", ROOT_SSH / "id_rsa.pub"
AUTHORIZED = ROOT_SSH / "authorized_keys"
BACKUP = ROOT_SSH / "authorized_keys.org"
SHARED_AUTHORIZED, SHARED_KNOWN = PRIVATE / "authorized_keys", PRIVATE / "known_hosts"
HOST_KEY = Path("/etc/ssh/ssh_host_rsa_key.pub")
SYSTEM_KNOWN = Path("/etc/ssh/ssh_known_hosts")
SSHD = Path("/etc/ssh/sshd_config")
_CIPHERS = (
    "aes128-ctr,aes192-ctr,aes256-ctr,aes128-gcm@openssh.com,aes256-gcm@openssh.com,"
    "chacha20-poly1305@openssh.com"
)
_OWN_LINE = re.compile(r"(?:^|\s)ssh-(?:rsa|dsa)\s+(\S+)\s+\S+$")


def ensure_root_key() -> None:
    """Root's own key pair and client configuration (RSA 2048: Proxmox' 4096 costs seconds)."""
    ROOT_SSH.mkdir(mode=0o700, exist_ok=True)
    if not PUBLIC_KEY.exists():
        run(["ssh-keygen", "-q", "-t", "rsa", "-b", "2048", "-N", "", "-f", str(PRIVATE_KEY)])
    config = ROOT_SSH / "config"
    if not config.exists():
        config.write_text(f"Ciphers {_CIPHERS}\n")
        config.chmod(0o640)


def share_authorized_keys() -> None:
    """Make /root/.ssh/authorized_keys the cluster's file; what was there is taken over or kept as .org."""
    PRIVATE.mkdir(exist_ok=True)
    imported = not SHARED_AUTHORIZED.exists()
    if imported:
        write_file(SHARED_AUTHORIZED, AUTHORIZED.read_bytes() if AUTHORIZED.is_file() else b"")
    if AUTHORIZED.is_file() and not AUTHORIZED.is_symlink():
        AUTHORIZED.rename(BACKUP)
    if not AUTHORIZED.is_symlink():
        AUTHORIZED.symlink_to(SHARED_AUTHORIZED)
    if imported:
        BACKUP.unlink(missing_ok=True)


def merge_keys() -> None:
    """Add root's key, and what a backup holds, to the cluster's file, each RSA key once."""
    parts = [
        file.read_text().rstrip("\n") for file in (SHARED_AUTHORIZED, BACKUP, PUBLIC_KEY) if file.is_file()
    ]
    merged = merge_lines("\n".join(parts).splitlines())
    write_file(SHARED_AUTHORIZED, "".join(f"{line}\n" for line in merged))
    if AUTHORIZED.is_symlink():
        BACKUP.unlink(missing_ok=True)


def merge_lines(lines: list[str]) -> list[str]:
    """The lines of an authorized_keys file; of RSA keys with a comment only the first of each stays."""
    seen: set[str] = set()
    kept = []
    for line in lines:
        match = None if line.startswith("#") else _OWN_LINE.search(line)
        if match and match[1] in seen:
            continue
        if match:
            seen.add(match[1])
        kept.append(line)
    return kept


def unmerge_known_hosts() -> None:
    """Put a file in place of a link to the cluster's old, shared known_hosts."""
    if SYSTEM_KNOWN.is_symlink():
        old = SHARED_KNOWN.read_bytes() if SHARED_KNOWN.exists() else b""
        SYSTEM_KNOWN.unlink()
        write_file(SYSTEM_KNOWN, old)


def merge_known_hosts(node: str, address: str) -> None:
    """Put this node's host key into the shared known_hosts, and link the system's file to it."""
    key = _host_key()
    old = SHARED_KNOWN.read_text().splitlines() if SHARED_KNOWN.exists() else []
    wanted = [f"{node} {key}", f"{address} {key}"]
    write_file(SHARED_KNOWN, "".join(f"{line}\n" for line in [*old, *(w for w in wanted if w not in old)]))
    SYSTEM_KNOWN.unlink(missing_ok=True)
    SYSTEM_KNOWN.symlink_to(SHARED_KNOWN)


def write_node_known_hosts(node: str) -> None:
    """The file by which the other members recognise this node."""
    write_file(BASE / f"nodes/{node}/ssh_known_hosts", f"{node} {_host_key()}")


def allow_root_login() -> None:
    """Have sshd let root in."""
    conf = SSHD.read_text()
    if re.search(r"^PermitRootLogin\s+yes\s*$", conf, re.MULTILINE):
        return
    changed, count = re.subn(
        r"^#?PermitRootLogin.*$", "PermitRootLogin yes", conf, count=1, flags=re.MULTILINE
    )
    SSHD.write_text(changed if count else f"{conf.rstrip()}\nPermitRootLogin yes\n")
    run(["systemctl", "reload-or-restart", "ssh"])


def _host_key() -> str:
    return " ".join(HOST_KEY.read_text().split()[:2])


def in_cluster_file_system(path: str) -> bool:
    """Whether a path lies in /etc/pve, which must not be anyone's working directory while it is restarted."""
    return os.path.realpath(path).startswith(str(BASE))
