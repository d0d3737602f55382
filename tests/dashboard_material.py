"""A rack as the dashboard sees it: nodes that are installed step by step, people, and hands that are played."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from argon2 import PasswordHasher

from provision.boot_service import accounts, current_run
from provision.boot_service.accounts import Account, AccountList, Accounts
from provision.boot_service.actions import ActionRefused, Actions
from provision.boot_service.messages import Grant, Rack, RackNode, RunState
from provision.boot_service.rack_state import PHASES
from provision.boot_service.service import Service
from provision.boot_service.store import Store
from provision.ledger import Event

LAB, RUN = "hall-3", "20261122-2204-k7f3"
PASSWORDS = {"vera": "viewers-password", "otto": "operators-password"}
TOKENS = {"vera": "viewer-token-0123456789abcdef", "otto": "operator-token-0123456789abcdef"}
ROLES = {"vera": "viewer", "otto": "operator"}
DEADLINES = {
    "dhcp": 360.0,
    "boot-script": 60.0,
    "answer": 240.0,
    "installed": 1500.0,
    "first-boot": 900.0,
    "registered": 300.0,
}
NONCE = "5f2a9c1e7b3d48608c1f0e2d4b6a8c90"
SECRET_HASH = "$6$rounds=5000$saltsalt$QKsecretsecretsecretsecretsecret0123456789/abcdefghij"
PUBLIC_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBk7cQ0wAAAAmiddleAAAAofAAAAitzZ9u3Qm1x7 admin@hall"
TEXTS = {
    "dhcp": "DISCOVER, UEFI x86-64 (7), PXEClient", "boot-script": "installer", "answer": "answer handed out, permit spent",
    "installed": "Proxmox VE 9.2.11 installed", "first-boot": "network applied, reporting", "registered": "node is complete",
}  # fmt: skip
HARDWARE: dict[str, Any] = {
    "machine_id": "3f1c0d9e5a7b4c2d8e6f1a0b9c8d7e6f", "fqdn": "node1.lab.example.net", "product": "Proxmox VE", "version": "9.2.11",
    "kernel": "6.18.4-1-pve", "boot_mode": "efi", "secure_boot": False, "serial": "RPV0000001",
    "dmi": {"system": {"name": "SYS-2029TP-HTR", "serial": "RPV0000001"}, "baseboard": {"name": "X11DPT-PS"}},
    "ssh_host_keys": [PUBLIC_KEY],
    "disks": [{"boot": True, "name": "/dev/sda", "model": "SAMSUNG MZ7LH960", "serial": "S3Z8NX0M100001"},
              {"boot": False, "name": "/dev/sdb", "model": "INTEL SSDSC2KB96", "serial": "PHYF0000001"}],
    "nics": [{"name": "eno1", "mac": "ac:1f:6b:00:00:01", "address": "10.10.1.21/24", "management": True}],
}  # fmt: skip


def token(node: str, sort: str) -> str:
    """The token of a node's permit, as it stands in a URL."""
    return f"{sort}-token-of-{node}-0123456789AbCd"


def answer(node: str) -> str:
    """An answer with everything in it that must not be shown."""
    return f"""[global]
keyboard = "de"
fqdn = "{node}.lab.example.net"
root-password-hashed = "{SECRET_HASH}"
root-ssh-keys = ["{PUBLIC_KEY}"]

[post-installation-webhook]
url = "https://10.10.1.1/installed/{token(node, "report")}"
cert-fingerprint = "AB:CD:EF:01:23:45:67:89"

[first-boot]
source = "from-url"
url = "https://10.10.1.1/first-boot/{token(node, "report")}"
"""


@dataclass
class PlayedActions(Actions):
    """Hands that are played: they do what they are told at once, remember it, and write it down."""

    service: Service
    powers: dict[str, str] = field(default_factory=dict)
    done: list[tuple[str, ...]] = field(default_factory=list)

    async def power(self, node: str, how: str, who: str) -> str:
        self.powers[node] = "off" if how == "off" else "on"
        return await self._did(who, node, "power", how)

    async def boot_once(self, node: str, source: str, who: str) -> str:
        return await self._did(who, node, "boot once", source)

    async def permit_install(self, node: str, who: str, confirmed: str) -> str:
        if confirmed != node:
            event = self.service.store.event(
                self.service.clock(),
                "action",
                "refused",
                node=node,
                who=who,
                action="permit an install",
                outcome="refused: the name does not match",
            )
            await self.service.work(self.service.store.append, event)
            raise ActionRefused(422, f"type {node} to mean it")
        return await self._did(who, node, "permit an install")

    async def rescue(self, node: str, who: str) -> str:
        return await self._did(who, node, "rescue")

    async def cancel(self, node: str, who: str) -> str:
        return await self._did(who, node, "cancel")

    async def power_state(self, node: str) -> str | None:
        if self.powers.get(node) == "silent":
            raise ConnectionError
        return self.powers.get(node)

    async def _did(self, who: str, node: str, *what: str) -> str:
        self.done.append((who, node, *what))
        text = f"{' '.join(what)}: done"
        event = self.service.store.event(
            self.service.clock(),
            "action",
            f"{who}: {text}",
            node=node,
            who=who,
            action=" ".join(what),
            outcome="done",
        )
        await self.service.work(self.service.store.append, event)
        return text


class Played:
    """A store with a rack of `count` nodes and two people, and what a run does to it."""

    def __init__(
        self, folder: Path, count: int, now: float, *, people: bool = True, name: str = "node{}"
    ) -> None:
        self.store = Store(folder / "boot.db")
        self.names = [name.format(number) for number in range(1, count + 1)]
        self.store.put_rack(Rack(lab=LAB, nodes=tuple(map(_node, self.names, range(1, count + 1)))), now)
        if people:
            Accounts(self.store).put(everybody(), now)

    def tell(self, now: float, node: str | None, kind: str, text: str = "", **facts: Any) -> Event:
        """Something that a node says, or that is said of it."""
        return self.store.append(
            Event(
                time=now,
                run=RUN,
                lab=LAB,
                step=None,
                node=node,
                kind=kind,
                text=text or TEXTS.get(kind, kind),
                facts=facts,
            )
        )

    def grant(self, node: str, now: float, **other: Any) -> int:
        """Leave for the node to be installed."""
        given: dict[str, Any] = {
            "run": RUN, "lab": LAB, "node": node, "expires": now + 3600, "nonce": NONCE, "deadlines": DEADLINES,
            "answer_token_sha256": _sha256(token(node, "answer") + other.pop("mark", "")), "report_token_sha256": _sha256(token(node, "report") + str(now)),
            "boot_script": f"#!ipxe\nkernel http://10.10.1.1/media/proxmox-9/linux26 proxmox-start-auto-installer\nimgargs seed=http://10.10.1.1/seed/{token(node, 'answer')}/\nboot\n",
            "answer": answer(node), "first_boot": "#!/bin/sh\n",
        }  # fmt: skip
        return self.store.grant(Grant(**(given | other)), now)

    def go(self, node: str, phase: str, began: float, pace: float = 4.0) -> None:
        """Let a node be permitted at `began` and go on to a phase, one every `pace` seconds."""
        self.grant(node, began)
        for number, each in enumerate(PHASES[: PHASES.index(phase) + 1], 1):
            self.reach(node, each, began + pace * number)

    def reach(self, node: str, phase: str, now: float, **facts: Any) -> None:
        """Let a node reach a phase."""
        permit = self.store.current_permit(node)
        assert permit
        told = {"installed": HARDWARE, "registered": {"nonce": NONCE, "log": "first boot: all done\n"}}.get(
            phase, {}
        ) | facts
        event = permit.event(now, phase, TEXTS[phase], who="10.10.1.21", **told)
        if phase == "answer":
            self.store.spend(permit, now, who="10.10.1.21", macs=["ac:1f:6b:00:00:01"], **facts)
        elif phase == "registered":
            self.store.finish(permit, event)
        else:
            self.store.append(event)

    def run(self, now: float, began: float, **states: str) -> None:
        """Let the harness tell of its run; steps by name and state, in order."""
        steps = []
        at = began
        for name, state in states.items():
            timed = state in ("done", "failed")
            steps.append(
                {
                    "name": name,
                    "state": state,
                    "began": None if state in ("waiting", "not-reached") else at,
                    "seconds": 4.0 if timed else None,
                }
            )
            at += 4.0 if timed else 0
        ended = now if "running" not in states.values() and "waiting" not in states.values() else None
        outcome = None if ended is None else "NOT PROVED" if "failed" in states.values() else "PROVED"
        told = RunState.model_validate({"id": RUN, "lab": LAB, "mode": "provision", "holder": "otto@admin-1", "started": began, "ended": ended,
                                         "outcome": outcome, "steps": steps})  # fmt: skip
        current_run.put_run(self.store, told, now)


def busy_rack(folder: Path, now: float) -> Played:
    """Six nodes: complete, being installed, late and silent, failed, waiting, and never heard."""
    rack = Played(folder, 6, now - 900)
    rack.run(
        now - 299,
        now - 300,
        server="done",
        power="done",
        install="running",
        cluster="waiting",
        ceph="waiting",
        templates="waiting",
    )
    rack.go("node1", "registered", now - 290, 22)
    rack.go("node2", "first-boot", now - 290, 30)
    rack.go("node3", "boot-script", now - 289, 6)
    rack.go("node4", "answer", now - 289, 20)
    rack.tell(now - 30, "node4", "failed", "the installer stopped: no disk matches the filter ID_SERIAL_SHORT=S3Z8*",
              log="auto-installer: fetched answer\nauto-installer: ERROR: no disk matches\n" + "trace line\n" * 8, who="10.10.1.24")  # fmt: skip
    rack.grant("node5", now - 20)
    rack.tell(
        now - 10,
        None,
        "refused",
        "POST /answer/{token} of 10.10.1.77 refused: no permit has this token",
        who="10.10.1.77",
        what="POST /answer/{token}",
        status=404,
        why="no permit has this token",
    )
    return rack


@contextmanager
def cheap_hashes() -> Iterator[None]:
    """Argon2id with so little work that tests need not wait for it."""
    before = accounts._hasher
    accounts._hasher = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
    yield
    accounts._hasher = before


def everybody(**other: Any) -> AccountList:
    """The accounts of Vera the viewer and Otto the operator."""
    return AccountList(
        accounts=tuple(
            Account.model_validate(
                {"name": name, "role": role, "password": PASSWORDS[name], "token": TOKENS[name]} | other
            )
            for name, role in ROLES.items()
        )
    )


def _node(name: str, number: int) -> RackNode:
    macs = (
        f"ac:1f:6b:00:{number // 256:02x}:{number % 256:02x}",
        f"ac:1f:6b:01:{number // 256:02x}:{number % 256:02x}",
    )
    return RackNode.model_validate({"name": name, "macs": macs, "address": f"10.10.{1 + number // 200}.{20 + number % 200}", "boot_script": "#!ipxe\nexit 0\n",
                                    "grub_script": "exit\n" if number == 1 else None})  # fmt: skip


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
