"""QEMU guests, templates, the volumes they are made of and their agents, by the Proxmox VE API.

Calls and answers: `API2/Qemu.pm` and `API2/Qemu/Agent.pm` of qemu-server, `API2/Storage/Status.pm` and
`Content.pm` of pve-storage. All functions raise what a Session raises; what begins a task returns its UPID.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any
from urllib.parse import quote, unquote

from provision.errors import LabError
from provision.pve.session import ApiRefused, Reply, Session

BAD_REQUEST = 400
_SIZE = re.compile(r"(\d+(?:\.\d+)?)([KMGT]?)")
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}

Config = dict[str, str]
"""A guest's configuration as `GET …/config` has it, every value as text: "1" is true, a drive is
"STORAGE:VOLUME,option=value,…"."""


class Guest(Reply):
    """A guest in `GET /nodes/{node}/qemu`."""

    vmid: int
    status: str
    name: str = ""
    template: bool = False
    tags: str = ""
    lock: str | None = None

    @property
    def tagset(self) -> frozenset[str]:
        """Its tags."""
        return split_tags(self.tags)


class Storage(Reply):
    """A storage in `GET /nodes/{node}/storage/{storage}/status`."""

    content: str
    active: bool = False
    enabled: bool = True
    shared: bool = False

    def serves(self, content: str) -> bool:
        """Whether the node can use it now for such content ("images", "snippets", …)."""
        return self.active and self.enabled and content in self.content.split(",")


class Interface(Reply):
    """A network interface as the guest's agent tells of it (qemu-ga's guest-network-get-interfaces)."""

    name: str
    hardware_address: str = ""
    ip_addresses: tuple[dict[str, Any], ...] = ()

    @property
    def ipv4(self) -> list[str]:
        """Its IPv4 addresses, link-local ones left out."""
        found = [
            str(entry["ip-address"]) for entry in self.ip_addresses if entry.get("ip-address-type") == "ipv4"
        ]
        return [address for address in found if not address.startswith(("127.", "169.254."))]


# Property strings


def split_tags(text: str) -> frozenset[str]:
    """The tags of a guest; Proxmox writes ";" between them and takes "," and spaces too."""
    return frozenset(tag for tag in re.split(r"[;,\s]+", text) if tag)


def split_properties(text: str) -> dict[str, str]:
    """A property string such as "local:9000/base-9000-disk-1.raw,size=3G"; what has no key is under ""."""
    pairs = [part.partition("=") for part in text.split(",") if part]
    return {(key if equals else ""): (value if equals else key) for key, equals, value in pairs}


def in_bytes(size: str) -> int:
    """A size as in a drive's `size`: "528K", "3584M", "20G"; raises ValueError."""
    found = _SIZE.fullmatch(size)
    if found is None:
        raise ValueError(f'"{size}" is no size')
    return int(float(found[1]) * _UNITS[found[2]])


def encode_keys(keys: Sequence[str]) -> str:
    """Public keys as `sshkeys` takes them: percent-encoded, before a form's own encoding comes over it."""
    return quote("\n".join(keys), safe="")


def decode_keys(text: str) -> list[str]:
    """The public keys in a configuration's `sshkeys`."""
    return [line.strip() for line in unquote(text).splitlines() if line.strip()]


# Guests


def guests(session: Session, node: str) -> dict[int, Guest]:
    """All QEMU guests of a node by id, templates among them."""
    found = session.read(list[Guest], session.api.nodes(node).qemu.get())
    return {guest.vmid: guest for guest in found}


def config(session: Session, node: str, vmid: int) -> Config:
    """A guest's configuration with what is pending; `digest` is left out."""
    found = session.read(dict[str, Any], session.api.nodes(node).qemu(vmid).config.get())
    return {key: str(value) for key, value in found.items() if key != "digest"}


def is_free(session: Session, vmid: int) -> bool:
    """Whether no guest of the cluster has this id now; another process may take it at any moment."""
    try:
        session.api.cluster.nextid.get(vmid=vmid)
    except ApiRefused as error:
        if error.status != BAD_REQUEST:
            raise
        return False
    return True


def create(session: Session, node: str, vmid: int, settings: Mapping[str, str]) -> str:
    """Begin to create a guest."""
    return session.upid(session.api.nodes(node).qemu.post(vmid=vmid, **settings))


def change(session: Session, node: str, vmid: int, settings: Mapping[str, str]) -> None:
    """Change a guest's configuration; a new drive is made before this returns."""
    session.api.nodes(node).qemu(vmid).config.put(**settings)


def resize(session: Session, node: str, vmid: int, disk: str, gib: int) -> str:
    """Begin to make a disk this large; Proxmox refuses to make it smaller."""
    return session.upid(session.api.nodes(node).qemu(vmid).resize.put(disk=disk, size=f"{gib}G"))


def to_template(session: Session, node: str, vmid: int) -> str:
    """Begin to turn a stopped guest into a template."""
    return session.upid(session.api.nodes(node).qemu(vmid).template.post())


def clone(
    session: Session, node: str, vmid: int, newid: int, *, name: str, description: str, target: str
) -> str:
    """Begin a linked clone of a template on node `target`; another node than `node` takes shared storage."""
    asked = {"newid": newid, "name": name, "description": description}
    asked |= {"target": target} if target != node else {}
    return session.upid(session.api.nodes(node).qemu(vmid).clone.post(**asked))


def start(session: Session, node: str, vmid: int) -> str:
    """Begin to start a guest."""
    return session.upid(session.api.nodes(node).qemu(vmid).status.start.post())


def stop(session: Session, node: str, vmid: int) -> str:
    """Begin to stop a guest at once, as by its power switch."""
    return session.upid(session.api.nodes(node).qemu(vmid).status.stop.post())


def destroy(session: Session, node: str, vmid: int) -> str:
    """Begin to destroy a stopped guest with all of its disks, those that its configuration lost included."""
    what = {"purge": 1, "destroy-unreferenced-disks": 1}
    return session.upid(session.api.nodes(node).qemu(vmid).delete(**what))


def tasks_about(session: Session, node: str, ids: Collection[int]) -> list[str]:
    """What runs on a node now about any of these guests; "qmclone of 9000" names a clone's source."""
    active = session.read(list[dict[str, Any]], session.api.nodes(node).tasks.get(source="active"))
    names = {str(vmid) for vmid in ids}
    ours = [task for task in active if str(task.get("id")) in names and not task.get("endtime")]
    return [f"{task['type']} of {task['id']}" for task in ours]


# A guest's agent


def interfaces(session: Session, node: str, vmid: int) -> list[Interface]:
    """The guest's network interfaces; refused with 500 while its agent does not answer."""
    answer = session.api.nodes(node).qemu(vmid).agent("network-get-interfaces").get()
    found = session.read(dict[str, list[dict[str, Any]]], answer).get("result", [])
    plain = [{key.replace("-", "_"): value for key, value in entry.items()} for entry in found]
    return session.read(list[Interface], plain)


def read_file(session: Session, node: str, vmid: int, path: str) -> str:
    """A text file of the guest, through its agent; refused with 500 when it cannot be read."""
    answer = session.api.nodes(node).qemu(vmid).agent("file-read").get(file=path)
    return str(session.read(dict[str, Any], answer).get("content", ""))


# Storages and volumes


def storage(session: Session, node: str, name: str) -> Storage:
    """A storage as a node has it; refused when there is none of that name."""
    return session.read(Storage, session.api.nodes(node).storage(name).status.get())


def contents(session: Session, name: str) -> list[str]:
    """What a storage is configured for: "images", "snippets", …."""
    found = session.read(dict[str, Any], session.api.storage(name).get())
    return [word for word in str(found.get("content", "")).split(",") if word not in ("", "none")]


def set_contents(session: Session, name: str, words: Sequence[str]) -> None:
    """Configure what a storage is for, on all nodes; the list is set as a whole."""
    session.api.storage(name).put(content=",".join(words))


def volumes(session: Session, node: str, storage: str, content: str) -> list[str]:
    """Volume ids of one kind of content in a storage, as a node sees them."""
    found = session.api.nodes(node).storage(storage).content.get(content=content)
    return [str(entry["volid"]) for entry in session.read(list[dict[str, Any]], found)]


def download(session: Session, node: str, storage: str, *, url: str, filename: str, sha256: str) -> str:
    """Begin to download a disk image into a storage's `import` content.

    The node checks it, and keeps nothing of one that is not as the checksum says; a file of that name
    with that checksum is kept as it is, and one with another makes the task fail (pve-common's Tools.pm).
    """
    asked = {"content": "import", "url": url, "filename": filename, "checksum": sha256}
    asked |= {"checksum-algorithm": "sha256"}
    return session.upid(session.api.nodes(node).storage(storage)("download-url").post(**asked))


def delete_volume(session: Session, node: str, volid: str) -> str | None:
    """Begin to delete a volume; None when it was deleted at once."""
    storage, _, _ = volid.partition(":")
    if not storage:
        raise LabError(f'"{volid}" is no volume id', node=node)
    answer = session.api.nodes(node).storage(storage).content(quote(volid, safe="")).delete()
    return None if answer is None else session.upid(answer)


def stop_task(session: Session, upid: str) -> None:
    """Ask a task to end."""
    session.api.nodes(upid.split(":")[1]).tasks(quote(upid, safe="")).delete()
