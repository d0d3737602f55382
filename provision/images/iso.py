"""Reads installer ISOs: which product one is, and its files, believing nothing that it says of itself."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from pycdlib.pycdlib import PyCdlib

from provision.errors import LabError

SECTOR = 2048
MOST_TEXT = 64 << 10
MODE_FILE = "auto-installer-mode.toml"
CAPABLE = "auto-installer-capable"
ID_FILE = ".pve-cd-id.txt"


class Unusable(LabError):
    """An image is not what it should be; nothing was made of it."""


@dataclass(frozen=True, slots=True)
class Iso:
    """An open ISO 9660 image with Rock Ridge names; every path is from its root, without a leading slash."""

    path: Path
    image: Any
    size: int

    def has(self, name: str) -> bool:
        """Whether there is a file of that name."""
        return self._record(name) is not None

    def text(self, name: str) -> str | None:
        """A small text file; None when there is none. Raises Unusable for one that is large, or no file."""
        if (record := self._record(name)) is None:
            return None
        self._check(name, record, MOST_TEXT)
        with self._open(name) as file:
            return str(file.read(MOST_TEXT), "utf-8", "replace")

    @contextmanager
    def file(self, name: str, most: int) -> Iterator[IO[bytes]]:
        """A file of at most `most` bytes, to read. Raises Unusable when it is none, larger, or cut off."""
        if (record := self._record(name)) is None:
            raise self.wrong(f"it has no /{name}")
        self._check(name, record, most)
        with self._open(name) as file:
            yield file

    def wrong(self, why: str) -> Unusable:
        """What to raise when this ISO will not do."""
        return Unusable(f"{self.path} cannot be used: {why}")

    def _record(self, name: str) -> Any:
        found = self.image
        with _parsing(self.path):
            try:
                found = self.image.get_record(rr_path=f"/{name}")
            except Exception as error:
                if "could not find" in str(error).lower():
                    return None
                raise
        return found

    def _check(self, name: str, record: Any, most: int) -> None:
        with _parsing(self.path):
            plain = record.is_file() and not (record.rock_ridge and record.rock_ridge.is_symlink())
            length, start = int(record.get_data_length()), int(record.extent_location()) * SECTOR
        if not plain:
            raise self.wrong(f"its /{name} is no plain file")
        if length > most:
            raise self.wrong(f"its /{name} would be {length} bytes; no installer's is more than {most}")
        # The parser shortens what lies beyond the end; makers leave room behind the last file.
        if start + length >= self.size:
            raise self.wrong(f"its /{name} lies beyond its end: it is cut off, or was made to mislead")

    def _open(self, name: str) -> Any:
        with _parsing(self.path):
            return self.image.open_file_from_iso(rr_path=f"/{name}")


@contextmanager
def opened(path: Path) -> Iterator[Iso]:
    """The ISO in this file. Raises Unusable when it is none, or not whole."""
    image, size = PyCdlib(), path.stat().st_size
    iso = Iso(path, image, size)
    with _parsing(path):
        image.open(str(path))
    try:
        declared = int(image.pvd.space_size) * SECTOR
        if declared > size:
            raise iso.wrong(f"it is cut off: it should have {declared} bytes and has {size}")
        if not image.has_rock_ridge():
            raise iso.wrong("its files have no Rock Ridge names")
        yield iso
    finally:
        image.close()


@contextmanager
def _parsing(path: Path) -> Iterator[None]:
    """What the parser meets in a hostile image comes out as one named error."""
    try:
        yield
    except Exception as error:
        raise Unusable(f"{path} cannot be used: it is no sound ISO 9660 image: {error}") from error


def identify(iso: Iso, system: str) -> dict[str, str]:
    """The ISO's `product` and `release`. Raises Unusable unless it installs `system` unattended."""
    return _proxmox(iso, system) if system.startswith("proxmox") else _ubuntu(iso, system)


def _proxmox(iso: Iso, system: str) -> dict[str, str]:
    info = _cd_info(iso.text(".cd-info") or "")
    if not info:
        raise iso.wrong(f"it is no ISO of Proxmox: it has no /.cd-info{_other(iso)}")
    product = info.get("PRODUCTLONG") or info.get("PRODUCT", "of no product")
    release = "-".join(info[key] for key in ("RELEASE", "ISORELEASE") if key in info)
    if info.get("PRODUCT") != "pve" or release.partition(".")[0] != system.partition("-")[2]:
        raise iso.wrong(f"it is {product} {release}, and the lab file asks for {system}")
    if not iso.has(CAPABLE):
        raise iso.wrong(f"it cannot install unattended: it has no /{CAPABLE}; take a later release")
    return {"product": product, "release": release}


def _cd_info(text: str) -> dict[str, str]:
    """The lines KEY='value' of .cd-info."""
    return dict(re.findall(r"^([A-Z]+)='([^'\n]{0,100})'$", text, re.MULTILINE))


def _ubuntu(iso: Iso, system: str) -> dict[str, str]:
    label = (iso.text(".disk/info") or "").split("\n")[0][:100]
    found = re.match(r"Ubuntu-Server (\d\d\.\d\d)((?:\.\d+)?) .*\bamd64\b", label)
    if found is None:
        said = f'it is "{label}"' if label else "it has no /.disk/info"
        raise iso.wrong(f"it is no live server ISO of Ubuntu for amd64: {said}")
    if found[1] != system.partition("-")[2]:
        raise iso.wrong(f"it is Ubuntu {found[1]}{found[2]}, and the lab file asks for {system}")
    return {"product": "Ubuntu-Server", "release": found[1] + found[2]}


def _other(iso: Iso) -> str:
    label = (iso.text(".disk/info") or "").split("\n")[0][:100]
    return f'; its /.disk/info says "{label}"' if label else ""
