"""What a lab file says of a node with Ubuntu alone."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator

Layout = Literal["direct", "lvm"]
"""How subiquity lays out the disk: one ext4 on a partition, or on a logical volume that takes all of it."""

KEYS = ("storage_layout", "packages")
"""The keys of a node that Proxmox's installer has no use for."""


def _package(text: str) -> str:
    if not re.fullmatch("[a-z0-9][a-z0-9+.-]+", text):
        raise ValueError(f'"{text}" is no package name: lower-case letters, digits and + . -')
    return text


Package = Annotated[str, AfterValidator(_package)]
