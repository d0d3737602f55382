"""Reads what installers and nodes send: strict where it decides something, tolerant where it is only news."""

from __future__ import annotations

import json
from typing import Any

from provision.boot_service.messages import normal_mac

MOST_LOG = 64 * 1024
MOST_INTERFACES = 256
PHASES = ("first-boot", "registered", "failed")


class Malformed(ValueError):
    """A body that cannot be what it should be; says why in one line."""


def clean(value: object, most: int = 200) -> str:
    """`value` as one line of at most `most` printable characters."""
    text = "".join(char if char.isprintable() else " " for char in str(value)[: 2 * most]).strip()
    return text if len(text) <= most else text[: most - 1] + "…"


def asked_macs(body: bytes) -> list[str]:
    """The MACs that an installer's request for an answer lists, lower case with colons.

    The request of Proxmox VE 9: JSON of schema 1.x with `network_interfaces`, each with `link` and
    `mac`, upper case from 9.2 on. Raises Malformed.
    """
    request = _json_object(body)
    schema = request.get("$schema", {"version": "1.0"})
    version = schema.get("version") if isinstance(schema, dict) else None
    if not isinstance(version, str) or version.split(".")[0] != "1":
        raise Malformed(f"the request has schema version {clean(version, 20)}; this service understands 1.x")
    interfaces = request.get("network_interfaces")
    if not isinstance(interfaces, list) or not 0 < len(interfaces) <= MOST_INTERFACES:
        raise Malformed("the request has no list network_interfaces")
    macs = [normal_mac(item["mac"]) for item in interfaces if _has_text(item, "mac")]
    # Other link layers have longer addresses (InfiniBand: 20 bytes): they are no MAC of a node.
    if not any(macs):
        raise Malformed("the request's network_interfaces have no MAC address")
    return [mac for mac in macs if mac]


def installed_facts(body: bytes) -> dict[str, Any]:
    """The facts of a post-installation webhook (schema 1.2) that the harness uses; missing keys are left out.

    Raises Malformed when the body is no JSON object.
    """
    hook = _json_object(body)
    places = {
        "machine_id": ("machine-id",),
        "fqdn": ("fqdn",),
        "product": ("product", "fullname"),
        "version": ("product", "version"),
        "debian": ("debian-version",),
        "kernel": ("kernel-version", "release"),
        "boot_mode": ("boot-info", "mode"),
        "secure_boot": ("boot-info", "secureboot"),
        "filesystem": ("filesystem",),
        "serial": ("dmi", "system", "serial"),
    }
    found = {name: _at(hook, path) for name, path in places.items()}
    facts = {name: value for name, value in found.items() if value is not None}
    return facts | {"ssh_host_keys": _host_keys(hook), "disks": _disks(hook), "nics": _nics(hook)}


def report(body: bytes, token: str) -> tuple[str, str, dict[str, Any]]:
    """A node's own report as (phase, text, facts); the token is struck out wherever it turns up in it.

    Raises Malformed for anything but a JSON object with one of the known phases.
    """
    said = {key: _struck(value, token) for key, value in _json_object(body).items()}
    phase = said.get("phase")
    if phase not in PHASES:
        raise Malformed(f"the report's phase is {clean(phase, 40)}; it must be one of {', '.join(PHASES)}")
    facts = {"nonce": clean(said["nonce"])} if _has_text(said, "nonce") else {}
    facts |= {"log": _tail(str(said["log"]))} if _has_text(said, "log") else {}
    return phase, clean(said.get("text") or phase, 500), facts


def _json_object(body: bytes) -> dict[str, Any]:
    try:
        content = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Malformed(f"the body is not JSON: {clean(error, 100)}") from error
    if not isinstance(content, dict):
        raise Malformed(f"the body is a JSON {type(content).__name__}, not an object")
    return content


def _has_text(item: object, key: str) -> bool:
    return isinstance(item, dict) and isinstance(item.get(key), str)


def _at(content: object, path: tuple[str, ...]) -> str | bool | None:
    for key in path:
        content = content.get(key) if isinstance(content, dict) else None
    if isinstance(content, bool):
        return content
    return clean(content) if isinstance(content, str | int | float) else None


def _objects(content: dict[str, Any], key: str) -> list[dict[str, Any]]:
    listed = content.get(key)
    return (
        [item for item in listed[:MOST_INTERFACES] if isinstance(item, dict)]
        if isinstance(listed, list)
        else []
    )


def _host_keys(hook: dict[str, Any]) -> list[str]:
    keys = hook.get("ssh-public-host-keys")
    listed = list(keys.values())[:8] if isinstance(keys, dict) else []
    # Since 9.2.5 a key that could not be read is sent as "unknown".
    return [
        clean(line, 2000) for line in listed if isinstance(line, str) and line.startswith(("ssh-", "ecdsa-"))
    ]


def _disks(hook: dict[str, Any]) -> list[dict[str, Any]]:
    # The size sent is the root size asked for, the same for every disk, so it is not kept.
    udev = {"name": "DEVNAME", "model": "ID_MODEL", "serial": "ID_SERIAL_SHORT"}
    return [
        {"boot": disk.get("is-bootdisk") is True}
        | {name: _at(disk, ("udev-properties", key)) for name, key in udev.items()}
        for disk in _objects(hook, "disks")
    ]


def _nics(hook: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {
            "name": _at(nic, ("name",)),
            "mac": normal_mac(str(nic.get("mac"))),
            "address": _at(nic, ("address",)),
            "management": nic.get("is-management") is True,
        }
        for nic in _objects(hook, "network-interfaces")
    ]


def _struck(value: object, token: str) -> object:
    return value.replace(token, "[token]") if isinstance(value, str) else value


def _tail(log: str) -> str:
    kept = log.encode("utf-8", "replace")[-MOST_LOG:].decode("utf-8", "replace")
    return "".join(char if char.isprintable() or char in "\n\t" else "�" for char in kept)
