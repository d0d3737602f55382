"""The drives that a guest is to get: whether they can be made, and making them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from . import cloudinit, drives, storage, volumes
from .drives import Drive
from .errors import Failure
from .volumes import Volume

_EFI_SIZES = {"4m": 540672, "2m": 131072}
_TPM_SIZE = 4 << 20


def say(text: str) -> None:
    """A line of a task's log."""
    print(text, flush=True)


def check_new_drives(given: Mapping[str, str], *, is_root: bool) -> None:
    """Failure, as the API words it, when a drive that is to be made cannot be."""
    for key, one in drives.drives(given).items():
        try:
            _check_new_drive(key, one, is_root=is_root)
        except ValueError as wrong:
            raise Failure("Parameter verification failed.", code=400, errors={key: str(wrong)}) from None


def _check_new_drive(key: str, one: Drive, *, is_root: bool) -> None:
    source, new = one.options.get("import-from"), drives.NEW_DISK.match(one.file)
    if source is None:
        _check_place(key, one, new[1] if new else None)
        return
    if new is None or float(new[2]) != 0:
        raise ValueError("'import-from' requires special syntax - use <storage ID>:0,import-from=<source>")
    needed = {"efidisk0": ("efitype", "pre-enrolled-keys"), "tpmstate0": ("version",)}.get(key, ())
    for name in needed:
        if name not in one.options:
            raise ValueError(f"need to specify '{name}' when using 'import-from'")
    if source.startswith("/") and not is_root:
        raise Failure("Only root can pass arbitrary filesystem paths.")
    _check_place(key, one, new[1])
    _check_source(source)


def _check_place(key: str, one: Drive, name: str | None) -> None:
    if one.file in ("none", "cdrom"):
        return
    if one.is_cloudinit and one.file.endswith("cloudinit"):
        name = volumes.split_id(one.file)[0]
    if name is None:
        volume = volumes.parse(one.file)
        if volume.kind == "iso" and one.options.get("media") != "cdrom":
            raise ValueError("explicit 'media=cdrom' is required for iso images")
        if volume.kind not in ("images", "iso"):
            raise ValueError("content type needs to be 'images' or 'iso'")
        return
    if "images" not in storage.get(name).content:
        wrong = {"storage": f"storage '{name}' does not support vm images"}
        raise Failure("Parameter verification failed.", code=400, errors=wrong)


def _check_source(source: str) -> None:
    if source.startswith("/"):
        return
    volume = volumes.parse(source)
    if volume.kind not in ("images", "import"):
        raise Failure(f"{source} has wrong type '{volume.kind}' - needs to be 'images' or 'import'")
    volume.storage.check_enabled()


class Making:
    """Makes a guest's new volumes; what was made is removed again when a later one fails."""

    def __init__(self, vmid: int) -> None:
        self._vmid = vmid
        self.made: list[str] = []

    def drive(self, key: str, one: Drive) -> Drive:
        """The drive with its volume, made now if it names none."""
        if one.file.endswith(":cloudinit"):
            return self._cloudinit(one)
        new = drives.NEW_DISK.match(one.file)
        if new is None:
            return one
        if new[1] is None:
            raise Failure("no storage ID specified (and no default storage)")
        source = one.options.get("import-from")
        form = one.options.get("format", "")
        volid = self._imported(key, source, new[1], form) if source else self._empty(key, one, new, form)
        return one.with_volume(volid, volumes.size(volid))

    def undo(self) -> None:
        """Remove what was made."""
        for volid in self.made:
            with suppress(Failure, OSError):
                volumes.free(volid)

    def _allocate(self, name: str, size: int, form: str = "", file: str = "") -> str:
        volid = volumes.allocate(name, self._vmid, size, form=form, file=file)
        self.made.append(volid)
        return volid

    def _cloudinit(self, one: Drive) -> Drive:
        name = volumes.split_id(one.file)[0]
        has_files = storage.get(name).path is not None
        form = one.options.get("format", "qcow2" if has_files else "raw")
        file = f"vm-{self._vmid}-cloudinit" + (f".{form}" if has_files else "")
        volid = self._allocate(name, cloudinit.SIZE, form, file)
        return Drive(volid, {"media": "cdrom"})

    def _empty(self, key: str, one: Drive, new: re.Match[str], form: str) -> str:
        size = int(float(new[2]) * (1 << 30))
        if key == "efidisk0":
            size = _EFI_SIZES[one.options.get("efitype", "2m")]
        elif key == "tpmstate0":
            size, form = _TPM_SIZE, "raw"
        return self._allocate(new[1], size, form)

    def _imported(self, key: str, source: str, target: str, form: str) -> str:
        came, size = _opened(source)
        least = _EFI_SIZES["4m"] if key == "efidisk0" else 0
        volid = self._allocate(target, max(size, least), form)
        try:
            _copy(came, volumes.parse(volid))
        except Failure as failed:
            raise Failure(f"cannot import from '{source}' - {failed.message}") from None
        say(f"transferred {size} B of {size} B (100.00%)")
        return volid


def _opened(source: str) -> tuple[Volume | Path, int]:
    """Where an import comes from, and its size; Failure when it is not to be trusted."""
    if source.startswith("/"):
        form = source.rpartition(".")[2]
        return Path(source), volumes.check_untrusted(Path(source), form if form in volumes.FORMATS else "raw")
    volume = volumes.parse(source)
    if volume.kind == "import":
        return volume, volumes.check_untrusted(volumes.file_of(volume), volume.format)
    return volume, volumes.size(source)


def _copy(came: Volume | Path, goes: Volume) -> None:
    if isinstance(came, Path):
        form = came.suffix[1:] if came.suffix[1:] in volumes.FORMATS else "raw"
        volumes.convert(str(came), form, goes)
    else:
        volumes.convert(volumes.location(came), came.format, goes)
