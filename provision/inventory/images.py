"""Where the installers of a lab's `images:` lie, downloaded and prepared: a cache beside the labs' state."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from provision import state

RECIPE = 1
"""Counts up with every change of what an ISO is turned into: what an earlier one made is made anew."""

COMBINED = "initrd-iso.img"
"""The initrd with the ISO inside, for boot loaders that cannot hand over an ISO beside it."""

TRUE = frozenset({"1", "on", "t", "true", "y", "yes"})
"""What the models read as true."""


def cache() -> Path:
    """The folder of all downloaded and prepared installers of this machine's user."""
    return state.home() / "installers"


def prepared(sha256: str) -> Path:
    """The folder of the files that the ISO with this checksum becomes."""
    return cache() / sha256 / f"prepared-{RECIPE}"


def files(system: str, sha256: str, *, combined: bool = False) -> dict[str, Path]:
    """The prepared files of an installer, as InstallMedia has them; they need not exist."""
    folder = prepared(sha256)
    names = {"vmlinuz": "vmlinuz", "initrd": "initrd.img", "iso": f"{system.partition('-')[0]}.iso"}
    names |= {"combined": COMBINED} if combined else {}
    return {part: folder / name for part, name in names.items()}


def with_media(given: Mapping[str, Any]) -> dict[str, Any]:
    """A lab file's data in which, under `media`, stands what each of its `images` becomes."""
    media = given.get("media") or {}
    if not isinstance(media, dict):
        return dict(given)
    made = {system: files(system, image["sha256"], combined=str(image.get("grub")).lower() in TRUE)
            for system, image in _sound(given.get("images"))}  # fmt: skip
    return {**given, "media": {**made, **media}} if made else dict(given)


def _sound(images: object) -> list[tuple[str, dict[str, Any]]]:
    """The images whose files have a place; what is wrong with the others, the model tells."""
    listed = images.items() if isinstance(images, dict) else ()
    sound = [(system, image) for system, image in listed if isinstance(image, dict)]
    return [each for each in sound if re.fullmatch("[0-9a-f]{64}", str(each[1].get("sha256")))]
