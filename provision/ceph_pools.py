"""Ceph's pools and file system, the Proxmox storages on them, and the network for migrations.

What is there and differs from the lab file is changed; what the lab file does not name is left alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from provision.ceph_site import Site
from provision.errors import Refused
from provision.inventory import Lab, Pool
from provision.pve import Session, settling
from provision.pve import ceph as api
from provision.wait import NotYet

# The autoscaler's own figures (pg_autoscaler/module.py; option mon_target_pg_per_osd).
PGS_PER_OSD = 100
FEWEST_PGS = 32
RBD_CONTENT = "images,rootdir"
FS_CONTENT = "vztmpl,iso,backup,snippets,import"


def make_pools(site: Site, osds: int) -> None:
    """Make the lab file's pools, or mend their settings; `osds` is how many OSDs there are."""
    there = {pool.pool_name: pool for pool in api.pools(site.asked)}
    for name, asked in site.ceph.pools.items():
        if name not in there:
            settings = {**settings_of(asked), "pg_num": pg_num(asked, site.ceph.pools, osds)}
            site.act(site.base, f"creation of pool {name}", _creating(name, settings))
            site.did("pool-created", f"pool {name} created", **settings)
        elif differing := _differing(asked, there[name]):
            site.act(site.base, f"change of pool {name}", _changing(name, differing))
            words = ", ".join(f"{key} {value}" for key, value in differing.items())
            site.did("pool-changed", f"pool {name} changed: {words}", **differing)
        else:
            site.unchanged.append(f"pool {name}")


def settings_of(pool: Pool) -> dict[str, Any]:
    """A pool's settings in the API's words."""
    ratio = {"target_size_ratio": pool.target_ratio} if pool.target_ratio is not None else {}
    return {"size": pool.size, "min_size": pool.min_size, "pg_autoscale_mode": pool.autoscale,
            "application": pool.application, **ratio}  # fmt: skip


def pg_num(pool: Pool, pools: Mapping[str, Pool], osds: int) -> int:
    """How many placement groups the autoscaler would give the pool: it then has nothing to change later."""
    if pool.target_ratio is None and pool.autoscale == "on":
        return FEWEST_PGS
    whole = sum(other.target_ratio or 0 for other in pools.values())
    share = pool.target_ratio / whole if pool.target_ratio else 1 / len(pools)
    return max(FEWEST_PGS, _nearest_power_of_two(share * osds * PGS_PER_OSD / pool.size))


def _nearest_power_of_two(number: float) -> int:
    above = 1 << max(0, int(number) - 1).bit_length()
    return above if above - number < number - above / 2 else above // 2


def _differing(asked: Pool, there: api.Pool) -> dict[str, Any]:
    wanted_ratio = asked.target_ratio or 0.0
    wanted = {"target_size_ratio": wanted_ratio, **settings_of(asked)}
    found = {
        "size": there.size,
        "min_size": there.min_size,
        "pg_autoscale_mode": there.pg_autoscale_mode,
        "target_size_ratio": (there.target_size_ratio or 0.0) if there.autoscale_status else wanted_ratio,
        "application": asked.application if asked.application in there.application_metadata else None,
    }
    return {key: value for key, value in wanted.items() if found[key] != value}


def _creating(name: str, settings: Mapping[str, Any]) -> Callable[[Session], str]:
    return lambda session: api.create_pool(session, name, settings)


def _changing(name: str, settings: Mapping[str, Any]) -> Callable[[Session], str]:
    return lambda session: api.change_pool(session, name, settings)


def make_file_system(site: Site) -> None:
    """Make the lab file's CephFS, and wait until a metadata server serves it."""
    if site.ceph.cephfs is None:
        return
    name = site.ceph.cephfs.name
    if name in {there.name for there in api.file_systems(site.asked)}:
        site.unchanged.append(f"CephFS {name}")
    else:
        _await_mds(site, "a metadata server standing by", "up:standby")
        site.act(site.base, f"creation of CephFS {name}",
                 lambda session: api.create_file_system(session, name, FEWEST_PGS))  # fmt: skip
        site.did("cephfs-created", f"CephFS {name} created")
    _await_mds(site, f"CephFS {name} served by a metadata server", "up:active")


def _await_mds(site: Site, goal: str, state: str) -> None:
    def probe() -> bool | NotYet:
        states = {mds.name: mds.state for mds in api.metadata_servers(site.asked).values()}
        told = ", ".join(f"{name} {word}" for name, word in states.items())
        return state in states.values() or NotYet(told or "no metadata server")

    site.until(goal, lambda: settling(probe))


def storages_of(site: Site) -> dict[str, dict[str, Any]]:
    """The Proxmox storages that the lab file asks for: type and settings by name."""
    found: dict[str, dict[str, Any]] = {
        name: {"type": "rbd", "pool": name, "content": RBD_CONTENT, "krbd": 0}
        for name, pool in site.ceph.pools.items()
        if pool.is_storage
    }
    if (cephfs := site.ceph.cephfs) and cephfs.storage:
        found[cephfs.name] = {"type": "cephfs", "fs-name": cephfs.name, "content": FS_CONTENT}
    return found


def add_storages(site: Site) -> None:
    """Add the Proxmox storages on pools and file system, or mend them; raises Refused for another's name."""
    there = api.storages(site.asked)
    for name, asked in storages_of(site).items():
        kind, settings = str(asked["type"]), {key: value for key, value in asked.items() if key != "type"}
        if name not in there:
            api.add_storage(site.asked, name, kind, settings)
            site.did("storage-added", f"storage {name} ({kind}) added")
        elif differing := _storage_differs(name, asked, there[name]):
            api.change_storage(site.asked, name, differing)
            site.did("storage-changed", f"storage {name} changed: {', '.join(differing)}")
        else:
            site.unchanged.append(f"storage {name}")


def _storage_differs(name: str, asked: Mapping[str, Any], there: api.Storage) -> dict[str, Any]:
    """The settings that are to be changed."""
    if there.type != asked["type"] or there.pool != asked.get("pool"):
        raise Refused(
            f'storage "{name}" is there already, of type {there.type} on {there.pool or "no pool"}; '
            f"remove it, or name the pool differently in the lab file"
        )
    wrong_content = there.contents != frozenset(asked["content"].split(","))
    content = {"content": asked["content"]} if wrong_content else {}
    return content | ({"krbd": 0} if there.krbd else {})


def set_migration(lab: Lab, session: Session) -> str | None:
    """Let guests migrate over the lab file's network; what was changed, None when it is so already."""
    if lab.cluster is None or lab.cluster.migration is None:
        return None
    network = str(lab.networks[lab.cluster.migration].cidr)
    if api.migration(session) in ({"network": network}, {"type": "secure", "network": network}):
        return None
    api.set_migration(session, network)
    return f"migration network set to {lab.cluster.migration} ({network})"
