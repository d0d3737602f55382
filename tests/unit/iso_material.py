"""Published installer ISOs in small, made by xorriso and laid out as the real ones are."""

from __future__ import annotations

import gzip
import hashlib
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from virtual_lab import media

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

__all__ = ["boot_records", "needs_xorriso", "proxmox", "sha256", "ubuntu", "write", "zstd"]

needs_xorriso = pytest.mark.skipif(
    not shutil.which("xorriso"), reason="needs Debian's xorriso; ./bootstrap installs it"
)
RECORD = re.compile(r"El Torito (boot|path) img|(GPT|APM) (type|start)|MBR partition  ")
UBUNTU_LABEL = 'Ubuntu-Server 24.04.3 LTS "Noble Numbat" - Release amd64 (20250805.1)'
BOOT = ("-b", "boot/grub/i386-pc/eltorito.img", "-no-emul-boot", "-boot-load-size", "4", "-boot-info-table",
        "--grub2-boot-info", "-c", "boot/boot.cat", "--protective-msdos-label", "-partition_cyl_align", "off",
        "-partition_offset", "0", "-eltorito-alt-boot", "-efi-boot-part", "--efi-boot-image",
        "-e", "efi.img", "-no-emul-boot")  # fmt: skip
MACS = ("-hfsplus", "-apm-block-size", "2048", "-hfs-bless-by", "i", "System/Library/CoreServices/boot.efi")

Content = bytes | Path | None
Files = Mapping[str, Content]
"""Files of an ISO by their paths, a path being a symbolic link; None takes one of the usual ones away."""


def proxmox(
    path: Path, changed: Files | None = None, *, build_id: str = "one", for_macs: bool = True
) -> Path:
    """A Proxmox VE ISO with the kernel and initrd of the played medium; `changed` differs from the usual."""
    folder = path.with_suffix(".played")
    media.build(folder, build_id=build_id)
    names = (media.ID_FILE, ".cd-info", "pve-base.squashfs")
    files: dict[str, Content] = {
        **media.iso_files(folder / media.ISO_NAME, *names),
        "auto-installer-capable": b"",
        ".disk/info": b"Proxmox VE 9.2-1\n",
        "boot/linux26": (folder / "vmlinuz").read_bytes(),
        "boot/initrd.img": zstd.compress(gzip.decompress((folder / "initrd.img").read_bytes())),
        "boot/grub/grub.cfg": b"set default=0\n",
        "System/Library/CoreServices/boot.efi": b"for Macs",
    }
    return write(path, "PVE", {**files, **(changed or {})}, for_macs=for_macs)


def ubuntu(path: Path, changed: Files | None = None, label: str = UBUNTU_LABEL) -> Path:
    """A live server ISO of Ubuntu."""
    folder = path.with_suffix(".played")
    media.build(folder, build_id="ubuntu")
    files: dict[str, Content] = {
        ".disk/info": label.encode(),
        "casper/vmlinuz": (folder / "vmlinuz").read_bytes(),
        "casper/initrd": zstd.compress(gzip.decompress((folder / "initrd.img").read_bytes())),
        "casper/ubuntu-server-minimal.squashfs": b"hsqs" * 1000,
    }
    return write(path, "Ubuntu-Server 24.04.3 LTS amd64", {**files, **(changed or {})})


def write(path: Path, label: str, files: Files, *, for_macs: bool = False) -> Path:
    """An ISO of these files, which starts by BIOS and by UEFI from a disc or a stick."""
    tree = path.with_suffix(".tree")
    loaders = {"boot/grub/i386-pc/eltorito.img": b"\xeb\xfe" + bytes(4094), "efi.img": bytes(65536)}
    for name, content in {**files, **loaders}.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, Path):
            (tree / name).symlink_to(content)
        elif content is not None:
            (tree / name).write_bytes(content)
    sector = path.with_suffix(".mbr")
    sector.write_bytes(b"\xeb\x63" + bytes(510))
    options = ("--grub2-mbr", sector, *BOOT, *(MACS if for_macs else ()))
    subprocess.run(["xorriso", "-as", "mkisofs", "-quiet", "-r", "-V", label, *options, "-o", path, tree],
                   check=True, capture_output=True)  # fmt: skip
    return path


def boot_records(path: Path) -> list[str]:
    """What firmware finds to start in an ISO, and where: images, and the partitions of MBR, GPT and APM."""
    told = subprocess.run(["xorriso", "-indev", path, "-report_el_torito", "plain", "-report_system_area", "plain"],
                          check=True, capture_output=True, text=True)  # fmt: skip
    lines = told.stdout.splitlines()
    return [" ".join(line.split()) for line in lines if RECORD.match(line)]


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
