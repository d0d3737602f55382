"""The kernel's FUSE protocol, spoken on /dev/fuse: requests in, replies out, some of them later."""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

DEVICE = Path("/dev/fuse")
MAX_WRITE = 128 * 1024
DIRECT_IO = 1  # FOPEN_DIRECT_IO: no page cache, a peer's write is seen at once
_MAJOR, _MINOR = 7, 31
_BIG_WRITES = 1 << 5
_NOSUID, _NODEV, _DETACH = 2, 4, 2

LOOKUP, FORGET, GETATTR, SETATTR, READLINK, SYMLINK, MKNOD, MKDIR = 1, 2, 3, 4, 5, 6, 8, 9
UNLINK, RMDIR, RENAME, LINK, OPEN, READ, WRITE, STATFS, RELEASE = 10, 11, 12, 13, 14, 15, 16, 17, 18
FSYNC, FLUSH, INIT, OPENDIR, READDIR, RELEASEDIR, FSYNCDIR = 20, 25, 26, 27, 28, 29, 30
ACCESS, CREATE, INTERRUPT, DESTROY, BATCH_FORGET, RENAME2 = 34, 35, 36, 38, 42, 45

SET_MODE, SET_UID, SET_GID, SET_SIZE, SET_MTIME, SET_MTIME_NOW = 1, 2, 4, 8, 32, 256

_HEADER = struct.Struct("=IIQQIIII")
_REPLY = struct.Struct("=IiQ")
_ATTR = struct.Struct("=6Q10I")
_INIT_OUT = struct.Struct("=IIIIHHIIHHI7I")
_SETATTR = struct.Struct("=II6Q8I")
_STATFS = struct.Struct("=5Q4I6I")
_DIRENT = struct.Struct("=QQII")


@dataclass(frozen=True, slots=True)
class Request:
    """One request of the kernel; `args` is what follows the header."""

    opcode: int
    unique: int
    node: int
    uid: int
    args: bytes

    def names(self, skip: int = 0) -> list[str]:
        """The NUL-terminated names after `skip` bytes."""
        return [name.decode("utf-8", "surrogateescape") for name in self.args[skip:].split(b"\0")[:-1]]


@dataclass(frozen=True, slots=True)
class Attributes:
    """What stat shows of an inode."""

    ino: int
    mode: int
    size: int = 0
    mtime: int = 0
    gid: int = 0

    def pack(self) -> bytes:
        """As struct fuse_attr."""
        time, links = self.mtime, 2 if stat.S_ISDIR(self.mode) else 1
        return _ATTR.pack(self.ino, self.size, -(-self.size // 512), time, time, time, 0, 0, 0,
                          self.mode, links, 0, self.gid, 0, 4096, 0)  # fmt: skip


@dataclass(frozen=True, slots=True)
class SetAttr:
    """What a setattr request wants changed."""

    valid: int
    size: int
    mtime: int
    mode: int
    uid: int
    gid: int

    @classmethod
    def parse(cls, args: bytes) -> SetAttr:
        """From struct fuse_setattr_in."""
        f = _SETATTR.unpack_from(args)
        return cls(valid=f[0], size=f[3], mtime=f[6], mode=f[11], uid=f[13], gid=f[14])


def entry(attributes: Attributes) -> bytes:
    """As struct fuse_entry_out, with nothing for the kernel to remember."""
    return struct.pack("=QQQQII", attributes.ino, 0, 0, 0, 0, 0) + attributes.pack()


def attr(attributes: Attributes) -> bytes:
    """As struct fuse_attr_out, with nothing for the kernel to remember."""
    return struct.pack("=QII", 0, 0, 0) + attributes.pack()


def opened(flags: int) -> bytes:
    """As struct fuse_open_out."""
    return struct.pack("=QII", 0, flags, 0)


def written(count: int) -> bytes:
    """As struct fuse_write_out."""
    return struct.pack("=II", count, 0)


def statfs(blocks: int, free: int, files: int, free_files: int) -> bytes:
    """As struct fuse_kstatfs, in blocks of 4096 bytes."""
    return _STATFS.pack(blocks, free, free, files, free_files, 4096, 256, 4096, 0, *[0] * 6)


def directory(listing: Sequence[tuple[int, int, str]], offset: int, limit: int) -> bytes:
    """As many (ino, mode, name) rows from `offset` on as fit into `limit` bytes."""
    out = b""
    for at, (ino, mode, name) in enumerate(listing[offset:], start=offset + 1):
        raw = name.encode("utf-8", "surrogateescape")
        row = _DIRENT.pack(ino, at, len(raw), stat.S_IFMT(mode) >> 12) + raw
        row += b"\0" * (-len(row) % 8)
        if len(out) + len(row) > limit:
            break
        out += row
    return out


class Mount:
    """A mounted file system whose requests come out of `receive`."""

    def __init__(self, where: Path) -> None:
        self.where = where
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._make_device()
        self._fd = os.open(DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self._unmount()  # what a killed predecessor left answers nobody
        options = f"fd={self._fd},rootmode=40000,user_id=0,group_id=0,default_permissions,allow_other"
        flags = ctypes.c_ulong(_NOSUID | _NODEV)
        if self._libc.mount(b"/dev/fuse", os.fsencode(where), b"fuse", flags, options.encode()):
            code = ctypes.get_errno()
            raise OSError(code, f"mounting {where} failed: {os.strerror(code)}")

    def fileno(self) -> int:
        """The descriptor that is readable when a request is there."""
        return self._fd

    def receive(self) -> Request | None:
        """The next request, or None when there is none now; OSError ENODEV when unmounted."""
        try:
            raw = os.read(self._fd, MAX_WRITE + 4096)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EINTR, errno.ENOENT):
                return None
            raise
        _, opcode, unique, node, uid, _, _, _ = _HEADER.unpack_from(raw)
        return Request(opcode, unique, node, uid, raw[_HEADER.size :])

    def reply(self, request: Request, data: bytes = b"") -> None:
        """Answer a request with success."""
        self._send(_REPLY.pack(_REPLY.size + len(data), 0, request.unique) + data)

    def fail(self, request: Request, code: int) -> None:
        """Answer a request with an errno."""
        self._send(_REPLY.pack(_REPLY.size, -code, request.unique))

    def answer(self, request: Request, data: Callable[[], bytes]) -> Callable[[int], None]:
        """A function that answers the request once the outcome (0 or an errno) is known."""

        def tell(code: int) -> None:
            if code:
                self.fail(request, code)
            else:
                self.reply(request, data())

        return tell

    def greet(self, request: Request) -> None:
        """Answer INIT."""
        _, _, readahead, _ = struct.unpack_from("=IIII", request.args)
        self.reply(request, _INIT_OUT.pack(_MAJOR, _MINOR, readahead, _BIG_WRITES, 64, 48, MAX_WRITE, 1, 0, 0,
                                           0, *[0] * 7))  # fmt: skip

    def close(self) -> None:
        """Unmount."""
        self._unmount()
        os.close(self._fd)

    def _send(self, raw: bytes) -> None:
        try:
            os.write(self._fd, raw)
        except OSError as error:
            if error.errno != errno.ENOENT:  # the caller was interrupted and has gone
                raise

    def _unmount(self) -> None:
        self._libc.umount2(os.fsencode(self.where), _DETACH)

    @staticmethod
    def _make_device() -> None:
        if not DEVICE.exists():
            os.mknod(DEVICE, stat.S_IFCHR | 0o666, os.makedev(10, 229))
