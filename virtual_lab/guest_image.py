"""The cloud image that a rack's templates are made of: a small Debian 13, built once, kept by content.

It is a real one, a qcow2 disk with a GPT, cloud-init, an SSH server and the QEMU guest agent. It has no
kernel, for a played guest runs none of its own (virtual_lab/pve/pmx/guest_run.py).
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from provision.errors import LabError
from virtual_lab import disk, images, qcow2
from virtual_lab.recipes import Recipe

Say = Callable[[str], None]

IMAGE, CHECKSUM = "disk.qcow2", "sha256"
_SIZE = 1 << 30

_PACKAGES = (
    "systemd", "systemd-sysv", "systemd-resolved", "openssh-server", "cloud-init", "qemu-guest-agent",
    "iproute2", "iputils-ping", "libarchive-tools", "netbase", "sudo",
)  # fmt: skip
# The agent's channel is a virtio port on a real machine; here it is a directory that the node shares.
_AGENT = """\
[Unit]
Description=QEMU Guest Agent
ConditionPathExists=/dev/virtio-ports

[Service]
ExecStart=/usr/sbin/qemu-ga --method=unix-listen --path=/dev/virtio-ports/org.qemu.guest_agent.0
Restart=always
RestartSec=0

[Install]
WantedBy=multi-user.target
"""
# The kernels that racks run on may lack ISO 9660: mount(8) then takes this helper for it.
_MOUNT_ISO = """\
#!/bin/sh -e
# mount.iso9660 DEVICE DIRECTORY [-o OPTIONS]: the disc's files in a read-only tmpfs
mount -t tmpfs -o mode=755 "$1" "$2"
bsdtar -x -C "$2" -f "$1" || { umount "$2"; exit 32; }
mount -o remount,ro "$2"
"""
# The root file system was grown before it was mounted, as an initramfs with growroot does it.
_CLOUD = """\
datasource_list: [NoCloud, ConfigDrive, None]
growpart: {mode: "off"}
resize_rootfs: false
ssh_genkeytypes: [ed25519, ecdsa]
"""
_UNWANTED = (
    "apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "e2scrub_all.timer",
    "e2scrub_reap.service", "fstrim.timer", "systemd-firstboot.service", "systemd-pstore.service",
    "systemd-logind.service", "getty.target", "console-getty.service", "cloud-init-hotplugd.socket",
    "dev-hugepages.mount", "dev-mqueue.mount", "sys-kernel-debug.mount", "sys-kernel-tracing.mount",
    "sys-kernel-config.mount", "sshd-keygen.service", "systemd-udev-load-credentials.service",
    # inotify instances are few, and all machines of all racks share them
    "systemd-ask-password-console.path", "systemd-ask-password-wall.path",
)  # fmt: skip
_REMOVED = (
    "etc/ssh/ssh_host_*", "etc/resolv.conf", "usr/share/i18n/locales/*", "usr/share/i18n/charmaps/*",
    "usr/lib/*/gconv/[A-Z]*.so", "var/log/*.log", "var/log/apt/*", "var/cache/apt/*.bin",
    "var/cache/debconf/*-old",
)  # fmt: skip


def recipe() -> Recipe:
    """What is in the image's root file system."""
    return Recipe(
        "guest",
        _PACKAGES,
        files={
            "etc/systemd/system/qemu-guest-agent.service": _AGENT,
            "usr/sbin/mount.iso9660": _MOUNT_ISO,
            "etc/cloud/cloud.cfg.d/90_image.cfg": _CLOUD,
            "etc/cloud/ds-identify.cfg": "policy: enabled\n",
            "etc/hostname": "localhost\n",
            "etc/machine-id": "",
        },
        removed=_REMOVED,
        enabled=("systemd-networkd.service", "qemu-guest-agent.service"),
        masked=_UNWANTED,
    )


def ready(folder: Path, say: Say, *, marker: str = "") -> Path:
    """The directory below `folder` that holds IMAGE and its CHECKSUM, made first if it is not there.

    Raises LabError, as `images.ready` does.
    """
    digest = hashlib.sha256((recipe().digest + Path(__file__).read_text()).encode()).hexdigest()[:12]
    made = folder / f"cloud-{digest}"
    if made.is_dir():
        return made
    folder.mkdir(parents=True, exist_ok=True)
    with images.building(folder / "cloud.lock", lambda: say("the cloud image: another rack builds it")):
        if not made.is_dir():
            _make(made, folder, say, marker)
    return made


def checksum(made: Path) -> str:
    """The SHA-256 of the image in a directory that `ready` gave."""
    return (made / CHECKSUM).read_text().strip()


def _make(made: Path, folder: Path, say: Say, marker: str) -> None:
    images.remove_unused("cloud", folder)
    images.remove_partial("cloud", folder)
    root = images.ready(recipe(), folder, say, marker=marker)
    (root / "usr/sbin/mount.iso9660").chmod(0o755)
    (root / "etc/resolv.conf").unlink(missing_ok=True)
    (root / "etc/resolv.conf").symlink_to("../run/systemd/resolve/stub-resolv.conf")
    for name in ("etc", "var"):
        (root / name / ".updated").touch()  # or the first boot would rebuild what the packages have built
    partial = folder / f".{made.name}.partial"
    partial.mkdir()
    raw = partial / "disk.raw"
    _write_disk(root, raw)
    qcow2.write(raw, partial / IMAGE)
    raw.unlink()
    with (partial / IMAGE).open("rb") as file:
        (partial / CHECKSUM).write_text(hashlib.file_digest(file, "sha256").hexdigest() + "\n")
    partial.rename(made)
    shutil.rmtree(root)


def _write_disk(root: Path, raw: Path) -> None:
    """A disk as cloud images have it: boot partitions first, root last, so that it can grow."""
    disk.blank(raw, _SIZE)
    extent = disk.partition(raw, esp_mib=8)
    options = f"offset={extent.start},lazy_itable_init=1,nodiscard"
    command = ["mkfs.ext4", "-q", "-F", "-m", "0", "-L", "cloudimg-rootfs", "-E", options, "-d", str(root),
               str(raw), f"{extent.size // 1024}k"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise LabError(f"the cloud image could not be made: {' '.join(command)}: {done.stderr.strip()}")
