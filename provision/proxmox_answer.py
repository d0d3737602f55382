"""What the Proxmox installer is handed: its answer, as TOML and as JSON, and the script of the first boot."""

from __future__ import annotations

import json
from collections.abc import Iterator
from ipaddress import IPv4Address
from typing import Any

import tomli_w

from provision.certificate import Certificate
from provision.inventory import MANAGEMENT, Disk, Lab, Network, Node, Secret
from provision.inventory.disk_options import one_glob
from provision.password_hash import hash_password
from provision.permit import Permit
from provision.render import render
from provision.server_plan import secure_url

DISK_KEYS = {"serial": "ID_SERIAL_SHORT", "wwn": "ID_WWN", "model": "ID_MODEL"}
"""udev's words for a lab file's ways to name a disk."""

Answer = dict[str, dict[str, Any]]


def answer(lab: Lab, permit: Permit, certificate: Certificate, *, hashed: str | None = None) -> Answer:
    """The installer's answer as all releases take it, the root password only as its hash.

    With `hashed` in its place the root password is not read.
    """
    url, pinned = secure_url(lab), {"cert-fingerprint": certificate.fingerprint}
    return {
        "global": _global(
            permit.node, hashed or hash_password(permit.node.root_password.reveal(), permit.salt)
        ),
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


def as_json(answer: Answer, hook_token: str, subscription: Secret | None = None) -> str:
    """The answer with what installers know from 9.2 on and older ones would refuse.

    That is `hook_token`, which the webhook repeats, and the key of the node's subscription.
    """
    newer: Answer = {"post-installation-webhook": {"auth-token": hook_token}}
    if subscription is not None:
        newer["global"] = {"subscription-key": subscription.reveal()}
    return json.dumps({name: {**table, **newer.get(name, {})} for name, table in answer.items()}, indent=1)


def first_boot(lab: Lab, permit: Permit, certificate: Certificate) -> str:
    """The script of the node's first boot: its parts one after the other, then its registration."""
    networks = [_interface(lab, permit.node, name) for name in permit.node.addresses]
    for place, network in enumerate(networks, start=1):
        network["nic"] = f"${{nic_{place}}}"
    return render(
        "first-boot.sh.j2",
        parts=list(_parts(permit)),
        asked=permit.node.first_boot,
        cidrs=[network.cidr for network in lab.networks.values()],
        node=permit.node,
        run=permit.run,
        nonce=permit.nonce,
        host_key=permit.host_key,
        server=lab.server.address,
        networks=networks,
        interfaces=render("interfaces.j2", networks=networks).rstrip("\n"),
        report_url=f"{secure_url(lab)}/report/{permit.report_token}",
        certificate=certificate.pem,
    )


def _parts(permit: Permit) -> Iterator[str]:
    """The parts of the first boot, each a template in boot_templates/first-boot/."""
    for part in permit.node.first_boot.parts:
        if part == "ssh" and permit.host_key:
            yield "host_key"
        yield part


def _global(node: Node, hashed: str) -> dict[str, Any]:
    return {
        "country": node.locale.country,
        "keyboard": node.locale.keyboard,
        "timezone": node.locale.timezone,
        "fqdn": node.fqdn,
        "mailto": node.mail,
        "root-password-hashed": hashed,
        "root-ssh-keys": list(node.ssh_keys),
        "reboot-on-error": node.reboot_on_error,
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
        **_pinning(node),
    }


def _pinning(node: Node) -> dict[str, Any]:
    """Nothing when no name is pinned: the installer pins as soon as the table is there, `enabled` or not."""
    if not node.interface_names:
        return {}
    mapping = {mac: name for name, mac in node.interface_names.items()}
    return {"interface-name-pinning": {"enabled": True, "mapping": mapping}}


def _disk_setup(disk: Disk) -> dict[str, Any]:
    """The disks, and how they are laid out."""
    options = getattr(disk, disk.table)
    given = options.model_dump(exclude_none=True) if options is not None else {}
    # The Proxmox documentation writes whole gibibytes without a point.
    told = {key.replace("_", "-"): _whole(value) for key, value in given.items()}
    layout = {"raid": disk.raid, **told} if disk.raid else told
    return {"filesystem": disk.filesystem, **_which(disk), **({disk.table: layout} if layout else {})}


def _which(disk: Disk) -> dict[str, Any]:
    """The disks by the one udev property that names them, or by their device names.

    `filter-match` is left out: by "all" the installer takes every disk that lacks the property.
    """
    if listed := disk.devices or (disk.device and (disk.device,)):
        return {"disk-list": list(listed)}
    if disk.udev:
        return {"filter": dict(disk.udev)}
    if disk.serials:
        return {"filter": {DISK_KEYS["serial"]: one_glob(disk.serials)}}
    return {"filter": {key: glob for word, key in DISK_KEYS.items() if (glob := getattr(disk, word))}}


def _whole(value: object) -> object:
    return int(value) if isinstance(value, float) and value.is_integer() else value


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
