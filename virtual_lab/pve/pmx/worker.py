"""The process that carries out one task of the API."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from importlib import import_module

from .tasks import Upid, carry_out

JOBS: Mapping[str, str] = {
    "clustercreate": "formation:create",
    "clusterjoin": "formation:join",
    "cephcreatemon": "ceph_daemons:create_monitor",
    "cephdestroymon": "ceph_daemons:destroy_monitor",
    "cephcreatemgr": "ceph_daemons:create_manager",
    "cephdestroymgr": "ceph_daemons:destroy_manager",
    "cephcreatemds": "ceph_daemons:create_mds",
    "cephdestroymds": "ceph_daemons:destroy_mds",
    "cephcreatepool": "ceph_pools:create_pool",
    "cephsetpool": "ceph_pools:change_pool",
    "cephdestroypool": "ceph_pools:destroy_pool",
    "cephfscreate": "ceph_pools:create_filesystem",
    "cephdestroyfs": "ceph_pools:destroy_filesystem",
    "cephsetflags": "ceph_cluster:change_flags",
    "cephcreateosd": "osds:create",
    "cephdestroyosd": "osds:destroy",
    "wipedisk": "disks:wipe",
    "download": "download:fetch",
    "imgdel": "volumes:remove",
    "qmclone": "guest_clones:clone",
    "qmconfig": "guest_tasks:change",
    "qmcreate": "guest_tasks:create",
    "qmdestroy": "guest_tasks:destroy",
    "qmreboot": "guest_power:reboot",
    "qmreset": "guest_power:reset",
    "qmshutdown": "guest_power:shutdown",
    "qmstart": "guest_power:start",
    "qmstop": "guest_power:stop",
    "qmtemplate": "guest_clones:template",
    "resize": "guest_tasks:resize",
    "srvstart": "ceph_daemons:start",
    "srvstop": "ceph_daemons:stop",
    "srvrestart": "ceph_daemons:restart",
}
"""The function that carries out each type of task: it takes the task's parameters, and says or raises."""


def main() -> int:
    """Read which task it is from stdin, and do it."""
    order = json.load(sys.stdin)
    upid = Upid.parse(order["upid"])
    module, _, name = JOBS[upid.type].partition(":")
    job = getattr(import_module(f"pmx.{module}"), name)
    return 0 if carry_out(upid, lambda: job(order["params"])) else 1
