"""Migration: guests move between nodes over the network that the lab file gives them for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from provision.inventory import Lab

if TYPE_CHECKING:
    from provision.pve import Session

pytestmark = [pytest.mark.step("ceph"), pytest.mark.ceph]


def test_migration_network(lab: Lab, api_of: Callable[[str], Session]) -> None:
    """datacenter.cfg has guests migrate, encrypted, over the network of the lab file."""
    from provision.pve import ceph  # noqa: PLC0415 (collecting needs no API)

    assert lab.cluster is not None
    if lab.cluster.migration is None:
        pytest.skip("the lab file leaves it to Proxmox")
    network = str(lab.networks[lab.cluster.migration].cidr)
    assert {"type": "secure", **ceph.migration(api_of(lab.primary.name))} == {
        "type": "secure",
        "network": network,
    }
