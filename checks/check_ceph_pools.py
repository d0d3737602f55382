"""Pools: as asked for, with placement groups that are whole; and an image that goes from node to node."""

from __future__ import annotations

from secrets import token_hex
from typing import TYPE_CHECKING

import pytest

from checks.ceph_facts import CephFacts, last_line, on_node
from provision.inventory import Lab, Pool
from provision.remote import Remote

if TYPE_CHECKING:
    from provision.machines import Machines

pytestmark = [pytest.mark.step("ceph"), pytest.mark.ceph]


def test_pool_is_as_asked(pool: tuple[str, Pool], ceph: CephFacts) -> None:
    """Application, sizes and autoscaling of the pool are those of the lab file."""
    name, wanted = pool
    found = ceph.pools[name]
    assert wanted.application in found.applications
    assert (found.size, found.min_size) == (wanted.size, wanted.min_size)
    assert found.autoscale == wanted.autoscale
    assert found.target_ratio == pytest.approx(wanted.target_ratio or 0)


def test_pool_is_not_changing(pool: tuple[str, Pool], ceph: CephFacts) -> None:
    """The pool has the placement groups that it is to have, and is on the way to no other number."""
    found = ceph.pools[pool[0]]
    assert (found.pg_num, found.pgp_num) == (found.pg_num_target, found.pgp_num_target)


def test_placement_groups_are_clean(ceph: CephFacts) -> None:
    """Every placement group of every pool is active and clean: all copies are there."""
    assert ceph.placement_groups > 0
    told = ", ".join(f"{count} {state}" for state, count in ceph.unclean.items())
    assert not told, f"not clean: {told}"


@pytest.mark.writes
def test_an_image_written_on_one_node_is_read_on_another(
    lab: Lab, machines: Machines, pool: tuple[str, Pool]
) -> None:
    """Writes an RBD image on one node, compares its checksum on another, and always takes it away again."""
    name, wanted = pool
    if wanted.application != "rbd":
        pytest.skip(f"pool {name} is for {wanted.application}")
    image = f"rackproof-proof-{token_hex(4)}"
    writer, reader = (machines.node(node) for node in list(lab.proxmox.nodes)[:2])
    try:
        written = done(writer, "write", name, image)
        assert done(reader, "read", name, image) == written
    finally:
        done(writer, "remove", name, image)


def done(machine: Remote, deed: str, pool: str, image: str) -> str:
    """Write, read or remove an image on a node; the checksum of its content."""
    result = on_node(machine, "rbd_image", deed, pool, image)
    assert result.rc == 0, f"{machine.name} cannot {deed} {pool}/{image}: {last_line(result.stderr)}"
    return result.stdout.strip()
