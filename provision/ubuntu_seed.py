"""What Ubuntu's installer is handed: autoinstall user-data, and the script of the first boot.

Source: canonical/subiquity (autoinstall-schema.json, autoinstall reference, models/storage.py), for 24.04.
"""

from __future__ import annotations

import sys
from typing import Any

import yaml

from provision.certificate import Certificate
from provision.inventory import MANAGEMENT, Disk, Lab, Network, Node
from provision.password_hash import hash_password
from provision.permit import Permit
from provision.proxmox_answer import with_prefix
from provision.render import render
from provision.server_plan import secure_url, service_url

USER = "ubuntu"
"""The installer wants an account that is not root; it may become root, and has root's keys and password."""

BY_WWN = "disk-with-the-wwn"
"""No disk's name: an early command puts that of the disk with the WWN in its place."""

VARIANTS = {
    "de-ch": ("ch", "de"), "fr-ch": ("ch", "fr"), "fr-be": ("be", ""), "fr-ca": ("ca", ""),
    "en-us": ("us", ""), "en-gb": ("gb", ""), "pt-br": ("br", ""),
}  # fmt: skip
"""Keyboards that X11 knows by another name than the lab file: layout and variant."""


def user_data(lab: Lab, permit: Permit, certificate: Certificate) -> str:
    """The seed's user-data: cloud-config, whose one key is autoinstall's."""
    # No line is broken: where, would depend on how long a token is (provision/standing.py).
    content = {"autoinstall": _autoinstall(lab, permit, certificate)}
    text = yaml.safe_dump(content, sort_keys=False, width=sys.maxsize)
    return f"#cloud-config\n{text}"


def first_boot(lab: Lab, permit: Permit, certificate: Certificate) -> str:
    """The script of the first boot: clock, SSH, nonce, registration; the networks are netplan's."""
    return render(
        "first-boot-ubuntu.sh.j2", node=permit.node, run=permit.run, server=lab.server.address,
        host_key=permit.host_key, **_reporting(lab, permit, certificate),
    )  # fmt: skip


def _reporting(lab: Lab, permit: Permit, certificate: Certificate) -> dict[str, Any]:
    url = f"{secure_url(lab)}/report/{permit.report_token}"
    return {"nonce": permit.nonce, "report_url": url, "certificate": certificate.pem}


def _autoinstall(lab: Lab, permit: Permit, certificate: Certificate) -> dict[str, Any]:
    node, hashed = permit.node, hash_password(permit.node.root_password.reveal(), permit.salt)
    layout, variant = VARIANTS.get(node.locale.keyboard, (node.locale.keyboard, ""))
    script_url = f"{secure_url(lab)}/first-boot/{permit.report_token}"
    install = render("first-boot-install.sh.j2", url=script_url, **_reporting(lab, permit, certificate))
    failed = render("install-failed.sh.j2", **_reporting(lab, permit, certificate))
    return {
        "version": 1,
        "locale": "en_US.UTF-8",
        "keyboard": {"layout": layout, "variant": variant},
        "timezone": node.locale.timezone,
        "identity": {"hostname": node.name, "username": USER, "password": hashed},
        "ssh": {"install-server": True, "allow-pw": False, "authorized-keys": list(node.ssh_keys)},
        "early-commands": _early_commands(node.disk),
        "storage": {"layout": _layout(node)},
        "packages": list(node.packages),
        # A lab without a way out is installed from the ISO alone; nobody is asked where in the world it is.
        "apt": {"fallback": "offline-install", "geoip": False},
        "network": _netplan(lab, node),
        "user-data": _cloud_config(node, hashed),
        "late-commands": [["bash", "-c", install]],
        "error-commands": [["bash", "-c", failed]],
        # Its client trusts no certificate of ours; what it says is taken from the node's address alone.
        "reporting": {
            "rackproof": {
                "type": "webhook",
                "endpoint": f"{service_url(lab)}/seed/{permit.report_token}/reporting",
                "level": "INFO",
            }
        },
        "shutdown": "reboot",
    }


def _layout(node: Node) -> dict[str, Any]:
    # A logical volume takes half of a large disk unless it is told to take all.
    sizing = {"sizing-policy": "all"} if node.storage_layout == "lvm" else {}
    return {"name": node.storage_layout, **sizing, "match": _match(node.disk)}


def _early_commands(disk: Disk) -> list[list[str]]:
    """They may change the autoinstall, which is read again after them."""
    if disk.wwn is None:
        return []
    return [["bash", "-c", render("disk-by-wwn.sh.j2", wwn=disk.wwn, mark=BY_WWN)]]


def _match(disk: Disk) -> dict[str, str]:
    """Which disk, by globs; without a match the installer fails and writes to none."""
    if disk.wwn is not None:
        return {"path": f"/dev/{BY_WWN}"}
    if disk.serial is not None:
        # subiquity looks at ID_SERIAL, which is the model, the serial and, of NVMe, the namespace.
        return {"serial": f"*{disk.serial}*"}
    return {"model": disk.model} if disk.model is not None else {"path": f"/dev/{disk.device}"}


def _netplan(lab: Lab, node: Node) -> dict[str, Any]:
    """A bridge with the node's address on each NIC, as the lab file asks; broadcast is networkd's doing."""
    ethernets, bridges = {}, {}
    for name, address in node.addresses.items():
        network, nic = lab.networks[name], node.nics[name]
        mac = node.mac if name == MANAGEMENT else node.macs.get(name)
        known = {"match": {"macaddress": mac}, "set-name": nic} if mac else {}
        ethernets[nic] = {**known, "dhcp4": False, "mtu": network.mtu}
        bridges[network.bridge] = {
            "interfaces": [nic],
            "dhcp4": False,
            "addresses": [with_prefix(address, network)],
            "mtu": network.mtu,
            "parameters": {"stp": False, "forward-delay": 0},
            **_way_out(lab, node, network),
        }
    return {"version": 2, "ethernets": ethernets, "bridges": bridges}


def _way_out(lab: Lab, node: Node, network: Network) -> dict[str, Any]:
    if network.name != MANAGEMENT:
        return {}
    servers = [str(address) for address in network.dns or (lab.server.address,)]
    return {
        "routes": [{"to": "default", "via": str(network.gateway or lab.server.address)}],
        "nameservers": {"addresses": servers, "search": [node.domain]},
    }


def _cloud_config(node: Node, hashed: str) -> dict[str, Any]:
    """Of the installed system: root gets in by the lab's keys, as on every other node."""
    return {
        "fqdn": node.fqdn,
        "disable_root": False,
        # Those that the installer made and reported stay, or the first log-in would be to a stranger's key.
        "ssh_deletekeys": False,
        "ssh_authorized_keys": list(node.ssh_keys),
        "chpasswd": {"expire": False, "users": [{"name": "root", "password": hashed, "type": "hash"}]},
    }
