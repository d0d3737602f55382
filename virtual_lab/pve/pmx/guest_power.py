"""Guests started, shut down, stopped and reset."""

from __future__ import annotations

import json
import os
import re
import signal
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from . import agent, cloudinit, drives, guests, volumes
from .clock import wait_until
from .errors import Failure
from .guest_drives import say
from .guest_run import RUN, failure_file, order_file
from .guests import Config
from .run import run, succeeds

_STOP_SECONDS, _KILL_SECONDS = 60.0, 10.0


def start(params: Mapping[str, Any]) -> None:
    """The task qmstart."""
    vmid = int(params["vmid"])
    with guests.locked(vmid):
        conf = guests.read(vmid)
        if guests.is_template(conf):
            raise Failure("you can't start a vm if it's a template")
        guests.check_lock(conf)
        if guests.running(vmid):
            raise Failure(f"VM {vmid} already running")
        cloudinit.write_drives(vmid, conf)
        _power_on(vmid, conf)


def _power_on(vmid: int, conf: Config) -> None:
    RUN.mkdir(exist_ok=True)
    order_file(vmid).write_text(json.dumps(_order(vmid, conf)))
    failure_file(vmid).unlink(missing_ok=True)
    unit = ["systemd-run", "--quiet", "--collect", f"--unit=qemu-{vmid}", "--slice=qemu.slice",
            "--service-type=notify", "--property=Delegate=yes", "--property=PrivateMounts=yes",
            "--property=KillMode=mixed", "--property=TimeoutStopSec=60"]  # fmt: skip
    name = conf.get("name", f"vm{vmid}")
    if not succeeds([*unit, f"--description={name}", "/usr/bin/kvm", "-id", str(vmid)]):
        said = failure_file(vmid).read_text() if failure_file(vmid).exists() else "QEMU exited with code 1"
        raise Failure(said)


def _order(vmid: int, conf: Config) -> dict[str, Any]:
    """What the guest's process is to run."""
    found = drives.drives(conf)
    discs = [name for name, one in found.items() if one.is_cdrom and ":" in one.file]
    bootable = [name for name in drives.boot_order(conf) if name in found and not found[name].is_cdrom]
    if not bootable:
        raise Failure("start failed: BdsDxe: No bootable option or device was found.")
    uuids = re.search(r"uuid=([0-9a-fA-F-]{36})", conf.get("smbios1", ""))
    return {"boot": bootable[0], "discs": discs, "agent": drives.has_agent(conf),
            "uuid": uuids[1] if uuids else str(uuid.uuid4()),
            "disks": {name: volumes.blockdev(found[name].file) for name in (bootable[0], *discs)},
            "nics": _nics(vmid, conf)}  # fmt: skip


def _nics(vmid: int, conf: Config) -> list[dict[str, Any]]:
    numbers = sorted(int(key[3:]) for key in conf if re.fullmatch(r"net\d+", key))
    return [_nic(vmid, number, drives.net(conf[f"net{number}"])) for number in numbers]


def _nic(vmid: int, number: int, nic: Mapping[str, Any]) -> dict[str, Any]:
    if "tag" in nic:
        raise Failure("the played node has no VLANs on its bridges")
    mtu = nic.get("mtu")
    # By the name that cloud-init gives it: systemd-nspawn takes a NIC that was renamed for lost.
    return {"tap": f"tap{vmid}i{number}", "name": f"eth{number}", "bridge": nic.get("bridge", "vmbr0"),
            "mac": nic["macaddr"].lower(), "mtu": None if mtu == 1 else mtu}  # fmt: skip


def stop(params: Mapping[str, Any]) -> None:
    """The task qmstop."""
    vmid = int(params["vmid"])
    seconds = float(params.get("timeout") or _STOP_SECONDS)
    _end(vmid, lambda pid: os.kill(pid, signal.SIGINT), seconds, force=True)


def shutdown(params: Mapping[str, Any]) -> None:
    """The task qmshutdown."""
    vmid = int(params["vmid"])
    seconds = float(params.get("timeout") or _STOP_SECONDS)

    def ask(pid: int) -> None:
        if drives.has_agent(guests.read(vmid)) and agent.available(vmid):
            agent.order(vmid, "shutdown")
        else:
            os.kill(pid, signal.SIGTERM)

    _end(vmid, ask, seconds, force=bool(params.get("forceStop")))


def reboot(params: Mapping[str, Any]) -> None:
    """The task qmreboot."""
    shutdown(params)
    start(params)


def reset(params: Mapping[str, Any]) -> None:
    """The task qmreset."""
    vmid = int(params["vmid"])
    with guests.locked(vmid):
        guests.check_lock(guests.read(vmid))
        pid = guests.running(vmid)
        if not pid:
            raise Failure(f"VM {vmid} not running")
        os.kill(pid, signal.SIGHUP)


def _end(vmid: int, ask: Callable[[int], None], seconds: float, *, force: bool) -> None:
    """Ask a guest to end, and wait until it has; nothing is asked of one that does not run."""
    with guests.locked(vmid):
        guests.check_lock(guests.read(vmid))
        pid = guests.running(vmid)
        if not pid:
            return
        ask(pid)
        if wait_until(lambda: not guests.running(vmid), seconds, every=0.1):
            return
        if not force:
            raise Failure("VM quit/powerdown failed - got timeout")
        say("VM still running - terminating now with SIGKILL")
        run(["systemctl", "kill", "--signal=KILL", f"qemu-{vmid}"])
        wait_until(lambda: not guests.running(vmid), _KILL_SECONDS, every=0.1)
