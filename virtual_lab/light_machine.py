"""A light node at work: an SSH server in namespaces of its own, over an image that all of them share.

No systemd runs in it and nothing watches files, so that hundreds fit on one machine. What is written in it
lies in memory, and is gone with its first process.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from virtual_lab import kernel, light, network
from virtual_lab.hardware import SHARED
from virtual_lab.places import MARKER, Places
from virtual_lab.plan import MachinePlan, RackPlan

_DEVICES = ("full", "null", "random", "tty", "urandom", "zero")
_READ_ONLY = ("proc/sys", "proc/sysrq-trigger", "sys")
"""What of this host a machine can see and must not set; its network's own settings are mounted over it."""
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_SSHD = (
    "setpriv", f"--bounding-set={','.join(f'-{capability}' for capability in SHARED)}", "--",
    "/usr/sbin/sshd", "-D", "-e",
)  # fmt: skip


def start(places: Places, plan: RackPlan, machine: MachinePlan, layers: Sequence[Path]) -> int:
    """Start a light node, and return its first process; the node ends with that, and both with the caller."""
    process = kernel.fork_into_own_pids()
    if process == 0:
        try:
            _become(places, plan, machine, layers)
        except BaseException as error:
            os.write(2, f"{machine.name}: {error}\n".encode())
        finally:
            os._exit(1)
    return process


def _become(places: Places, plan: RackPlan, machine: MachinePlan, layers: Sequence[Path]) -> NoReturn:
    assert machine.light is not None
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    kernel.die_with_parent(0)
    kernel.enter(places.namespace(machine.name), kernel.CLONE_NEWNET)
    _write_to(places.console(machine.name))
    kernel.unshare(kernel.CLONE_NEWUTS | kernel.CLONE_NEWIPC)
    kernel.own_mounts()
    socket.sethostname(machine.name)
    folder = places.machine(machine.name)
    given = light.files(machine.light, machine.fqdn) | _keys(places, machine)
    root = _root(folder, layers)
    _fill(root, given)
    _file_systems(root)
    harness = f"{plan.harness} lladdr {network.harness_mac(plan)}"
    _set_up_network(machine.light, harness)
    env = {"PATH": _PATH, MARKER: places.mark}
    kernel.pivot(root)
    os.execvpe(_SSHD[0], _SSHD, env)  # noqa: S606


def _write_to(console: Path) -> None:
    log = os.open(console, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    for number in (1, 2):
        os.dup2(log, number)
    os.close(log)


def _keys(places: Places, machine: MachinePlan) -> dict[str, str]:
    """Its own host key, and who is let in."""
    assert machine.light is not None
    own = places.machine(machine.name) / light.HOST_KEY
    public = places.ssh_key.with_suffix(".pub").read_text().strip()
    return {
        f"etc/ssh/{light.HOST_KEY}": own.read_text(),
        f"etc/ssh/{light.HOST_KEY}.pub": own.with_suffix(".pub").read_text(),
        "root/.ssh/authorized_keys": "".join(f"{key}\n" for key in (*machine.light.ssh_keys, public)),
    }


def _root(folder: Path, layers: Sequence[Path]) -> Path:
    """The image with a layer in memory over it, in this process's own mounts."""
    kernel.mount("tmpfs", folder, "tmpfs", 0, "mode=755")
    upper, work, root = (folder / name for name in ("upper", "work", "root"))
    for each in (upper, work, root):
        each.mkdir(mode=0o755)
    lower = ":".join(map(str, layers))
    kernel.mount("overlay", root, "overlay", 0, f"lowerdir={lower},upperdir={upper},workdir={work}")
    return root


def _fill(root: Path, given: Mapping[str, str]) -> None:
    (root / "run/sshd").mkdir(parents=True, exist_ok=True)
    for name, text in given.items():
        path = root / name
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o600 if name.endswith((light.HOST_KEY, "authorized_keys")) else 0o644)


def _file_systems(root: Path) -> None:
    kernel.mount("proc", root / "proc", "proc")
    kernel.mount("sysfs", root / "sys", "sysfs")
    shown = [root / name for name in _READ_ONLY if (root / name).exists()]
    for path in (*shown, root / "proc/sys/net"):
        kernel.mount(str(path), path, None, kernel.MS_BIND)
    for path in shown:
        kernel.mount("none", path, None, kernel.MS_BIND | kernel.MS_REMOUNT | kernel.MS_RDONLY)
    kernel.mount("tmpfs", root / "dev", "tmpfs", 0, "mode=755")
    for name in _DEVICES:
        (root / "dev" / name).touch()
        kernel.mount(f"/dev/{name}", root / "dev" / name, None, kernel.MS_BIND)
    (root / "dev/pts").mkdir()
    kernel.mount("devpts", root / "dev/pts", "devpts", 0, "newinstance,ptmxmode=0666,mode=620")
    (root / "dev/ptmx").symlink_to("pts/ptmx")
    (root / "dev/fd").symlink_to("/proc/self/fd")


def _set_up_network(of: light.Light, harness: str) -> None:
    """A namespace outlives the node: bridges of one that has died are still there.

    Why the harness is a neighbour for good: virtual_lab/network.py.
    """
    network.as_delivered()
    left = {name for _, name in socket.if_nameindex()} & {bridge.name for bridge in of.bridges}
    lines = [*(f"link del {name}" for name in left), *light.links(of)]
    lines.append(f"neigh replace {harness} dev {of.bridges[0].name} nud permanent")
    command = ["ip", "-batch", "-"]
    subprocess.run(command, input="\n".join(lines), text=True, check=True, env={"PATH": _PATH})
