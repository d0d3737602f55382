"""The whole at a glance, as the cluster itself tells it: what the end of a report shows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

from provision.inventory import Lab, Node

if TYPE_CHECKING:
    from provision.pve import Session
    from provision.run import Run

# After everything else: a reader finds it last.
pytestmark = [pytest.mark.step("templates"), pytest.mark.cluster]

GIB = 2**30


def test_overview(lab: Lab, run: Run, api_of: Callable[[str], Session]) -> None:
    """The cluster tells of every node of it, pool and template that the lab file asks for."""
    rows = list(_rows(lab, api_of(lab.primary.name)))
    run.say("overview", f"{len(rows)} lines of it", rows=rows)
    assert [name for name in _asked_for(lab) if name not in dict(rows)] == []


def _asked_for(lab: Lab) -> Iterator[str]:
    yield from lab.proxmox.nodes
    yield from (f"pool {name}" for name in (lab.ceph.pools if lab.ceph else ()))
    yield from (f"template {vmid}" for vmid in lab.templates)


def _rows(lab: Lab, api: Session) -> Iterator[tuple[str, str]]:
    status = api.status()
    quorate = "quorate" if status.quorate else "NOT quorate"
    yield "cluster", f"{status.name}, {quorate}, {len(status.online)} of {len(status.members)} nodes online"
    for node in lab.proxmox.nodes.values():
        yield node.name, _node(node, online=node.name in status.online)
    yield "links", ", ".join(f"{at} {net.name} {net.cidr}" for at, net in enumerate(lab.link_networks))
    if lab.ceph:
        yield from _ceph(api)
    if lab.templates:
        yield from _templates(lab, api)
    yield "web console", f"https://{lab.primary.management}:8006"


def _node(node: Node, *, online: bool) -> str:
    addresses = ", ".join(f"{network} {address}" for network, address in node.addresses.items())
    return f"{'online' if online else 'OFFLINE'}, {addresses}"


def _ceph(api: Session) -> Iterator[tuple[str, str]]:
    from provision.pve import ceph  # noqa: PLC0415 (collecting needs no API)

    told = ceph.status(api)
    osds, usage = told.osdmap, told.pgmap
    yield (
        "Ceph",
        (
            f"{told.health.status}, {osds.num_up_osds} of {osds.num_osds} OSDs up, "
            f"{len(told.quorum_names)} monitors, {_gib(usage.bytes_used)} of {_gib(usage.bytes_total)} used"
        ),
    )
    for pool in ceph.pools(api):
        yield f"pool {pool.pool_name}", f"size {pool.size}/{pool.min_size}, {pool.pg_num} PGs"


def _templates(lab: Lab, api: Session) -> Iterator[tuple[str, str]]:
    from provision.pve import guests  # noqa: PLC0415

    for node in lab.proxmox.nodes:
        for vmid, guest in guests.guests(api, node).items():
            if guest.template:
                yield f"template {vmid}", f"{guest.name} on {node}"


def _gib(size: float) -> str:
    return f"{size / GIB:.1f} GiB"
