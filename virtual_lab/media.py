"""The played install media: kernel, initrd and ISO as `prepare-iso --pxe --fetch-from http` leaves them.

They are small, but each carries what the real one is recognised by: the kernel a boot header with its
release, the initrd (gzip, cpio) that release's modules and the ISO's id, the ISO its id and installer files.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import random
import shutil
import struct
import tempfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pycdlib.pycdlib import PyCdlib
from pycdlib.pycdlibexception import PyCdlibException

RELEASE, ISO_RELEASE, KERNEL = "9.2", "1", "7.0.2-6-pve"
ISO_NAME = f"proxmox-ve_{RELEASE}-{ISO_RELEASE}-auto-from-http.iso"
ID_FILE = ".pve-cd-id.txt"
_SIZES = {"kernel": 256 << 10, "initrd": 512 << 10, "iso": 1 << 20}
# cpio(5), <linux/stat.h>
_TRAILER, _FILE, _FOLDER = "TRAILER!!!", 0o100000, 0o040000


class Unreadable(Exception):
    """A medium is not what it should be."""


@dataclass(frozen=True, slots=True)
class Media:
    """The three files of one build."""

    vmlinuz: Path
    initrd: Path
    iso: Path


@dataclass(frozen=True, slots=True)
class Kernel:
    """An installer's kernel: its release, its file, and what its initrd starts with, by name."""

    release: str
    image: bytes
    program: Mapping[str, bytes]

    @classmethod
    def played(cls, release: str) -> Kernel:
        """One that no processor starts."""
        return cls(release, kernel_image(release), {"init": b"#!/bin/sh\n# played\n"})

    @property
    def digest(self) -> bytes:
        """What changes when its files do."""
        parts = (self.image, *self.program.values())
        return b"".join(hashlib.sha256(part).digest() for part in parts)


def prepare(images: Path, kernel: Kernel | None = None) -> Media:
    """The media under `images`, built there unless this very build stands there already."""
    kernel = kernel or Kernel.played(KERNEL)
    recipe = hashlib.sha256(Path(__file__).read_bytes() + kernel.digest).hexdigest()
    folder = images / f"media-{recipe[:16]}"
    once(folder, lambda built: build(built, build_id=recipe, kernel=kernel))
    return Media(folder / "vmlinuz", folder / "initrd.img", folder / ISO_NAME)


def once(folder: Path, make: Callable[[Path], None]) -> None:
    """Have `make` fill `folder`, unless it stands there already; it stands there whole or not at all."""
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".media-") as scratch:
            make(Path(scratch) / "built")
            _settle(Path(scratch) / "built", folder)


def build(folder: Path, *, build_id: str, kernel: Kernel | None = None) -> None:
    """Write the three files of one build into a new folder."""
    kernel = kernel or Kernel.played(KERNEL)
    folder.mkdir()
    folder.chmod(0o755)
    (folder / "vmlinuz").write_bytes(kernel.image)
    (folder / "initrd.img").write_bytes(_initrd(build_id, kernel))
    _write_iso(folder / ISO_NAME, build_id)


def kernel_release(kernel: bytes) -> str:
    """What `file` says of a kernel: the version that its boot header points to. Raises Unreadable."""
    if kernel[0x202:0x206] != b"HdrS":
        raise Unreadable("not a Linux kernel: it has no boot header")
    (at,) = struct.unpack_from("<H", kernel, 0x20E)
    return kernel[at + 0x200 :].split(b"\0", 1)[0].split(b" ")[0].decode("ascii", "replace")


def initrd_files(initrd: bytes) -> dict[str, bytes]:
    """The files of a gzip-compressed initramfs (cpio, newc). Raises Unreadable."""
    try:
        archive = gzip.decompress(initrd)
    except (OSError, EOFError, zlib.error) as error:
        raise Unreadable("the initrd is not compressed with gzip") from error
    return cpio_files(archive)


def cpio_files(archive: bytes) -> dict[str, bytes]:
    """The regular files in an archive as a kernel unpacks it (cpio, newc). Raises Unreadable."""
    try:
        return _cpio_files(archive)
    except ValueError as error:
        raise Unreadable(f"the initrd is a broken cpio archive: {error}") from error


def _cpio_files(archive: bytes) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    at = 0
    while archive[at : at + 6] == b"070701":
        fields = (archive[at + 6 + 8 * field : at + 14 + 8 * field] for field in (1, 6, 11))
        mode, size, name_size = (int.from_bytes(bytes.fromhex(field.decode())) for field in fields)
        name = archive[at + 110 : at + 110 + name_size - 1].decode()
        if name == _TRAILER:
            return files
        start = _padded(at + 110 + name_size)
        if mode & 0o170000 == _FILE:
            files[name] = archive[start : start + size]
        at = _padded(start + size)
    raise Unreadable("the initrd is no cpio archive, or it is cut off")


def iso_files(iso: Path, *names: str) -> dict[str, bytes]:
    """Those of the named files in the root folder of an ISO that it has. Raises Unreadable."""
    image = PyCdlib()
    files: dict[str, bytes] = {}
    try:
        image.open(str(iso))
        try:
            present = {
                child.rock_ridge.name().decode()
                for child in image.list_children(rr_path="/")
                if child.rock_ridge
            }
            for name in present.intersection(names):
                data = io.BytesIO()
                image.get_file_from_iso_fp(data, rr_path=f"/{name}")
                files[name] = data.getvalue()
        finally:
            image.close()
    except (PyCdlibException, OSError) as error:
        raise Unreadable(f"no ISO 9660 file system: {error}") from error
    return files


def _settle(built: Path, folder: Path) -> None:
    try:
        built.rename(folder)
    except OSError:
        if not folder.exists():  # otherwise another process finished the same build first
            raise
        shutil.rmtree(built)


def kernel_image(release: str) -> bytes:
    """A file that passes for a bzImage with an EFI stub: MZ, PE32+ for x86-64, the Linux boot header."""
    image = bytearray(filler("kernel"))
    image[:0x400] = bytes(0x400)
    image[:2] = b"MZ"
    struct.pack_into("<I", image, 0x3C, 0x80)
    struct.pack_into("<4sHHIIIHH", image, 0x80, b"PE\0\0", 0x8664, 2, 0, 0, 0, 160, 0x206)
    struct.pack_into("<H", image, 0x80 + 24, 0x20B)
    struct.pack_into("<H", image, 0x80 + 24 + 68, 10)
    image[0x1FE:0x200], image[0x202:0x206] = b"\x55\xaa", b"HdrS"
    struct.pack_into("<H", image, 0x206, 0x20F)
    struct.pack_into("<H", image, 0x20E, 0x100)
    version = f"{release} (played) #1 SMP PREEMPT_DYNAMIC\0".encode()
    image[0x300 : 0x300 + len(version)] = version
    return bytes(image)


def _initrd(build_id: str, kernel: Kernel) -> bytes:
    files = {
        **kernel.program,
        ID_FILE: f"{build_id}\n".encode(),
        ".cd-info": _cd_info(),
        f"lib/modules/{kernel.release}/modules.dep": filler("initrd"),
    }
    return initramfs(files)


def initramfs(files: Mapping[str, bytes]) -> bytes:
    """A gzip-compressed initramfs of these files."""
    return gzip.compress(cpio(files), 1, mtime=0)


def cpio(files: Mapping[str, bytes]) -> bytes:
    """An archive of files, all executable, and their folders, as a kernel unpacks it (cpio, newc)."""
    # A kernel makes no folder that the archive does not have.
    folders = {str(folder) for name in files for folder in PurePosixPath(name).parents if folder.name}
    return b"".join(
        [
            *(_cpio_entry(folder, b"", _FOLDER) for folder in sorted(folders)),
            *(_cpio_entry(name, data) for name, data in files.items()),
            _cpio_entry(_TRAILER, b"", 0),
        ]
    )


def _cpio_entry(name: str, data: bytes, kind: int = _FILE) -> bytes:
    fields = (0, kind | 0o755, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0)
    head = b"070701" + b"".join(b"%08x" % field for field in fields) + name.encode() + b"\0"
    head += bytes(_padded(len(head)) - len(head))
    return head + data + bytes(_padded(len(data)) - len(data))


def _padded(length: int) -> int:
    return (length + 3) // 4 * 4


def _write_iso(path: Path, build_id: str) -> None:
    files = {
        ID_FILE: f"{build_id}\n".encode(),
        ".cd-info": _cd_info(),
        "auto-installer-capable": b"",
        "auto-installer-mode.toml": b'mode = "http"\npartition_label = "proxmox-ais"\n\n[http]\n',
        "pve-base.squashfs": filler("iso"),
    }
    image = PyCdlib()
    image.new(interchange_level=3, rock_ridge="1.09", vol_ident="PVE")
    image.add_directory("/DISK", rr_name=".disk")
    label = f"Proxmox VE {RELEASE}-{ISO_RELEASE}\n".encode()
    image.add_fp(io.BytesIO(label), len(label), "/DISK/INFO.;1", rr_name="info")
    for number, (name, data) in enumerate(files.items()):
        image.add_fp(io.BytesIO(data), len(data), f"/FILE{number}.;1", rr_name=name)
    image.write(str(path))
    image.close()


def _cd_info() -> bytes:
    values = {
        "PRODUCT": "pve",
        "PRODUCTLONG": "Proxmox VE",
        "RELEASE": RELEASE,
        "ISORELEASE": ISO_RELEASE,
        "ISONAME": "proxmox-ve",
    }
    return "".join(f"{name}='{value}'\n" for name, value in values.items()).encode()


def filler(what: str) -> bytes:
    """Bytes that no compression shortens: the same ones at every build."""
    return random.Random(what).randbytes(_SIZES[what])  # noqa: S311 (filler, not secret)
