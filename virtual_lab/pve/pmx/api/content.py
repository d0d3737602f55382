"""/nodes/{node}/storage/{storage}: content, downloads; /nodes/{node}/query-url-metadata."""

from __future__ import annotations

import re
from typing import Any

from .. import download, storage, tasks, volumes
from ..errors import Failure
from ..router import Call, endpoint
from ..schema import Rule

VMID: Rule = {"type": "integer", "minimum": 100, "maximum": 999_999_999}
STORAGE: Rule = {"type": "string", "format": storage.check_name}
_URL: Rule = {"type": "string", "pattern": "https?://.*"}
_ENDINGS = {
    "iso": r"(?i)\.(?:iso|img)$", "vztmpl": r"(?i)\.tar(?:\.(?:gz|xz|zst|bz2))?$",
    "import": r"^[a-zA-Z0-9\-.+=_]+\.(?:ova|qcow2|raw|vmdk)$",
}  # fmt: skip


@endpoint("GET", "/nodes/{node}/storage/{storage}/content", protected=True, params={
    "storage": STORAGE, "content": {"type": "string", "optional": True}, "vmid": {**VMID, "optional": True},
})  # fmt: skip
def content(call: Call) -> list[dict[str, Any]]:
    """The volumes of a storage."""
    one = storage.get(call.params["storage"])
    one.check_enabled()
    wanted = call.params.get("content", "")
    if wanted and wanted not in storage.SUBDIRECTORIES:
        wrong = f"value '{wanted}' does not have a value in the enumeration"
        raise Failure("Parameter verification failed.", code=400, errors={"content": wrong})
    return volumes.content(one, wanted, call.params.get("vmid"))


_ALLOCATE: dict[str, Rule] = {
    "storage": STORAGE,
    "vmid": VMID,
    "filename": {"type": "string"},
    "size": {"type": "string", "pattern": r"\d+[MG]?"},
    "format": {"type": "string", "enum": ("raw", "qcow2", "subvol", "vmdk"), "optional": True},
}


@endpoint("POST", "/nodes/{node}/storage/{storage}/content", protected=True, params=_ALLOCATE)
def allocate(call: Call) -> str:
    """Make an empty image; its size is in KiB unless it says M or G."""
    params, name = call.params, call.params["filename"]
    size = params["size"] if params["size"][-1] in "MG" else f"{params['size']}K"
    found = re.search(rf"\.({'|'.join(volumes.FORMATS)})$", name)
    form = found[1] if found else params.get("format", "")
    if found and params.get("format") not in (None, form):
        wrong = f"different storage formats ({params['format']} != {form})"
        raise Failure("Parameter verification failed.", code=400, errors={"format": wrong})
    return volumes.allocate(params["storage"], params["vmid"], _bytes(size), form=form, file=name)


def _bytes(size: str) -> int:
    return int(size[:-1]) << {"K": 10, "M": 20, "G": 30}[size[-1]]


@endpoint("GET", "/nodes/{node}/storage/{storage}/content/{volume}", protected=True,
          params={"storage": STORAGE})  # fmt: skip
def volume(call: Call) -> dict[str, Any]:
    """One volume."""
    found = volumes.parse(_volume_id(call))
    if not volumes.exists(found.id):
        raise Failure(f"volume '{found.id}' does not exist")
    size = volumes.size(found.id) if found.kind in ("images", "import", "iso") else \
        volumes.file_of(found).stat().st_size  # fmt: skip
    return {"path": volumes.location(found), "size": size, "used": size, "format": found.format}


@endpoint("DELETE", "/nodes/{node}/storage/{storage}/content/{volume}", protected=True, params={
    "storage": STORAGE, "delay": {"type": "integer", "minimum": 1, "maximum": 30, "optional": True},
})  # fmt: skip
def delete(call: Call) -> str:
    """Remove a volume."""
    found = volumes.parse(_volume_id(call))
    return str(tasks.start("imgdel", f"{found.vmid or ''}@{found.storage.name}", call.caller.user,
                           {"volume": found.id}))  # fmt: skip


def _volume_id(call: Call) -> str:
    name, given = call.params["storage"], str(call.params["volume"])
    if ":" not in given:
        return f"{name}:{given}"
    if not given.startswith(f"{name}:"):
        wrong = f"storage ID mismatch ({given.partition(':')[0]} != {name})"
        raise Failure("Parameter verification failed.", code=400, errors={"volume": wrong})
    return given


_DOWNLOAD: dict[str, Rule] = {
    "storage": STORAGE,
    "url": _URL,
    "content": {"type": "string", "enum": ("iso", "vztmpl", "import")},
    "filename": {"type": "string", "maxLength": 255},
    "checksum": {"type": "string", "optional": True, "requires": "checksum-algorithm"},
    "checksum-algorithm": {"type": "string", "enum": download.ALGORITHMS, "optional": True,
                           "requires": "checksum"},
    "compression": {"type": "string", "enum": ("gz", "lzo", "zst", "bz2"), "optional": True},
    "verify-certificates": {"type": "boolean", "default": True},
}  # fmt: skip


@endpoint("POST", "/nodes/{node}/storage/{storage}/download-url", protected=True, params=_DOWNLOAD)
def download_url(call: Call) -> str:
    """Fetch a file into a storage."""
    params = call.params
    one = storage.get(params["storage"])
    one.check_enabled()
    if one.path is None:
        raise Failure(f"can't upload to storage type '{one.type}', not a file based storage!")
    kind = params["content"]
    if kind not in one.content:
        raise Failure(f"storage '{one.name}' is not configured for content-type '{kind}'")
    name = re.sub(r"[^a-zA-Z0-9_.-]", "_", re.split(r"[/\\]", params["filename"])[-1])
    if not re.search(_ENDINGS[kind], name):
        wrong = "invalid filename or wrong extension" if kind == "import" else "wrong file extension"
        raise Failure("Parameter verification failed.", code=400, errors={"filename": wrong})
    one.activate()
    form = name.rpartition(".")[2] if kind == "import" and not name.endswith(".ova") else ""
    order = {**params, "path": str(one.directory(kind) / name), "image-format": form}
    return str(tasks.start("download", name.replace(":", "\\x3a"), call.caller.user, order))


@endpoint("GET", "/nodes/{node}/query-url-metadata", params={
    "url": _URL, "verify-certificates": {"type": "boolean", "default": True},
})  # fmt: skip
def url_metadata(call: Call) -> dict[str, Any]:
    """What a URL offers."""
    return download.metadata(call.params["url"], verify=call.params["verify-certificates"])
