"""Volumes: the images and files that storages hold, by their ids (STORAGE:NAME)."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from . import ceph, storage
from .errors import Failure
from .run import run
from .storage import Storage

FORMATS = ("raw", "qcow2", "vmdk")
SNAPSHOT = "__base__"
_FORMAT = "|".join(FORMATS)
_FILES: Mapping[str, str] = {
    "iso": r"[^/]+\.(?:iso|img)",
    "vztmpl": r"[^/]+\.tar(?:\.(?:gz|xz|zst|bz2))?",
    "backup": r"[^/]+\.(?:tgz|(?:tar|vma)(?:\.(?:gz|lzo|zst|bz2))?)",
    "snippets": r"[^/]+",
    "import": r"[a-zA-Z0-9\-.+=_ ]+\.(?:ova|ovf|qcow2|raw|vmdk)",
}
_IMAGE = rf"(?:base|vm)-\d+-[^\s/]+\.(?:{_FORMAT})"
_MOST, _COPY_SECONDS = 1024, 600.0


@dataclass(frozen=True, slots=True)
class Volume:
    """A volume's id, taken apart; `base` is the file name of the base that a linked clone stands on."""

    storage: Storage
    name: str
    kind: str
    file: str
    format: str
    vmid: int | None = None
    base: str | None = None
    base_vmid: int | None = None

    @property
    def id(self) -> str:
        """STORAGE:NAME."""
        return f"{self.storage.name}:{self.name}"

    @property
    def is_base(self) -> bool:
        """Whether linked clones can stand on it."""
        return self.kind == "images" and self.file.startswith("base-")


def split_id(volid: str) -> tuple[str, str]:
    """Storage and name; Failure when it is no volume's id."""
    match = re.fullmatch(r"([a-zA-Z][a-zA-Z0-9\-_.]*[a-zA-Z0-9]):(\S.*)", volid)
    if match is None:
        raise Failure(f"unable to parse volume ID '{volid}'")
    return match[1], match[2]


def parse(volid: str) -> Volume:
    """A volume by its id; Failure when there is no such storage or the name is none of its."""
    name, volname = split_id(volid)
    one = storage.get(name)
    return _parse_rbd(one, volname) if one.type == "rbd" else _parse_file(one, volname)


def _parse_rbd(one: Storage, name: str) -> Volume:
    match = re.fullmatch(r"(?:(base-(\d+)-\S+)/)?((?:base|vm)-(\d+)-[^\s/]+)", name)
    if match is None:
        raise Failure(f"unable to parse rbd volume name '{name}'")
    base_vmid = int(match[2]) if match[2] else None
    return Volume(one, name, "images", match[3], "raw", int(match[4]), match[1], base_vmid)


def _parse_file(one: Storage, name: str) -> Volume:
    match = re.fullmatch(rf"(?:(\d+)/({_IMAGE})/)?(\d+)/({_IMAGE})", name)
    if match:
        kind = match[4].rpartition(".")[2]
        base_vmid = int(match[1]) if match[1] else None
        return Volume(one, name, "images", match[4], kind, int(match[3]), match[2], base_vmid)
    content, _, file = name.partition("/")
    if content in _FILES and re.fullmatch(_FILES[content], file, re.IGNORECASE):
        return Volume(one, name, content, file, file.rpartition(".")[2] if content == "import" else "raw")
    raise Failure(f"unable to parse directory volume name '{name}'")


# -- what a type of storage does with images


class Images(Protocol):
    """The images of one storage."""

    default_format: str

    def listing(self) -> list[dict[str, Any]]:
        """Rows of GET content, of all guests."""

    def create(self, vmid: int, form: str, name: str, size: int) -> str:
        """A new image's name; `size` in bytes, `name` may be empty."""

    def delete(self, volume: Volume) -> None:
        """Remove an image that nothing stands on."""

    def make_base(self, volume: Volume) -> str:
        """The name under which it is a base now."""

    def clone(self, volume: Volume, vmid: int) -> str:
        """The name of a new linked clone of a base."""

    def size(self, volume: Volume) -> int:
        """Bytes, as the guest sees it."""

    def grow(self, volume: Volume, size: int) -> None:
        """Make it larger."""

    def source(self, volume: Volume) -> str:
        """What qemu-img calls it."""

    def node(self, volume: Volume) -> dict[str, Any]:
        """What QEMU's storage daemon calls it: a --blockdev."""


class Directory:
    """Images that are files: images/<vmid>/vm-<vmid>-disk-<n>.<format>."""

    default_format = "raw"

    def __init__(self, one: Storage) -> None:
        self._storage, self._folder = one, one.directory("images")

    def path(self, volume: Volume) -> Path:
        """Where the file is."""
        return self._folder / str(volume.vmid) / volume.file

    def listing(self) -> list[dict[str, Any]]:
        """Rows of GET content, of all guests."""
        files = sorted(self._folder.glob("[0-9]*/*"))
        rows = (self._row(file) for file in files if re.fullmatch(_IMAGE, file.name))
        return [row for row in rows if row]

    def _row(self, file: Path) -> dict[str, Any] | None:
        form, owner = file.suffix[1:], file.parent.name
        try:
            info, about = image_info(str(file), form), file.stat()
        except (Failure, OSError):
            if not file.exists():
                return None  # somebody has just removed it
            raise
        parent = info.get("backing-filename", "")
        below = re.fullmatch(rf"\.\./(\d+/{_IMAGE})", parent)
        name = f"{below[1]}/{owner}/{file.name}" if below else f"{owner}/{file.name}"
        row = {"volid": f"{self._storage.name}:{name}", "content": "images", "format": form,
               "vmid": int(owner), "size": info["virtual-size"], "used": info["actual-size"],
               "ctime": int(about.st_ctime)}  # fmt: skip
        return {**row, "parent": parent} if parent else row

    def create(self, vmid: int, form: str, name: str, size: int) -> str:
        """A new image's name."""
        folder = self._folder / str(vmid)
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / (name or free_name(vmid, [row["volid"] for row in self.listing()], form))
        if file.suffix != f".{form}":
            raise Failure(f"illegal name '{file.name}' - wrong extension for format")
        if file.exists():
            raise Failure(f"disk image '{file}' already exists")
        run(["qemu-img", "create", "-q", "-f", form, str(file), str(size)])
        return f"{vmid}/{file.name}"

    def delete(self, volume: Volume) -> None:
        """Remove an image that nothing stands on."""
        path = self.path(volume)
        path.unlink(missing_ok=True)
        if not any(path.parent.iterdir()):
            path.parent.rmdir()

    def make_base(self, volume: Volume) -> str:
        """The name under which it is a base now."""
        path = self.path(volume)
        new = path.with_name(re.sub("^vm-", "base-", path.name))
        if new.exists():
            raise Failure(f"file '{new}' already exists")
        path.rename(new)
        new.chmod(0o444)
        return f"{volume.base_vmid}/{volume.base}/{volume.vmid}/{new.name}" if volume.base \
            else f"{volume.vmid}/{new.name}"  # fmt: skip

    def clone(self, volume: Volume, vmid: int) -> str:
        """The name of a new linked clone of a base."""
        folder = self._folder / str(vmid)
        folder.mkdir(parents=True, exist_ok=True)
        name = free_name(vmid, [row["volid"] for row in self.listing()], "qcow2")
        backing = f"../{volume.vmid}/{volume.file}"
        print(f"clone {volume.name}: images, {name}, {vmid} to {name} (base={backing})", flush=True)
        run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", volume.format, "-b", backing,
             str(folder / name)])  # fmt: skip
        return f"{volume.vmid}/{volume.file}/{vmid}/{name}"

    def size(self, volume: Volume) -> int:
        """Bytes, as the guest sees it."""
        return int(image_info(self.source(volume), volume.format)["virtual-size"])

    def grow(self, volume: Volume, size: int) -> None:
        """Make it larger."""
        run(["qemu-img", "resize", "-q", "-f", volume.format, self.source(volume), str(size)])

    def source(self, volume: Volume) -> str:
        """What qemu-img calls it."""
        return str(self.path(volume))

    def node(self, volume: Volume) -> dict[str, Any]:
        """What QEMU's storage daemon calls it."""
        return {"driver": volume.format, "file": {"driver": "file", "filename": str(self.path(volume))}}


class Rbd:
    """Images of Ceph."""

    default_format = "raw"

    def __init__(self, one: Storage) -> None:
        self._storage = one

    def _rbd(self, *words: str) -> bytes:
        who = ["-c", str(ceph.CONFIG), "-n", "client.admin", "--keyring", str(self._keyring)]
        return run(["rbd", "-p", self._storage.pool, *who, *words])

    @property
    def _keyring(self) -> Path:
        return storage.KEYS / f"{self._storage.name}.keyring"

    def listing(self) -> list[dict[str, Any]]:
        """Rows of GET content, of all guests."""
        images = [entry for entry in json.loads(self._rbd("ls", "-l", "--format", "json"))
                  if "snapshot" not in entry]  # fmt: skip
        rows = (self._row(entry) for entry in images)
        return sorted(filter(None, rows), key=lambda row: str(row["volid"]))

    def _row(self, entry: dict[str, Any]) -> dict[str, Any] | None:
        owner = re.match(r"(?:base|vm)-(\d+)-", entry["image"])
        if owner is None:
            return None
        parent, name = entry.get("parent"), entry["image"]
        above = f"{parent['image']}@{parent['snapshot']}" if parent else ""
        if parent and parent["snapshot"] == SNAPSHOT:
            name = f"{parent['image']}/{name}"
        row = {"volid": f"{self._storage.name}:{name}", "content": "images", "format": "raw",
               "vmid": int(owner[1]), "size": entry["size"]}  # fmt: skip
        return {**row, "parent": above} if above else row

    def create(self, vmid: int, form: str, name: str, size: int) -> str:
        """A new image's name."""
        if form != "raw":
            raise Failure(f"unsupported format '{form}' for storage '{self._storage.name}'")
        new = name or self._free_name(vmid)
        self._rbd("create", "--image-format", "2", "--size", str(-(-size >> 20)), new)
        return new

    def delete(self, volume: Volume) -> None:
        """Remove an image that nothing stands on."""
        for entry in json.loads(self._rbd("snap", "ls", volume.file, "--format", "json")):
            if entry.get("protected") in (True, "true"):
                self._rbd("snap", "unprotect", volume.file, "--snap", entry["name"])
        if volume.is_base:
            self._rbd("snap", "purge", "--no-progress", volume.file)
        self._rbd("rm", "--no-progress", volume.file)

    def make_base(self, volume: Volume) -> str:
        """The name under which it is a base now."""
        new = re.sub("^vm-", "base-", volume.file)
        self._rbd("rename", volume.file, new)
        self._rbd("snap", "create", "--no-progress", new, "--snap", SNAPSHOT)
        self._rbd("snap", "protect", new, "--snap", SNAPSHOT)
        return f"{volume.base}/{new}" if volume.base else new

    def clone(self, volume: Volume, vmid: int) -> str:
        """The name of a new linked clone of a base."""
        name = self._free_name(vmid)
        print(f"clone {volume.name}: {volume.file} snapname {SNAPSHOT} to {name}", flush=True)
        self._rbd("clone", volume.file, "--snap", SNAPSHOT, f"{self._storage.pool}/{name}")
        return f"{volume.file}/{name}"

    def _free_name(self, vmid: int) -> str:
        return free_name(vmid, json.loads(self._rbd("ls", "--format", "json")))

    def size(self, volume: Volume) -> int:
        """Bytes, as the guest sees it."""
        return int(json.loads(self._rbd("info", volume.file, "--format", "json"))["size"])

    def grow(self, volume: Volume, size: int) -> None:
        """Make it larger."""
        self._rbd("resize", "--no-progress", "--size", str(-(-size >> 20)), volume.file)

    def source(self, volume: Volume) -> str:
        """What qemu-img calls it."""
        who = f"conf={ceph.CONFIG}:id=admin:keyring={self._keyring}"
        return f"rbd:{self._storage.pool}/{volume.file}:{who}"

    def node(self, volume: Volume) -> dict[str, Any]:
        """What QEMU's storage daemon calls it."""
        rbd = {"driver": "rbd", "pool": self._storage.pool, "image": volume.file, "user": "admin",
               "conf": str(ceph.CONFIG)}  # fmt: skip
        return {"driver": "raw", "file": rbd}


def images_of(one: Storage) -> Images:
    """The images of a storage; Failure when a played node can have none there."""
    if one.type == "rbd":
        return Rbd(one)
    if one.path is not None:
        return Directory(one)
    raise Failure(f"the played node keeps no volumes on a storage of type '{one.type}'")


def free_name(vmid: int, taken: list[str], form: str = "") -> str:
    """vm-<vmid>-disk-<n>, with the first number that no name in `taken` has."""
    numbers = {int(found[1]) for name in taken
               if (found := re.search(rf"(?:vm|base)-{vmid}-disk-(\d+)(?:\.\w+)?$", name))}  # fmt: skip
    number = next(at for at in range(_MOST) if at not in numbers)
    return f"vm-{vmid}-disk-{number}" + (f".{form}" if form else "")


def image_info(source: str, form: str) -> dict[str, Any]:
    """What qemu-img says of an image."""
    found = run(["qemu-img", "info", "-U", "-f", form, "--output=json", source])
    info: dict[str, Any] = json.loads(found)
    return info


def check_untrusted(path: Path, form: str) -> int:
    """The size of an image that came from outside; Failure when it is broken or stands on another file."""
    info = image_info(str(path), form)
    if info.get("backing-filename"):
        raise Failure(f"backing file not allowed for untrusted image '{path}'!")
    if info.get("format-specific", {}).get("data", {}).get("data-file"):
        raise Failure(f"{path}: 'data-file' references are not allowed!")
    return int(info["virtual-size"])


# -- by id


@contextmanager
def _locked(one: Storage) -> Iterator[None]:
    """Hold the storage against other changes, of the whole cluster when it is shared."""
    held: AbstractContextManager[None] = ceph.locked(f"storage-{one.name}") if one.shared else nullcontext()
    with held:
        yield


def allocate(name: str, vmid: int, size: int, *, form: str = "", file: str = "") -> str:
    """The id of a new image of `size` bytes."""
    one = storage.get(name)
    one.activate()
    images = images_of(one)
    with _locked(one):
        return f"{name}:{images.create(vmid, form or images.default_format, file, size)}"


def free(volid: str) -> None:
    """Remove an image or file; Failure when linked clones stand on it."""
    volume = parse(volid)
    volume.storage.activate()
    if volume.kind != "images":
        file_of(volume).unlink()
        return
    with _locked(volume.storage):
        if is_used(volume):
            raise Failure(f"base volume '{volume.name}' is still in use by linked clones")
        images_of(volume.storage).delete(volume)


def remove(params: Mapping[str, Any]) -> None:
    """The task imgdel."""
    free(params["volume"])
    print(f"Removed volume '{params['volume']}'", flush=True)


def is_used(volume: Volume) -> bool:
    """Whether linked clones stand on it."""
    if not volume.is_base:
        return False
    others = (parse(row["volid"]) for row in images_of(volume.storage).listing())
    return any((other.base, other.base_vmid) == (volume.file, volume.vmid) for other in others)


def make_base(volid: str) -> str:
    """The id under which an image is a base now."""
    volume = parse(volid)
    if volume.is_base:
        raise Failure("create_base not possible with base image")
    with _locked(volume.storage):
        return f"{volume.storage.name}:{images_of(volume.storage).make_base(volume)}"


def clone(volid: str, vmid: int) -> str:
    """The id of a new linked clone of a base."""
    volume = parse(volid)
    volume.storage.activate()
    with _locked(volume.storage):
        return f"{volume.storage.name}:{images_of(volume.storage).clone(volume, vmid)}"


def convert(source: str, form: str, target: Volume) -> None:
    """Fill a new image, which is at least as large, with what qemu-img reads from `source`."""
    run(["qemu-img", "convert", "-n", "--target-is-zero", "-f", form, "-O", target.format, source,
         location(target)], timeout=_COPY_SECONDS)  # fmt: skip


def size(volid: str) -> int:
    """Bytes, as a guest sees the volume."""
    volume = parse(volid)
    if volume.kind == "images":
        return images_of(volume.storage).size(volume)
    return int(image_info(str(file_of(volume)), volume.format)["virtual-size"])


def grow(volid: str, new: int) -> None:
    """Make an image larger."""
    volume = parse(volid)
    images_of(volume.storage).grow(volume, new)


def blockdev(volid: str) -> dict[str, Any]:
    """What QEMU's storage daemon calls an image: a --blockdev."""
    volume = parse(volid)
    volume.storage.activate()
    return images_of(volume.storage).node(volume)


def location(volume: Volume) -> str:
    """What qemu-img calls a volume."""
    if volume.kind == "images":
        return images_of(volume.storage).source(volume)
    return str(file_of(volume))


def file_of(volume: Volume) -> Path:
    """Where a volume that is no image is."""
    return volume.storage.directory(volume.kind) / volume.file


def exists(volid: str) -> bool:
    """Whether the volume is there."""
    volume = parse(volid)
    if volume.storage.type == "rbd":
        return any(row["volid"] == volid for row in images_of(volume.storage).listing())
    return os.path.exists(location(volume))  # noqa: PTH110


def content(one: Storage, wanted: str = "", vmid: int | None = None) -> list[dict[str, Any]]:
    """What GET nodes/{node}/storage/{storage}/content says."""
    one.activate()
    kinds = [wanted] if wanted else sorted(one.content)
    rows: list[dict[str, Any]] = []
    for kind in kinds:
        if kind == "images":
            rows += images_of(one).listing()
        elif kind in _FILES and one.path is not None and vmid is None:
            rows += _files(one, kind)
    return [row for row in rows if vmid is None or row.get("vmid") == vmid]


def _files(one: Storage, kind: str) -> list[dict[str, Any]]:
    folder = one.directory(kind)
    files = sorted(file for file in folder.iterdir() if file.is_file()) if folder.is_dir() else []
    return [
        {"volid": f"{one.name}:{kind}/{file.name}", "content": kind, "format": _format_of(kind, file),
         "size": file.stat().st_size, "ctime": int(file.stat().st_ctime)}
        for file in files if re.fullmatch(_FILES[kind], file.name, re.IGNORECASE)
    ]  # fmt: skip


def _format_of(kind: str, file: Path) -> str:
    if kind == "snippets":
        return "snippet"
    return (
        file.name.rpartition(".tar")[1].strip(".") + file.suffix if ".tar" in file.name else file.suffix[1:]
    )
