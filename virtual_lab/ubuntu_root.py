"""What subiquity leaves on the root file system that sets one Ubuntu apart from any other.

Source: canonical/subiquity (models/subiquity.py, network.py, keyboard.py) as of the 24.04 installers. The
userland is Debian's (recipes.py); /etc/os-release says which system is played, and that it is.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from virtual_lab.ubuntu_media import RELEASE

_HOSTS = """\
127.0.0.1 localhost
127.0.1.1 {hostname}

# The following lines are desirable for IPv6 capable hosts
::1     ip6-localhost ip6-loopback
fe00::0 ip6-localnet
ff00::0 ip6-mcastprefix
ff02::1 ip6-allnodes
ff02::2 ip6-allrouters
"""
_OS_RELEASE = f"""\
PRETTY_NAME="Ubuntu {RELEASE} LTS (played on Debian 13)"
NAME="Ubuntu"
VERSION_ID="24.04"
VERSION="{RELEASE} LTS (Noble Numbat)"
VERSION_CODENAME=noble
ID=ubuntu
ID_LIKE=debian
"""
_DISABLED_AFTERWARDS = {
    "path": "/etc/cloud/cloud-init.disabled",
    "defer": True,
    "content": "Disabled by Ubuntu live installer after first boot.\n",
}


def cloud_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """What cloud-init does at the first boot of the installed system: subiquity's own, and the user-data."""
    identity, ssh = config["identity"], config.get("ssh", {})
    keys = list(ssh.get("authorized-keys", []))
    user = {"name": identity["username"], "lock_passwd": False}
    made: dict[str, Any] = {
        "growpart": {"mode": "off"},
        "resize_rootfs": False,
        "preserve_hostname": True,
        "users": [user | ({"ssh_authorized_keys": keys} if keys else {})],
        "ssh_pwauth": ssh.get("allow-pw", not keys),
        **{key: config[key] for key in ("locale", "timezone") if key in config},
        "write_files": [_DISABLED_AFTERWARDS],
    }
    _merge(made, config.get("user-data", {}))
    return made


def write(root: Path, config: Mapping[str, Any]) -> None:
    """Write what the installer writes itself; the rest is cloud-init's work at the first boot."""
    for name, (text, mode) in _files(config).items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.write_text(text)
        path.chmod(mode)
    resolv = root / "etc/resolv.conf"
    resolv.unlink(missing_ok=True)
    resolv.symlink_to("../run/systemd/resolve/stub-resolv.conf")


def _files(config: Mapping[str, Any]) -> dict[str, tuple[str, int]]:
    identity, keyboard = config["identity"], config.get("keyboard", {"layout": "us"})
    userdata = "#cloud-config\n" + yaml.safe_dump(cloud_config(config))
    source = {"None": {"userdata_raw": userdata, "metadata": {"instance-id": secrets.token_hex(16)}}}
    # Of a list in more than one line ds-identify makes nothing.
    datasource = yaml.safe_dump({"datasource_list": ["None"], "datasource": source}, default_flow_style=None)
    return _cables(config.get("network", {}).get("ethernets", {})) | {
        "etc/os-release": (_OS_RELEASE, 0o644),
        "etc/hostname": (f"{identity['hostname']}\n", 0o644),
        "etc/hosts": (_HOSTS.format(hostname=identity["hostname"]), 0o644),
        "etc/machine-id": (f"{secrets.token_hex(16)}\n", 0o444),
        "etc/default/keyboard": (_keyboard(keyboard), 0o644),
        "etc/cloud/cloud.cfg.d/20-disable-cc-dpkg-grub.cfg": ("grub_dpkg: {enabled: false}\n", 0o644),
        "etc/cloud/cloud.cfg.d/90-installer-network.cfg": (_network(config), 0o600),
        "etc/cloud/cloud.cfg.d/99-installer.cfg": (datasource, 0o600),
        "etc/cloud/ds-identify.cfg": ("policy: enabled\n", 0o644),
    }


def _cables(ethernets: Mapping[str, Any]) -> dict[str, tuple[str, int]]:
    """Netplan has networkd find a NIC by its permanent address; the rack's cables have but a current one."""
    macs = {name: nic["match"]["macaddress"] for name, nic in ethernets.items() if "match" in nic}
    return {
        f"etc/systemd/network/10-netplan-{name}.network.d/cable.conf":
        (f"[Match]\nPermanentMACAddress=\nMACAddress={mac}\n", 0o644)
        for name, mac in macs.items()
    }  # fmt: skip


def _keyboard(asked: Mapping[str, Any]) -> str:
    variant = asked.get("variant", "")
    return f'XKBMODEL="pc105"\nXKBLAYOUT="{asked["layout"]}"\nXKBVARIANT="{variant}"\nXKBOPTIONS=""\n'


def _network(config: Mapping[str, Any]) -> str:
    return yaml.safe_dump({"network": config["network"]}) if "network" in config else ""


def _merge(into: dict[str, Any], more: Mapping[str, Any]) -> None:
    """Mappings are merged, lists are put together, the rest is replaced (merge_cloud_init_config)."""
    for key, value in more.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        elif isinstance(value, list) and isinstance(into.get(key), list):
            into[key] = [*into[key], *value]
        else:
            into[key] = value
