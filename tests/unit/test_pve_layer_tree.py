from __future__ import annotations

import errno
from pathlib import Path

import pytest

from virtual_lab.pve.pmx.memdb import MAX_FILE_SIZE, MemDb, Op, TreeError
from virtual_lab.pve.pmx.store import Store


def made(*ops: Op) -> MemDb:
    tree = MemDb()
    for op in ops:
        tree.apply(op)
    return tree


def refusal(tree: MemDb, op: Op) -> int:
    before = tree.digest()
    with pytest.raises(TreeError) as refused:
        tree.apply(op)
    assert tree.digest() == before
    return refused.value.code


def test_what_is_written_can_be_read() -> None:
    tree = made(Op("mkdir", "priv"), Op("create", "priv/a"), Op("write", "priv/a", data=b"hello"))
    assert tree.read("priv/a") == b"hello"
    assert tree.version == 3


def test_a_write_leaves_what_lies_around_it() -> None:
    tree = made(
        Op("create", "a"), Op("write", "a", data=b"0123456789"), Op("write", "a", offset=2, data=b"XY")
    )
    assert tree.read("a") == b"01XY456789"
    tree.apply(Op("write", "a", offset=3, truncate=True))
    assert tree.read("a") == b"01X"
    tree.apply(Op("write", "a", offset=5, data=b"!"))
    assert tree.read("a") == b"01X\0\0!"


def test_rename_replaces_a_file_and_moves_a_directory() -> None:
    tree = made(Op("mkdir", "d"), Op("create", "d/a"), Op("create", "b"), Op("write", "d/a", data=b"new"))
    tree.apply(Op("rename", "d/a", to="b"))
    tree.apply(Op("rename", "d", to="e"))
    assert tree.read("b") == b"new"
    assert tree.find("d") is None
    assert tree.find("e") is not None


@pytest.mark.parametrize(
    ("op", "code"),
    [
        (Op("create", "a"), errno.EEXIST),
        (Op("create", "none/a"), errno.ENOENT),
        (Op("create", "a/b"), errno.ENOTDIR),
        (Op("write", "d"), errno.EISDIR),
        (Op("write", "none"), errno.ENOENT),
        (Op("write", "a", data=b"x" * (MAX_FILE_SIZE + 1)), errno.EFBIG),
        (Op("delete", "d"), errno.ENOTEMPTY),
        (Op("delete", ""), errno.EACCES),
        (Op("rename", "d", to="d/below"), errno.EACCES),
        (Op("rename", "a", to="d"), errno.EEXIST),
    ],
)
def test_refusals_change_nothing(op: Op, code: int) -> None:
    tree = made(Op("create", "a"), Op("mkdir", "d"), Op("create", "d/x"))
    assert refusal(tree, op) == code


def test_a_lock_is_held_by_its_maker() -> None:
    tree = made(Op("mkdir", "priv"), Op("mkdir", "priv/lock"), Op("mkdir", "priv/lock/l", writer=1, time=100))
    assert refusal(tree, Op("mkdir", "priv/lock/l", writer=2)) == errno.EEXIST
    assert refusal(tree, Op("mtime", "priv/lock/l", mtime=200, writer=2)) == errno.EACCES
    assert refusal(tree, Op("rename", "priv/lock/l", to="priv/lock/m", writer=1)) == errno.EACCES
    tree.apply(Op("mtime", "priv/lock/l", mtime=200, writer=1))
    assert refusal(tree, Op("unlock", "priv/lock/l", version=3)) == errno.EACCES
    tree.apply(Op("unlock", "priv/lock/l", version=4))
    assert tree.find("priv/lock/l") is None


def test_a_guest_exists_once_in_the_cluster() -> None:
    tree = made(Op("mkdir", "nodes"))
    for path in ("nodes/a", "nodes/a/qemu-server", "nodes/b", "nodes/b/lxc"):
        tree.apply(Op("mkdir", path))
    tree.apply(Op("create", "nodes/a/qemu-server/100.conf"))
    assert refusal(tree, Op("create", "nodes/b/lxc/100.conf")) == errno.EEXIST
    assert [(vmid, node, kind) for vmid, node, kind, _ in tree.guests()] == [(100, "a", "qemu")]


def test_the_same_operations_give_the_same_tree() -> None:
    ops = [Op("mkdir", "d", time=1), Op("create", "d/f", time=2), Op("write", "d/f", data=b"\0\xff", time=3)]
    one, other = made(*ops), made(*(Op.decode(op.encode()) for op in ops))
    assert one.digest() == other.digest() == MemDb.load(one.dump()).digest()


def test_the_database_gives_back_what_was_kept(tmp_path: Path) -> None:
    store = Store(tmp_path / "config.db")
    assert store.fresh
    tree = store.load()
    for op in (Op("mkdir", "d"), Op("create", "d/f"), Op("write", "d/f", data=b"x"), Op("create", "g"),
               Op("rename", "d/f", to="g"), Op("rename", "d", to="e"), Op("delete", "e")):  # fmt: skip
        store.save(tree, tree.apply(op))
    store.close()
    again = Store(tmp_path / "config.db")
    assert not again.fresh
    assert again.load().digest() == tree.digest()
    again.close()
