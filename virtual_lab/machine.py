"""A machine from power-on to its end, in a process of its own: firmware, then installer or the disk's system.

The process is the first of a PID namespace, so that cutting the power is one signal to it; its mounts are its
own, so that they end with it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import traceback
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from types import FrameType
from typing import NoReturn

from provision.wait import NotYet, Patience
from virtual_lab import (
    block_devices,
    bootloader,
    cgroups,
    disk,
    firmware,
    installer,
    kernel,
    network,
    nic,
    ubuntu_installer,
    ubuntu_live,
)
from virtual_lab.hardware import (
    SHARED,
    BootDisk,
    Hang,
    Hardware,
    NoBootDevice,
    Outcome,
    Override,
    PowerOff,
    Reboot,
)

REBOOT = 133
"""Exit status of systemd-nspawn, and of this process, when the machine restarts."""

OFF = 0
FAULT = 70

Phase = Callable[[str], None]
Deliver = Callable[[Path], None]
Bind = tuple[Path, Path]

_NOT_ITS_OWN = ",".join(f"CAP_{capability.upper()}" for capability in SHARED)
_DEVICES = ("/dev/fuse",)
_SHOWN = Path("/run/disks")
"""Where what a node sees of its disks is made, in the mounts of its own process."""


def start(
    hardware: Hardware, override: Override, groups: list[Path], deliver: Deliver | None, news: int
) -> NoReturn:
    """Run a machine; called in a fresh child of its board. Never returns: exits with OFF or REBOOT.

    Writes `pid N`, then `phase NAME` lines to the file descriptor `news`. With `deliver` the machine has its
    system from the factory: it needs no firmware, and an empty disk is filled by `deliver(root)`.
    """
    kernel.die_with_parent(os.getppid())
    kernel.unshare(kernel.CLONE_NEWPID)
    kernel.own_mounts()
    pid = os.fork()
    if pid == 0:
        _end_with(partial(_first_process, hardware, override, groups, deliver, news))
    _tell(news, f"pid {pid}")
    os.close(news)
    _, status = os.waitpid(pid, 0)
    os._exit(os.waitstatus_to_exitcode(status) & 0xFF)


def _end_with(run: Callable[[], int]) -> NoReturn:
    """End this process with the status that `run` returns; an error ends it, too, and not its caller."""
    status = FAULT
    try:
        status = run()
    finally:
        if status == FAULT:
            traceback.print_exc()
        os._exit(status)


def _first_process(
    hardware: Hardware, override: Override, groups: list[Path], deliver: Deliver | None, news: int
) -> int:
    kernel.die_with_parent(0)
    kernel.call_myself(f"rack:{hardware.name}")
    _write_to_console(hardware)
    cgroups.enter(groups, hardware.name)
    _own_file_systems()
    _wait_for_the_disk(hardware)
    nic.power_up(hardware.nics)
    network.as_delivered()
    # Nobody asks for the disks of a machine that comes with its system.
    system = _System(hardware, _no_disks if deliver else partial(block_devices.shown, hardware, _SHOWN))
    signal.signal(signal.SIGTERM, system.power_button)

    def phase(name: str) -> None:
        _tell(news, f"phase {name}")

    outcome = _from_factory(system, phase, deliver) if deliver else _power_on(system, override, phase)
    if isinstance(outcome, Hang):
        _stand_still(hardware, outcome, phase)
    return REBOOT if isinstance(outcome, Reboot) else OFF


def _no_disks() -> AbstractContextManager[list[Bind]]:
    return nullcontext([])


def _stand_still(hardware: Hardware, hang: Hang, phase: Phase) -> NoReturn:
    phase("hung")
    hardware.console(hang.why)
    while True:
        signal.pause()


def _own_file_systems() -> None:
    """What nspawn needs that fits this process's namespaces; in a container, also devices that /dev lacks."""
    kernel.mount("proc", Path("/proc"), "proc")
    kernel.mount("tmpfs", Path("/run"), "tmpfs", 0, "mode=755")
    # All mounts of a network namespace's sysfs share what the first one says: nspawn's would be read-only.
    own_sysfs = Path("/run/sysfs")
    own_sysfs.mkdir()
    kernel.mount("sysfs", own_sysfs, "sysfs")
    if not all(Path(device).exists() for device in ("/dev/loop-control", "/dev/net/tun", *_DEVICES)):
        kernel.mount("devtmpfs", Path("/dev"), "devtmpfs")


def _power_on(system: _System, override: Override, phase: Phase) -> Outcome:
    hardware = system.hardware
    phase("firmware")
    boot = firmware.boot(hardware, override, phase=phase)
    if isinstance(boot, BootDisk):
        return system.run(phase)
    if isinstance(boot, NoBootDevice):
        return Hang(boot.why)
    phase("installer")
    play = ubuntu_installer.install if ubuntu_live.is_ubuntu(boot) else installer.install
    return play(hardware, boot, phase=phase)


def _from_factory(system: _System, phase: Phase, deliver: Deliver) -> Outcome:
    hardware = system.hardware
    if not bootloader.is_installed(hardware.drive.image):
        disk.blank(hardware.drive.image, hardware.drive.size)
        extent = disk.partition(hardware.drive.image)
        disk.make_filesystem(hardware.drive.image, extent)
        with disk.mounted_root(hardware, extent) as root:
            deliver(root)
        bootloader.install(hardware.drive.image)
    return system.run(phase)


class _System:
    """The operating system on the disk, run by systemd-nspawn."""

    def __init__(
        self, hardware: Hardware, show_disks: Callable[[], AbstractContextManager[list[Bind]]]
    ) -> None:
        self.hardware, self._show_disks = hardware, show_disks
        self._running: subprocess.Popen[bytes] | None = None

    def run(self, phase: Phase) -> Outcome:
        """Boot it, and wait for its end."""
        extent = disk.root_partition(self.hardware.drive.image)
        if extent is None:
            return Hang("error: no such partition.\nEntering rescue mode...\ngrub rescue>")
        # In this order: mount(8) wants no other loop device of the same file.
        with disk.mounted_root(self.hardware, extent) as root, self._show_disks() as binds:
            # The namespace outlives the system that ran in it; a kernel that starts has no packet filter.
            subprocess.run(["chroot", str(root), "nft", "flush", "ruleset"], check=False, capture_output=True)
            phase("system")
            env = {**os.environ, "SYSTEMD_NSPAWN_API_VFS_WRITABLE": "network"}
            command = _nspawn(self.hardware.name, root, binds)
            self._running = subprocess.Popen(command, stdin=subprocess.DEVNULL, env=env)
            rc = self._running.wait()
            self._running = None
        if rc not in (OFF, REBOOT):
            self.hardware.console(f"systemd-nspawn ended with {rc}")
        return Reboot() if rc == REBOOT else PowerOff()

    def power_button(self, _number: int, _frame: FrameType | None) -> None:
        """An orderly power-off, if a system runs that can do it; firmware and installers take no notice."""
        if self._running:
            self._running.terminate()


def _nspawn(name: str, root: Path, binds: Sequence[Bind]) -> list[str]:
    # No namespace for the network: the board has entered the machine's own. The machine may set what is its
    # own under /sys and /proc/sys (see recipes.py), and neither the clock nor the modules of this host.
    return [
        "systemd-nspawn", "--quiet", f"--directory={root}", "--boot", f"--machine={name}",
        "--register=no", "--keep-unit", "--console=read-only", "--kill-signal=SIGRTMIN+4",
        "--capability=all", f"--drop-capability={_NOT_ITS_OWN}", "--resolv-conf=off", "--timezone=off",
        "--link-journal=no", "--setenv=SYSTEMD_COLORS=0", *(f"--bind={device}" for device in _DEVICES),
        *(f"--bind={source}:{target}" for source, target in binds),
        "systemd.show_status=1",
    ]  # fmt: skip


def _write_to_console(hardware: Hardware) -> None:
    log = os.open(hardware.console_log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)


def _wait_for_the_disk(hardware: Hardware) -> None:
    """The kernel lets go of a disk a moment after the machine that used it was cut off."""

    def free() -> bool | NotYet:
        users = disk.in_use(hardware.drive.image.parent)
        return NotYet(f"{', '.join(users)} holds {hardware.drive.image}") if users else True

    Patience(20, first=0.01, most=0.2).until("disk free", free, node=hardware.name)


def _tell(news: int, line: str) -> None:
    os.write(news, line.encode() + b"\n")
