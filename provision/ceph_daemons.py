"""Ceph's monitors, managers and metadata servers: made one by one, and made anew on a reinstalled node.

Order and traps: pve-manager's `API2/Ceph/MON.pm`, `MGR.pm`, `MDS.pm`, and docs/ceph.md.
"""

from __future__ import annotations

from collections.abc import Mapping

from provision.ceph_site import Site
from provision.ceph_survey import Found
from provision.errors import Refused
from provision.pve import ceph as api
from provision.pve import settling
from provision.pve.ceph import Status
from provision.remote import CommandFailed
from provision.wait import NotYet

# Ceph warns (MON_CLOCK_SKEW) when monitors' clocks differ by more.
SKEW = 0.05
TRACKING = "chronyc -c tracking"
_OFFSET, _LEAP = 4, -1
_FIELDS = 14

Surveys = Mapping[str, Found]


def first_of(site: Site) -> str:
    """The node of the first monitor: it gets a manager by itself, so it is one that shall have one."""
    return next((name for name in site.monitors if name in site.managers), site.monitors[0])


def raise_monitors(site: Site, found: Surveys) -> None:
    """Bring all monitors into the quorum, one after the other; the first one makes the cluster."""
    conf = found[site.base].conf
    standing = _status(site).quorum_names if conf.mon_host else ()
    site.unchanged += [f"monitor on {name}" for name in site.monitors if name in standing]
    if not standing:
        _create_monitor(site, site.base)
        site.first = site.base
    known = _status(site).monmap.addresses
    missing = [name for name in site.monitors if name not in (*standing, site.base)]
    if missing:
        site.everywhere(lambda name: _await_clock(site, name), site.monitors)
    for name in missing:
        _raise_monitor(site, found[name], listed=name in known or f"mon.{name}" in conf.sections)


def _raise_monitor(site: Site, found: Found, *, listed: bool) -> None:
    name, home = found.node, f"mon.{found.node}" in found.homes
    if home and not listed:
        raise Refused(
            f"it has /var/lib/ceph/mon/ceph-{name}, and the cluster knows no such monitor: its creation was "
            f"cut off. Remove the directory (rm -r /var/lib/ceph/mon/ceph-{name}) and run the step again",
            node=name,
        )
    if home:
        start(site, name, f"mon.{name}")
        await_quorum(site, name)
        return
    if listed:
        _remove_dead_monitor(site, name)
    _create_monitor(site, name)


def _create_monitor(site: Site, name: str) -> None:
    site.act(
        name, f"creation of monitor {name}", lambda session: api.create_monitor(session, site.address(name))
    )
    await_quorum(site, name)
    site.did("monitor-created", "monitor created", node=name)


def await_quorum(site: Site, name: str) -> None:
    """Wait until the monitor is in the quorum."""

    def probe() -> bool | NotYet:
        quorum = api.status(site.asked).quorum_names
        return name in quorum or NotYet(f"in quorum: {', '.join(quorum) or 'none'}")

    site.until(f"monitor {name} in the quorum", lambda: settling(probe), node=name)


def _remove_dead_monitor(site: Site, name: str) -> None:
    """Take out what the cluster knows of the monitor of a node that was reinstalled.

    Proxmox removes a monitor on its own node alone, and refuses where the directory is gone.
    """
    site.remotes[name].check(f"mkdir -p /var/lib/ceph/mon/ceph-{name}")
    site.act(name, f"removal of the dead monitor {name}", api.destroy_monitor)
    site.did("monitor-removed", "dead monitor of the earlier install removed", node=name)


def _await_clock(site: Site, name: str) -> None:
    """Wait until chrony has set the node's clock: monitors tolerate little."""

    def probe() -> bool | NotYet:
        try:
            return clock_is_set(site.remotes[name].check(TRACKING))
        except CommandFailed as error:
            return NotYet(f"chronyd does not answer: {error.last_seen}")

    site.until("its clock set by chrony", probe, node=name)


def clock_is_set(tracking: str) -> bool | NotYet:
    """Whether `chronyc -c tracking` tells of a clock that is set, less than SKEW seconds off."""
    fields = tracking.split(",")
    if len(fields) < _FIELDS or fields[_LEAP] == "Not synchronised":
        return NotYet("chrony has found no time source yet; look at chronyc sources")
    offset = abs(float(fields[_OFFSET]))
    return offset < SKEW or NotYet(f"its clock is {offset:.3f} s off its time source {fields[1]}")


def start(site: Site, name: str, service: str) -> None:
    """Start a daemon that is there and does not run."""
    site.act(name, f"start of {service}", lambda session: api.start(session, service))
    site.did("daemon-started", f"{service} started", node=name)


def raise_manager(site: Site, found: Found) -> None:
    """See that the node's manager is there and runs; the first monitor has brought one along."""
    name = found.node
    if name not in site.managers or name == site.first:
        return
    if f"mgr.{name}" in found.homes:
        if f"mgr.{name}" in found.active:
            site.unchanged.append(f"manager on {name}")
        else:
            start(site, name, f"mgr.{name}")
        return
    site.act(name, f"creation of manager {name}", api.create_manager)
    site.did("manager-created", "manager created", node=name)


def raise_metadata_servers(site: Site, found: Surveys) -> None:
    """See that all metadata servers are there and run; one by one, because each is written into ceph.conf."""
    for name in site.metadata_servers:
        service = f"mds.{name}"
        if service in found[name].homes:
            if service not in found[name].active:
                start(site, name, service)
            continue
        if service in found[name].conf.sections:
            site.act(name, f"removal of the dead metadata server {name}", api.destroy_metadata_server)
        site.act(name, f"creation of metadata server {name}", api.create_metadata_server)
        site.did("mds-created", "metadata server created", node=name)


def dismiss_others(site: Site, found: Surveys) -> None:
    """Remove monitors and managers that the lab file does not ask for, once those that it asks for serve."""
    known = _status(site).monmap.addresses
    for name in (name for name in found if name in known and name not in site.monitors):
        _dismiss_monitor(site, found[name])
    extra = [
        name for name, here in found.items() if f"mgr.{name}" in here.homes and name not in site.managers
    ]
    for name in extra:
        site.until("the managers asked for standing by", lambda: settling(lambda: _managers_up(site)))
        site.act(name, f"removal of manager {name}", api.destroy_manager)
        site.did("manager-removed", "manager removed, which the lab file does not ask for", node=name)


def _dismiss_monitor(site: Site, found: Found) -> None:
    name = found.node
    if f"mon.{name}" not in found.homes:
        _remove_dead_monitor(site, name)
        return
    safe = api.safe_to_destroy(site.asked, "mon", name)
    if not safe.safe:
        raise Refused(
            f"the lab file asks for no monitor there, but it cannot be removed: {safe.status}", node=name
        )
    site.act(name, f"removal of monitor {name}", api.destroy_monitor)
    site.did("monitor-removed", "monitor removed, which the lab file does not ask for", node=name)


def _managers_up(site: Site) -> bool | NotYet:
    names = api.status(site.asked).mgrmap.names
    return set(site.managers) <= names or NotYet(f"managers: {', '.join(sorted(names)) or 'none'}")


def _status(site: Site) -> Status:
    return site.until("Ceph's status", lambda: settling(lambda: api.status(site.asked)))
