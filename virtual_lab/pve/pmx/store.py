"""The tree on disk: /var/lib/pve-cluster/config.db, with the table that pmxcfs has."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from .memdb import ROOT, Changes, Entry, MemDb

_TABLE = """
CREATE TABLE IF NOT EXISTS tree (
  inode INTEGER PRIMARY KEY NOT NULL,
  parent INTEGER NOT NULL CHECK(typeof(parent)=='integer'),
  version INTEGER NOT NULL CHECK(typeof(version)=='integer'),
  writer INTEGER NOT NULL CHECK(typeof(writer)=='integer'),
  mtime INTEGER NOT NULL CHECK(typeof(mtime)=='integer'),
  type INTEGER NOT NULL CHECK(typeof(type)=='integer'),
  name TEXT NOT NULL,
  data BLOB)
"""
_DIRECTORY, _FILE = 4, 8  # DT_DIR and DT_REG
_ROOT_NAME = "__version__"  # the root's row carries the tree's version


class Store:
    """The database file of one member."""

    def __init__(self, path: Path) -> None:
        self.fresh = not path.exists()
        path.parent.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(path, isolation_level=None)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=NORMAL")
        self._db.execute(_TABLE)

    def load(self) -> MemDb:
        """The tree as it was left."""
        tree = MemDb()
        rows = self._db.execute("SELECT inode, parent, name, version, writer, mtime, type, data FROM tree")
        for inode, parent, name, version, writer, mtime, kind, data in rows:
            content = None if kind == _DIRECTORY else bytes(data or b"")
            called = "" if inode == ROOT else name
            tree.insert(Entry(inode, parent, called, version, writer, mtime, content))
        tree.version = tree.entries[ROOT].version
        return tree

    def save(self, tree: MemDb, changes: Changes) -> None:
        """Make one operation's changes durable, all or none."""
        with self._db:
            self._db.execute("BEGIN")
            self._db.executemany("DELETE FROM tree WHERE inode = ?", [(inode,) for inode in changes.gone])
            self._put([tree.entries[inode] for inode in (*changes.kept, ROOT)])

    def replace(self, tree: MemDb) -> None:
        """Put a whole tree in place of what was there."""
        with self._db:
            self._db.execute("BEGIN")
            self._db.execute("DELETE FROM tree")
            self._put(list(tree.entries.values()))

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()

    def _put(self, entries: list[Entry]) -> None:
        rows = [
            (e.inode, e.parent, e.version, e.writer, e.mtime, _DIRECTORY if e.data is None else _FILE,
             _ROOT_NAME if e.inode == ROOT else e.name, e.data)
            for e in entries
        ]  # fmt: skip
        self._db.executemany("INSERT OR REPLACE INTO tree VALUES (?,?,?,?,?,?,?,?)", rows)
