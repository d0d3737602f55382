"""Tries a VM template: a clone that boots, is found, lets its user in and says that cloud-init ended well."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from provision import template_plan as plan
from provision.errors import GaveUp, LabError, Unreachable
from provision.inventory import Lab, Template
from provision.pve import ApiRefused, Session, TaskFailed, guests, settling
from provision.remote import Remote, Target
from provision.run import Run
from provision.spans import at_work
from provision.template_image import STEP
from provision.wait import NotYet, Patience

T = TypeVar("T")

Reach = Callable[[Target], Remote]

HOST_KEY = "/etc/ssh/ssh_host_ed25519_key.pub"
CLOUD_INIT_STATUS = "cloud-init status --wait --format json"
OFTEN = 0.5
"""Seconds between two looks at a guest that boots; everybody waits for it."""
# The ids that clones are given are the next ones after their template's.
NEAR = 100
_TAKEN = re.compile(r"already exists|already in use")
_LOCKED = re.compile(r"can't lock file|is locked|got lock (?:request )?timeout")
_DOWN = re.compile(r"VM \d+ (?:is )?not running")


@dataclass(frozen=True, slots=True)
class Clone:
    """A clone that tries a template, and the node it is on."""

    vmid: int
    template: int
    node: str

    @property
    def name(self) -> str:
        """Its name, by which it is known for what it is."""
        return f"{plan.TAG}-try-{self.template}"

    @property
    def note(self) -> str:
        """Its notes."""
        return f"rackproof try of template {self.template}; it is removed as soon as it was tried"

    def is_ours(self, found: guests.Config) -> bool:
        """Whether the guest of this id is such a clone: by tag, name and notes, and not a template."""
        tagged = plan.TAG in guests.split_tags(found.get("tags", ""))
        noted = found.get("description", "").strip() == self.note
        return tagged and noted and found.get("name") == self.name and found.get("template", "0") != "1"


@dataclass
class Trial:
    """One template to try: where it is, and which node its clone goes to."""

    lab: Lab
    run: Run
    session: Session
    vmid: int
    template: Template
    node: str
    target: str
    reach: Reach
    patience: Callable[[], Patience]
    discard: Callable[[Clone], bool]
    undo: Callable[[Clone], None]

    def hold(self) -> dict[str, Any]:
        """Try it; the clone's id, node, address and the seconds from its start to the end of cloud-init.

        Raises LabError and its kinds; the clone is destroyed then when the run is unwound.
        """
        started = time.monotonic()
        clone, forget = self._clone()
        self._boot(clone)
        address = self._used(clone)
        seconds = time.monotonic() - started
        self.discard(clone)
        forget()
        text = (
            f"a clone of template {self.vmid} came up on {clone.node} at {address} and let {self._who()} in"
        )
        self.run.say("template-tried", text, step=STEP, node=clone.node, clone=clone.vmid, seconds=seconds)
        return {"clone": clone.vmid, "node": clone.node, "address": address, "seconds": round(seconds, 1)}

    # The clone

    def _clone(self) -> tuple[Clone, Callable[[], None]]:
        """A clone under the first id that is free and stays so; and how to take its undoing off the run."""
        for vmid in self._free_ids():
            clone = Clone(vmid, self.vmid, self.target)
            what = f"clone {vmid} of template {self.vmid}"
            forget = self.run.undo_later(what, partial(self.undo, clone))
            if self._cloned(clone):
                return clone, forget
            forget()
        raise LabError(f"no id from {self.vmid + 1} to {self.vmid + NEAR} is free for a clone of {self.vmid}")

    def _free_ids(self) -> Iterator[int]:
        for vmid in range(self.vmid + 1, self.vmid + NEAR + 1):
            if vmid not in self.lab.templates and guests.is_free(self.session, vmid):
                yield vmid

    def _cloned(self, clone: Clone) -> bool:
        """Whether the clone was made; False when somebody else took its id meanwhile."""
        try:
            self._do(
                f"clone {clone.vmid} of template {self.vmid}",
                lambda: guests.clone(
                    self.session, self.node, self.vmid, clone.vmid,
                    name=clone.name, description=clone.note, target=clone.node,
                ),
            )  # fmt: skip
        except (ApiRefused, TaskFailed) as error:
            if not _TAKEN.search(str(error)):
                raise
            return False
        return True

    def _boot(self, clone: Clone) -> None:
        if key := self._key_to_add():
            keys = guests.encode_keys([*plan.keys_of(self.lab, self.template), key])
            guests.change(self.session, clone.node, clone.vmid, {"sshkeys": keys})
        self._do(f"start of clone {clone.vmid}", lambda: guests.start(self.session, clone.node, clone.vmid))
        self.run.say(
            "clone-started", f"clone {clone.vmid} of template {self.vmid}", step=STEP, node=clone.node
        )

    def _key_to_add(self) -> str | None:
        """The public half of the lab's own key, when the template's user does not have it."""
        own = public_half(self.lab.server.identity)
        known = {_blob(key) for key in plan.keys_of(self.lab, self.template)}
        return own if own and _blob(own) not in known else None

    # The guest

    def _used(self, clone: Clone) -> str:
        """Log in, and ask cloud-init; the guest's address."""
        address = self._wait(
            f"address of clone {clone.vmid} from its agent", clone, lambda: self._address(clone)
        )
        guest = self._wait(
            f"log-in of {self._who()} to clone {clone.vmid}", clone, lambda: self._login(clone, address)
        )
        try:
            self._ask_cloud_init(clone, guest)
        finally:
            guest.close()
        return address

    def _address(self, clone: Clone) -> str | NotYet:
        mac = plan.mac_of(guests.config(self.session, clone.node, clone.vmid).get("net0", ""))
        try:
            found = guests.interfaces(self.session, clone.node, clone.vmid)
        except ApiRefused as error:
            return _unless_down(error)
        own = [interface for interface in found if interface.hardware_address.lower() == mac]
        if not own:
            return NotYet(f"its agent knows no interface with the MAC {mac}")
        return next(iter(own[0].ipv4), None) or NotYet(f"{own[0].name} ({mac}) has no IPv4 address yet")

    def _login(self, clone: Clone, address: str) -> Remote | NotYet:
        """A connection to the guest, whose host key its agent tells; cloud-init may be about to make it."""
        try:
            key = guests.read_file(self.session, clone.node, clone.vmid, HOST_KEY)
        except ApiRefused as error:
            return _unless_down(error)
        name, identity = f"clone {clone.vmid} of {self.template.name}", self.lab.server.identity
        host_keys = (" ".join(key.split()[:2]),)
        target = Target(name, address, 22, self.template.user, host_keys, identity)
        try:
            return self.reach(target)
        except Unreachable as error:
            return NotYet(error.message)

    def _ask_cloud_init(self, clone: Clone, guest: Remote) -> None:
        result = guest.run(CLOUD_INIT_STATUS, timeout=self.lab.deadlines.templates)
        status, errors, warnings = parse_status(result.stdout)
        if status != "done" or errors:
            raise LabError(
                f"cloud-init of clone {clone.vmid} ended with {status or 'no status'}",
                node=clone.node,
                last_seen="\n".join(errors) or result.stderr.strip() or result.stdout.strip() or None,
                likely=f"the cloud_init of template {self.vmid} in the lab file, or the image",
            )
        for warning in warnings:
            self.run.say("cloud-init-warning", warning, step=STEP, node=clone.node, template=self.vmid)

    # Small help

    def _who(self) -> str:
        return self.template.user

    def _do(self, what: str, begin: Callable[[], str]) -> None:
        carry_out(self.session, what, begin, self.patience)

    def _wait(self, goal: str, clone: Clone, probe: Callable[[], T | NotYet]) -> T:
        patience = replace(self.patience(), most=OFTEN)
        with at_work(clone.node):
            return patience.until(goal, lambda: settling(probe), node=clone.node)


def carry_out(
    session: Session, what: str, begin: Callable[[], str], patience: Callable[[], Patience]
) -> None:
    """Carry out a task to its end; one that another process's lock kept from beginning is begun again."""

    def attempt() -> bool:
        session.finish(begin(), what, patience())
        return True

    patience().until(what, lambda: unless_locked(attempt), node=session.node)


def unless_locked(attempt: Callable[[], T]) -> T | NotYet:
    """Do it; NotYet when somebody held the guest's lock, which Proxmox takes before any change."""
    try:
        return attempt()
    except (ApiRefused, TaskFailed) as error:
        if not _LOCKED.search(str(error)):
            raise
        return NotYet(error.message)


def parse_status(output: str) -> tuple[str, list[str], list[str]]:
    """Status, errors and warnings of `cloud-init status --format json` (23.1 and later); "" without JSON."""
    try:
        told = json.loads(output)
    except ValueError:
        return "", [], []
    # Proxmox's own user data has keys that cloud-init calls deprecated: nobody here can change them.
    passed = {
        kind: texts for kind, texts in told.get("recoverable_errors", {}).items() if kind != "DEPRECATED"
    }
    warnings = dict.fromkeys(f"{kind}: {text}" for kind, texts in passed.items() for text in texts)
    return str(told.get("status", "")), [str(error) for error in told.get("errors", [])], list(warnings)


def public_half(identity: Path | None) -> str | None:
    """The public key beside a private key file, None where there is none."""
    if identity is None:
        return None
    try:
        return identity.with_name(f"{identity.name}.pub").read_text(encoding="utf-8").strip() or None
    except (OSError, UnicodeDecodeError):
        return None


def _blob(key: str) -> tuple[str, ...]:
    """Type and key without its comment."""
    return tuple(key.split()[:2])


def _unless_down(error: ApiRefused) -> NotYet:
    """An agent that does not answer yet; raises GaveUp when the guest itself does not run any more."""
    if _DOWN.search(error.message):
        raise GaveUp("the guest has stopped by itself", node=error.node, last_seen=error.message)
    if not error.passing:
        raise error
    return NotYet(error.message)
