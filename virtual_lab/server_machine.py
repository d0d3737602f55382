"""The provisioning server as delivered: an installed Debian with addresses, a name, and an SSH key let in.

Everything else is left to whoever provisions it.
"""

from __future__ import annotations

import shutil
import uuid
from pathlib import Path

from virtual_lab.plan import INTERNET, SERVER_OUTSIDE, RackPlan

_INTERFACES = """\
auto lo
iface lo inet loopback

auto lan0
iface lan0 inet static
	address {lan}

auto wan0
iface wan0 inet static
	address {wan}
	gateway {gateway}
"""


def deliver(root: Path, plan: RackPlan, ssh_key: Path, host_key: Path) -> None:
    """Write onto a new disk what makes this system this server. Key paths are of private keys."""
    server = plan.server
    name = server.fqdn.partition(".")[0]
    lan = f"{server.address}/{plan.prefix}"
    interfaces = _INTERFACES.format(lan=lan, wan=SERVER_OUTSIDE, gateway=INTERNET.ip)
    _write(root / "etc/network/interfaces", interfaces)
    _write(root / "etc/hostname", f"{name}\n")
    _write(root / "etc/hosts", f"127.0.0.1 localhost\n{server.address} {server.fqdn} {name}\n")
    _write(root / "etc/machine-id", f"{uuid.uuid4().hex}\n")
    _write(root / "root/.ssh/authorized_keys", ssh_key.with_suffix(".pub").read_text(), 0o600)
    (root / "root/.ssh").chmod(0o700)
    for mode, key in ((0o600, host_key), (0o644, host_key.with_suffix(".pub"))):
        target = root / f"etc/ssh/ssh_host_ed25519_key{key.suffix}"
        shutil.copyfile(key, target)
        target.chmod(mode)


def _write(path: Path, text: str, mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
