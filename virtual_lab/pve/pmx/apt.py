"""The node's package repositories: the files below /etc/apt/sources.list.d."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .errors import Failure

SOURCES = Path("/etc/apt/sources.list.d")
KEYRING = "/usr/share/keyrings/proxmox-archive-keyring.gpg"
_COMPONENTS = {"enterprise": "Enterprise", "no-subscription": "No-Subscription", "test": "Test"}
CEPH_RELEASES = ("squid", "tentacle")
_MODIFIED = "detected modified configuration - file changed by other user? Try again."


def source(url: str, component: str) -> str:
    """A stanza of a Proxmox repository, its URL without the server."""
    server = "https://enterprise.proxmox.com" if component.endswith("enterprise") else (
        "http://download.proxmox.com")  # fmt: skip
    return (f"Types: deb\nURIs: {server}/debian/{url}\nSuites: trixie\nComponents: {component}\n"
            f"Signed-By: {KEYRING}\n")  # fmt: skip


def _handles() -> Iterator[tuple[str, str, str, str]]:
    """Handle, name, end of the URL, component."""
    for component, name in _COMPONENTS.items():
        yield component, name, "pve", f"pve-{component}"
    for release in CEPH_RELEASES:
        for component, name in _COMPONENTS.items():
            yield (f"ceph-{release}-{component}", f"Ceph {release.capitalize()} {name}", f"ceph-{release}",
                   component)  # fmt: skip


def repositories(sources: Path = SOURCES) -> dict[str, Any]:
    """What GET nodes/{node}/apt/repositories says."""
    files = [_file(path) for path in sorted(sources.glob("*.sources"))]
    standard = [_standard(*handle, files) for handle in _handles()]
    return {"digest": digest(sources), "errors": [], "infos": [], "files": files, "standard-repos": standard}


def _file(path: Path) -> dict[str, Any]:
    text = path.read_text()
    return {"path": str(path), "file-type": "sources", "repositories": list(_stanzas_of(text)),
            "digest": list(hashlib.sha256(text.encode()).digest())}  # fmt: skip


def digest(sources: Path = SOURCES) -> str:
    """Changes with any file."""
    text = b"".join(path.read_bytes() for path in sorted(sources.glob("*.sources")))
    return hashlib.sha256(text).hexdigest()


def _standard(
    handle: str, name: str, url: str, component: str, files: list[dict[str, Any]]
) -> dict[str, Any]:
    rows = [row for file in files for row in file["repositories"] if _is_of(row, url, component)]
    row: dict[str, Any] = {"handle": handle, "name": name}
    return {**row, "status": int(any(found["Enabled"] for found in rows))} if rows else row


def _is_of(row: dict[str, Any], url: str, component: str) -> bool:
    return component in row["Components"] and any(uri.rstrip("/").endswith(f"/{url}") for uri in row["URIs"])


def _stanzas_of(text: str) -> Iterator[dict[str, Any]]:
    for block in _blocks(text):
        lines = [line for line in block.splitlines() if not line.startswith("#")]
        keys = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
        row: dict[str, Any] = {name: keys.get(name, "").split()
                               for name in ("Types", "URIs", "Suites", "Components")}  # fmt: skip
        signed = [{"Key": "Signed-By", "Values": [keys["Signed-By"]]}] if "Signed-By" in keys else []
        yield {**row, "FileType": "sources", "Enabled": int(_enabled(keys.get("Enabled", "yes"))),
               "Comment": "", "Options": signed}  # fmt: skip


def _blocks(text: str) -> list[str]:
    return [block for block in re.split(r"\n\s*\n", text.strip()) if re.search(r"(?m)^Types:", block)]


def _enabled(word: str) -> bool:
    return word.lower() not in ("no", "false", "0")


def add(handle: str, known: str = "", *, sources: Path = SOURCES) -> None:
    """Configure a standard repository, or enable it; `known` is the digest that the caller saw."""
    _check_digest(known, sources)
    found = {name: (url, component) for name, _, url, component in _handles()}
    if handle not in found:
        raise Failure(f"unknown repository handle '{handle}'")
    url, component = found[handle]
    for path in sorted(sources.glob("*.sources")):
        for at, row in enumerate(_stanzas_of(path.read_text())):
            if _is_of(row, url, component):
                enable(str(path), at, on=True, sources=sources)
                return
    path = sources / _file_of(url, component)
    before = path.read_text().rstrip() + "\n\n" if path.exists() else ""
    path.write_text(before + source(url, component))


def _file_of(url: str, component: str) -> str:
    if url.startswith("ceph"):
        return "ceph.sources"
    return "pve-enterprise.sources" if component == "pve-enterprise" else "proxmox.sources"


def enable(path: str, index: int, *, on: bool, known: str = "", sources: Path = SOURCES) -> None:
    """Switch one stanza of a file on or off."""
    _check_digest(known, sources)
    place = Path(path)
    if place.parent != sources or not place.is_file():
        raise Failure(f"invalid path: {path}")
    blocks = _blocks(place.read_text())
    if not 0 <= index < len(blocks):
        raise Failure(f"invalid index: {index}")
    without = re.sub(r"(?m)^Enabled:.*\n?", "", blocks[index] + "\n").rstrip()
    blocks[index] = without if on else f"{without}\nEnabled: false"
    place.write_text("\n\n".join(blocks) + "\n")


def _check_digest(known: str, sources: Path) -> None:
    if known and known != digest(sources):
        raise Failure(_MODIFIED)
