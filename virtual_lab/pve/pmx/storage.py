"""The cluster's storages: /etc/pve/storage.cfg, and what each of them is on this node."""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import ceph
from .cluster import BASE, PRIVATE, node_name, write_file
from .errors import Failure
from .run import run

CONFIG = BASE / "storage.cfg"
KEYS = PRIVATE / "ceph"
MOUNTS = Path("/mnt/pve")
SUBDIRECTORIES: Mapping[str, str] = {
    "images": "images", "rootdir": "private", "iso": "template/iso", "vztmpl": "template/cache",
    "backup": "dump", "snippets": "snippets", "import": "import",
}  # fmt: skip
_SHARED = ("iscsi", "nfs", "cifs", "rbd", "cephfs", "iscsidirect", "zfs", "pbs")
_DIRECTORY_CONTENT = ("images", "rootdir", "vztmpl", "iso", "backup", "snippets", "none", "import")
_COMMON = ("nodes", "disable", "content", "bwlimit")
_FILES = (*_COMMON, "content-dirs", "prune-backups", "max-protected-backups", "format", "mkdir",
          "create-base-path", "create-subdirs")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Kind:
    """A type of storage: its content types and the ones it has unless told, and its options."""

    content: tuple[str, ...]
    default: tuple[str, ...]
    options: tuple[str, ...]
    required: tuple[str, ...] = ()
    fixed: tuple[str, ...] = ()
    formats: tuple[str, ...] = ("raw",)


KINDS: Mapping[str, Kind] = {
    "dir": Kind(_DIRECTORY_CONTENT, ("images", "rootdir"),
                (*_FILES, "path", "shared", "is_mountpoint", "preallocation", "snapshot-as-volume-chain"),
                ("path",), ("path", "snapshot-as-volume-chain"), ("qcow2", "raw", "subvol", "vmdk")),
    "rbd": Kind(("images", "rootdir"), ("images",),
                (*_COMMON, "monhost", "pool", "data-pool", "namespace", "username", "krbd", "keyring")),
    "cephfs": Kind(("vztmpl", "iso", "backup", "snippets", "import"), ("backup",),
                   (*_FILES, "path", "monhost", "subdir", "options", "username", "fuse", "keyring",
                    "fs-name"), (), ("path",)),
    "lvmthin": Kind(("images", "rootdir"), ("images", "rootdir"), (*_COMMON, "thinpool", "vgname"),
                    ("thinpool", "vgname"), ("thinpool", "vgname")),
    "zfspool": Kind(("images", "rootdir"), ("images", "rootdir"),
                    (*_COMMON, "pool", "blocksize", "sparse", "mountpoint"), ("pool",), ("pool",)),
}  # fmt: skip
"""The types that a played node has; the others are known by name only."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Bytes."""

    total: int
    used: int
    avail: int


@dataclass(frozen=True, slots=True)
class Storage:
    """One entry of storage.cfg; no `nodes` means all."""

    name: str
    type: str
    options: Mapping[str, str]

    @property
    def content(self) -> frozenset[str]:
        """What it may hold: images, rootdir, iso, vztmpl, backup, snippets, import."""
        text = self.options.get("content")
        words = split(text) if text else KINDS[self.type].default if self.type in KINDS else ()
        return frozenset(words) - {"none"}

    @property
    def path(self) -> Path | None:
        """Where its files are, of a storage that has files."""
        return Path(self.options["path"]) if "path" in self.options else None

    @property
    def pool(self) -> str:
        """The pool of Ceph, or of ZFS, that its volumes are in."""
        return self.options.get("pool", "rbd" if self.type == "rbd" else "")

    @property
    def shared(self) -> bool:
        """Whether every node sees the same content."""
        return self.type in _SHARED or is_true(self.options.get("shared", "0"))

    @property
    def nodes(self) -> frozenset[str]:
        """The nodes that have it; empty when all do."""
        return frozenset(split(self.options.get("nodes", "")))

    @property
    def disabled(self) -> bool:
        """Whether it is switched off everywhere."""
        return is_true(self.options.get("disable", "0"))

    def enabled(self, node: str = "") -> bool:
        """Whether a node, this one unless another is named, has it."""
        return not self.disabled and (not self.nodes or (node or node_name()) in self.nodes)

    def check_enabled(self, node: str = "") -> None:
        """Failure when a node, this one unless another is named, does not have it."""
        if self.disabled:
            raise Failure(f"storage '{self.name}' is disabled")
        if not self.enabled(node):
            raise Failure(f"storage '{self.name}' is not available on node '{node or node_name()}'")

    def directory(self, content: str) -> Path:
        """Where files of a content type are; Failure when it has no files."""
        if self.path is None:
            raise Failure("storage definition has no path")
        overrides = dict(item.split("=", 1) for item in split(self.options.get("content-dirs", "")))
        return self.path / overrides.get(content, SUBDIRECTORIES[content]).lstrip("/")

    def activate(self) -> None:
        """Make it usable on this node; Failure when that cannot be."""
        self.check_enabled()
        if self.type == "cephfs" and self.path and not self.path.is_mount():
            _mount(self)
        if self.path is not None:
            _make_directories(self, self.path)

    def usage(self) -> Usage | None:
        """How full it is on this node; None when it cannot be used. Failure when asking fails."""
        if self.type == "rbd":
            return _pool_usage(self.options.get("data-pool", self.pool))
        if self.path is not None and self.path.is_dir():
            disk = shutil.disk_usage(self.path)
            return Usage(disk.total, disk.used, disk.free)
        if self.path is not None:
            return None
        # The played system disk has no volume group and no ZFS pool; a fresh node's are empty.
        return Usage(shutil.disk_usage("/").total, 0, shutil.disk_usage("/").total)

    def active(self) -> bool:
        """Whether it can be used on this node now."""
        return self.status() is not None

    def status(self) -> Usage | None:
        """How full it is, made usable first; None when it cannot be used on this node."""
        try:
            self.activate()
            return self.usage()
        except (Failure, OSError):
            return None

    def row(self) -> dict[str, Any]:
        """As GET /storage lists it."""
        shown = {key: _shown(key, value) for key, value in self.options.items()}
        shared = {"shared": 1} if self.shared else {}
        return {**shown, **shared, "content": ",".join(sorted(self.content)) or "none",
                "storage": self.name, "type": self.type, "digest": digest()}  # fmt: skip


_BOOLEANS = ("disable", "shared", "krbd", "fuse", "sparse", "mkdir", "create-base-path", "create-subdirs",
             "snapshot-as-volume-chain")  # fmt: skip


def _shown(key: str, value: str) -> str | int:
    return int(is_true(value)) if key in _BOOLEANS else value


def split(text: str) -> list[str]:
    """The words of a list as Proxmox writes them, with commas, semicolons or blanks."""
    return [word for word in re.split(r"[,;\s]+", text) if word]


def is_true(text: str) -> bool:
    """A boolean of a configuration file."""
    return text.lower() in ("1", "on", "yes", "true")


# -- storage.cfg


def parse(text: str) -> dict[str, Storage]:
    """The storages of a storage.cfg, and `local` in any case, as PVE has it."""
    found: dict[str, dict[str, str]] = {}
    kinds: dict[str, str] = {}
    name = ""
    for line in text.splitlines():
        head = re.match(r"^(\w+):\s*(\S+)\s*$", line)
        if head:
            name = head[2]
            kinds[name], found[name] = head[1].lower(), {}
        elif line.strip() and not line.startswith("#") and name:
            key, _, value = line.strip().partition(" ")
            found[name][key] = value.strip() or "1"
    _have_local(kinds, found)
    return {name: Storage(name, kinds[name], options) for name, options in found.items()}


def _have_local(kinds: dict[str, str], found: dict[str, dict[str, str]]) -> None:
    if kinds.get("local") != "dir" or found["local"].get("path", "/var/lib/vz") != "/var/lib/vz":
        kinds["local"] = "dir"
        found["local"] = {"prune-backups": "keep-all=1",
                          "content": "backup,images,iso,rootdir,snippets,vztmpl"}  # fmt: skip
    found["local"].setdefault("path", "/var/lib/vz")
    found["local"].pop("nodes", None)


def render(storages: Mapping[str, Storage]) -> str:
    """The text of a storage.cfg, `local` first."""
    ordered = sorted(storages.values(), key=lambda one: (one.name != "local", one.name))
    return "".join(_entry(one) for one in ordered)


def _entry(one: Storage) -> str:
    required = KINDS[one.type].required if one.type in KINDS else ()
    keys = sorted(one.options, key=lambda key: (key not in required, key))
    lines = "".join(f"\t{key} {one.options[key]}\n" for key in keys)
    return f"{one.type}: {one.name}\n{lines}\n"


def all() -> dict[str, Storage]:  # noqa: A001
    """Every storage of the cluster, by name."""
    return parse(CONFIG.read_text() if CONFIG.exists() else "")


def get(name: str) -> Storage:
    """One storage; Failure when there is none of that name."""
    found = all().get(name)
    if found is None:
        raise Failure(f"storage '{name}' does not exist")
    return found


def digest() -> str:
    """Changes with the file."""
    text = CONFIG.read_bytes() if CONFIG.exists() else b""
    return hashlib.sha1(text).hexdigest()  # noqa: S324


def check_unused(name: str) -> None:
    """Failure when there is a storage of that name."""
    if name in all():
        raise Failure(f"storage ID '{name}' already defined")


def check_name(text: str) -> None:
    """ValueError when a storage cannot be called so."""
    if not re.fullmatch(r"[a-zA-Z][a-zA-Z0-9\-_.]*[a-zA-Z0-9]", text):
        raise ValueError(f"invalid format - storage ID '{text}' contains illegal characters")


# -- changes


def create(name: str, kind: str, options: Mapping[str, str]) -> None:
    """Add a storage; Failure when it is there already or does not come up on this node."""
    given = {**options}
    if kind == "cephfs":
        given.setdefault("path", str(MOUNTS / name))
    secret = given.pop("keyring", None)
    one = Storage(name, kind, _checked(kind, given, kind_of(kind).required))

    def change() -> None:
        storages = all()
        check_unused(name)
        _on_add(one, secret)
        if one.enabled():
            _first_activation(one)
        write_file(CONFIG, render({**storages, name: one}))

    _change("create storage failed", change)


def _first_activation(one: Storage) -> None:
    try:
        one.activate()
    except (Failure, OSError):
        _on_delete(one)
        raise


def update(name: str, options: Mapping[str, str], deleted: Sequence[str] = (), known: str = "") -> str:
    """Change a storage; its type. `known` is the digest of the file that the caller saw."""
    kinds: list[str] = []

    def change() -> None:
        if known and known != digest():
            raise Failure("detected modified configuration - file changed by other user? Try again.")
        one = get(name)
        kinds.append(one.type)
        kind = kind_of(one.type)
        for key in options:
            if key in kind.fixed:
                raise Failure(f"can't change value of fixed parameter '{key}'")
        new = _checked(one.type, options, ())
        _check_deletion(kind, deleted, new)
        kept = {key: value for key, value in one.options.items() if key not in deleted}
        write_file(CONFIG, render({**all(), name: Storage(name, one.type, {**kept, **new})}))

    _change("update storage failed", change)
    return kinds[0]


def _check_deletion(kind: Kind, deleted: Sequence[str], new: Mapping[str, str]) -> None:
    for key in deleted:
        if key not in kind.options:
            raise Failure(f"no such option '{key}'")
        if key in kind.required:
            raise Failure(f"unable to delete required option '{key}'")
        if key in kind.fixed:
            raise Failure(f"unable to delete fixed option '{key}'")
        if key in new:
            raise Failure(f"cannot set and delete property '{key}' at the same time!")


def delete(name: str) -> None:
    """Forget a storage; what is in it stays."""

    def change() -> None:
        one = get(name)
        _on_delete(one)
        write_file(CONFIG, render({key: other for key, other in all().items() if key != name}))

    _change("delete storage failed", change)


def _change(what: str, change: Callable[[], None]) -> None:
    try:
        with ceph.locked("file-storage_cfg"):
            change()
    except Failure as failed:
        raise Failure(f"{what}: {failed.message}", code=failed.code, errors=failed.errors) from failed


def kind_of(kind: str) -> Kind:
    """A type of storage; Failure when a played node has none such."""
    if kind not in KINDS:
        raise Failure(f"the played node has no storage of type '{kind}'")
    return KINDS[kind]


def _checked(kind: str, options: Mapping[str, str], required: Sequence[str]) -> dict[str, str]:
    known = KINDS[kind]
    for key in options:
        if key not in known.options:
            raise Failure(f"unexpected property '{key}'")
    for key in required:
        if key not in options:
            raise Failure(f"missing value for required option '{key}'")
    checked = dict(options)
    if "content" in options:
        checked["content"] = _content(known, split(options["content"]))
    if "nodes" in options:
        checked["nodes"] = ",".join(sorted(split(options["nodes"])))
    return checked


def _content(kind: Kind, wanted: Sequence[str]) -> str:
    fitting = [word for word in wanted if word in kind.content]
    if "none" in fitting and len(fitting) > 1:
        raise Failure("unable to combine 'none' with other content types")
    if not fitting:
        raise Failure("storage does not support content type 'none'")
    return ",".join(sorted(set(fitting)))


# -- what a type does when it comes and goes


def _on_add(one: Storage, secret: str | None) -> None:
    if one.type not in ("rbd", "cephfs"):
        return
    place = _keyring(one)
    if place.exists() and secret is None:
        raise Failure(f"ceph authx keyring file for storage '{one.name}' already exists!")
    KEYS.mkdir(exist_ok=True)
    text = secret if secret is not None else _admin_secret(one.type)
    if text:
        write_file(place, f"{text.rstrip()}\n")


def _admin_secret(kind: str) -> str:
    if not ceph.ADMIN_KEYRING.is_file():
        return ""
    text = ceph.ADMIN_KEYRING.read_text()
    return text if kind == "rbd" else ceph.parse(text)["client.admin"]["key"]


def _on_delete(one: Storage) -> None:
    if one.type in ("rbd", "cephfs"):
        _keyring(one).unlink(missing_ok=True)


def _keyring(one: Storage) -> Path:
    return KEYS / f"{one.name}.{'secret' if one.type == 'cephfs' else 'keyring'}"


def _make_directories(one: Storage, path: Path) -> None:
    if is_true(one.options.get("create-base-path", "1")) and is_true(one.options.get("mkdir", "1")):
        path.mkdir(parents=True, exist_ok=True)
    if not path.is_dir():
        raise Failure(f"unable to activate storage '{one.name}' - directory '{path}' does not exist or is "
                      "unreachable")  # fmt: skip
    if is_true(one.options.get("create-subdirs", "1")) and is_true(one.options.get("mkdir", "1")):
        for content in sorted(one.content):
            one.directory(content).mkdir(parents=True, exist_ok=True)


def _mount(one: Storage) -> None:
    """Mount a CephFS through FUSE, whatever the storage asks for: a played node has its host's kernel."""
    path = one.path or MOUNTS / one.name
    path.mkdir(parents=True, exist_ok=True)
    options = f"ceph.id={one.options.get('username', 'admin')},ceph.conf={ceph.CONFIG}"
    if "fs-name" in one.options:
        options += f",ceph.client_fs={one.options['fs-name']}"
    if "subdir" in one.options:
        options += f",ceph.client_mountpoint={one.options['subdir']}"
    unit = run(["systemd-escape", "--path", "--suffix=mount", str(path)]).decode().strip()
    text = (
        f"[Unit]\nDescription={path}\n[Mount]\nWhat=none\nWhere={path}\nType=fuse.ceph\nOptions={options}\n"
    )
    place = Path("/run/systemd/system") / unit
    changed = place.exists()
    place.write_text(text)
    if changed:
        run(["systemctl", "daemon-reload"])
    run(["systemctl", "start", unit])


def _pool_usage(pool: str) -> Usage | None:
    for row in ceph.mon_command("df")["pools"]:
        if row["name"] == pool:
            free, used = row["stats"]["max_avail"], row["stats"].get("stored", row["stats"]["bytes_used"])
            return Usage(used + free, used, free)
    return None


# -- what the API says of them


def listing(node_storages: Mapping[str, Storage], *, content: Sequence[str] = (),
            formats: bool = False) -> list[dict[str, Any]]:  # fmt: skip
    """GET nodes/{node}/storage: the storages that may hold one of `content`, and how full they are."""
    return [
        _status_row(one, formats=formats)
        for one in node_storages.values()
        if not content or (one.enabled() and one.content & set(content))
    ]


def _status_row(one: Storage, *, formats: bool) -> dict[str, Any]:
    usage = one.status() if one.enabled() else None
    row: dict[str, Any] = {"storage": one.name, "type": one.type, "shared": int(one.shared),
                           "content": ",".join(sorted(one.content)) or "none",
                           "enabled": int(one.enabled()), "active": int(usage is not None),
                           "total": 0, "used": 0, "avail": 0}  # fmt: skip
    if usage:
        row.update({"total": usage.total, "used": usage.used, "avail": usage.avail})
    if usage and usage.total:
        row["used_fraction"] = usage.used / usage.total
    if formats and one.enabled():
        row.update(_formats(one))
    return row


def _formats(one: Storage) -> dict[str, Any]:
    valid = sorted(KINDS[one.type].formats) if one.type in KINDS else ["raw"]
    default = one.options.get("format", "raw")
    return {"formats": {"supported": valid, "default": default},
            "format": [dict.fromkeys(valid, 1), default]}  # fmt: skip
