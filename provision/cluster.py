"""Step `cluster`: one Proxmox cluster of the lab's nodes, joined one by one, each judged from the others.

What is done when things break is told in docs/cluster.md. Facts about creating and joining: pve-cluster's
`API2/ClusterConfig.pm`, `Cluster/Setup.pm` and the admin guide's chapter on pvecm.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from provision import pve
from provision.errors import GaveUp, LabError, NodesFailed, Refused, Unreachable
from provision.inventory import Cluster, Lab, Node
from provision.pve import ClusterStatus, ConfigNode, Session, TaskFailed, settling
from provision.remote import CommandFailed, Remote
from provision.run import Done, Run
from provision.spans import at_work
from provision.together import together
from provision.wait import NotYet, Patience

T = TypeVar("T")

Open = Callable[[Node, Remote], Session]
Wait = Callable[[float], Patience]

STEP = "cluster"
# How long what looks broken may be a join that is still under way, left by a run that was killed.
SETTLE = 30.0
# How long knet may take to find its links after a node is a member.
LINKS = 30.0
CLOCKS_APART = 5.0
BLOCKED = (
    "corosync's UDP ports 5405 to 5412 do not pass between the nodes on one of the links; the cluster may be "
    "without quorum now, and docs/cluster.md tells how to help it"
)
AUTHORIZED_KEYS = "/etc/pve/priv/authorized_keys"

SURVEY = r"""
tell() { printf '%s=%s\n' "$1" "$(printf '%s' "$2" | tr '\n' ' ')"; }
tell clock "$(date +%s.%N)"
tell hostname "$(hostname)"
tell resolved "$(getent hosts "$(hostname)" | awk 'NR == 1 {print $1}')"
tell addresses "$(ip -o addr show | awk '{sub("/.*", "", $4); print $4}')"
tell version "$(pveversion 2>/dev/null | cut -d ' ' -f 1)"
tell guests "$(ls /etc/pve/local/qemu-server /etc/pve/local/lxc 2>/dev/null | sed -n 's/\.conf$//p')"
tell files "$(ls /etc/corosync/authkey /etc/corosync/corosync.conf /etc/pve/corosync.conf 2>/dev/null)"
tell corosync "$(systemctl is-active corosync)"
tell cluster "$(sed -n 's/^ *cluster_name: *//p' /etc/corosync/corosync.conf 2>/dev/null)"
tell members "$(sed -n 's/^ *name: *//p' /etc/corosync/corosync.conf 2>/dev/null)"
"""


def form(
    lab: Lab,
    remotes: Mapping[str, Remote],
    run: Run,
    *,
    open_session: Open = pve.connect,
    patience: Wait = Patience,
) -> Done:
    """Make the lab's nodes one quorate cluster over the lab's links; changes nothing where they are that.

    `remotes` are all of the lab's nodes. Raises LabError, Refused or GaveUp, or NodesFailed when several
    nodes are at fault: when a precondition is not met, a node is half-joined or stands in a foreign
    cluster (nothing is changed then), and when a node cannot be joined.
    """
    if lab.cluster is None:
        return Done(unchanged=["no cluster: the lab file asks for none"])
    forming = _Forming(lab, lab.cluster, remotes, run, open_session, patience)
    try:
        return forming.form()
    finally:
        forming.close()


# What stands


@dataclass(frozen=True, slots=True)
class Survey:
    """What a node says of itself over SSH; `clock` was read between `before` and `after` of our own clock."""

    before: float
    after: float
    clock: float
    hostname: str
    resolved: str
    addresses: tuple[str, ...]
    version: str
    guests: tuple[str, ...]
    files: tuple[str, ...]
    corosync: str
    cluster: str
    members: tuple[str, ...]

    @property
    def traces(self) -> tuple[str, ...]:
        """What of a cluster is on the node, as far as a join would refuse it."""
        files = [file for file in self.files if file != "/etc/corosync/corosync.conf"]
        return (*files, *(["a running corosync"] if self.corosync == "active" else []))

    @property
    def fresh(self) -> bool:
        """Whether the node has no trace of a cluster."""
        return not self.traces

    @property
    def complete(self) -> bool:
        """Whether the node has all that a member has."""
        return len(self.files) == 3 and self.corosync == "active"

    def apart(self, other: Survey) -> float:
        """Seconds that this clock and the other's differ at least; positive when this one is ahead."""
        ahead = (self.clock - self.after) - (other.clock - other.before)
        behind = (other.clock - other.after) - (self.clock - self.before)
        return ahead if ahead > 0 else -max(0.0, behind)


def survey(remote: Remote) -> Survey:
    """What a node says of itself, by one command."""
    before = time.time()
    output = remote.check(SURVEY)
    return parse_survey(remote.name, output, before, time.time())


def parse_survey(node: str, output: str, before: float, after: float) -> Survey:
    """The survey in the command's output; raises LabError when the command did not run as it should."""
    said = dict(line.split("=", 1) for line in output.splitlines() if "=" in line)
    try:
        words = {key: tuple(said[key].split()) for key in ("addresses", "guests", "files", "members")}
        plain = {key: said[key].strip() for key in ("hostname", "resolved", "version", "corosync", "cluster")}
        return Survey(before=before, after=after, clock=float(said["clock"]), **words, **plain)  # type: ignore[arg-type]
    except (KeyError, ValueError):
        raise LabError("its survey came back incomplete", node=node, last_seen=output[-500:]) from None


@dataclass(frozen=True, slots=True)
class Picture:
    """All nodes at one moment: surveys, and what the API of each complete one says, or why it is `silent`.

    `base` is a quorate member through which to act, None when there is none; `listed` is its nodelist.
    """

    surveys: Mapping[str, Survey]
    views: Mapping[str, ClusterStatus]
    silent: Mapping[str, str]
    base: str | None
    listed: frozenset[str]

    @property
    def members(self) -> list[str]:
        """The nodes in the cluster of `base`, in lab order."""
        online = self.views[self.base].online if self.base else frozenset()
        return [name for name, found in self.surveys.items() if name in online and not found.fresh]

    def broken(self) -> dict[str, LabError]:
        """The nodes that are neither members nor fresh, each with what was found and what to do."""
        found = {name: self._fault(name) for name, found in self.surveys.items() if not found.fresh}
        return {name: LabError(fault, node=name) for name, fault in found.items() if fault}

    def _fault(self, name: str) -> str | None:
        traces = f"found {', '.join(self.surveys[name].traces)}"
        again = (
            f"reinstall it (pytest -m provision --nodes {name}) or clean it by hand as docs/cluster.md tells"
        )
        if self.base is None:
            return (
                f"half-joined, or without quorum: {traces}; {self._word_of(name)}; no node of the cluster is "
                f"quorate. Reinstall the nodes of the cluster, or help it to quorum as docs/cluster.md tells"
            )
        if name not in self.listed:
            return f"half-joined: {traces}, but {self.base}'s nodelist does not name it; {again}"
        if name not in self.members:
            return f"half-joined or stopped: {traces}, and {self.base} lists it but sees it offline; {again}"
        if name in self.silent or not self.surveys[name].complete:
            return f"half-joined: {traces}; {self.base} sees it online, but {self._word_of(name)}; {again}"
        return None

    def _word_of(self, name: str) -> str:
        if name in self.silent:
            return f"its API does not serve: {self.silent[name]}"
        if name in self.views:
            return f"it sees {', '.join(sorted(self.views[name].online)) or 'no node'} online"
        return "its cluster configuration is incomplete"


# The step


@dataclass
class _Forming:
    lab: Lab
    cluster: Cluster
    remotes: Mapping[str, Remote]
    run: Run
    open_session: Open
    patience: Wait
    sessions: dict[str, Session] = field(default_factory=dict)
    changed: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    def form(self) -> Done:
        picture = self._settled()
        # Without a quorate member nothing stands at all: everything else was refused as broken.
        base, members = picture.base or self.lab.primary.name, picture.members
        if picture.base:
            self._assert_links(base, members)
            self._say_already(members)
        unchanged = [f"{name} in cluster {self.cluster.name}" for name in members]
        fresh = sorted(
            (name for name in self.lab.nodes if name not in members), key=lambda name: name != base
        )
        self._assert_fit(picture, fresh, base)
        surveys = dict(picture.surveys)
        while waiting := [name for name in fresh if name not in members]:
            # Whoever is not ready yet is passed over: it joins after those that are, and holds none up.
            for name in self._ready(waiting, base, surveys, needed=waiting if members else [base]):
                again = name in picture.listed
                self._admit(name, base, members, again=again) if members else self._create(name)
                members.append(name)
        return self._proved(base, unchanged)

    def close(self) -> None:
        for session in self.sessions.values():
            session.close()

    # Looking

    def _settled(self) -> Picture:
        """What stands, once nothing of it looks broken; raises what is broken when that lasts."""
        seconds, seen = min(SETTLE, self.lab.deadlines.join), [self._look()]
        if broken := seen[-1].broken():
            text = f"{', '.join(broken)} may be joining still; looking again for {seconds:g} s"
            self.run.say("settling", text, step=STEP)

        def probe() -> Picture | NotYet:
            if seen[-1].broken():
                seen.append(self._look())
            return NotYet("half-joined nodes") if seen[-1].broken() else seen[-1]

        try:
            return self.patience(seconds).until("no node is half-joined", probe)
        except GaveUp:
            broken = seen[-1].broken()
        raise _gathered(broken)

    def _look(self) -> Picture:
        surveys = together({name: self.remotes[name] for name in self.lab.nodes}, survey)
        self._refuse_foreign(surveys)
        complete = {name: name for name, found in surveys.items() if found.complete}
        said = together(complete, self._view)
        views = {name: view for name, view in said.items() if isinstance(view, ClusterStatus)}
        silent = {name: why for name, why in said.items() if isinstance(why, str)}
        base = self._base(views)
        listed = frozenset(self._session(base).config_nodes()) if base else frozenset()
        return Picture(surveys, views, silent, base, listed)

    def _view(self, name: str) -> ClusterStatus | str:
        try:
            return self._session(name).status()
        except LabError as error:
            self._forget_session(name)
            return error.message

    def _base(self, views: Mapping[str, ClusterStatus]) -> str | None:
        quorate = [name for name in self.lab.nodes if name in views and views[name].quorate]
        primary = self.lab.primary.name
        return primary if primary in quorate else next(iter(quorate), None)

    def _refuse_foreign(self, surveys: Mapping[str, Survey]) -> None:
        foreign = {name: found for name, found in surveys.items() if not found.fresh and self._foreign(found)}
        if foreign:
            raise _gathered({name: self._foreign_error(name, found) for name, found in foreign.items()})

    def _foreign(self, found: Survey) -> bool:
        return found.cluster not in {"", self.cluster.name} or not set(found.members) <= set(self.lab.nodes)

    def _foreign_error(self, name: str, found: Survey) -> Refused:
        return Refused(
            f'stands in cluster "{found.cluster}" with {", ".join(found.members) or "no node"}; this lab\'s '
            f'cluster is "{self.cluster.name}" of {", ".join(self.lab.nodes)}. A foreign cluster is left '
            f"alone: take {name} out of it and reinstall it, or correct the lab file",
            node=name,
        )

    # Preconditions

    def _assert_fit(self, picture: Picture, fresh: Sequence[str], base: str) -> None:
        """Refuse to begin while a node is what time does not mend; raises for all such nodes at once."""
        other = picture.surveys[base]
        found = {name: picture.surveys[name] for name in fresh}
        faults = {name: [*self._unready(name, found[name], base), *_unlike(found[name], base, other)]
                  for name in fresh}  # fmt: skip
        if not any(faults.values()):
            return
        told = {name: [*texts, *_out_of_step(found[name], base, other)] for name, texts in faults.items()}
        raise _gathered(
            {name: LabError("; ".join(texts), node=name) for name, texts in told.items() if texts}
        )

    def _ready(
        self, waiting: Sequence[str], base: str, surveys: dict[str, Survey], *, needed: Sequence[str]
    ) -> list[str]:
        """Those of the waiting nodes that can join now, in their order, once one of `needed` is among them.

        Raises what the nodes lack that are waited for in vain; `surveys` are brought up to date.
        """
        lacks: dict[str, GaveUp] = {}

        def probe() -> list[str] | NotYet:
            lacks.clear()
            lacks.update(self._lacking(waiting, base, surveys, seconds))
            ready = [name for name in waiting if name not in lacks]
            if any(name in ready for name in needed):
                return ready
            return NotYet(", ".join(lacks))

        seconds = self.lab.deadlines.join
        try:
            ready = self.patience(seconds).until("a node that is ready to join", probe)
        except GaveUp:
            raise _gathered({name: lacks[name] for name in needed}) from None
        for name, lack in lacks.items():
            self.run.say("not-ready", f"joins later: {lack.last_seen}", step=STEP, node=name)
        return ready

    def _lacking(
        self, waiting: Sequence[str], base: str, surveys: dict[str, Survey], seconds: float
    ) -> dict[str, GaveUp]:
        """What each node lacks that is not ready."""
        late = [name for name in waiting if _out_of_step(surveys[name], base, surveys[base])]
        if late:
            again = dict.fromkeys([*late, base])
            surveys |= together({name: self.remotes[name] for name in again}, survey)
        served = together({name: name for name in waiting}, lambda name: settling(lambda: self._served(name)))
        lacking: dict[str, GaveUp] = {}
        for name, answer in served.items():
            if isinstance(answer, NotYet):
                lacking[name] = _gave_up("its API serving", name, seconds, answer.seen)
            elif clock := _out_of_step(surveys[name], base, surveys[base]):
                lacking[name] = _gave_up("its clock in step", name, seconds, clock[0])
        return lacking

    def _served(self, name: str) -> bool | NotYet:
        session = self._new_session(name)
        return session if isinstance(session, NotYet) else bool(session.version())

    def _unready(self, name: str, found: Survey, base: str) -> list[str]:
        problems = []
        if found.hostname != name:
            problems.append(
                f'its host name is "{found.hostname}", not "{name}"; reinstall it with the right one'
            )
        if found.resolved not in found.addresses or found.resolved.startswith(("127.", "fe80:")):
            problems.append(
                f"its host name resolves to {found.resolved or 'nothing'}, which is no address of its NICs; "
                f"write {self.lab.nodes[name].management} beside {name} into its /etc/hosts"
            )
        for number, address in enumerate(self._addresses(name)):
            if address not in found.addresses:
                link = f"link{number} ({self.cluster.links[number]})"
                problems.append(f"{address} of {link} is not configured; correct its /etc/network/interfaces")
        if found.guests and name != base:
            guests = ", ".join(found.guests)
            problems.append(
                f"it has guests ({guests}), and no node with guests can join; move or remove them"
            )
        return problems

    # Creating and joining

    def _create(self, name: str) -> None:
        started = time.monotonic()
        session, links = self._session(name), self._addresses(name)
        wait = self.patience(self.lab.deadlines.cluster)
        what = f"creation of cluster {self.cluster.name}"
        wait.until(what, lambda: _unless_locked(lambda: self._create_once(session, links, what)), node=name)
        with at_work(name):
            wait.until(
                f"quorum of cluster {self.cluster.name}", lambda: settling(lambda: _alone(session)), node=name
            )
        self.seconds[name] = time.monotonic() - started
        self.changed.append(f"cluster {self.cluster.name} created on {name}")
        text = f"cluster {self.cluster.name} on {' and '.join(links)}"
        self.run.say("cluster-created", text, step=STEP, node=name, seconds=self.seconds[name])

    def _create_once(self, session: Session, links: Sequence[str], what: str) -> bool:
        try:
            upid = session.create_cluster(self.cluster.name, links)
        except pve.AnswerLost:
            return True  # the wait for quorum tells whether it was carried out
        session.finish(upid, what, self.patience(self.lab.deadlines.cluster))
        return True

    def _admit(self, name: str, base: str, members: Sequence[str], *, again: bool) -> None:
        if again:
            self._strike_off(name, base)
        started = time.monotonic()
        wait = self.patience(self.lab.deadlines.join)
        what = f"join of {name} to cluster {self.cluster.name}"
        attempt = partial(self._join_once, name, base, members, what)
        upid = wait.until(what, lambda: _unless_locked(attempt), node=name)
        self._await_links([name], base)
        self._renew(name, base, upid)
        if again:
            # The cluster still has SSH keys and host keys of the node as it was before.
            self.remotes[name].check("pvecm updatecerts", timeout=90.0)
        self.seconds[name] = time.monotonic() - started
        self.changed.append(f"{name} joined through {base}")
        text = f"a member of {self.cluster.name}, seen online by {', '.join(members)}"
        self.run.say("node-joined", text, step=STEP, node=name, seconds=self.seconds[name])

    def _join_once(self, name: str, base: str, members: Sequence[str], what: str) -> str:
        """Ask for the join and wait until all members see the node; the task's UPID, "" if it is unknown."""
        upid = self._ask_to_join(name, base)

        def probe() -> str | NotYet:
            unseen = self._unseen_by(name, members)
            return upid if unseen is None else NotYet(f"{unseen}; {self._join_task(name, upid, what)}")

        try:
            with at_work(name):
                return self.patience(self.lab.deadlines.join).until(what, lambda: settling(probe), node=name)
        except GaveUp as late:
            seen = late.last_seen
        raise GaveUp(
            f"{what}: not done within {self.lab.deadlines.join:g} s",
            node=name,
            last_seen=seen,
            likely=BLOCKED,
        )

    def _ask_to_join(self, name: str, base: str) -> str:
        peer = self.lab.nodes[base]
        try:
            return self._session(name).join_cluster(
                str(peer.management), self._fingerprint_of(base), peer.root_password, self._addresses(name)
            )
        except pve.AnswerLost:
            return ""  # the other members tell whether it was carried out

    def _fingerprint_of(self, base: str) -> str:
        """The certificate of `base`'s API, on which its disk and the cluster must agree."""
        on_disk = pve.fingerprint_of(self.remotes[base])
        told = self._session(base).join_info().nodes.get(base)
        if told is None or (told.pve_fp or "").upper() != on_disk:
            message = (
                f"the cluster says that its API has certificate {told and told.pve_fp}, but on its disk "
                f"is {on_disk}; run pvecm updatecerts --force and systemctl restart pveproxy on it"
            )
            raise Unreachable(message, node=base)
        return on_disk

    def _unseen_by(self, name: str, members: Sequence[str]) -> str | None:
        """Which member does not have the node in a quorate, complete cluster yet; None when all have."""
        expected = {*members, name}
        asked = {member: member for member in members}
        views = together(asked, lambda member: settling(lambda: self._session(member).status()))
        for member, view in views.items():
            if isinstance(view, NotYet):
                return f"{member} does not tell: {view.seen}"
            if not view.quorate or view.online != expected:
                quorum = "quorate" if view.quorate else "without quorum"
                return f"{member} is {quorum} and sees {', '.join(sorted(view.online))} online"
        return None

    def _join_task(self, name: str, upid: str, what: str) -> str:
        """How far the joiner's task is; raises TaskFailed when it says itself that it failed.

        While a node joins, its tickets, its certificate and its API go away: that is told, and no failure.
        """
        if not upid:
            return "the answer to the join request was lost"
        try:
            session = self._session(name)
            task = session.task(upid)
            # A worker that is killed, as by the restart of the API, leaves no word of its own.
            if not task.running and task.exitstatus != "unexpected status":
                session.succeeded(upid, what, task)
            return f"its join task is {task.status}: {task.exitstatus or 'no result yet'}"
        except TaskFailed:
            raise
        except LabError as error:
            return f"its API does not tell of the task: {error.message}"

    def _await_links(self, names: Sequence[str], base: str) -> None:
        """Wait until corosync on `base` is connected to these nodes over every link."""
        members = self._session(base).status().members
        ids = {name: members[name].nodeid for name in names}
        patience = self.patience(min(LINKS, self.lab.deadlines.join))
        with at_work(base):
            patience.until("every link connected", lambda: self._all_links(ids, base), node=names[-1])

    def _all_links(self, ids: Mapping[str, int], base: str) -> bool | NotYet:
        try:
            connected = connected_links(self.remotes[base].check("corosync-cfgtool -n"))
        except CommandFailed as error:
            return NotYet(str(error))
        missing = [
            f"link{number} ({network}) to {name}"
            for name, nodeid in ids.items()
            for number, network in enumerate(self.cluster.links)
            if number not in connected.get(nodeid, ())
        ]
        return (
            NotYet(f"corosync-cfgtool -n on {base}: not connected: {', '.join(missing)}") if missing else True
        )

    def _renew(self, name: str, base: str, upid: str) -> None:
        """Learn the joiner's new certificate and log in again, once its join task is over."""

        def probe() -> bool | NotYet:
            session = self._new_session(name)
            if isinstance(session, NotYet):
                return session
            if upid and session.task(upid).running:
                return NotYet("its join task is still running")
            told = self._session(base).join_info().nodes.get(name)
            if told is None or (told.pve_fp or "").upper() != session.fingerprint:
                return NotYet(
                    f"{base} knows certificate {told and told.pve_fp}, on disk is {session.fingerprint}"
                )
            return session.status().name == self.cluster.name or NotYet(
                "its API does not know the cluster yet"
            )

        with at_work(name):
            self.patience(self.lab.deadlines.join).until(
                "its API serving with its new certificate", lambda: settling(probe, renewed=True), node=name
            )
        self._tell_of_task(name, upid)

    def _tell_of_task(self, name: str, upid: str) -> None:
        """The other members have judged the join; what the task itself says may still be worth a look."""
        task = self._session(name).task(upid) if upid else None
        if task is not None and task.exitstatus != "OK":
            text = f"it is a member, but its join task ended with: {task.exitstatus}"
            self.run.say("join-task", text, step=STEP, node=name, upid=upid)

    def _strike_off(self, name: str, base: str) -> None:
        """Take the entry of the node as it was before its reinstallation out of the cluster."""
        session = self._session(base)

        def gone() -> bool | NotYet:
            if name not in session.config_nodes():
                return True
            session.delete_node(name)
            return NotYet(f"{base} lists it still")

        goal = f"old entry of {name} out of corosync's nodelist"
        self.patience(self.lab.deadlines.join).until(goal, lambda: settling(gone), node=base)
        self._drop_old_keys(name, base)
        self.changed.append(f"old entry of {name} taken out of the cluster")
        text = f"{name} was reinstalled; its old entry is out of cluster {self.cluster.name}"
        self.run.say("entry-removed", text, step=STEP, node=name)

    def _drop_old_keys(self, name: str, base: str) -> None:
        """Remove the old install's own SSH key; keys of the lab file stay, whatever their comment says."""
        remote, theirs = self.remotes[base], f" root@{name}".encode()
        ours = {key.encode() for key in self.lab.nodes[name].ssh_keys}
        lines = (remote.read(AUTHORIZED_KEYS) or b"").splitlines()
        keep = [line for line in lines if line in ours or not line.endswith(theirs)]
        if keep != lines:
            # Written in place: the cluster file system gives owner and mode itself.
            remote.check(f"cat > {AUTHORIZED_KEYS}", stdin=b"".join(line + b"\n" for line in keep))

    # The outcome

    def _assert_links(self, base: str, members: Sequence[str]) -> None:
        """Refuse a cluster whose members have other link addresses than the lab file gives them."""
        listed = self._session(base).config_nodes()
        wrong = {name: listed[name].links for name in members if listed[name].links != self._links(name)}
        errors = {
            name: Refused(
                f"is a member with {_in_words(links)}, but the lab file gives it "
                f"{_in_words(self._links(name))}; reinstall all nodes to change the links of their cluster, "
                "or correct the lab file",
                node=name,
            )
            for name, links in wrong.items()
        }
        if errors:
            raise _gathered(errors)

    def _say_already(self, members: Sequence[str]) -> None:
        missing = [name for name in self.lab.nodes if name not in members]
        rest = f"; {', '.join(missing)} will join" if missing else ", as the lab file asks"
        text = f"cluster {self.cluster.name} stands with {', '.join(members)}{rest}"
        self.run.say("already", text, step=STEP, members=list(members))

    def _proved(self, base: str, unchanged: Sequence[str]) -> Done:
        """Read everything back through `base`; raises LabError when it is not what the lab file asks for."""
        session = self._session(base)
        view, info = session.status(), session.join_info()
        if not (view.quorate and view.name == self.cluster.name and view.online == set(self.lab.nodes)):
            found = f"cluster {view.name}, quorate: {view.quorate}, online: {', '.join(sorted(view.online))}"
            raise LabError("the cluster is not what the lab file asks for", node=base, last_seen=found)
        self._assert_links(base, list(self.lab.nodes))
        if others := [name for name in self.lab.nodes if name != base]:
            self._await_links(others, base)
        facts = {"name": view.name, "quorate": view.quorate, "nodes": len(view.members), "primary": base,
                 "config_version": info.config_version, "config_digest": info.config_digest}  # fmt: skip
        nodes = {name: self._node_facts(entry) for name, entry in info.nodes.items()}
        return Done(changed=self.changed, unchanged=unchanged, facts=facts, nodes=nodes)

    def _node_facts(self, entry: ConfigNode) -> dict[str, Any]:
        links = [address for _, address in sorted(entry.links.items())]
        return {
            "nodeid": entry.nodeid,
            "links": links,
            "fingerprint": entry.pve_fp,
            "seconds": self.seconds.get(entry.name),
        }

    # Small help

    def _session(self, name: str) -> Session:
        if name not in self.sessions:
            self.sessions[name] = self.open_session(self.lab.nodes[name], self.remotes[name])
        return self.sessions[name]

    def _new_session(self, name: str) -> Session | NotYet:
        """A session with the certificate that is on the node's disk now; NotYet while there is none."""
        self._forget_session(name)
        try:
            return self._session(name)
        except CommandFailed as error:
            return NotYet(str(error))

    def _forget_session(self, name: str) -> None:
        if session := self.sessions.pop(name, None):
            session.close()

    def _addresses(self, name: str) -> list[str]:
        return [str(self.lab.nodes[name].addresses[network]) for network in self.cluster.links]

    def _links(self, name: str) -> dict[int, str]:
        return dict(enumerate(self._addresses(name)))


def connected_links(output: str) -> dict[int, frozenset[int]]:
    """Connected links by node id, from `corosync-cfgtool -n`; it leaves unreachable nodes out."""
    found: dict[int, set[int]] = {}
    links: set[int] = set()
    for line in output.splitlines():
        if node := re.match(r"\s*nodeid:\s*(\d+)\s+reachable", line):
            links = found.setdefault(int(node[1]), set())
        elif link := re.match(r"\s*LINK:\s*(\d+)\s.*\benabled connected\b", line):
            links.add(int(link[1]))
    return {nodeid: frozenset(numbers) for nodeid, numbers in found.items()}


def _unless_locked(attempt: Callable[[], T]) -> T | NotYet:
    """Do it; NotYet when another process held one of pvecm's locks, which are taken before any change."""
    try:
        return attempt()
    except TaskFailed as error:
        if not error.busy:
            raise
        return NotYet(error.message)


def _alone(session: Session) -> bool | NotYet:
    view = session.status()
    return view.quorate or NotYet(f"cluster {view.name}, not quorate")


def _gathered(errors: Mapping[str, LabError]) -> LabError:
    """One node's own error, or all of them as one."""
    return next(iter(errors.values())) if len(errors) == 1 else NodesFailed(errors)


def _unlike(found: Survey, base: str, other: Survey) -> list[str]:
    """In what a node differs from `base` so that the two should not be in one cluster."""
    problems = []
    if found.version != other.version or not found.version:
        problems.append(
            f"it runs {found.version or 'no pve-manager'} and {base} {other.version or 'no pve-manager'}; "
            "install the same release on all nodes"
        )
    return problems


def _out_of_step(found: Survey, base: str, other: Survey) -> list[str]:
    """What is to be said of a node's clock, when it is too far from that of `base`; it may come by itself."""
    if abs(apart := found.apart(other)) <= CLOCKS_APART:
        return []
    way = "ahead of" if apart > 0 else "behind"
    return [f"its clock is {abs(apart):.1f} s {way} {base}'s; look at chronyc sources on both"]


def _gave_up(goal: str, name: str, seconds: float, seen: str) -> GaveUp:
    return GaveUp(f"{goal}: not reached within {seconds:g} s", node=name, last_seen=seen)


def _in_words(links: Mapping[int, str]) -> str:
    return ", ".join(f"link{number} {address}" for number, address in sorted(links.items())) or "no link"
