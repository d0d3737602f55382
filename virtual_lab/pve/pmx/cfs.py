"""The file system at /etc/pve: the replicated tree, and the links and status files beside it."""

from __future__ import annotations

import errno
import os
import re
import stat
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass

from . import fuse
from .fuse import Attributes, Mount, Request, SetAttr
from .memdb import MAX_INODES, MAX_TOTAL_SIZE, ROOT, Entry, Op
from .replica import Replica
from .status import Status

_SPECIAL = 1 << 40  # node ids from here on are links and status files
_PRIVATE = re.compile(r"^(?:priv|nodes/[^/]+/priv)(?:/|$)")
_SILENT = {fuse.FORGET, fuse.BATCH_FORGET, fuse.INTERRUPT}


@dataclass(frozen=True, slots=True)
class _Special:
    name: str
    link: str | None
    content: Callable[[], str] | None


class FileSystem:
    """Answers the kernel; writes are answered once the group has ordered them."""

    def __init__(self, mount: Mount, replica: Replica, status: Status, *, gid: int) -> None:
        self._mount, self._replica, self._status, self._gid = mount, replica, status, gid
        self._special = self._specials(status)
        self._open: dict[int, bytes | list[tuple[int, int, str]]] = {}
        self._handle = 0
        self._handlers: dict[int, Callable[[Request], None]] = {
            fuse.INIT: mount.greet, fuse.LOOKUP: self._lookup, fuse.GETATTR: self._getattr,
            fuse.SETATTR: self._setattr, fuse.READLINK: self._readlink, fuse.MKNOD: self._mknod,
            fuse.MKDIR: self._mkdir, fuse.UNLINK: self._remove, fuse.RMDIR: self._remove,
            fuse.RENAME: self._rename, fuse.RENAME2: self._rename2, fuse.OPEN: self._open_file,
            fuse.READ: self._read, fuse.WRITE: self._write, fuse.CREATE: self._create,
            fuse.STATFS: self._statfs, fuse.OPENDIR: self._open_directory, fuse.READDIR: self._read_directory,
            fuse.RELEASE: self._release, fuse.RELEASEDIR: self._release, fuse.FLUSH: mount.reply,
            fuse.FSYNC: mount.reply, fuse.FSYNCDIR: mount.reply, fuse.DESTROY: mount.reply,
        }  # fmt: skip

    def handle(self, request: Request) -> None:
        """Answer one request, now or when its write is done."""
        if request.opcode in _SILENT:
            return
        handler = self._handlers.get(request.opcode)
        if handler is None:
            self._mount.fail(request, errno.ENOSYS)
            return
        try:
            handler(request)
        except OSError as refused:
            self._mount.fail(request, refused.errno or errno.EIO)

    # -- what is there

    def _specials(self, status: Status) -> dict[int, _Special]:
        home = f"nodes/{status.node}"
        links = {"local": home, "qemu-server": f"{home}/qemu-server", "lxc": f"{home}/lxc",
                 "openvz": f"{home}/openvz"}  # fmt: skip
        files: dict[str, Callable[[], str]] = {
            ".members": status.members,
            ".version": lambda: status.version(self._replica.tree),
            ".vmlist": lambda: status.vmlist(self._replica.tree),
            ".clusterlog": lambda: '{\n"data": [\n]\n}\n',
            ".rrd": lambda: "",
            ".debug": lambda: "0\n",
        }
        found = [_Special(name, link, None) for name, link in links.items()]
        found += [_Special(name, None, content) for name, content in files.items()]
        return {_SPECIAL + at: special for at, special in enumerate(found)}

    def _entry(self, node: int) -> Entry:
        entry = self._replica.tree.entries.get(node - 1)
        if entry is None:
            raise OSError(errno.ENOENT, "gone")
        return entry

    def _path(self, node: int, name: str = "") -> str:
        if node in self._special:
            raise OSError(errno.ENOTDIR, "no directory")
        path = self._replica.tree.path_of(self._entry(node).inode)
        if path is None:
            raise OSError(errno.ENOENT, "gone")
        return f"{path}/{name}".strip("/") if name else path

    def _attributes(self, node: int) -> Attributes:
        special = self._special.get(node)
        if special:
            return self._special_attributes(node, special)
        entry = self._entry(node)
        mode = stat.S_IFREG | 0o666 if entry.data is not None else stat.S_IFDIR | 0o777
        if not self._status.quorate:
            mode &= ~0o222
        mask = 0o700 if _PRIVATE.match(self._path(node)) else 0o750 if entry.data is not None else 0o755
        mode &= ~0o777 | mask
        return Attributes(node, mode, len(entry.data or b""), entry.mtime, self._gid)

    def _special_attributes(self, node: int, special: _Special) -> Attributes:
        now = int(time.time())
        if special.content:
            mode = stat.S_IFREG | (0o640 if special.name == ".debug" else 0o440)
            return Attributes(node, mode, len(special.content()), now, self._gid)
        # The owner's write bit of `local` is how everybody asks for quorum.
        mode = stat.S_IFLNK | (0o755 if self._status.quorate else 0o555)
        return Attributes(node, mode, len(special.link or ""), now, self._gid)

    def _child(self, parent: int, name: str) -> int:
        if parent == ROOT + 1:
            for node, special in self._special.items():
                if special.name == name:
                    return node
        entry = self._replica.tree.child(self._entry(parent).inode, name)
        if entry is None:
            raise OSError(errno.ENOENT, "no such file")
        return entry.inode + 1

    # -- reading

    def _lookup(self, request: Request) -> None:
        node = self._child(request.node, request.names()[0])
        self._mount.reply(request, fuse.entry(self._attributes(node)))

    def _getattr(self, request: Request) -> None:
        self._mount.reply(request, fuse.attr(self._attributes(request.node)))

    def _readlink(self, request: Request) -> None:
        special = self._special.get(request.node)
        if special is None or special.link is None:
            raise OSError(errno.EINVAL, "no link")
        self._mount.reply(request, special.link.encode())

    def _open_file(self, request: Request) -> None:
        flags = struct.unpack_from("=I", request.args)[0]
        special, handle = self._special.get(request.node), 0
        if flags & os.O_ACCMODE:
            self._may_write(request.node)
        if special and special.content:
            handle = self._keep(special.content().encode())
        elif not special:
            self._entry(request.node)
        self._mount.reply(request, struct.pack("=QII", handle, fuse.DIRECT_IO, 0))

    def _read(self, request: Request) -> None:
        handle, offset, size = struct.unpack_from("=QQI", request.args)
        kept = self._open.get(handle) if handle else self._entry(request.node).data
        data = kept if isinstance(kept, bytes) else b""
        self._mount.reply(request, data[offset : offset + size])

    def _open_directory(self, request: Request) -> None:
        inode = self._entry(request.node).inode
        rows = [(inode + 1, stat.S_IFDIR, "."), (1, stat.S_IFDIR, "..")]
        for entry in self._replica.tree.children(inode):
            rows.append((entry.inode + 1, stat.S_IFDIR if entry.data is None else stat.S_IFREG, entry.name))
        if inode == ROOT:
            rows += [(node, stat.S_IFLNK if special.link else stat.S_IFREG, special.name)
                     for node, special in self._special.items()]  # fmt: skip
        self._mount.reply(request, struct.pack("=QII", self._keep(rows), 0, 0))

    def _read_directory(self, request: Request) -> None:
        handle, offset, size = struct.unpack_from("=QQI", request.args)
        rows = self._open.get(handle)
        listing = rows if isinstance(rows, list) else []
        self._mount.reply(request, fuse.directory(listing, offset, size))

    def _release(self, request: Request) -> None:
        self._open.pop(struct.unpack_from("=Q", request.args)[0], None)
        self._mount.reply(request)

    def _statfs(self, request: Request) -> None:
        tree = self._replica.tree
        blocks = MAX_TOTAL_SIZE // 4096
        free = blocks - -(-tree.size // 4096)
        self._mount.reply(request, fuse.statfs(blocks, free, MAX_INODES, MAX_INODES - len(tree.entries)))

    def _keep(self, content: bytes | list[tuple[int, int, str]]) -> int:
        self._handle += 1
        self._open[self._handle] = content
        return self._handle

    # -- writing

    def _may_write(self, node: int = ROOT + 1) -> None:
        if not self._status.quorate or node in self._special:
            raise OSError(errno.EACCES, "no quorum, or not to be written")

    def _submit(self, request: Request, op: Op, data: Callable[[], bytes] = bytes) -> None:
        self._may_write()
        self._replica.submit(op, self._mount.answer(request, data))

    def _make(self, request: Request, kind: str, name: str, tail: bytes = b"") -> None:
        if request.node == ROOT + 1 and any(special.name == name for special in self._special.values()):
            raise OSError(errno.EEXIST, "taken")
        path = self._path(request.node, name)

        def made() -> bytes:
            entry = self._replica.tree.find(path)
            return fuse.entry(self._attributes(entry.inode + 1 if entry else 0)) + tail

        self._submit(request, Op(kind, path), made)

    def _mknod(self, request: Request) -> None:
        if not stat.S_ISREG(struct.unpack_from("=I", request.args)[0]):
            raise OSError(errno.EPERM, "only files")
        self._make(request, "create", request.names(16)[0])

    def _create(self, request: Request) -> None:
        self._make(request, "create", request.names(16)[0], fuse.opened(fuse.DIRECT_IO))

    def _mkdir(self, request: Request) -> None:
        self._make(request, "mkdir", request.names(8)[0])

    def _remove(self, request: Request) -> None:
        name = request.names()[0]
        self._may_write(self._child(request.node, name))
        self._submit(request, Op("delete", self._path(request.node, name)))

    def _rename(self, request: Request, skip: int = 8) -> None:
        directory = struct.unpack_from("=Q", request.args)[0]
        old, new = request.names(skip)
        self._may_write(self._child(request.node, old))
        self._submit(request, Op("rename", self._path(request.node, old), to=self._path(directory, new)))

    def _rename2(self, request: Request) -> None:
        if struct.unpack_from("=QI", request.args)[1]:
            raise OSError(errno.EINVAL, "no flags")
        self._rename(request, skip=16)

    def _write(self, request: Request) -> None:
        _, offset, size = struct.unpack_from("=QQI", request.args)
        self._may_write(request.node)
        op = Op("write", self._path(request.node), offset=offset, data=request.args[40 : 40 + size])
        self._submit(request, op, lambda: fuse.written(size))

    def _setattr(self, request: Request) -> None:
        want = SetAttr.parse(request.args)

        def done() -> bytes:
            return fuse.attr(self._attributes(request.node))

        self._check_owner_and_mode(want, request.node)
        if want.valid & fuse.SET_SIZE:
            op = Op("write", self._path(request.node), offset=want.size, truncate=True)
            self._submit(request, op, done)
        elif want.valid & fuse.SET_MTIME:
            self._set_time(request, want, done)
        else:
            self._mount.reply(request, done())

    def _check_owner_and_mode(self, want: SetAttr, node: int) -> None:
        private = node not in self._special and _PRIVATE.match(self._path(node))
        wrong_mode = want.valid & fuse.SET_MODE and want.mode & 0o7777 != (0o600 if private else 0o640)
        wrong_owner = want.valid & fuse.SET_UID and want.uid != 0
        wrong_group = want.valid & fuse.SET_GID and want.gid != self._gid
        if wrong_mode or wrong_owner or wrong_group:
            raise OSError(errno.EPERM, "modes and owners are fixed")

    def _set_time(self, request: Request, want: SetAttr, done: Callable[[], bytes]) -> None:
        path = self._path(request.node)
        mtime = int(time.time()) if want.valid & fuse.SET_MTIME_NOW else want.mtime
        if mtime == 0:
            self._may_write()
            self._replica.ask_unlock(path, self._mount.answer(request, done))
        else:
            self._submit(request, Op("mtime", path, mtime=mtime), done)
