"""The tree of /etc/pve as every member holds it: operations in one order give one state everywhere."""

from __future__ import annotations

import base64
import errno
import hashlib
import json
import re
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

ROOT = 0
MAX_FILE_SIZE = 1024 * 1024
MAX_TOTAL_SIZE = 128 * 1024 * 1024
MAX_INODES = 256 * 1024
LOCK_DIRECTORY = "priv/lock"

_GUEST = re.compile(r"^nodes/([^/]+)/(qemu-server|lxc)/(\d+)\.conf$")


@dataclass(slots=True)
class Entry:
    """A file, or a directory when `data` is None; `inode` is the tree's version when it was made."""

    inode: int
    parent: int
    name: str
    version: int
    writer: int
    mtime: int
    data: bytes | None


@dataclass(frozen=True, slots=True)
class Op:
    """One change, as it travels between members."""

    kind: str
    path: str
    to: str = ""
    offset: int = 0
    truncate: bool = False
    mtime: int = 0
    version: int = 0
    data: bytes = b""
    writer: int = 0
    time: int = 0

    def encode(self) -> bytes:
        """The operation as bytes."""
        head = {key: value for key, value in asdict(self).items() if key != "data"}
        return json.dumps(head).encode() + b"\0" + self.data

    @classmethod
    def decode(cls, raw: bytes) -> Op:
        """The operation that `encode` wrote."""
        head, _, data = raw.partition(b"\0")
        return cls(**json.loads(head), data=data)


class TreeError(Exception):
    """An operation that the tree refuses, with its errno."""

    def __init__(self, code: int) -> None:
        super().__init__(errno.errorcode[code])
        self.code = code


@dataclass(slots=True)
class Changes:
    """What an operation touched, for whoever keeps the tree on disk."""

    kept: set[int] = field(default_factory=set)
    gone: set[int] = field(default_factory=set)


def parent_of(path: str) -> str:
    """The directory part of a path; the root is the empty string."""
    return path.rpartition("/")[0]


def is_lock(path: str) -> bool:
    """Whether the path is a directory that stands for a cluster-wide lock."""
    return parent_of(path) == LOCK_DIRECTORY


class MemDb:
    """The replicated tree. Limits and refusals are those of pmxcfs: 1 MiB a file, no rename of locks."""

    def __init__(self) -> None:
        self.version = 0
        self.entries = {ROOT: Entry(ROOT, ROOT, "", 0, 0, 0, None)}
        self._children: dict[int, dict[str, int]] = {ROOT: {}}
        self._size = 0

    def find(self, path: str) -> Entry | None:
        """The entry at a path, or None."""
        inode = ROOT
        for name in filter(None, path.split("/")):
            below = self._children.get(inode, {}).get(name)
            if below is None:
                return None
            inode = below
        return self.entries[inode]

    def read(self, path: str) -> bytes | None:
        """A file's bytes, or None when there is no such file."""
        entry = self.find(path)
        return entry.data if entry else None

    def child(self, inode: int, name: str) -> Entry | None:
        """The entry called `name` in the directory `inode`."""
        below = self._children.get(inode, {}).get(name)
        return None if below is None else self.entries[below]

    def children(self, inode: int) -> list[Entry]:
        """A directory's entries."""
        return [self.entries[below] for below in self._children.get(inode, {}).values()]

    def path_of(self, inode: int) -> str | None:
        """The path of an entry, or None when it is gone."""
        names: list[str] = []
        while inode != ROOT:
            entry = self.entries.get(inode)
            if entry is None:
                return None
            names.append(entry.name)
            inode = entry.parent
        return "/".join(reversed(names))

    def guests(self) -> Iterator[tuple[int, str, str, int]]:
        """Every guest: its id, node, kind (qemu or lxc) and version."""
        for entry in list(self.entries.values()):
            match = _GUEST.match(self.path_of(entry.inode) or "") if entry.name.endswith(".conf") else None
            if match:
                yield int(match[3]), match[1], "qemu" if match[2] == "qemu-server" else "lxc", entry.version

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return self._size

    @property
    def mtime(self) -> int:
        """The newest change, in seconds since 1970."""
        return max(entry.mtime for entry in self.entries.values())

    def apply(self, op: Op) -> Changes:
        """Carry out one operation, or raise TreeError and leave the tree as it was."""
        changes = Changes()
        _APPLY[op.kind](self, op, changes)
        self.version += 1
        for inode in changes.kept:
            entry = self.entries[inode]
            entry.version, entry.writer = self.version, op.writer
            entry.mtime = op.mtime if op.kind == "mtime" else op.time
        self.entries[ROOT].version = self.version
        return changes

    def insert(self, entry: Entry) -> None:
        """Put an entry in its place as it is, as when the tree is read from disk or from a peer."""
        self.entries[entry.inode] = entry
        if entry.inode != ROOT:
            self._children.setdefault(entry.parent, {})[entry.name] = entry.inode
        if entry.data is None:
            self._children.setdefault(entry.inode, {})
        self._size += len(entry.data or b"")

    def digest(self) -> str:
        """SHA-256 over all entries."""
        rows = [
            (e.inode, e.parent, e.name, e.version, e.writer, e.mtime, e.data) for e in self.entries.values()
        ]
        state = repr((self.version, sorted(rows, key=lambda row: row[0])))
        return hashlib.sha256(state.encode()).hexdigest()

    def dump(self) -> bytes:
        """The whole tree as bytes."""
        rows: list[dict[str, Any]] = [asdict(entry) for entry in self.entries.values()]
        for row in rows:
            row["data"] = None if row["data"] is None else base64.b64encode(row["data"]).decode()
        return zlib.compress(json.dumps({"version": self.version, "entries": rows}).encode(), 1)

    @classmethod
    def load(cls, raw: bytes) -> MemDb:
        """The tree that `dump` wrote."""
        state, tree = json.loads(zlib.decompress(raw)), cls()
        tree.version = state["version"]
        for row in state["entries"]:
            row["data"] = None if row["data"] is None else base64.b64decode(row["data"])
            tree.insert(Entry(**row))
        return tree

    def _make(self, op: Op, changes: Changes, data: bytes | None) -> None:
        parent = self._directory(parent_of(op.path))
        name = op.path.rpartition("/")[2]
        if self.child(parent.inode, name) or not name:
            raise TreeError(errno.EEXIST)
        if len(self.entries) >= MAX_INODES:
            raise TreeError(errno.ENOSPC)
        self._refuse_second_guest(op.path)
        entry = Entry(self.version + 1, parent.inode, name, 0, op.writer, op.time, data)
        self.insert(entry)
        changes.kept.add(entry.inode)

    def _create(self, op: Op, changes: Changes) -> None:
        self._make(op, changes, b"")

    def _mkdir(self, op: Op, changes: Changes) -> None:
        self._make(op, changes, None)

    def _write(self, op: Op, changes: Changes) -> None:
        entry = self._existing(op.path)
        if entry.data is None:
            raise TreeError(errno.EISDIR)
        end = op.offset + len(op.data)
        head, tail = entry.data[: op.offset].ljust(op.offset, b"\0"), b"" if op.truncate else entry.data[end:]
        data = head + op.data + tail
        if len(data) > MAX_FILE_SIZE:
            raise TreeError(errno.EFBIG)
        if self._size + len(data) - len(entry.data) > MAX_TOTAL_SIZE:
            raise TreeError(errno.ENOSPC)
        self._size += len(data) - len(entry.data)
        entry.data = data
        changes.kept.add(entry.inode)

    def _rename(self, op: Op, changes: Changes) -> None:
        entry = self._existing(op.path)
        if not op.to or (entry.data is None and is_lock(op.path)) or f"{op.to}/".startswith(f"{op.path}/"):
            raise TreeError(errno.EACCES)
        parent, target = self._directory(parent_of(op.to)), self.find(op.to)
        if target and (target.data is None or entry.data is None):
            raise TreeError(errno.EEXIST)
        self._refuse_second_guest(op.to, but=(entry.inode, target.inode if target else None))
        if target:
            self._drop(target, changes)
        del self._children[entry.parent][entry.name]
        entry.parent, entry.name = parent.inode, op.to.rpartition("/")[2]
        self._children[parent.inode][entry.name] = entry.inode
        changes.kept.add(entry.inode)

    def _delete(self, op: Op, changes: Changes) -> None:
        entry = self._existing(op.path)
        if entry.inode == ROOT:
            raise TreeError(errno.EACCES)
        if self._children.get(entry.inode):
            raise TreeError(errno.ENOTEMPTY)
        self._drop(entry, changes)

    def _set_mtime(self, op: Op, changes: Changes) -> None:
        entry = self._existing(op.path)
        # The holder of a lock keeps it alive by a newer time; nobody else may touch it.
        if entry.data is None and is_lock(op.path) and (op.mtime < entry.mtime or op.writer != entry.writer):
            raise TreeError(errno.EACCES)
        changes.kept.add(entry.inode)

    def _unlock(self, op: Op, changes: Changes) -> None:
        entry = self._existing(op.path)
        if not is_lock(op.path) or entry.version != op.version or self._children.get(entry.inode):
            raise TreeError(errno.EACCES)
        self._drop(entry, changes)

    def _existing(self, path: str) -> Entry:
        entry = self.find(path)
        if entry is None:
            raise TreeError(errno.ENOENT)
        return entry

    def _directory(self, path: str) -> Entry:
        entry = self._existing(path)
        if entry.data is not None:
            raise TreeError(errno.ENOTDIR)
        return entry

    def _drop(self, entry: Entry, changes: Changes) -> None:
        del self.entries[entry.inode]
        del self._children[entry.parent][entry.name]
        self._children.pop(entry.inode, None)
        self._size -= len(entry.data or b"")
        changes.gone.add(entry.inode)

    def _refuse_second_guest(self, path: str, but: tuple[int | None, ...] = ()) -> None:
        match = _GUEST.match(path)
        if not match:
            return
        if any(vmid == int(match[3]) and self._inode(node, kind, vmid) not in but
               for vmid, node, kind, _ in self.guests()):  # fmt: skip
            raise TreeError(errno.EEXIST)

    def _inode(self, node: str, kind: str, vmid: int) -> int | None:
        entry = self.find(f"nodes/{node}/{'qemu-server' if kind == 'qemu' else kind}/{vmid}.conf")
        return entry.inode if entry else None


_APPLY = {
    "create": MemDb._create,
    "mkdir": MemDb._mkdir,
    "write": MemDb._write,
    "rename": MemDb._rename,
    "delete": MemDb._delete,
    "mtime": MemDb._set_mtime,
    "unlock": MemDb._unlock,
}
