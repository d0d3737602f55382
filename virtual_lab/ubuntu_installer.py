"""Ubuntu's installer, played strictly: subiquity from the seed that cloud-init found to the restart.

Sources: canonical/subiquity (server/server.py, server/controllers/install.py, cmdlist.py, storage.py,
shutdown.py). Commands of the autoinstall run for real, in the live system's root (ubuntu_system.py).
Runs as root in the machine's network namespace, and in a mount namespace of its own.
"""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from virtual_lab import autoinstall, bootloader, nic, ubuntu_live, ubuntu_root, ubuntu_system
from virtual_lab.dhcp_client import Lease, NoLease
from virtual_lab.disk import DiskFailed
from virtual_lab.firmware import memory
from virtual_lab.hardware import Hang, Hardware, Outcome, PowerOff, Reboot, RunInstaller
from virtual_lab.installer import lease_by_dhcp
from virtual_lab.live_system import Stuck
from virtual_lab.subiquity_events import Events
from virtual_lab.ubuntu_live import Surroundings
from virtual_lab.ubuntu_system import LiveSystem

Phase = Callable[[str], None]
Commands = Sequence[str | Sequence[str]]

UNCONFIRMED = (
    "Confirmation is required to continue. Add 'autoinstall' to your kernel command line to avoid this"
)
SHELL = "An error occurred. Press enter to start a shell"
PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]+")


class InstallFailed(Exception):
    """The installation failed: its error-commands run, and a shell stays."""


@dataclass(frozen=True, slots=True)
class Live:
    """What the live system does to the world around it."""

    lease: Callable[[Hardware], Lease] = lease_by_dhcp
    world: Surroundings = field(default_factory=Surroundings)
    system: Callable[[Hardware], AbstractContextManager[LiveSystem]] = ubuntu_system.started
    make_bootable: Callable[[Path], None] = bootloader.install


def install(
    hardware: Hardware, run: RunInstaller, *, phase: Phase = lambda _phase: None, live: Live | None = None
) -> Outcome:
    """Play the installer from its kernel's start to its end."""
    acts = live or Live()
    try:
        initrd = ubuntu_live.start_kernel(hardware, run)
        with nic.up(hardware.nics if live is None else {}):
            phase("installer")
            _lease(hardware, acts)
            ubuntu_live.find_iso(hardware, run.kernel_args, memory(hardware), initrd, acts.world)
            phase("answer")
            config = ubuntu_live.cloud_config(hardware, run.kernel_args, acts.world)
            with acts.system(hardware) as system:
                return _Session(system, run.kernel_args, config, phase, acts).play()
    except Stuck as stuck:
        hardware.console(str(stuck))
        return Hang(str(stuck).splitlines()[0])


def _lease(hardware: Hardware, live: Live) -> None:
    try:
        lease = live.lease(hardware)
    except NoLease as failure:
        raise Stuck(f"{ubuntu_live.NO_MEDIUM}: dhcpcd: {failure}") from failure
    hardware.console(f"dhcpcd: leased {lease.address.ip} on {lease.nic}")


class _Session:
    """One run of subiquity."""

    def __init__(
        self, system: LiveSystem, kernel_args: str, seed: dict[str, Any], phase: Phase, live: Live
    ) -> None:
        self._system, self._words, self._seed = system, kernel_args.split(), seed
        self._phase, self._live = phase, live
        self._config: Mapping[str, Any] = seed["autoinstall"]
        self._events = Events(live.world.send, system.say)

    def play(self) -> Outcome:
        """From cloud-init's end to the restart. Raises Stuck where the real one waits for somebody."""
        if fault := self._system.schema_fault(self._seed):
            raise Stuck(f"cloud-init schema: {fault}\n{ubuntu_live.INTERACTIVE}")
        try:
            self._run()
        except InstallFailed as failure:
            return self._failed(failure)
        mode = self._config.get("shutdown", "reboot")
        self._events.start("subiquity/Shutdown/shutdown", f"mode={mode.upper()}")
        return PowerOff() if mode == "poweroff" else Reboot()

    def _run(self) -> None:
        self._load()
        self._commands("Early", "early-commands")
        self._load_again()
        with self._events.context("subiquity/apply_autoinstall_config"):
            self._choose_disk()
        if "autoinstall" not in self._words:
            raise Stuck(UNCONFIRMED)
        self._phase("installing")
        with self._events.context("subiquity/Install/install"):
            self._install()
        with self._events.context("subiquity/Shutdown/copy_logs_to_target"):
            self._system.run(["cp", "-r", "/var/log/installer", "/target/var/log/"])
        self._phase("installed")

    def _load(self) -> None:
        """Reporting and error-commands first, so that whatever is wrong with the rest can be told."""
        if isinstance(self._config, dict) and isinstance(self._config.get("reporting"), dict):
            self._events.report_to(self._config["reporting"])
        with self._events.context("subiquity/load_autoinstall_config"):
            try:
                autoinstall.check(self._config)
                (self._system.root / "autoinstall.yaml").write_text(yaml.safe_dump(dict(self._config)))
            except autoinstall.InvalidAutoinstall as fault:
                raise InstallFailed(str(fault)) from fault

    def _load_again(self) -> None:
        """Early commands may have changed it; it stands in the live system's root for them."""
        path = self._system.root / "autoinstall.yaml"
        self._config = yaml.safe_load(path.read_text())
        self._load()

    def _choose_disk(self) -> None:
        match = self._config["storage"]["layout"].get("match", {"size": "largest"})
        with self._events.context("subiquity/Storage/apply_autoinstall_config"):
            chosen = autoinstall.disk_for(self._system.hardware, match)
            if chosen is None:
                raise InstallFailed(f"Failed to find matching device for {dict(match)}")
            if chosen != self._system.hardware.drive:
                raise InstallFailed(f"the match takes {chosen.device}, which is not the system's disk")

    def _install(self) -> None:
        with self._events.context("subiquity/Install/install/curtin_install", "installing system"):
            self._lay_down()
        with self._events.context("subiquity/Install/install/postinstall", "final system configuration"):
            self._configure()
        self._commands("Late", "late-commands", TARGET_MOUNT_POINT=ubuntu_system.TARGET)

    def _lay_down(self) -> None:
        layout = self._config["storage"]["layout"]["name"]
        drive = self._system.hardware.drive
        self._system.say(f"curtin: partitioning /dev/{drive.device}, {drive.model} {drive.serial}: {layout}")
        if layout != "direct":
            self._system.say(f"(played: {layout} was asked for; the disk is given one ext4)")
        try:
            root = self._system.new_disk()
            ubuntu_root.write(root, self._config)
            self._live.make_bootable(drive.image)
        except (OSError, subprocess.CalledProcessError, DiskFailed) as failure:
            raise InstallFailed(f"curtin install: {failure}") from failure

    def _configure(self) -> None:
        if fault := self._system.schema_fault(ubuntu_root.cloud_config(self._config)):
            raise InstallFailed(f"cloud config of the installed system: {fault}")
        identity = self._config["identity"]
        in_target = self._system.in_target
        try:
            in_target(
                "useradd", identity["username"], "--shell", "/bin/bash", "--create-home", "--groups", "sudo"
            )
            in_target("chpasswd", "--encrypted", stdin=f"{identity['username']}:{identity['password']}")
            if self._config.get("ssh", {}).get("install-server"):
                in_target("ssh-keygen", "-A")  # as the package does when it is installed
            for package in self._config.get("packages", ()):
                self._install_package(package)
        except subprocess.CalledProcessError as failure:
            raise InstallFailed(f"{failure.cmd[2]}: {failure.stderr.strip()}") from failure

    def _install_package(self, name: str) -> None:
        """What the image has not is played: a package of that name, with nothing in it."""
        with self._events.context(
            f"subiquity/Install/install/postinstall/install_{name}", f"installing {name}"
        ):
            if not PACKAGE.fullmatch(name):
                raise InstallFailed(f"E: Unable to locate package {name}")
            self._system.in_target("bash", "-c", _PLAY_PACKAGE, "bash", name)

    def _commands(self, controller: str, key: str, **environment: str) -> None:
        commands: Commands = self._config.get(key, ())
        with self._events.context(f"subiquity/{controller}/run"):
            for number, command in enumerate(commands):
                with self._events.context(f"subiquity/{controller}/run/command_{number}", _named(command)):
                    code = self._system.run(_words(command), environment)
                    if code and controller != "Error":
                        raise InstallFailed(f"{key}: command {number} ended with status {code}")

    def _failed(self, failure: InstallFailed) -> Outcome:
        self._system.say(f"Installation failed: {failure}")
        if isinstance(self._config, dict) and self._config.get("error-commands"):
            self._commands("Error", "error-commands")
        self._system.hardware.console(SHELL)
        return Hang(str(failure))


# Of a low version other packages may say that they break it.
_PLAY_PACKAGE = """\
dpkg-query --status "$1" >/dev/null 2>&1 && exit
mkdir -p "/tmp/played/$1/DEBIAN" && cd /tmp/played
cat >"$1/DEBIAN/control" <<CONTROL
Package: $1
Version: 99:0~played
Architecture: all
Maintainer: nobody
Description: played
CONTROL
dpkg-deb --build "$1" && dpkg --install "$1.deb"
code=$?; rm -r /tmp/played; exit $code
"""


def _words(command: str | Sequence[str]) -> list[str]:
    return ["sh", "-c", command] if isinstance(command, str) else list(command)


def _named(command: str | Sequence[str]) -> str:
    return command if isinstance(command, str) else shlex.join(command)
