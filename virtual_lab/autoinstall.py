"""Ubuntu's autoinstall as subiquity takes it, and stricter: what it would ignore is refused.

The schema has the shape of canonical/subiquity's autoinstall-schema.json for the keys that are played; where
that one lets any key pass, as in `storage`, the keys are those that its code reads.
"""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

import jsonschema_rs

from virtual_lab import udev
from virtual_lab.hardware import Drive, Hardware

_TEXT, _FLAG, _OBJECT = {"type": "string"}, {"type": "boolean"}, {"type": "object"}
_TEXTS = {"type": "array", "items": _TEXT}
_COMMANDS = {"type": "array", "items": {"type": ["string", "array"], "items": _TEXT}}


def _closed(properties: Mapping[str, Any], *required: str) -> dict[str, Any]:
    return {
        "type": "object", "properties": dict(properties), "required": list(required),
        "additionalProperties": False,
    }  # fmt: skip


_MATCH = _closed(
    {**dict.fromkeys(("serial", "model", "vendor", "path", "id_path"), _TEXT), "ssd": _FLAG,
     "size": {"enum": ["smallest", "largest"]}}
)  # fmt: skip
_STORAGE = _closed(
    {
        "layout": _closed(
            {
                "name": {"enum": ["direct", "lvm"]},
                "match": _MATCH,
                "sizing-policy": {"enum": ["scaled", "all"]},
            },
            "name",
        ),
        "swap": _closed({"size": {"type": ["integer", "string"]}}),
    },
    "layout",
)
_NIC = {
    "type": "object",
    "properties": {"match": _closed(dict.fromkeys(("name", "macaddress", "driver"), _TEXT))},
}
_NETWORK = _closed(
    {
        "version": {"type": "integer", "minimum": 2, "maximum": 2},
        "ethernets": {"type": "object", "additionalProperties": _NIC},
        **dict.fromkeys(("bridges", "bonds", "vlans"), _OBJECT),
    },
    "version",
)
_DESTINATION = _closed(
    {"type": {"enum": ["webhook", "print"]}, "endpoint": _TEXT,
     "level": {"enum": ["DEBUG", "INFO", "WARNING", "ERROR"]}},
    "type",
)  # fmt: skip
SCHEMA: Mapping[str, Any] = _closed(
    {
        "version": {"type": "integer", "minimum": 1, "maximum": 1},
        "early-commands": _COMMANDS,
        "late-commands": _COMMANDS,
        "error-commands": _COMMANDS,
        "reporting": {"type": "object", "additionalProperties": _DESTINATION},
        "user-data": _OBJECT,
        "packages": _TEXTS,
        "locale": _TEXT,
        "timezone": _TEXT,
        "keyboard": _closed(
            {"layout": _TEXT, "variant": _TEXT, "toggle": {"type": ["string", "null"]}}, "layout"
        ),
        "network": _NETWORK,
        "storage": _STORAGE,
        "identity": _closed(
            dict.fromkeys(("realname", "username", "hostname", "password"), _TEXT),
            "username", "hostname", "password",
        ),
        "ssh": _closed({"install-server": _FLAG, "authorized-keys": _TEXTS, "allow-pw": _FLAG}),
        "apt": _closed(
            {"fallback": {"enum": ["abort", "offline-install", "continue-anyway"]}, "geoip": _FLAG}
        ),
        "updates": {"enum": ["security", "all"]},
        "shutdown": {"enum": ["reboot", "poweroff"]},
    },
    "version", "identity", "storage",
)  # fmt: skip


class InvalidAutoinstall(ValueError):
    """An autoinstall that is refused; says where and why, with no value of it: some are secrets."""


def check(config: object) -> None:
    """Raise InvalidAutoinstall for the first thing that SCHEMA does not allow."""
    validator = jsonschema_rs.validator_for(dict(SCHEMA), mask="[…]")
    for error in validator.iter_errors(config):
        place = ".".join(str(part) for part in error.instance_path) or "autoinstall"
        raise InvalidAutoinstall(f"Malformed autoinstall in {place!r} section: {error.message}")


def disk_for(hardware: Hardware, match: Mapping[str, Any]) -> Drive | None:
    """The first disk that everything of `match` fits; of `{}`, as of the real one, simply the first."""
    disks = sorted(hardware.drives, key=lambda drive: (drive.wwn, drive.serial, drive.device))
    if "size" in match:
        disks.sort(key=lambda drive: drive.size, reverse=match["size"] == "largest")
    return next((drive for drive in disks if _fits(drive, match)), None)


def _fits(drive: Drive, match: Mapping[str, Any]) -> bool:
    said = udev.of_drive(drive)
    # A serial is ID_SERIAL: the model, "_" and the serial number. A path is the kernel's: no link's.
    keys = {"serial": "ID_SERIAL", "model": "ID_MODEL", "vendor": "ID_VENDOR", "path": "DEVNAME",
            "id_path": "ID_PATH"}  # fmt: skip
    named = all(fnmatchcase(said.get(keys[key], ""), match[key]) for key in keys if key in match)
    return named and match.get("ssd", not drive.rpm) is (not drive.rpm)
