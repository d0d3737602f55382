"""The install step: leave to install for proved nodes, each followed from DHCP to its registration."""

from __future__ import annotations

import hashlib
import json
import secrets
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from provision import server as server_step
from provision.certificate import Certificate, recalled
from provision.errors import GaveUp, LabError, Unreachable
from provision.handed import PHASES, deadline_of, deadlines, handed
from provision.host_key import HostKey
from provision.inventory import Lab, Node
from provision.journal import Event
from provision.permit import Permit
from provision.run import Done, Run
from provision.spans import at_work
from provision.together import together
from provision.wait import Deadline, NotYet, Patience

if TYPE_CHECKING:
    from provision.boot_service.client import BootService
    from provision.machines import Machines
    from provision.remote import Remote

INSTALL_FILE = "/etc/rackproof/install.json"
"""Where first boot leaves which install this is."""

LOADED = frozenset({*PHASES[PHASES.index("answer") :], "failed"})
"""What is heard only of a node that loads nothing any more."""

LIKELY = {
    "dhcp": "its network boot is off, its cable is out, or its switch port wakes up too slowly",
    "boot-script": "it cannot fetch or run the boot file: BIOS mode, Secure Boot, or no iPXE for its NIC",
    "answer": "the installer did not start or found no answer URL: less than 8 GB of memory, or a wrong ISO",
    "installed": "the installer stopped at an error, or its disk is slow or dying; its console shows which",
    "first-boot": "it did not boot from its disk, or booted without network",
    "registered": "the first-boot script failed; /var/log/rackproof-first-boot.log on the node says where",
}
"""What it usually is when a node stays before a phase."""


class Permits:
    """Gives proved nodes their leave, and takes back what is not spent."""

    def __init__(self, lab: Lab, run: Run, service: BootService, server: Remote) -> None:
        self._lab, self._run, self._service, self._server = lab, run, service, server
        self._tokens: dict[str, str] = {}
        self._undo_stands = False

    def grant(self, nodes: Iterable[Node]) -> None:
        """Let these nodes install too, once, in this run; their old leaves end. Not of two threads."""
        certificate = recalled(self._run.recall("server"))
        permits = [self._permit(node) for node in nodes]
        if not self._undo_stands:
            self._run.undo_later("permits revoked", self.revoke)
        self._undo_stands = True
        for permit in permits:
            self._service.grant(**self._order(permit, certificate))
            made = {"ssh_host_keys": [permit.host_key.public]} if permit.host_key else {}
            self._run.say("permitted", "may install once", step="power", node=permit.node.name,
                          nonce=permit.nonce, **made)  # fmt: skip
        self._tokens |= {permit.node.name: permit.answer_token for permit in permits}
        # Ubuntu's installer finds its seed by its boot script.
        tokens = {name: token for name, token in self._tokens.items() if self._lab.nodes[name].is_proxmox}
        server_step.arm(self._lab, self._server, tokens, certificate.fingerprint)

    def revoke(self) -> None:
        """Take back every leave of this run that is not spent, and the paths that led to it."""
        self._service.revoke(run=self._run.id)
        server_step.disarm(self._lab, self._server)

    def heard_of(self, name: str) -> bool:
        """Whether a node has shown itself to the boot service since it was given leave."""
        return any(event.kind in PHASES for event in _since_leave(self._run, name))

    def loaded(self, name: str) -> bool:
        """Whether a node has its whole installer, which then asks for its answer, or has failed."""
        return any(event.kind in LOADED for event in _since_leave(self._run, name))

    def _permit(self, node: Node) -> Permit:
        patience = sum(deadlines(self._lab).values())
        return Permit(
            node=node, run=self._run.id, expires=time.time() + patience,
            answer_token=self._token("answer", node), report_token=self._token("report", node),
            hook_token=self._token("webhook", node), nonce=secrets.token_hex(16),
            host_key=self._host_key(node),
        )  # fmt: skip

    def _host_key(self, node: Node) -> HostKey | None:
        if node.host_keys != "made-here":
            return None
        key = HostKey.made()
        self._run.secrets |= dict.fromkeys(key.secrets, f"host key of {node.name}")
        return key

    def _token(self, what: str, node: Node) -> str:
        token = secrets.token_urlsafe(24)
        self._run.secrets[token] = f"{what} token of {node.name}"
        return token

    def _order(self, permit: Permit, certificate: Certificate) -> dict[str, Any]:
        return {
            "run": permit.run,
            "lab": self._lab.name,
            "node": permit.node.name,
            "answer_token_sha256": _sha256(permit.answer_token),
            "report_token_sha256": _sha256(permit.report_token),
            "hook_token_sha256": _sha256(permit.hook_token),
            "expires": permit.expires,
            "nonce": permit.nonce,
            "deadlines": deadlines(self._lab),
            **handed(self._lab, permit, certificate),
        }


def follow(lab: Lab, run: Run, machines: Machines, nodes: Sequence[str] | None = None) -> Done:
    """Follow every node through all phases, and read its nonce back over SSH.

    Each phase has a deadline of its own, counted from the phase before. Raises GaveUp or LabError for
    a node that stays or reports a failure; the other nodes are followed to their end.
    """
    names = nodes if nodes is not None else list(lab.nodes)
    # Each has deadlines of its own that run at once, so none may wait for a thread.
    facts = together(
        {name: name for name in names}, lambda name: _follow_node(lab, run, machines, name), most=len(names)
    )
    return Done(changed=[f"{name} installed" for name in facts], nodes=facts)


def _follow_node(lab: Lab, run: Run, machines: Machines, name: str) -> dict[str, Any]:
    with at_work(name):
        seen = _follow_phases(lab, run, name)
    machines.forget(name)
    start, installed = seen["permitted"], seen["installed"]
    host_keys = _host_keys(run, name, start)
    return {
        "nonce": start.facts["nonce"],
        "permitted": start.time,
        "installed": installed.time,
        "registered": seen["registered"].time,
        "ssh_host_keys": host_keys,
        "version": installed.facts.get("version", ""),
        **_read_back(machines, name, host_keys),
    }


def _follow_phases(lab: Lab, run: Run, name: str) -> dict[str, Event]:
    start = _permitted(run, name)
    reset = [event for event in _since_leave(run, name) if event.kind == "reset"]
    seen, before, node = {"permitted": start}, (reset or [start])[-1], lab.nodes[name]
    for phase in PHASES:
        # From the node's own reset on: others may have been reset long before it, or long after.
        deadline = Deadline(deadline_of(lab, phase), over=run.since(before))
        before = seen[phase] = _await(run, node, phase, start.seq, deadline)
        # DHCP goes on while the node boots, and two reports may arrive in one breath: each phase is
        # looked for from the leave on, not from the phase before.
    return seen


def _host_keys(run: Run, name: str, start: Event) -> list[str]:
    """What the node must show: the key made for it, told with its leave, else its installer's.

    Proxmox's installer reports them in the end, Ubuntu's before it.
    """
    events = (event for event in run.of(name) if event.seq >= start.seq)
    told = [event.facts["ssh_host_keys"] for event in events if event.facts.get("ssh_host_keys")]
    return list(told[0]) if told else []


def _leave(run: Run, name: str) -> Event | None:
    return next((event for event in reversed(run.of(name)) if event.kind == "permitted"), None)


def _permitted(run: Run, name: str) -> Event:
    leave = _leave(run, name)
    if leave is None:
        raise LabError(
            "has no leave to install in this run; the install step needs the power step", node=name
        )
    return leave


def _since_leave(run: Run, name: str) -> list[Event]:
    """What was heard of a node since it was given leave; nothing while it has none."""
    leave = _leave(run, name)
    return [event for event in run.of(name) if event.seq > leave.seq] if leave else []


def _await(run: Run, node: Node, phase: str, after: int, deadline: Deadline) -> Event:
    name = node.name

    def probe() -> Event | NotYet:
        events = [event for event in run.of(name) if event.seq > after]
        _raise_if_failed(name, events)
        return _reached(phase, events) or NotYet(
            f"{events[-1].kind}: {events[-1].text}" if events else "nothing since the reset"
        )

    try:
        return run.news.until(f"phase {phase}", probe, deadline, node=name)
    except GaveUp as error:
        raise GaveUp(
            error.message, node=name, last_seen=error.last_seen, likely=_likely(run, node, phase)
        ) from None


def _reached(phase: str, events: Sequence[Event]) -> Event | None:
    """The event of this phase, else the first of a later one: in a flood, news may be lost."""
    later = PHASES[PHASES.index(phase) :]
    own = (event for event in events if event.kind == phase)
    return next(own, None) or next((event for event in events if event.kind in later), None)


def _raise_if_failed(name: str, events: Iterable[Event]) -> None:
    phase = "the installation"
    for event in events:
        phase = "first boot" if event.kind in ("installed", "first-boot") else phase
        if event.kind == "failed":
            log = str(event.facts.get("log", "")).strip().splitlines()[-3:]
            raise LabError(f"{phase} failed: {event.text}", node=name, last_seen="\n".join(log) or None)


def _likely(run: Run, node: Node, phase: str) -> str:
    texts = [event.text for event in run.of(node.name) if event.kind == "dhcp"]
    modes = {mode for mode in ("BIOS", "UEFI") if any(mode in text for text in texts)}
    wanted = "BIOS" if node.boot_mode == "Legacy" else "UEFI"
    if phase in ("dhcp", "boot-script") and (others := modes - {wanted}):
        return f"{node.name} boots in {others.pop()} mode; the lab asks for {wanted}"
    return LIKELY[phase]


def _read_back(machines: Machines, name: str, host_keys: Sequence[str]) -> dict[str, Any]:
    def probe() -> Mapping[str, Any] | NotYet:
        try:
            text = machines.node(name, host_keys=tuple(host_keys)).check(f"cat {INSTALL_FILE}")
        except Unreachable as error:
            return NotYet(str(error))
        return dict(json.loads(text))

    install = Patience(60).until("SSH by the host keys that are known", probe, node=name)
    return {"nonce_read": install.get("nonce", ""), "first_boot": install.get("first_boot", 0)}


def _sha256(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
