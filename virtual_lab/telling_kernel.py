"""A real Linux, signed by Debian, that says on the serial console which command line it was handed.

It stands for an installer's kernel where real firmware boots (virtual_lab/real_firmware.py).
"""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from provision.errors import LabError
from virtual_lab import images, media

Say = Callable[[str], None]

UP = "KERNEL UP: "
"""What stands before the command line."""
ISO_CAME, NO_ISO = "with proxmox.iso", "without proxmox.iso"
"""What it says next: whether the initramfs holds the ISO, where Proxmox's installer looks for its own."""

_PACKAGES = ("linux-image-cloud-amd64", "busybox-static")
_SUITE = "trixie"
_INIT = f"""#!/busybox sh
/busybox mkdir -p /proc /dev
/busybox mount -t proc proc /proc
/busybox mount -t devtmpfs dev /dev
iso='{NO_ISO}'
[ ! -s /proxmox.iso ] || iso='{ISO_CAME}'
echo "{UP}$(/busybox cat /proc/cmdline)" >/dev/ttyS0
echo "$iso" >/dev/ttyS0
/busybox poweroff -f
"""


def ready(folder: Path, say: Say) -> media.Media:
    """The kernel, its initrd and an ISO below `folder`, made first if they are not there.

    Raises LabError when Debian's packages cannot be had.
    """
    digest = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:12]
    made = folder / f"telling-{digest}"
    if not made.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        with images.building(folder / "telling.lock", lambda: None):
            if not made.is_dir():
                _make(made, folder, say)
    return media.Media(made / "vmlinuz", made / "initrd.img", made / media.ISO_NAME)


def _make(made: Path, folder: Path, say: Say) -> None:
    images.remove_partial("telling", folder)
    say("fetching a kernel for real firmware, the first time only")
    root, partial = folder / f".{made.name}.partial-root", folder / f".{made.name}.partial"
    _extract(root)
    partial.mkdir()
    (kernel,) = (root / "boot").glob("vmlinuz-*")
    shutil.copyfile(kernel, partial / "vmlinuz")
    files = {"init": _INIT.encode(), "busybox": (root / "usr/bin/busybox").read_bytes()}
    (partial / "initrd.img").write_bytes(gzip.compress(media.cpio(files), 1, mtime=0))
    (partial / media.ISO_NAME).write_bytes(b"\0" * 2048)
    partial.rename(made)
    shutil.rmtree(root)


def _extract(root: Path) -> None:
    """Unpack the packages, and what they need, into a new folder; none of their scripts is run."""
    sources = images.mirror_lines(images.own_sources(), _SUITE)
    settings = [f"--aptopt={line}" for line in images.apt_settings()]
    command = ["mmdebstrap", "--mode=root", "--variant=extract", *settings,
               f"--include={','.join(_PACKAGES)}", _SUITE, str(root), *sources]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False,
                          env={**os.environ, "TMPDIR": str(root.parent)})  # fmt: skip
    if done.returncode != 0:
        raise LabError("the kernel for real firmware cannot be had", last_seen=done.stderr[-800:])
