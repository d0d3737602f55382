"""Initial RAM disks as streams: recompressed for boot loaders, searched, an ISO appended; never unpacked.

The kernel takes any number of cpio archives (newc) one after another, plain or compressed, with zeros between
them; each plain one begins at a multiple of four bytes
(Linux, Documentation/driver-api/early-userspace/buffer-format.rst).
"""

from __future__ import annotations

import gzip
import shutil
import struct
import sys
import zlib
from collections.abc import Collection
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from provision.images.iso import Unusable

if TYPE_CHECKING:
    from collections.abc import Iterator

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

LARGEST_IN_CPIO = (1 << 32) - 1
"""Bytes of one file: newc writes its size in eight hexadecimal digits."""

_MOST_UNPACKED = 4 << 30
_MOST_NAME, _MOST_WANTED, _CHUNK, _HEADER = 4096, 64 << 10, 64 << 10, 110
_NEWC = (b"070701", b"070702")
_ZSTD, _GZIP = b"\x28\xb5\x2f\xfd", b"\x1f\x8b"
_TRAILER = "TRAILER!!!"


def for_loaders(source: IO[bytes], target: Path, wanted: Collection[str]) -> dict[str, bytes]:
    """Write the initrd with gzip where it has zstd, as `prepare-iso --pxe` does: not every loader reads zstd.

    What is plain or gzip already stays as it is. Returns those of the `wanted` files that are in it, by their
    names without a leading slash. Raises Unusable for what is no initrd.
    """
    with target.open("wb") as out, _reading(target.name):
        return _search(source, wanted, out)


def files(path: Path, wanted: Collection[str]) -> dict[str, bytes]:
    """Those of the `wanted` files that are in an initrd. Raises Unusable for what is none."""
    with path.open("rb") as source, _reading(str(path)):
        return _search(source, wanted, None)


def append_iso(initrd: Path, iso: Path, target: Path, name: str = "proxmox.iso") -> None:
    """Write the initrd with one more cpio archive behind it, which holds the ISO.

    Raises Unusable for an ISO that is too large for cpio.
    """
    size = iso.stat().st_size
    if size > LARGEST_IN_CPIO:
        why = f"it has {size} bytes, and a cpio archive takes at most {LARGEST_IN_CPIO}"
        raise Unusable(f"{iso} cannot be put into an initrd: {why}")
    with target.open("wb") as out:
        _append(out, initrd)
        # The kernel passes over an archive that begins elsewhere, and says nothing.
        _pad(out)
        out.write(_entry(name, size))
        _append(out, iso)
        _pad(out)
        out.write(_entry(_TRAILER, 0))
        _pad(out)


def kernel_release(head: bytes) -> str:
    """The version that the boot header of a kernel points to; `head` is its first 64 KiB. Raises Unusable.

    Linux, Documentation/arch/x86/boot.rst: `HdrS` at 0x202, kernel_version at 0x20E, less 0x200.
    """
    if head[0x202:0x206] != b"HdrS" or len(head) < 0x210:
        raise Unusable("the kernel cannot be used: it has no Linux boot header for x86")
    (at,) = struct.unpack_from("<H", head, 0x20E)
    return head[at + 0x200 :].split(b"\0", 1)[0].split(b" ")[0].decode("ascii", "replace")


def _append(out: IO[bytes], path: Path) -> None:
    with path.open("rb") as source:
        shutil.copyfileobj(source, out, _CHUNK)


def _pad(out: IO[bytes]) -> None:
    out.write(bytes(-out.tell() % 4))


def _entry(name: str, size: int) -> bytes:
    # inode, mode, uid, gid, links, mtime, size, four device numbers, length of the name, checksum
    fields = (1, 0o100644, 0, 0, 1, 0, size, 0, 0, 0, 0, len(name) + 1, 0)
    head = _NEWC[0] + b"".join(b"%08x" % field for field in fields) + name.encode() + b"\0"
    return head + bytes(-len(head) % 4)


@contextmanager
def _reading(name: str) -> Iterator[None]:
    try:
        yield
    except (EOFError, gzip.BadGzipFile, zlib.error, zstd.ZstdError) as error:
        raise Unusable(f"{name} cannot be used: it is no sound initrd: {error}") from error


def _search(source: IO[bytes], wanted: Collection[str], out: IO[bytes] | None) -> dict[str, bytes]:
    plain = _Archives(source, out)
    found = plain.search(wanted)
    kind = plain.ahead(4)
    source.seek(plain.at)
    if kind == _ZSTD:
        packed = gzip.GzipFile("", "wb", 6, out, mtime=0) if out else nullcontext()
        with zstd.open(source) as unpacked, packed as sink:
            return found | _compressed(unpacked, wanted, sink)
    if kind[:2] == _GZIP:
        with gzip.open(source) as unpacked:
            found |= _compressed(unpacked, wanted, None)
        if out:
            source.seek(plain.at)
            shutil.copyfileobj(source, out, _CHUNK)
        return found
    if kind or not plain.count:
        raise Unusable("the initrd cannot be used: it is no cpio archive, plain or packed by zstd or gzip")
    return found


def _compressed(unpacked: Any, wanted: Collection[str], sink: Any) -> dict[str, bytes]:
    archives = _Archives(unpacked, sink)
    found = archives.search(wanted)
    if archives.ahead(1) or not archives.count:
        raise Unusable("the initrd cannot be used: there is something else than cpio archives in it")
    return found


class _Archives:
    """Cpio archives that follow one another in a stream; what was read of it goes on into `sink`."""

    def __init__(self, source: Any, sink: Any) -> None:
        self.at = self.count = 0
        self._source, self._sink = source, sink
        self._buffer = b""

    def search(self, wanted: Collection[str]) -> dict[str, bytes]:
        """Read all archives from here on, and return the wanted files of them."""
        found: dict[str, bytes] = {}
        self._skip_zeros()
        while self.ahead(6) in _NEWC:
            start = self.at
            while (entry := self._entry(wanted, start)) is not None:
                found |= entry
            self.count += 1
            self._skip_zeros()
        return found

    def ahead(self, length: int) -> bytes:
        """The next bytes, which stay there; fewer at the end."""
        while len(self._buffer) < length and (more := self._source.read(_CHUNK)):
            self._buffer += more
        return self._buffer[:length]

    def _entry(self, wanted: Collection[str], start: int) -> dict[str, bytes] | None:
        """One file, with its content when it is wanted; None for the archive's end."""
        header = self._take(_HEADER)
        try:
            size, name_size = (int(header[6 + 8 * field : 14 + 8 * field], 16) for field in (6, 11))
        except ValueError:
            size, name_size = 0, 0
        if header[:6] not in _NEWC or not 0 < name_size <= _MOST_NAME:
            raise Unusable("the initrd cannot be used: its cpio archive is broken")
        name = self._take(name_size)[:-1].decode("utf-8", "replace")
        self._skip(-(self.at - start) % 4)
        if name == _TRAILER:
            return None
        known = name.removeprefix("./").lstrip("/")
        found = {known: self._take(size)} if known in wanted and size <= _MOST_WANTED else {}
        self._skip(0 if found else size)
        self._skip(-(self.at - start) % 4)
        return found

    def _take(self, length: int) -> bytes:
        if len(self.ahead(length)) < length:
            raise Unusable("the initrd cannot be used: it is cut off")
        return self._pass(length)

    def _skip(self, length: int) -> None:
        while length:
            length -= len(self._take(min(length, _CHUNK)))

    def _skip_zeros(self) -> None:
        while self.ahead(1) == b"\0":
            self._pass(len(self._buffer) - len(self._buffer.lstrip(b"\0")))

    def _pass(self, length: int) -> bytes:
        taken, self._buffer = self._buffer[:length], self._buffer[length:]
        self.at += length
        if self.at > _MOST_UNPACKED:
            raise Unusable(f"the initrd cannot be used: it unpacks to more than {_MOST_UNPACKED} bytes")
        if self._sink:
            self._sink.write(taken)
        return taken
