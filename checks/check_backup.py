"""The nightly backup of all guests."""

from __future__ import annotations

import pytest
from testinfra.host import Host

from provision.inventory import Node

pytestmark = [pytest.mark.step("install"), pytest.mark.first_boot("backup")]


def test_backup_job(host: Host, node: Node) -> None:
    """The cluster has the job, switched on, as the lab file asks for it."""
    asked = node.first_boot.backup
    assert asked is not None
    _, _, rest = f"\n{host.check_output('cat /etc/pve/jobs.cfg')}\n\n".partition("\nvzdump: rackproof\n")
    job = dict(line.split(maxsplit=1) for line in rest.partition("\n\n")[0].splitlines())
    wanted = {
        "enabled": "1", "all": "1", "schedule": asked.schedule, "storage": asked.storage,
        "prune-backups": f"keep-last={asked.keep}",
    }  # fmt: skip
    assert {key: job.get(key) for key in wanted} == wanted
