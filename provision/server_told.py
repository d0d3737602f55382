"""What the boot service is told of a lab: its nodes and its people."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from provision import boot_scripts
from provision.boot_service.client import BootService
from provision.boot_service.messages import Rack, RackNode
from provision.certificate import Certificate
from provision.errors import LabError
from provision.inventory import Lab, Node
from provision.remote import Remote
from provision.server_plan import LEDGER, OPERATOR_SOCKET
from provision.spans import at_work
from provision.standing import standing_order

NODES, ACCOUNTS = "nodes of the boot service", "accounts of the boot service"


def tell(lab: Lab, server: Remote, certificate: Certificate) -> dict[str, bool]:
    """Tell the boot service which nodes and people there are; whoever has no leave boots from its disk.

    Leaves of earlier runs end: one that was killed took none of its own back. Returns what of it was new to
    the service.
    """
    wanted = rack(lab, certificate)
    others: dict[str, Any] = {"iso_tokens_sha256": wanted.iso_tokens_sha256, "classic": wanted.classic}
    with _boot_service(server) as service:
        for run in {permit.run for permit in service.permits() if permit.state == "live"}:
            service.revoke(run)
        return {
            NODES: service.put_rack(wanted.lab, wanted.nodes, wanted.consoles, **others),
            ACCOUNTS: service.put_accounts(accounts(lab)),
        }


def untold(lab: Lab, server: Remote, certificate: Certificate) -> dict[str, bool | None]:
    """What of it would be new to the service, which is told nothing; None: that cannot be asked."""
    if server.run(f"test -e {LEDGER}").rc != 0:
        return {NODES: True, ACCOUNTS: bool(lab.people)}
    if server.run(f"test -S {OPERATOR_SOCKET}").rc != 0:
        return {NODES: None, ACCOUNTS: None}
    # A service of an older rackproof refuses: it does not know these questions.
    with suppress(LabError), _boot_service(server) as service:
        return {
            NODES: service.would_change_rack(rack(lab, certificate)),
            ACCOUNTS: service.would_change_accounts(accounts(lab)),
        }
    return {NODES: None, ACCOUNTS: None}


@contextmanager
def _boot_service(server: Remote) -> Iterator[BootService]:
    with server.forward_socket(OPERATOR_SOCKET) as socket, at_work(server.name):
        yield BootService(socket)


def rack(lab: Lab, certificate: Certificate) -> Rack:
    """The lab as the boot service knows it."""
    return Rack(
        lab=lab.name,
        nodes=tuple(_rack_node(lab, node, certificate) for node in lab.nodes.values()),
        consoles=tuple(node.bmc.mac for node in lab.nodes.values() if node.bmc.mac),
        iso_tokens_sha256=tuple(
            _sha256(f"{name}:{secret.reveal()}") for name, secret in lab.server.iso_tokens.items()
        ),
        classic=lab.classic,
    )


def accounts(lab: Lab) -> list[dict[str, str]]:
    """Who may log in, each with the value of the secret."""
    return [
        {"name": name, "role": person.role, person.proof: person.secret.reveal()}
        for name, person in lab.people.items()
    ]


def _rack_node(lab: Lab, node: Node, certificate: Certificate) -> RackNode:
    ipxe, grub = boot_scripts.local(node)
    bootable = node.os in lab.media
    rescue = boot_scripts.rescue(lab, node) if bootable else None
    return RackNode(
        name=node.name,
        macs=tuple(sorted(node.all_macs)),
        address=node.management,
        boot_script=ipxe,
        grub_script=grub,
        rescue_script=rescue and rescue.ipxe(lab),
        rescue_grub=rescue and rescue.grub(lab),
        standing_order=standing_order(lab, node, certificate) if bootable and lab.has_operator else None,
    )


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
