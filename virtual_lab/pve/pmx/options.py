"""The cluster's options: /etc/pve/datacenter.cfg."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .ceph import locked
from .cluster import BASE, write_file
from .propstring import parse_property_string
from .schema import Rule

CONFIG = BASE / "datacenter.cfg"
_TRANSFER: dict[str, Rule] = {
    "type": {"type": "string", "enum": ("secure", "insecure")},
    "network": {"type": "string", "format": "CIDR", "optional": True},
}
_PARSED = ("migration", "replication")


def check_transfer(text: str) -> None:
    """ValueError when `migration` or `replication` cannot be so."""
    parse_property_string(text, _TRANSFER, default_key="type")


def read(place: Path = CONFIG) -> dict[str, str]:
    """The options as they are written."""
    text = place.read_text() if place.exists() else ""
    return {found[1]: found[2] for found in re.finditer(r"(?m)^([\w-]+):\s*(\S.*?)\s*$", text)}


def shown(place: Path = CONFIG) -> dict[str, Any]:
    """What GET cluster/options says."""
    options: dict[str, Any] = {"mac_prefix": "BC:24:11", **read(place)}
    for key in _PARSED:
        if key in options:
            options[key] = parse_property_string(options[key], _TRANSFER, default_key="type")
    return options


def change(options: Mapping[str, str], deleted: Sequence[str]) -> None:
    """Set and delete options."""
    with locked("file-datacenter_cfg"):
        kept = {key: value for key, value in read().items() if key not in deleted}
        lines = (f"{key}: {value}\n" for key, value in sorted({**kept, **options}.items()))
        write_file(CONFIG, "".join(lines))
