"""A real Linux, signed by Debian, that says on the serial console which command line it was handed.

It stands for an installer's kernel where real firmware boots (virtual_lab/real_firmware.py), and hands over
what its initramfs holds. Beside it lie the boot loaders of such a machine's disk.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from provision.errors import LabError
from virtual_lab import images, media
from virtual_lab.real_firmware import GRUB, IPXE_ROM, SHIM

Say = Callable[[str], None]

UP = "KERNEL UP: "
"""What stands before the command line."""
ISO_CAME, NO_ISO = "with proxmox.iso", "without proxmox.iso"
"""What it says next: whether the initramfs holds the ISO, where Proxmox's installer looks for its own."""
RELEASE = "KERNEL RELEASE: "
"""What stands before the kernel's release."""
FILES = "KERNEL FILES"
"""The line before those files: firmware writes to the second serial line, too."""
DONE = "KERNEL DONE"
"""What it says last, when the files of its initramfs are at the other end of the second serial line."""

_PACKAGES = ("linux-image-cloud-amd64", "busybox-static", "shim-signed", "grub-efi-amd64-signed", "ipxe")
_SUITE = "trixie"
_LOADERS = {
    SHIM: "usr/lib/shim/shimx64.efi.signed",
    GRUB: "usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed",
    IPXE_ROM: "usr/lib/ipxe/ipxe.lkrn",
}
_VMLINUZ, _INITRD, _BUSYBOX = "vmlinuz", "initrd.img", "busybox"
_INIT = f"""#!/busybox sh
/busybox mkdir -p /proc /dev
/busybox mount -t proc proc /proc
/busybox mount -t devtmpfs dev /dev
iso='{NO_ISO}'
[ ! -s /proxmox.iso ] || iso='{ISO_CAME}'
echo "{UP}$(/busybox cat /proc/cmdline)" >/dev/ttyS0
echo "$iso" >/dev/ttyS0
echo "{RELEASE}$(/busybox uname -r)" >/dev/ttyS0
/busybox stty -F /dev/ttyS1 raw
echo "{FILES}" >/dev/ttyS1
cd /
/busybox find . -xdev -type f ! -name {_BUSYBOX} | /busybox cpio -o -H newc >/dev/ttyS1
echo "{DONE}" >/dev/ttyS0
/busybox poweroff -f
"""


@dataclass(frozen=True, slots=True)
class Telling:
    """The folder of the kernel and the boot loaders; with its initrd and ISO it can be a lab's media."""

    folder: Path

    @property
    def kernel(self) -> media.Kernel:
        """An installer's kernel that tells; its initrd may hold other files besides."""
        image = (self.folder / _VMLINUZ).read_bytes()
        busybox = (self.folder / _BUSYBOX).read_bytes()
        return media.Kernel(media.kernel_release(image), image, {"init": _INIT.encode(), _BUSYBOX: busybox})


def ready(folder: Path, say: Say) -> Telling:
    """The kernel and all that belongs to it, below `folder`, made first if they are not there.

    Raises LabError when Debian's packages cannot be had.
    """
    digest = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:12]
    made = folder / f"telling-{digest}"
    if not made.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        with images.building(folder / "telling.lock", lambda: None):
            if not made.is_dir():
                _make(made, folder, say)
    return Telling(made)


def _make(made: Path, folder: Path, say: Say) -> None:
    images.remove_unused("telling", folder)
    images.remove_partial("telling", folder)
    say("fetching a kernel for real firmware, the first time only")
    root, partial = folder / f".{made.name}.partial-root", folder / f".{made.name}.partial"
    _extract(root)
    partial.mkdir()
    (kernel,) = (root / "boot").glob("vmlinuz-*")
    shutil.copyfile(kernel, partial / _VMLINUZ)
    shutil.copyfile(root / "usr/bin/busybox", partial / _BUSYBOX)
    for name, source in _LOADERS.items():
        shutil.copyfile(root / source, partial / name)
    (partial / _INITRD).write_bytes(media.initramfs(Telling(partial).kernel.program))
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
