"""What a VM template must be: its settings, how a found one differs from them, and its cloud-init snippet."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import yaml

from provision.inventory import Lab, Template
from provision.pve.guests import (
    Config,
    Guest,
    decode_keys,
    encode_keys,
    in_bytes,
    split_properties,
    split_tags,
)

TAG = "rackproof"
"""On every guest that rackproof makes; one without it is never changed or removed."""

IMAGES = "local"
"""The storage that images and snippets are kept in: every Proxmox node has it, as the folder FOLDER."""

FOLDER = "/var/lib/vz"
EFI, DISK, CLOUD_INIT = "efidisk0", "scsi0", "scsi1"
FORMATS = (".qcow2", ".raw", ".vmdk")
"""File names that Proxmox imports; any other image, such as Ubuntu's .img, is taken for qcow2."""

# The address of another guest is none of a clone's: a new one is made for each.
_NIC_MODEL = "virtio"
_NOTE = re.compile(r"rackproof template (\d+), image sha256:([0-9a-f]{64})")

# Generic cloud images lack the agent, and without it nobody learns their address.
INSTALL_AGENT = """\
command -v qemu-ga >/dev/null && exit 0
if command -v apt-get >/dev/null; then
  apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -qy qemu-guest-agent
elif command -v dnf >/dev/null; then
  dnf install -qy qemu-guest-agent
elif command -v zypper >/dev/null; then
  zypper --non-interactive install qemu-guest-agent
else
  echo "no package manager that rackproof knows: the image needs qemu-guest-agent" >&2
  exit 1
fi
systemctl enable --now qemu-guest-agent
"""


# What rackproof knows its own by


def note(vmid: int, template: Template) -> str:
    """The notes of a template: whose it is, and of which image it was made."""
    return f"rackproof template {vmid}, image sha256:{template.image.sha256}"


def image_of(vmid: int, found: Config) -> str | None:
    """The image's SHA-256 as the notes of template `vmid` tell it; None when they are not that template's."""
    told = _NOTE.search(found.get("description", ""))
    return told[2] if told and int(told[1]) == vmid else None


def is_ours(vmid: int, found: Config) -> bool:
    """Whether rackproof made this guest as template `vmid`.

    The tag alone does not say so: whoever clones a template inherits its tag and its notes.
    """
    return TAG in split_tags(found.get("tags", "")) and image_of(vmid, found) is not None


def image_name(template: Template) -> str:
    """The image's file name in IMAGES: two templates of one image share the file."""
    suffix = PurePosixPath(urlsplit(template.image.url).path).suffix.lower()
    return f"{TAG}-{template.image.sha256[:24]}{suffix if suffix in FORMATS else '.qcow2'}"


def image_volume(template: Template) -> str:
    """The image's volume id."""
    return f"{IMAGES}:import/{image_name(template)}"


# Settings


def keys_of(lab: Lab, template: Template) -> tuple[str, ...]:
    """The public keys of the template's user: its own, or those of the lab's nodes when it names none."""
    everyone = [key for node in lab.nodes.values() for key in node.ssh_keys]
    return template.ssh_keys or tuple(dict.fromkeys(everyone))


def settings(lab: Lab, vmid: int, template: Template) -> dict[str, str]:
    """What a template is set to, its drives left out: all of it can be changed later."""
    keys = keys_of(lab, template)
    return {
        "name": template.name, "memory": str(template.memory), "cores": str(template.cores),
        "cpu": "x86-64-v2-AES", "ostype": "l26", "machine": "q35", "bios": "ovmf",
        "scsihw": "virtio-scsi-single", "boot": f"order={DISK}", "serial0": "socket", "vga": "serial0",
        "agent": "enabled=1", "net0": f"{_NIC_MODEL},bridge={template.bridge}",
        "ipconfig0": "ip=dhcp", "ciuser": template.user,
        **({"sshkeys": encode_keys(keys)} if keys else {}),
        # Without it a guest upgrades all of its packages when it boots first.
        "ciupgrade": "0", "cicustom": f"vendor={IMAGES}:snippets/{snippet_name(vmid)}",
        "tags": TAG, "description": note(vmid, template),
    }  # fmt: skip


def drives(template: Template) -> dict[str, str]:
    """The drives of a new guest: firmware variables, the imported disk, cloud-init's."""
    return {
        EFI: f"{template.storage}:1,efitype=4m,pre-enrolled-keys=0",
        DISK: f"{template.storage}:0,import-from={image_volume(template)},discard=on,ssd=1,iothread=1",
        CLOUD_INIT: cloud_init_drive(template),
    }


def cloud_init_drive(template: Template) -> str:
    """A new cloud-init drive."""
    return f"{template.storage}:cloudinit"


def differences(asked: Mapping[str, str], found: Config) -> dict[str, str]:
    """Those of the settings asked for that a guest has otherwise, as they must be set to mend it."""
    kept = {"net0": _with_mac, "tags": _with_tags}
    wrong = {key: value for key, value in asked.items() if not _same(key, value, found.get(key, ""))}
    return {
        key: kept[key](value, found.get(key, "")) if key in kept else value for key, value in wrong.items()
    }


def _same(key: str, asked: str, found: str) -> bool:
    if key == "agent":
        return agent_is_on(found)
    if key == "tags":
        return TAG in split_tags(found)
    if key == "sshkeys":
        return decode_keys(asked) == decode_keys(found)
    if key == "net0":
        return nic(found) == nic(asked)
    return asked.strip() == found.strip()


def agent_is_on(agent: str) -> bool:
    """Whether a configuration's `agent` switches it on: "1" or "enabled=1", with whatever else."""
    told = split_properties(agent)
    return told.get("enabled", told.get("")) == "1"


def nic(text: str) -> dict[str, str]:
    """The properties of a network card, its own MAC left out: {"model": "virtio", "bridge": "vmbr0"}."""
    first, _, rest = text.partition(",")
    return {"model": first.partition("=")[0], **split_properties(rest)}


def mac_of(net: str) -> str:
    """The MAC address in a configuration's `net0`, in lower case; "" when there is none."""
    return net.partition(",")[0].partition("=")[2].lower()


def _with_mac(asked: str, found: str) -> str:
    mac = mac_of(found)
    return asked.replace(_NIC_MODEL, f"{_NIC_MODEL}={mac.upper()}", 1) if mac else asked


def _with_tags(asked: str, found: str) -> str:
    return ";".join(sorted(split_tags(asked) | split_tags(found)))


def beyond_mending(vmid: int, template: Template, guest: Guest, found: Config) -> str | None:
    """Why a template must be made anew; None when it can stay, or be mended by its settings."""
    image = image_of(vmid, found)
    if image != template.image.sha256:
        return f"it is of the image sha256:{image}"
    if not guest.template:
        return "it was left half made"
    for drive in (EFI, DISK):
        if drive not in found:
            return f"it has no {drive}"
        if (storage := volume_of(found, drive).partition(":")[0]) != template.storage:
            return f"its {drive} is on storage {storage}"
    size = size_of(found)
    if template.disk is not None and size != template.disk << 30:
        return f"its disk has {size / (1 << 30):g} GiB"
    return None


def volume_of(found: Config, drive: str) -> str:
    """The volume id of a drive, "" when there is no such drive."""
    return split_properties(found.get(drive, "")).get("", "")


def size_of(found: Config) -> int:
    """The size of the system disk in bytes, 0 when the configuration does not tell it."""
    size = split_properties(found.get(DISK, "")).get("size")
    return in_bytes(size) if size else 0


def has_cloud_init(template: Template, found: Config) -> bool:
    """Whether the cloud-init drive is there, on the right storage."""
    storage, _, volume = volume_of(found, CLOUD_INIT).partition(":")
    return storage == template.storage and "cloudinit" in volume


def is_cloud_init_of(vmid: int, volume: str) -> bool:
    """Whether a volume id is that of the guest's cloud-init drive (qemu-server's Drive.pm)."""
    return re.search(rf"[:/]vm-{vmid}-cloudinit(\.\w+)?$", volume) is not None


# Cloud-init


def snippet_name(vmid: int) -> str:
    """The file name of a template's snippet."""
    return f"{TAG}-{vmid}.yaml"


def snippet_path(vmid: int) -> str:
    """Where a template's snippet is on every node: the API can make no snippets."""
    return f"{FOLDER}/snippets/{snippet_name(vmid)}"


def snippet(template: Template) -> str:
    """The vendor data of a template: the agent, where the image lacks it, and what the lab file adds."""
    asked: dict[str, Any] = yaml.safe_load(template.cloud_init or "") or {}
    first: Sequence[object] = [["sh", "-c", INSTALL_AGENT]]
    data = {**asked, "runcmd": [*first, *asked.get("runcmd", [])]}
    head = "#cloud-config\n# Written by rackproof, from the lab file.\n"
    return head + yaml.safe_dump(data, sort_keys=False, allow_unicode=True)
