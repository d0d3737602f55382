"""A guest's cloud-init drive: an ISO with the files that a node makes of its configuration (Cloudinit.pm)."""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from collections.abc import Mapping
from ipaddress import IPv4Interface
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from . import drives, guests, volumes
from .errors import Failure
from .run import run

SIZE = 4 << 20
_MOST = 3 << 20
_RESOLV = Path("/etc/resolv.conf")
Files = dict[str, str]


def is_configured(conf: Mapping[str, str]) -> bool:
    """Whether the guest has a cloud-init drive."""
    return any(one.is_cloudinit for one in drives.drives(conf).values())


def write_drives(vmid: int, conf: Mapping[str, str]) -> None:
    """Fill the guest's cloud-init drive, if it has one, with what its configuration says now."""
    for one in drives.drives(conf).values():
        if one.is_cloudinit:
            _write(vmid, conf, one.file)


def _write(vmid: int, conf: Mapping[str, str], volid: str) -> None:
    kind = conf.get("citype", "nocloud")
    make, label = _KINDS[kind]
    files = make(vmid, conf)
    if sum(len(text.encode()) for text in files.values()) > _MOST:
        raise Failure("Cloud-Init sum of snippets too big (> 3 MiB)")
    volume = volumes.parse(volid)
    volume.storage.activate()
    if not volumes.exists(volid):
        volumes.allocate(volume.storage.name, vmid, SIZE, form=volume.format, file=volume.file)
    print("generating cloud-init ISO", flush=True)
    with tempfile.TemporaryDirectory(prefix="cloudinit-", dir="/run") as scratch:
        image = _iso(Path(scratch), files, label)
        run(["qemu-img", "convert", "-n", "-f", "raw", "-O", volume.format, str(image),
             volumes.location(volume)])  # fmt: skip


def _iso(scratch: Path, files: Files, label: str) -> Path:
    for name, text in files.items():
        place = scratch / "files" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
    image = scratch / "drive.iso"
    run(["genisoimage", "-quiet", "-iso-level", "3", "-J", "-R", "-V", label, "-o", str(image),
         str(scratch / "files")])  # fmt: skip
    with image.open("r+b") as file:
        file.truncate(SIZE)
    return image


def _nocloud(vmid: int, conf: Mapping[str, str]) -> Files:
    custom = _snippets(conf)
    user = custom.get("user", user_data(vmid, conf))
    network = custom.get("network", network_config(conf))
    meta = custom.get("meta", f"instance-id: {_digest(user, network)}\n")
    return {"user-data": user, "network-config": network, "meta-data": meta,
            "vendor-data": custom.get("vendor", "")}  # fmt: skip


def _configdrive2(vmid: int, conf: Mapping[str, str]) -> Files:
    custom = _snippets(conf)
    user = custom.get("user", user_data(vmid, conf))
    network = custom.get("network", _interfaces(conf))
    meta = {"uuid": _digest(user, network), "network_config": {"content_path": "/content/0000"}}
    return {"openstack/latest/user_data": user, "openstack/content/0000": network,
            "openstack/latest/meta_data.json": custom.get("meta", json.dumps(meta)),
            "openstack/latest/vendor_data.json": custom.get("vendor", "")}  # fmt: skip


_KINDS = {"nocloud": (_nocloud, "cidata"), "configdrive2": (_configdrive2, "config-2")}
KINDS = tuple(_KINDS)


def _digest(user: str, network: str) -> str:
    return hashlib.sha1((user + network).encode()).hexdigest()  # noqa: S324


def _snippets(conf: Mapping[str, str]) -> Files:
    named = drives.cicustom(conf["cicustom"]) if "cicustom" in conf else {}
    return {name: _snippet(volid) for name, volid in named.items()}


def _snippet(volid: str) -> str:
    volume = volumes.parse(volid)
    if volume.kind != "snippets":
        raise Failure(f"{volid} is not in the snippets directory")
    if "snippets" not in volume.storage.content:
        raise Failure(f"storage '{volume.storage.name}' is not configured for content-type 'snippets'")
    try:
        return volumes.file_of(volume).read_text()
    except FileNotFoundError:
        raise Failure(f"can't open '{volumes.file_of(volume)}' - No such file or directory") from None


# -- user-data


def user_data(vmid: int, conf: Mapping[str, str]) -> str:
    """The generated #cloud-config."""
    host, fqdn = _names(vmid, conf)
    user = conf.get("ciuser")
    lines = ["#cloud-config", f"hostname: {host}", "manage_etc_hosts: true", f"fqdn: {fqdn}"]
    lines += [f"user: {user}"] if user else []
    lines += ["disable_root: False"] if user == "root" else []
    lines += [f"password: {conf['cipassword']}"] if "cipassword" in conf else []
    lines += ["ssh_authorized_keys:", *(f"  - {key}" for key in public_keys(conf))] \
        if "sshkeys" in conf else []  # fmt: skip
    lines += ["chpasswd:", "  expire: False"]
    lines += [] if user == "root" else ["users:", "  - default"]
    lines += ["package_upgrade: true"] if conf.get("ciupgrade", "1") == "1" else []
    return "".join(f"{line}\n" for line in lines)


def public_keys(conf: Mapping[str, str]) -> list[str]:
    """The SSH keys of a configuration, one a line of its decoded text."""
    return [line for line in unquote(conf.get("sshkeys", "")).split("\n") if line.strip()]


def check_public_keys(encoded: str) -> None:
    """Failure when the decoded text is no list of SSH public keys."""
    with tempfile.NamedTemporaryFile("w", dir="/run") as file:
        file.write(unquote(encoded))
        file.flush()
        try:
            run(["ssh-keygen", "-l", "-f", file.name])
        except Failure:
            raise Failure("SSH public key validation error") from None


def _names(vmid: int, conf: Mapping[str, str]) -> tuple[str, str]:
    name = conf.get("name", f"VM{vmid}")
    if "." in name:
        return name.partition(".")[0], name
    domain = conf.get("searchdomain")
    return name, f"{name}.{domain}" if domain else name


# -- network


def network_config(conf: Mapping[str, str]) -> str:
    """The generated network-config, version 1."""
    lines = ["version: 1", "config:"]
    for number, nic, address in _addresses(conf):
        lines += ["    - type: physical", f"      name: eth{number}",
                  f"      mac_address: '{nic['macaddr'].lower()}'", "      subnets:"]  # fmt: skip
        lines += [f"      {line}" for line in (*_subnet(address), *_subnet6(address))]
    domains, servers = _dns(conf)
    lines += ["    - type: nameserver"]
    lines += ["      address:", *(f"      - '{server}'" for server in servers)] if servers else []
    lines += ["      search:", *(f"      - '{domain}'" for domain in domains)] if domains else []
    return "".join(f"{line}\n" for line in lines)


def _addresses(conf: Mapping[str, str]) -> list[tuple[str, dict[str, Any], dict[str, Any]]]:
    numbers = sorted(key[3:] for key in conf if re.fullmatch(r"net\d+", key))
    return [(number, drives.net(conf[f"net{number}"]), drives.ipconfig(conf[f"ipconfig{number}"]))
            for number in numbers if f"ipconfig{number}" in conf]  # fmt: skip


def _subnet(address: Mapping[str, Any]) -> list[str]:
    if address.get("ip") == "dhcp":
        return ["- type: dhcp4"]
    if "ip" not in address:
        return []
    interface = IPv4Interface(address["ip"])
    gateway = [f"  gateway: '{address['gw']}'"] if "gw" in address else []
    return ["- type: static", f"  address: '{interface.ip}'", f"  netmask: '{interface.netmask}'", *gateway]


def _subnet6(address: Mapping[str, Any]) -> list[str]:
    kinds = {"dhcp": ["- type: dhcp6"], "auto": ["- type: ipv6_slaac"], None: []}
    if address.get("ip6") in kinds:
        return kinds[address.get("ip6")]
    gateway = [f"  gateway: '{address['gw6']}'"] if "gw6" in address else []
    return ["- type: static6", f"  address: '{address['ip6']}'", *gateway]


def _interfaces(conf: Mapping[str, str]) -> str:
    """The network as a config drive has it: ifupdown's format."""
    text = "auto lo\niface lo inet loopback\n\n"
    domains, servers = _dns(conf)
    text += f"        dns_nameservers {' '.join(servers)}\n" if servers else ""
    text += f"        dns_search {' '.join(domains)}\n" if domains else ""
    for number, _, address in _addresses(conf):
        text += f"auto eth{number}\n"
        if address.get("ip") == "dhcp":
            text += f"iface eth{number} inet dhcp\n"
        elif "ip" in address:
            interface = IPv4Interface(address["ip"])
            text += f"iface eth{number} inet static\n        address {interface.ip}\n"
            text += f"        netmask {interface.netmask}\n"
            text += f"        gateway {address['gw']}\n" if "gw" in address else ""
    return text


def _dns(conf: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """Search domains and name servers: the configuration's, else the node's own."""
    own = _RESOLV.read_text() if _RESOLV.exists() else ""
    rows = [line.split() for line in own.splitlines()]
    search = [word for row in rows if row[:1] == ["search"] for word in row[1:]]
    servers = [row[1] for row in rows if row[:1] == ["nameserver"]][:3]
    domains = conf["searchdomain"].split() if "searchdomain" in conf else search[:1]
    return domains, conf["nameserver"].split() if "nameserver" in conf else servers


def dump(vmid: int, kind: str) -> str:
    """The generated file of a guest of this node: user, network or meta; passwords are not shown."""
    conf = guests.read(vmid)
    make = network_config if conf.get("citype", "nocloud") == "nocloud" else _interfaces
    if kind == "user":
        return user_data(vmid, {**conf, "cipassword": "**********"} if "cipassword" in conf else conf)
    if kind == "network":
        return make(conf)
    return f"instance-id: {_digest(user_data(vmid, conf), make(conf))}\n"
