"""The process of a started guest: what QEMU is on a real node.

The guest's disks are exported by QEMU's storage daemon; its system is booted from its own root file system
by systemd-nspawn, as there is no KVM; its NICs are veth pairs on the node's bridges. Signals stand for QMP:
TERM is the power button, INT is `quit`, HUP is `system_reset`. It runs in a unit of its own, and what is left
of it ends with that.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

from . import gpt
from .clock import wait_until
from .errors import Failure
from .loopdev import Loop
from .run import run, succeeds

RUN = Path("/run/qemu-server")
AGENT = "org.qemu.guest_agent.0"
_REBOOT = 133  # exit status of systemd-nspawn
_EXPORT_SECONDS = 30.0
_SLACK = 4 << 20  # bytes of a partition that its file system may leave unused


def pid_file(vmid: int) -> Path:
    """Where a running guest's process id is."""
    return RUN / f"{vmid}.pid"


def order_file(vmid: int) -> Path:
    """Where a guest's process finds what it is to run."""
    return RUN / f"{vmid}.json"


def failure_file(vmid: int) -> Path:
    """Where a guest's process leaves why it could not start."""
    return RUN / f"{vmid}.failure"


def agent_socket(vmid: int) -> Path:
    """Where a running guest's agent listens, if it has one."""
    return RUN / str(vmid) / "virtio-ports" / AGENT


def forget(vmid: int) -> None:
    """Remove what a guest that is no more has left: its console's log and the like."""
    for file in RUN.glob(f"{vmid}.*"):
        file.unlink(missing_ok=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command kvm."""
    parser = argparse.ArgumentParser(prog="kvm")
    parser.add_argument("-id", type=int, required=True, dest="vmid")
    vmid = parser.parse_args(arguments).vmid
    try:
        return _Guest(vmid, json.loads(order_file(vmid).read_text())).run()
    except (Failure, OSError) as failed:
        print(failed, file=sys.stderr)
        failure_file(vmid).write_text(str(failed))
        return 1


class _Guest:
    """A guest from power-on to power-off."""

    def __init__(self, vmid: int, order: Mapping[str, Any]) -> None:
        self._vmid, self._order = vmid, order
        self._home = RUN / str(vmid)
        self._system: subprocess.Popen[bytes] | None = None
        self._wanted = "run"

    def run(self) -> int:
        """Run it until it is switched off."""
        for number, wanted in ((signal.SIGTERM, "off"), (signal.SIGINT, "quit"), (signal.SIGHUP, "reset")):
            signal.signal(number, lambda *_, wanted=wanted: self._react(wanted))
        with ExitStack() as stack:
            stack.callback(self._forget)
            disks = stack.enter_context(_exports(self._home, self._order["disks"]))
            root = stack.enter_context(_mounted_root(disks[self._order["boot"]], self._home / "root"))
            binds = self._binds(stack, disks)
            pid_file(self._vmid).write_text(str(os.getpid()))
            while self._boot(root, binds):
                pass
        return 0

    def _forget(self) -> None:
        for file in (pid_file(self._vmid), order_file(self._vmid)):
            file.unlink(missing_ok=True)
        shutil.rmtree(self._home, ignore_errors=True)

    def _binds(self, stack: ExitStack, disks: Mapping[str, Path]) -> list[str]:
        """What the guest finds in its /dev: its optical drives and the agent's port."""
        binds = []
        for at, name in enumerate(self._order["discs"]):
            disc = Loop(disks[name], read_only=True)
            stack.callback(disc.close)
            # Under its kernel's name too: by that one blkid(8) finds it.
            binds += [f"--bind={disc.device}:/dev/sr{at}", f"--bind={disc.device}"]
        if self._order["agent"]:
            port = agent_socket(self._vmid)
            port.parent.mkdir(parents=True, exist_ok=True)
            binds.append(f"--bind={port.parent}:/dev/virtio-ports")
        return binds

    def _boot(self, root: Path, binds: Sequence[str]) -> bool:
        """Boot the system and wait for its end; whether it is to be booted again."""
        agent_socket(self._vmid).unlink(missing_ok=True)
        with (RUN / f"{self._vmid}.serial0").open("ab") as console, _nics(self._order["nics"]) as nics:
            if self._wanted != "run":
                return False
            command = [*_nspawn(f"vm{self._vmid}", root, self._order["uuid"]), *nics, *binds]
            env = {**os.environ, "SYSTEMD_NSPAWN_API_VFS_WRITABLE": "network"}
            self._system = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=console,
                                            stderr=console, env=env)  # fmt: skip
            _tell_systemd("READY=1")
            ended = self._system.wait()
            self._system = None
        again = self._wanted == "reset" or (self._wanted == "run" and ended == _REBOOT)
        self._wanted = "run" if again else self._wanted
        return again

    def _react(self, wanted: str, _frame: FrameType | None = None) -> None:
        self._wanted = wanted
        if self._system and wanted == "off":
            self._system.terminate()
        elif self._system:
            _cut_off(self._system)


def _cut_off(system: subprocess.Popen[bytes]) -> None:
    """Kill the first process in there, with which all others go; systemd-nspawn then tidies up and ends."""
    inside = Path(f"/proc/{system.pid}/task/{system.pid}/children").read_text().split()
    for process in inside:
        os.kill(int(process), signal.SIGKILL)
    if not inside:
        system.kill()


def _nspawn(name: str, root: Path, uuid: str) -> list[str]:
    return [
        "systemd-nspawn", "--quiet", f"--directory={root}", "--boot", f"--machine={name}",
        f"--uuid={uuid}", "--register=no", "--keep-unit", "--settings=no", "--console=read-only",
        "--kill-signal=SIGRTMIN+4", "--private-network", "--resolv-conf=off", "--timezone=off",
        "--link-journal=no", "--setenv=SYSTEMD_COLORS=0",
    ]  # fmt: skip


# -- disks


@contextmanager
def _exports(home: Path, disks: Mapping[str, Mapping[str, Any]]) -> Iterator[dict[str, Path]]:
    """The guest's disks as files: what they hold, whatever format or storage they are in."""
    shutil.rmtree(home, ignore_errors=True)
    (home / "disks").mkdir(parents=True)
    files = {name: home / "disks" / name for name in disks}
    # The daemon must not see what is mounted from its exports: killed, it would then be the one who unmounts
    # that, and wait for its own answers for ever. So it gets mounts of its own, and its exports alone appear
    # here too.
    run(["mount", "--make-rshared", "/"])
    ready = home / "storage-daemon.pid"
    command = ["unshare", "--mount", "--propagation=unchanged", *_storage_daemon(disks, files, ready)]
    daemon = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        _wait_for_exports(daemon, ready)
        run(["mount", "--make-rprivate", "/"])
        yield files
    finally:
        daemon.terminate()
        daemon.wait()
        for file in files.values():
            succeeds(["umount", "--lazy", str(file)])


def _storage_daemon(
    disks: Mapping[str, Mapping[str, Any]], files: Mapping[str, Path], ready: Path
) -> list[str]:
    command = ["qemu-storage-daemon", "--pidfile", str(ready)]
    for name, node in disks.items():
        files[name].touch()
        # The node's own memory outlives the guest, so that nothing is lost by not flushing it.
        blockdev = {**node, "node-name": name, "cache": {"no-flush": True}, "discard": "unmap"}
        export = {"type": "fuse", "id": f"export-{name}", "node-name": name, "writable": True,
                  "mountpoint": str(files[name]), "allow-other": "off"}  # fmt: skip
        command += ["--blockdev", json.dumps(blockdev), "--export", json.dumps(export)]
    return command


def _wait_for_exports(daemon: subprocess.Popen[bytes], ready: Path) -> None:
    wait_until(lambda: ready.exists() or daemon.poll() is not None, _EXPORT_SECONDS, every=0.02)
    if not ready.exists():
        daemon.kill()
        said = daemon.communicate()[1].decode(errors="replace").strip()
        raise Failure(f"start failed: {said or 'the disks were not exported in time'}")


@contextmanager
def _mounted_root(disk: Path, target: Path) -> Iterator[Path]:
    """The root file system on a disk, mounted while inside; first grown, if the disk was."""
    one = gpt.root(disk)
    if one is None:
        raise Failure("start failed: BdsDxe: No bootable option or device was found.")
    gpt.grow(disk, one)
    one = gpt.root(disk) or one
    loop = Loop(disk, start=one.offset, size=one.size)
    try:
        if gpt.ext4_size(loop.device) < one.size - _SLACK:
            _grow_filesystem(loop.device)
        target.mkdir()
        run(["mount", str(loop.device), str(target)])
    finally:
        loop.close()
    try:
        yield target
    finally:
        run(["umount", str(target)])


def _grow_filesystem(device: Path) -> None:
    # Before it is mounted: the kernel of a host in a container may not let a mounted one grow.
    succeeds(["e2fsck", "-f", "-p", str(device)])
    run(["resize2fs", str(device)])


# -- NICs


@contextmanager
def _nics(nics: Sequence[Mapping[str, Any]]) -> Iterator[list[str]]:
    """The arguments for nspawn that give the guest its NICs; their other ends are ports of the bridges."""
    _unplug(nics)
    try:
        for nic in nics:
            _plug(nic)
        yield [f"--network-interface={_inner(nic)}:{nic['name']}" for nic in nics]
    finally:
        _unplug(nics)


def _plug(nic: Mapping[str, Any]) -> None:
    tap, bridge = nic["tap"], nic["bridge"]
    if not Path(f"/sys/class/net/{bridge}/bridge").is_dir():
        raise Failure(f"bridge '{bridge}' does not exist")
    mtu = Path(f"/sys/class/net/{bridge}/mtu").read_text().strip()
    run(["ip", "link", "add", tap, "mtu", mtu, "type", "veth",
         "peer", "name", _inner(nic), "address", nic["mac"], "mtu", str(nic.get("mtu") or mtu)])  # fmt: skip
    run(["ip", "link", "set", tap, "master", bridge, "up"])


def _unplug(nics: Sequence[Mapping[str, Any]]) -> None:
    for nic in nics:
        succeeds(["ip", "link", "delete", nic["tap"]])


def _inner(nic: Mapping[str, Any]) -> str:
    return f"{nic['tap']}g"


def _tell_systemd(state: str) -> None:
    where = os.environ.get("NOTIFY_SOCKET")
    if where:
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
            line.connect("\0" + where[1:] if where.startswith("@") else where)
            line.send(state.encode())
