"""The root of Ubuntu's live system: the node's image under a memory disk, where commands run for real.

Everything is mounted in the machine's own mount namespace and ends with it. Its /dev has no disk of this
host: the machine's own are there by their names alone.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import yaml

from virtual_lab import disk, udev
from virtual_lab.hardware import Hardware

TARGET = "/target"
LOG = "var/log/installer/subiquity-server-debug.log"

_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
_STREAMS = {"fd": "/proc/self/fd", "stdin": "fd/0", "stdout": "fd/1", "stderr": "fd/2"}
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class LiveSystem:
    """A running live system; `root` is where it lies, `target` the new system once `new_disk` has laid it."""

    def __init__(self, hardware: Hardware, root: Path, mounts: ExitStack) -> None:
        self.hardware, self.root, self._mounts = hardware, root, mounts
        self.target = hardware.target

    def say(self, text: str) -> None:
        """A line on the console and in the installer's log."""
        self.hardware.console(text)
        with (self.root / LOG).open("a", encoding="utf-8", errors="replace") as log:
            log.write(f"{text}\n")

    def run(self, words: Sequence[str], environment: Mapping[str, str] | None = None) -> int:
        """Run a command; what it says goes to the console and into the log. Returns its exit status."""
        done = self._chroot(self.root, words, environment=environment)
        if said := (done.stdout + done.stderr).strip():
            self.say(said)
        return done.returncode

    def in_target(self, *words: str, stdin: str = "") -> None:
        """Run a command in the new system; raises CalledProcessError, which does not tell `stdin`."""
        self._chroot(self.target, words, stdin=stdin).check_returncode()

    def schema_fault(self, config: Mapping[str, Any]) -> str | None:
        """What the real `cloud-init schema` has against a cloud-config, or None."""
        path = self.root / "run/cloud-config.yaml"
        path.write_text("#cloud-config\n" + yaml.safe_dump(dict(config)))
        done = self._chroot(self.root, ["cloud-init", "schema", "--config-file", "/run/cloud-config.yaml"])
        path.unlink()
        return None if done.returncode == 0 else (done.stderr or done.stdout).strip()

    def new_disk(self) -> Path:
        """A new disk with an empty system on it, from now on mounted as /target."""
        image = self.hardware.drive.image
        disk.blank(image, self.hardware.drive.size)
        extent = disk.partition(image)
        disk.make_filesystem(image, extent)
        root = self._mounts.enter_context(disk.mounted_root(self.hardware, extent))
        (self.root / TARGET.lstrip("/")).mkdir()
        self.mount(root, self.root / TARGET.lstrip("/"), "--bind")
        for name in ("dev", "proc", "sys"):
            self.mount(self.root / name, root / name, "--bind")
        return root

    def mount_own(self) -> None:
        """What a running system has beside its files: devices, processes, /sys of the machine's own NICs."""
        self.mount("tmpfs", self.root / "dev", "-t", "tmpfs")
        for name in _DEVICES:
            (self.root / "dev" / name).touch()
            self.mount(f"/dev/{name}", self.root / "dev" / name, "--bind")
        for name, leads in _STREAMS.items():
            (self.root / "dev" / name).symlink_to(leads)
        self.mount("proc", self.root / "proc", "-t", "proc")
        self.mount("sysfs", self.root / "sys", "-t", "sysfs", "-o", "ro")
        self._name_disks()
        (self.root / LOG).parent.mkdir(parents=True, exist_ok=True)

    def _name_disks(self) -> None:
        links = self.root / "dev/disk/by-id"
        links.mkdir(parents=True)
        for drive in self.hardware.drives:
            (self.root / "dev" / drive.device).touch()
            for name in udev.by_id(drive):
                (links / name).symlink_to(f"../../{drive.device}")

    def _chroot(
        self,
        root: Path,
        words: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        stdin: str = "",
    ) -> subprocess.CompletedProcess[str]:
        env = {"PATH": _PATH, "HOME": "/root", "LANG": "C.UTF-8", **(environment or {})}
        return subprocess.run(
            ["chroot", str(root), *words], input=stdin, env=env, text=True, errors="replace",
            capture_output=True, check=False,
        )  # fmt: skip

    def mount(self, source: str | Path, at: Path, *options: str) -> None:
        """Mount something for as long as the live system runs."""
        subprocess.run(["mount", *options, str(source), str(at)], check=True, capture_output=True)
        self._mounts.callback(subprocess.run, ["umount", str(at)], check=True, capture_output=True)


@contextmanager
def started(hardware: Hardware, folder: Path = Path("/run/live")) -> Iterator[LiveSystem]:
    """The live system while inside; afterwards what it wrote to the disk is in the disk's file."""
    os.umask(0o022)  # the live system's; whoever raised the rack may have another
    for name in ("upper", "work", "root"):
        (folder / name).mkdir(parents=True)
    lower = ":".join(str(layer) for layer in hardware.layers)
    options = f"lowerdir={lower},upperdir={folder / 'upper'},workdir={folder / 'work'}"
    with ExitStack() as mounts:
        system = LiveSystem(hardware, folder / "root", mounts)
        system.mount("live", system.root, "-t", "overlay", "-o", options)
        system.mount_own()
        yield system
