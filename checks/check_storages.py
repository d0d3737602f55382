"""Proxmox's storages on Ceph: set up as asked for, and usable on every node."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

from provision.inventory import Ceph, Lab, Node, Pool

if TYPE_CHECKING:
    from provision.pve import Session
    from provision.pve.ceph import Storage

pytestmark = [pytest.mark.step("ceph"), pytest.mark.ceph]


def test_storages_are_active(node: Node, asked: Ceph, api_of: Callable[[str], Session]) -> None:
    """The node itself says of each storage that was asked for that it is enabled, and can be used now."""
    rows = {row["storage"]: row for row in api_of(node.name).api.nodes(node.name).storage.get()}
    told = {name: rows.get(name, {}) for name in storages_asked(asked)}
    able = {name: int(row.get("enabled", 1)) and int(row.get("active", 0)) for name, row in told.items()}
    idle = [name for name, can in able.items() if not can]
    assert not idle, f"{node.name} cannot use storage {', '.join(idle)} now"


def test_storage_of_pool(lab: Lab, pool: tuple[str, Pool], api_of: Callable[[str], Session]) -> None:
    """The pool's storage, if one was asked for, is RBD on this pool, for images and containers."""
    name, wanted = pool
    if not wanted.is_storage:
        pytest.skip(f"no storage on pool {name} was asked for")
    storage = storage_of(lab, name, api_of)
    assert (storage.type, storage.pool) == ("rbd", name)
    assert storage.contents == {"images", "rootdir"}


@pytest.mark.cephfs
def test_storage_of_cephfs(lab: Lab, asked: Ceph, api_of: Callable[[str], Session]) -> None:
    """The filesystem's storage, if one was asked for, is CephFS, for what is kept in files."""
    assert asked.cephfs is not None
    if not asked.cephfs.storage:
        pytest.skip("no storage on the filesystem was asked for")
    storage = storage_of(lab, asked.cephfs.name, api_of)
    assert storage.type == "cephfs"
    assert storage.contents == {"vztmpl", "iso", "backup", "snippets", "import"}


def storage_of(lab: Lab, name: str, api_of: Callable[[str], Session]) -> Storage:
    """A storage in the cluster's configuration; the check fails when there is none."""
    from provision.pve import ceph  # noqa: PLC0415 (collecting needs no API)

    storages = ceph.storages(api_of(lab.primary.name))
    assert name in storages, f"there is no storage {name}"
    return storages[name]


def storages_asked(ceph: Ceph) -> Iterator[str]:
    """The names of the storages that pools and the filesystem are to have."""
    yield from (name for name, pool in ceph.pools.items() if pool.is_storage)
    if ceph.cephfs and ceph.cephfs.storage:
        yield ceph.cephfs.name
