"""/storage and /nodes/{node}/storage: the storages of the cluster, and how full they are on a node."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .. import storage
from ..cluster import node_name
from ..errors import Failure
from ..router import USER, Call, endpoint
from ..schema import NODE, Rule, check_format

_TEXT: Rule = {"type": "string", "optional": True}
_FLAG: Rule = {"type": "boolean", "optional": True}
_SECRET: Rule = {"type": "string", "maxLength": 256, "optional": True}
STORAGE: Rule = {"type": "string", "format": storage.check_name}
_TYPES = ("btrfs", "cephfs", "cifs", "dir", "esxi", "iscsi", "iscsidirect", "lvm", "lvmthin", "nfs", "pbs",
          "rbd", "zfs", "zfspool")  # fmt: skip


def _check_path(text: str) -> None:
    if not text.startswith("/") or len(text) < 2 or set(text) & set(";()"):
        raise ValueError("invalid format - value does not look like a valid absolute path")


def check_content(text: str) -> None:
    """ValueError when a list names what no storage may hold."""
    for word in storage.split(text):
        if word not in storage.KINDS["dir"].content:
            raise ValueError(f"invalid format - invalid content type '{word}'")


def _check_nodes(text: str) -> None:
    for word in storage.split(text):
        check_format(word, "pve-node")


_PATH: Rule = {"type": "string", "format": _check_path, "optional": True}
_SETTABLE: dict[str, Rule] = {
    **dict.fromkeys(("blocksize", "bwlimit", "comstar_hg", "comstar_tg", "content-dirs", "data-pool",
                     "encryption-key", "fs-name", "is_mountpoint", "keyring", "lio_tpg", "master-pubkey",
                     "monhost", "namespace", "options", "pool", "prune-backups", "saferemove_throughput",
                     "server", "username"), _TEXT),
    **dict.fromkeys(("create-base-path", "create-subdirs", "disable", "fuse", "krbd", "mkdir", "nocow",
                     "nowritecache", "saferemove", "shared", "skip-cert-verification",
                     "snapshot-as-volume-chain", "sparse", "tagged_only"), _FLAG),
    **dict.fromkeys(("mountpoint", "subdir", "zfs-base-path"), _PATH),
    "content": {"type": "string", "format": check_content, "optional": True},
    "domain": _SECRET,
    "fingerprint": {"type": "string", "pattern": "([A-Fa-f0-9]{2}:){31}[A-Fa-f0-9]{2}", "optional": True},
    "format": {"type": "string", "enum": ("raw", "qcow2", "subvol", "vmdk"), "optional": True},
    "max-protected-backups": {"type": "integer", "minimum": -1, "optional": True},
    "nodes": {"type": "string", "format": _check_nodes, "optional": True},
    "password": _SECRET,
    "port": {"type": "integer", "minimum": 1, "maximum": 65535, "optional": True},
    "preallocation": {"type": "string", "enum": ("off", "metadata", "falloc", "full"), "optional": True},
    "saferemove-stepsize": {"type": "integer", "optional": True},
    "smbversion": {"type": "string", "enum": ("default", "2.0", "2.1", "3", "3.0", "3.11"),
                   "optional": True},
}  # fmt: skip
_CREATE: dict[str, Rule] = {
    **_SETTABLE,
    **dict.fromkeys(("authsupported", "base", "datastore", "iscsiprovider", "portal", "share", "target",
                     "thinpool", "vgname"), _TEXT),
    **dict.fromkeys(("export", "path"), _PATH),
    "storage": STORAGE,
    "type": {"type": "string", "enum": _TYPES},
}  # fmt: skip
_UPDATE: dict[str, Rule] = {
    **_SETTABLE,
    "delete": {"type": "string", "maxLength": 4096, "optional": True},
    "digest": {"type": "string", "maxLength": 64, "optional": True},
    "storage": STORAGE,
}


@endpoint(
    "GET", "/storage", right=USER, params={"type": {"type": "string", "enum": _TYPES, "optional": True}}
)
def index(call: Call) -> list[dict[str, Any]]:
    """The cluster's storages."""
    wanted = call.params.get("type")
    return [one.row() for one in storage.all().values() if wanted in (None, one.type)]


@endpoint("GET", "/storage/{storage}", params={"storage": STORAGE})
def read(call: Call) -> dict[str, Any]:
    """One storage."""
    return storage.get(call.params["storage"]).row()


@endpoint("POST", "/storage", protected=True, params=_CREATE)
def create(call: Call) -> dict[str, Any]:
    """Add a storage."""
    name, kind = call.params["storage"], call.params["type"]
    storage.create(name, kind, _options(call.params))
    return {"storage": name, "type": kind}


@endpoint("PUT", "/storage/{storage}", protected=True, params=_UPDATE)
def update(call: Call) -> dict[str, Any]:
    """Change a storage."""
    name = call.params["storage"]
    deleted = storage.split(call.params.get("delete", ""))
    kind = storage.update(name, _options(call.params), deleted, call.params.get("digest", ""))
    return {"storage": name, "type": kind}


@endpoint("DELETE", "/storage/{storage}", protected=True, params={"storage": STORAGE})
def delete(call: Call) -> None:
    """Forget a storage."""
    storage.delete(call.params["storage"])


def _options(params: Mapping[str, Any]) -> dict[str, str]:
    given = {key: value for key, value in params.items() if key in _CREATE or key in _SETTABLE}
    own = {key: value for key, value in given.items() if key not in ("storage", "type")}
    return {key: str(int(value) if isinstance(value, bool) else value) for key, value in own.items()
            if not (key == "nodes" and value == "")}  # fmt: skip


_LIST: dict[str, Rule] = {
    "content": {"type": "string", "format": check_content, "optional": True},
    "enabled": _FLAG,
    "format": _FLAG,
    "storage": {**STORAGE, "optional": True},
    "target": {**NODE, "optional": True},
}


@endpoint("GET", "/nodes/{node}/storage", right=USER, protected=True, params=_LIST)
def of_node(call: Call) -> list[dict[str, Any]]:
    """The storages and how full they are on the node."""
    found, wanted = storage.all(), call.params.get("storage")
    if wanted is not None:
        found = {wanted: _known(wanted)}
    target = call.params.get("target")
    if target not in (None, node_name(), "localhost"):
        found = {name: one for name, one in found.items()
                 if one.shared and one.enabled() and one.enabled(str(target))}  # fmt: skip
    if call.params.get("enabled"):
        found = {name: one for name, one in found.items() if not one.disabled}
    content = storage.split(call.params.get("content", ""))
    return storage.listing(found, content=content, formats=bool(call.params.get("format")))


@endpoint("GET", "/nodes/{node}/storage/{storage}", params={"storage": STORAGE})
def below(_call: Call) -> list[dict[str, str]]:
    """What is below."""
    names = ("content", "download-url", "import-metadata", "identity", "prunebackups", "rrd", "rrddata",
             "status", "upload")  # fmt: skip
    return [{"subdir": name} for name in names]


@endpoint("GET", "/nodes/{node}/storage/{storage}/status", protected=True, params={"storage": STORAGE})
def status(call: Call) -> dict[str, Any]:
    """How full one storage is on the node."""
    one = _known(call.params["storage"])
    row = storage.listing({one.name: one})[0]
    return {key: value for key, value in row.items() if key not in ("storage", "used_fraction")}


def _known(name: str) -> storage.Storage:
    found = storage.all().get(name)
    if found is None:
        raise Failure("Parameter verification failed.", code=400, errors={"storage": "No such storage."})
    return found
