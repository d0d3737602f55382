"""What the Proxmox installer is handed: its answer, as TOML and as JSON, and the script of the first boot."""

from __future__ import annotations

import json
from ipaddress import IPv4Address
from typing import Any

import tomli_w

from provision.certificate import Certificate
from provision.inventory import MANAGEMENT, Disk, Lab, Network, Node
from provision.permit import Permit
from provision.render import render
from provision.secrets import hash_password
from provision.server_plan import secure_url

DISK_KEYS = {"serial": "ID_SERIAL_SHORT", "wwn": "ID_WWN", "model": "ID_MODEL"}
"""udev's words for a lab file's ways to name a disk."""

Answer = dict[str, dict[str, Any]]


def answer(lab: Lab, permit: Permit, certificate: Certificate) -> Answer:
    """The installer's answer, the root password only as its hash."""
    url, pinned = secure_url(lab), {"cert-fingerprint": certificate.fingerprint}
    return {
        "global": _global(permit.node),
        "network": _network(lab, permit.node),
        "disk-setup": _disk_setup(permit.node.disk),
        "post-installation-webhook": {"url": f"{url}/installed/{permit.report_token}", **pinned},
        "first-boot": {
            "source": "from-url",
            "ordering": "fully-up",
            "url": f"{url}/first-boot/{permit.report_token}",
            **pinned,
        },
    }


def as_toml(answer: Answer) -> str:
    """The answer for every installer; those before 9.2 know no other form."""
    return tomli_w.dumps(answer)


def as_json(answer: Answer, hook_token: str) -> str:
    """The answer for installers from 9.2 on, whose webhook repeats `hook_token`; older ones would refuse."""
    hook = {**answer["post-installation-webhook"], "auth-token": hook_token}
    return json.dumps({**answer, "post-installation-webhook": hook}, indent=1)


def first_boot(lab: Lab, permit: Permit, certificate: Certificate) -> str:
    """The script of the node's first boot: its parts one after the other, then its registration."""
    networks = [_interface(lab, permit.node, name) for name in permit.node.addresses]
    for place, network in enumerate(networks, start=1):
        network["nic"] = f"${{nic_{place}}}"
    return render(
        "first-boot.sh.j2",
        asked=permit.node.first_boot,
        cidrs=[network.cidr for network in lab.networks.values()],
        node=permit.node,
        run=permit.run,
        nonce=permit.nonce,
        server=lab.server.address,
        networks=networks,
        interfaces=render("interfaces.j2", networks=networks).rstrip("\n"),
        report_url=f"{secure_url(lab)}/report/{permit.report_token}",
        certificate=certificate.pem,
    )


def _global(node: Node) -> dict[str, Any]:
    return {
        "country": node.locale.country,
        "keyboard": node.locale.keyboard,
        "timezone": node.locale.timezone,
        "fqdn": node.fqdn,
        "mailto": node.mail,
        "root-password-hashed": hash_password(node.root_password.reveal()),
        "root-ssh-keys": list(node.ssh_keys),
        "reboot-on-error": False,
    }


def _network(lab: Lab, node: Node) -> dict[str, Any]:
    network = lab.management
    return {
        "source": "from-answer",
        "cidr": with_prefix(node.management, network),
        "gateway": str(network.gateway or lab.server.address),
        "dns": str(network.dns[0] if network.dns else lab.server.address),
        # One key, and a unique one: the installer takes the first NIC that matches any.
        "filter": {"ID_NET_NAME_MAC": "*" + node.mac.replace(":", "")},
    }


def _disk_setup(disk: Disk) -> dict[str, Any]:
    """The disk by the one udev property that names it, or by its device name."""
    found = {key: glob for word, key in DISK_KEYS.items() if (glob := getattr(disk, word))}
    setup: dict[str, Any] = {"filesystem": disk.filesystem}
    setup |= {"filter": found} if found else {"disk-list": [disk.device]}
    if disk.raid is not None:
        setup |= {"filter-match": "all", disk.filesystem: {"raid": disk.raid}}
    return setup


def _interface(lab: Lab, node: Node, name: str) -> dict[str, Any]:
    network, address = lab.networks[name], node.addresses[name]
    return {
        "name": node.nics[name],
        "mac": node.mac if name == MANAGEMENT else node.macs.get(name, ""),
        "bridge": network.bridge,
        "mtu": network.mtu,
        "address": with_prefix(address, network),
        "broadcast": str(network.cidr.broadcast_address),
        "gateway": str(network.gateway) if network.gateway else None,
    }


def with_prefix(address: IPv4Address, network: Network) -> str:
    """The address as CIDR, such as 10.10.1.21/24."""
    return f"{address}/{network.cidr.prefixlen}"
