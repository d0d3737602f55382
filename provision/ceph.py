"""Step `ceph`: monitors, managers, OSDs, pools and storages as the lab file asks for, and Ceph healthy.

Every node is looked at before any is changed; then packages, monitors, OSDs and pools in that order, each
only where it is missing. What is done when things break, and which disks are wiped, is told in docs/ceph.md.
Facts about creating: pve-manager's `CLI/pveceph.pm` and `API2/Ceph/*.pm`, Ceph's `ceph-volume`.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_network

from provision import ceph_daemons as daemons
from provision import ceph_pools as pools
from provision import pve
from provision.ceph_disks import Chosen, Known, choose
from provision.ceph_site import Open, Site, Wait, gathered
from provision.ceph_survey import Conf, Found, survey
from provision.errors import GaveUp, LabError, Refused
from provision.inventory import Ceph, Lab
from provision.pve import ceph as api
from provision.pve import settling
from provision.pve.ceph import Disk, Status
from provision.remote import CommandFailed, Remote, tail
from provision.run import Done, Run
from provision.wait import NotYet, Patience

# How long monitors that were stopped may take to find each other.
REACH = 60.0
# Seconds after which it is told again what keeps Ceph from being healthy.
TELL_EVERY = 10.0
OSD_DUMP = "ceph osd dump -f json"
CLEAN = "active+clean"
LOCKED = ("Could not get lock", "is locked by another process", "Unable to acquire the dpkg frontend lock")
# What it says goes to a file, so that it lives on when nobody listens any more.
INSTALL = """log=/var/log/rackproof-pveceph-install.log; export DEBIAN_FRONTEND=noninteractive
dpkg --configure -a </dev/null >$log 2>&1 && pveceph install --repository {repository} --version {release} \
>>$log 2>&1 || {{ rc=$?; tail -n 20 $log >&2; exit $rc; }}"""
ZAP = """for what in {what}; do
  said=$(ceph-volume lvm zap --destroy $what 2>&1) || {{ rc=$?; echo "$said" >&2; exit $rc; }}
done; udevadm settle --timeout=30 || :"""
PURGE = "ceph osd purge {osd} --yes-i-really-mean-it"
ACTIVATE = "ceph-volume lvm activate {osd} {uuid}"
RECLASSIFY = "ceph osd crush rm-device-class osd.{osd} && ceph osd crush set-device-class {name} osd.{osd}"


def build(
    lab: Lab,
    remotes: Mapping[str, Remote],
    run: Run,
    *,
    open_session: Open = pve.connect,
    patience: Wait = Patience,
) -> Done:
    """Build the lab's Ceph, pools and storages on its cluster; changes nothing where they stand as asked for.

    `remotes` are all of the lab's nodes. Raises Refused before anything is changed when a disk that the lab
    file names must not be wiped or Ceph stands otherwise than it can be made; LabError, GaveUp when the
    lab's deadline for Ceph passes, NodesFailed when several nodes are at fault.
    """
    asked = lab.asked_ceph
    if asked is None:
        return _without_ceph(lab, remotes, open_session)
    site = Site(lab, asked, remotes, run, open_session, patience)
    try:
        return _Building(site).build()
    finally:
        site.close()


def _without_ceph(lab: Lab, remotes: Mapping[str, Remote], open_session: Open) -> Done:
    unchanged = ["no Ceph: the lab file asks for none"]
    if lab.cluster is None or lab.cluster.migration is None:
        return Done(unchanged=unchanged)
    session = open_session(lab.primary, remotes[lab.primary.name])
    try:
        changed = pools.set_migration(lab, session)
    finally:
        session.close()
    return Done(changed=[changed] if changed else [], unchanged=unchanged)


@dataclass(frozen=True, slots=True)
class Entry:
    """An OSD as the monitors know it, in the CRUSH tree or not."""

    uuid: str
    up: bool
    in_: bool


class _Building:
    def __init__(self, site: Site) -> None:
        self.site = site
        self.found: dict[str, Found] = {}
        self.disks: dict[str, list[Disk]] = {}
        self.chosen: dict[str, tuple[Chosen, ...]] = {}
        self.entries: dict[int, Entry] = {}

    def build(self) -> Done:
        site = self.site
        self._look()
        site.everywhere(self._prepare)
        self._init()
        daemons.raise_monitors(site, self.found)
        site.everywhere(self._furnish)
        self._take_stock()
        self._await_osds()
        self._bury_dead()
        self._reclassify()
        pools.make_pools(site, sum(len(chosen.osds) for chosen in self._data()))
        daemons.raise_metadata_servers(site, self.found)
        pools.make_file_system(site)
        pools.add_storages(site)
        self._migrate()
        daemons.dismiss_others(site, self.found)
        return self._proved(self._await_health())

    # Looking, before anything is changed

    def _look(self) -> None:
        site = self.site
        self._survey()
        site.everywhere(site.await_api)
        if any(site.everywhere(site.await_idle).values()):
            self._survey()
        self.disks = site.everywhere(lambda name: api.disks(site.session(name)))
        conf = self._conf
        site.base = daemons.first_of(site)
        self._refuse(Known(conf.fsid))
        if not conf.mon_host:
            self._refuse_orphans(conf)
            self._refuse(Known(conf.fsid, {}))
            return
        self._refuse_addresses(self._reach())
        self.entries = self._ask_entries()
        self._refuse(self._known(conf.fsid))

    def _survey(self) -> None:
        self.found = self.site.everywhere(lambda name: survey(self.site.remotes[name]))

    @property
    def _conf(self) -> Conf:
        """All nodes of the cluster share one; there may be none yet."""
        return next(iter(self.found.values())).conf

    def _known(self, fsid: str | None) -> Known:
        return Known(fsid, {osd: entry.uuid for osd, entry in self.entries.items()})

    def _refuse(self, known: Known) -> None:
        """Refuse to begin while anything is as it must not be; raises for all nodes at once."""
        faults = {name: list(self._unfit(found)) for name, found in self.found.items()}
        for name, words in self._choose(known).items():
            faults[name].append(words)
        errors: dict[str, LabError] = {
            name: Refused("; ".join([*words, "nothing was changed on any node"]), node=name)
            for name, words in faults.items()
            if words
        }
        if errors:
            raise gathered(errors)

    def _choose(self, known: Known) -> dict[str, str]:
        """Note what is on each disk that the lab file names; what forbids their use, by node."""
        faults = {}
        for name, found in self.found.items():
            try:
                self.chosen[name] = choose(self.site.ceph.osds, found, self.disks[name], known)
            except Refused as error:
                faults[name] = error.message
        return faults

    def _unfit(self, found: Found) -> Iterator[str]:
        wanted = self.site.ceph.release
        if found.installed and found.release != wanted and not self.site.lab.virtual:
            yield (
                f"it runs Ceph {found.version} ({found.release or 'unknown release'}), and the lab file asks "
                f"for {wanted}: upgrade Ceph as Proxmox describes it, or correct the lab file"
            )
        if found.conf.mon_host and found is next(iter(self.found.values())):
            yield from self._other_networks(found.conf)

    def _other_networks(self, conf: Conf) -> Iterator[str]:
        networks = self.site.lab.networks
        public, cluster = _networks(self.site.ceph)
        for key, there, name in (("public", conf.public, public), ("cluster", conf.cluster, cluster)):
            if there and ip_network(there, strict=False) != networks[name].cidr:
                yield (
                    f"Ceph's {key} network is {there}, and the lab file asks for {name} "
                    f"({networks[name].cidr}): monitors and OSDs cannot be moved; correct the lab file, or "
                    f"rebuild all nodes"
                )

    def _refuse_orphans(self, conf: Conf) -> None:
        """Without monitors nobody knows which volumes of this very cluster are still wanted."""
        for name, found in self.found.items():
            volumes = [
                v for there in found.volumes.values() for v in there if conf.fsid and v.fsid == conf.fsid
            ]
            if volumes or any(home.startswith("mon.") for home in found.homes):
                raise Refused(
                    "ceph.conf names no monitor, but a monitor's directory or volumes of this very cluster "
                    "are there: its ceph.conf was lost or changed, or the creation of its first monitor was "
                    "cut off. docs/ceph.md, Half-made, tells how to go on",
                    node=name,
                )

    def _reach(self) -> Status:
        """The state of the cluster whose monitors ceph.conf names; starts those that are down."""
        site = self.site
        homes = [name for name, found in self.found.items() if f"mon.{name}" in found.homes]
        if not homes:
            raise Refused(
                f"ceph.conf names monitors ({self._conf.mon_host}), but no node has one any more: all maps "
                f"are lost. Begin anew as docs/ceph.md, All monitors are gone, tells, or rebuild all nodes",
            )
        running = [name for name in homes if f"mon.{name}" in self.found[name].active]
        for name in homes:
            if name not in running:
                daemons.start(site, name, f"mon.{name}")
        site.base = (running or homes)[0]
        try:
            return site.until("Ceph's monitors answering", lambda: settling(lambda: api.status(site.asked)),
                              seconds=REACH)  # fmt: skip
        except GaveUp as late:
            seen = late.last_seen
        raise GaveUp(
            f"Ceph's monitors do not answer: of those in ceph.conf ({self._conf.mon_host}) there are "
            f"{', '.join(homes)}, which are no quorum or do not see each other",
            node=site.base,
            last_seen=seen,
            likely="more than half of the monitors are gone; docs/ceph.md, No quorum, tells how to go on",
        )

    def _refuse_addresses(self, status: Status) -> None:
        site, known = self.site, status.monmap.addresses
        errors: dict[str, LabError] = {
            name: Refused(
                f"its monitor is at {known[name]}, and the lab file gives it {site.address(name)}; a monitor "
                f"cannot be moved: destroy it (pveceph mon destroy {name}) and run the step again",
                node=name,
            )
            for name in site.monitors
            if name in known and known[name] != site.address(name)
        }
        if errors:
            raise gathered(errors)

    def _ask_entries(self) -> dict[int, Entry]:
        told = json.loads(self.site.remotes[self.site.base].check(OSD_DUMP))
        return {int(osd["osd"]): Entry(osd["uuid"], bool(osd["up"]), bool(osd["in"])) for osd in told["osds"]}

    # Packages, and disks made free

    def _prepare(self, name: str) -> None:
        self._install(name)
        for chosen in self.chosen[name]:
            if chosen.to_zap:
                self._zap(name, chosen)

    def _install(self, name: str) -> None:
        site, ceph, found = self.site, self.site.ceph, self.found[name]
        if found.installed and _sources_fit(found, ceph):
            site.unchanged.append(f"packages on {name}")
            return
        command = INSTALL.format(repository=ceph.repository, release=ceph.release)
        site.say("installing", f"Ceph {ceph.release} from {ceph.repository}", node=name)

        def attempt() -> bool | NotYet:
            try:
                # apt-get asks whether to go on, and pveceph does not answer it.
                site.remotes[name].check(command, stdin="y\n", timeout=site.deadline.remaining)
            except CommandFailed as error:
                if not any(word in error.result.stderr for word in LOCKED):
                    raise
                return NotYet(tail(error.result.stderr))
            return True

        site.until(f"packages of Ceph {ceph.release} installed", attempt, node=name)
        # Proxmox restarts its API at the end, and old connections with it.
        site.forget(name)
        site.await_api(name)
        site.did("packages-installed", f"Ceph {ceph.release} installed", node=name)

    def _zap(self, name: str, chosen: Chosen) -> None:
        device, fsids = chosen.disk.devpath, {volume.fsid or "no finished OSD" for volume in chosen.old}
        what = " ".join(map(shlex.quote, chosen.to_zap))
        self.site.remotes[name].check(ZAP.format(what=what), timeout=self.site.deadline.remaining)
        text = f"left-over Ceph volumes ({', '.join(sorted(fsids))}) removed from {device}"
        self.site.did("volumes-zapped", text, node=name, serial=chosen.disk.serial)

    # The cluster

    def _init(self) -> None:
        """Write ceph.conf once, and let every node see it: also those that run no daemon."""
        site, conf = self.site, self._conf
        if not conf.mon_host:
            public, cluster = (str(site.lab.networks[name].cidr) for name in _networks(site.ceph))
            api.init(site.session(site.base), public, cluster if site.ceph.cluster else None)
            if not conf.fsid:
                site.did("ceph-initialised", f"Ceph initialised on network {public}")
        for name, found in self.found.items():
            if not found.linked and (name != site.base or conf.mon_host):
                api.init(site.session(name))

    def _furnish(self, name: str) -> None:
        """The node's manager, then its OSDs one by one: Proxmox locks its disks meanwhile."""
        daemons.raise_manager(self.site, self.found[name])
        extra = {chosen.use: chosen.disk.devpath for chosen in self.chosen[name] if chosen.use != "data"}
        for chosen in self.chosen[name]:
            if chosen.free:
                self._create_osd(name, chosen.disk, extra.get("db"), extra.get("wal"))
            for osd, uuid in chosen.osds.items() if chosen.use == "data" else ():
                self._raise_osd(name, osd, uuid)

    def _create_osd(self, name: str, disk: Disk, db: str | None, wal: str | None) -> None:
        device_class = self.site.ceph.osds.device_class
        self.site.act(
            name, f"creation of an OSD on {disk.devpath}",
            lambda session: api.create_osd(session, disk.devpath, device_class=device_class, db=db, wal=wal),
        )  # fmt: skip
        self.site.did("osd-created", f"OSD created on {disk.devpath} ({disk.name})", node=name)

    def _raise_osd(self, name: str, osd: int, uuid: str) -> None:
        if f"osd.{osd}" in self.found[name].active:
            self.site.unchanged.append(f"osd.{osd} on {name}")
            return
        # Its node was reinstalled, or it was stopped: its data is there, and is not thrown away.
        command = ACTIVATE.format(osd=osd, uuid=uuid)
        self.site.remotes[name].check(command, timeout=self.site.deadline.remaining)
        self.site.did("osd-activated", f"osd.{osd} activated with the data it had", node=name)

    # OSDs as they are now

    def _take_stock(self) -> None:
        """Look again at what each disk holds, if anything was changed; raises when a disk has no OSD."""
        if not self.site.changed:
            return
        self._survey()
        self.entries = self._ask_entries()
        self.disks = self.site.everywhere(lambda name: api.disks(self.site.session(name)))
        faults = self._choose(self._known(self._conf.fsid))
        faults |= {
            name: f"{chosen.disk.devpath} ({chosen.disk.name}) holds no OSD although its creation succeeded; "
            "look at the node's task log and ceph-volume lvm list, and run the step again"
            for name, there in self.chosen.items()
            for chosen in there
            if chosen.free
        }
        if faults:
            raise gathered({name: LabError(words, node=name) for name, words in faults.items()})

    def _data(self) -> list[Chosen]:
        return [chosen for there in self.chosen.values() for chosen in there if chosen.use == "data"]

    @property
    def _osds(self) -> dict[int, tuple[str, Disk]]:
        """Node and disk of each OSD that the lab file asks for."""
        return {
            osd: (name, chosen.disk)
            for name, there in self.chosen.items()
            for chosen in there
            if chosen.use == "data"
            for osd in chosen.osds
        }

    def _await_osds(self) -> None:
        site, wanted = self.site, sorted(self._osds)

        def probe() -> dict[int, api.Osd] | NotYet:
            tree = api.osds(site.asked)
            down = [f"osd.{osd}" for osd in wanted if osd not in tree or not tree[osd].up]
            return NotYet(f"down: {', '.join(down)}") if down else tree

        tree = site.until(f"all {len(wanted)} OSDs up", lambda: settling(probe))
        if site.changed:
            site.outdate()
        for osd in (osd for osd in wanted if not tree[osd].in_):
            api.take_in(site.asked, osd)
            site.did("osd-in", f"osd.{osd} taken in")

    def _bury_dead(self) -> None:
        """Remove OSDs that the cluster remembers and no disk of any node holds any more."""
        on_disks = {
            (volume.osd, volume.osd_fsid)
            for found in self.found.values()
            for volumes in found.volumes.values()
            for volume in volumes
        }
        for osd, entry in self.entries.items():
            if not entry.up and (osd, entry.uuid) not in on_disks:
                self._bury(osd, entry)

    def _bury(self, osd: int, entry: Entry) -> None:
        site = self.site
        if entry.in_:
            api.take_out(site.asked, osd)
        site.say("waiting", f"for Ceph to be able to do without osd.{osd}, whose disk is gone")

        def probe() -> bool | NotYet:
            safety = api.safe_to_destroy(site.asked, "osd", str(osd))
            return safety.safe or NotYet(safety.status)

        site.until(f"osd.{osd}, whose disk is gone, safe to destroy", lambda: settling(probe))
        self._destroy(osd)
        site.did("osd-removed", f"osd.{osd} removed, whose disk is gone")

    def _destroy(self, osd: int) -> None:
        """Proxmox removes an OSD on the node that it hangs from; one that never ran hangs from none."""
        site, tree = self.site, api.osds(self.site.asked)
        host = tree[osd].host if osd in tree else ""
        if host in site.lab.nodes:
            site.act(host, f"removal of osd.{osd}", lambda session: api.destroy_osd(session, osd))
        else:
            site.remotes[site.base].check(PURGE.format(osd=osd))

    def _reclassify(self) -> None:
        site, asked = self.site, self.site.ceph.osds.device_class
        tree = api.osds(site.asked) if asked else {}
        for osd in sorted(tree.keys() & self._osds.keys()):
            if asked and tree[osd].device_class != asked:
                site.remotes[site.base].check(RECLASSIFY.format(osd=osd, name=shlex.quote(asked)))
                site.did("device-class", f"osd.{osd}: device class {tree[osd].device_class} is now {asked}")

    def _migrate(self) -> None:
        changed = pools.set_migration(self.site.lab, self.site.asked)
        if changed:
            self.site.did("migration", changed)

    # The outcome

    def _await_health(self) -> Status:
        site, told = self.site, [self.site.deadline.remaining]

        def probe() -> Status | NotYet:
            status = api.status(site.asked)
            faults = [*unwell(status, site), *_unsettled(status, api.pools(site.asked))]
            if not faults and site.figures_are_old:
                return NotYet("all well, by figures that may be older than the last change")
            if faults and told[-1] - site.deadline.remaining > TELL_EVERY:
                told.append(site.deadline.remaining)
                site.say("waiting", f"for Ceph to be healthy: {'; '.join(faults)}")
            return NotYet("; ".join(faults)) if faults else status

        status = site.until("Ceph healthy", lambda: settling(probe))
        site.say("healthy", f"{status.health.status}, {len(self._osds)} OSDs, {status.pgmap.num_pgs} PGs")
        return status

    def _proved(self, status: Status) -> Done:
        site = self.site
        tree = api.osds(site.asked)
        osds = {
            str(osd): {"node": name, "serial": disk.name, "device": disk.devpath,
                       "device_class": tree[osd].device_class}
            for osd, (name, disk) in sorted(self._osds.items())
        }  # fmt: skip
        here = self.found[site.base]
        facts = {
            "fsid": status.fsid, "release": here.release, "version": here.version,
            "monitors": status.monmap.addresses, "managers": sorted(status.mgrmap.names),
            "pools": list(site.ceph.pools), "storages": list(pools.storages_of(site)), "osds": osds,
        }  # fmt: skip
        nodes = {
            name: {
                "osds": [osd for osd, (node, _) in sorted(self._osds.items()) if node == name],
                "disks": {chosen.disk.name: chosen.disk.devpath for chosen in there},
            }
            for name, there in self.chosen.items()
        }
        return Done(changed=site.changed, unchanged=site.unchanged, facts=facts, nodes=nodes)


def unwell(status: Status, site: Site) -> Iterator[str]:
    """What is not as it must be at the end, in words."""
    missing = [name for name in site.monitors if name not in status.quorum_names]
    if missing:
        yield f"monitors not in the quorum: {', '.join(missing)}"
    if not status.mgrmap.available or not set(site.managers) <= status.mgrmap.names:
        yield f"managers: {', '.join(sorted(status.mgrmap.names)) or 'none'}"
    osds = status.osdmap
    if not osds.num_osds == osds.num_up_osds == osds.num_in_osds:
        yield f"{osds.num_osds} OSDs, {osds.num_up_osds} up, {osds.num_in_osds} in"
    if unclean := {state: count for state, count in status.pgmap.states.items() if state != CLEAN}:
        yield "PGs: " + ", ".join(f"{count} {state}" for state, count in unclean.items())
    yield from _unhealthy(status, site.ceph)


def _unhealthy(status: Status, ceph: Ceph) -> Iterator[str]:
    for name, check in status.health.checks.items():
        allowed = name in ceph.allowed_warnings and check.severity == "HEALTH_WARN"
        if not allowed and not check.muted:
            yield f"{name} ({check.severity}): {check.message}"
    if status.health.status == "HEALTH_ERR" and not status.health.checks:
        yield status.health.status


def _unsettled(status: Status, there: list[api.Pool]) -> Iterator[str]:
    """What is on its way still; new placement groups are reported some seconds after their pool is made."""
    wanted = sum(pool.pg_num for pool in there)
    if status.pgmap.num_pgs != wanted:
        yield f"{status.pgmap.num_pgs} of {wanted} PGs are reported"
    for pool in there:
        scaling = pool.autoscale_status
        if scaling and scaling.pg_num_target != pool.pg_num:
            yield f"pool {pool.pool_name} has {pool.pg_num} PGs on the way to {scaling.pg_num_target}"
        elif scaling and scaling.would_adjust and pool.pg_autoscale_mode == "on":
            yield f"pool {pool.pool_name} will be given {scaling.pg_num_final} PGs by the autoscaler"


def _networks(ceph: Ceph) -> tuple[str, str]:
    """Names of the public and the cluster network; Proxmox takes one for both when only one is given."""
    return ceph.public, ceph.cluster or ceph.public


def _sources_fit(found: Found, ceph: Ceph) -> bool:
    """Whether its package source is the one that `pveceph install` writes for this release."""
    return (
        any(source.endswith(f"/debian/ceph-{ceph.release}") for source in found.sources)
        and ceph.repository in found.sources
    )
