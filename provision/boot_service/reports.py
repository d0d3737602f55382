"""Reads what installers and nodes send: strict where it decides something, tolerant where it is only news."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from provision.boot_service.messages import normal_mac

MOST_LOG = 64 * 1024
MOST_INTERFACES = 256
# What a node's page shows of its hardware; no machine that is installed has more.
MOST_SHOWN = 64
PHASES = ("first-boot", "registered", "failed", "status")

# The keys of the installer's "dmi" (pve-installer, proxmox-installer-common/src/dmi.rs).
_DMI = {
    "system": ("name", "serial", "uuid", "sku"),
    "baseboard": ("name", "serial", "asset_tag"),
    "chassis": ("serial", "sku", "asset_tag"),
}

# subiquity reports the start and the finish of everything by such names. It shuts down only when the late
# commands are done and nothing has failed (subiquity, server/controllers/shutdown.py and install.py).
_SUBIQUITY_DONE = "subiquity/Shutdown/shutdown"
_SUBIQUITY_WHOLE = frozenset(
    f"subiquity/{name}"
    for name in ("Early/run", "Install/install", "Late/run", "load_autoinstall_config", "read_config")
)
# The error-commands run when anything has failed; the one of ours reports it with the log, so their end alone
# says so once more.
_SUBIQUITY_FAILED = "subiquity/Error/run"


class Malformed(ValueError):
    """A body that cannot be what it should be; says why in one line."""


@dataclass(frozen=True, slots=True)
class Asked:
    """An installer's request: its MACs (lower case, colons), and what it says of the machine."""

    macs: list[str]
    facts: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Hook:
    """A post-installation webhook: its facts, and the token that the answer gave for it ("" without one)."""

    facts: dict[str, Any]
    token: str = field(repr=False)


def clean(value: object, most: int = 200) -> str:
    """`value` as one line of at most `most` printable characters."""
    text = str(value)[: 2 * most]
    if not text.isprintable():
        text = "".join(char if char.isprintable() else " " for char in text)
    text = text.strip()
    return text if len(text) <= most else text[: most - 1] + "…"


def asked(body: bytes, token: str) -> Asked:
    """What an installer that asks for its answer says; the token it asks with is struck out.

    The request of Proxmox VE 9: JSON of schema 1.x with `network_interfaces`, each with `link` and
    `mac`, upper case from 9.2 on. Raises Malformed.
    """
    request = _json_object(body, token)
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
    return Asked([mac for mac in macs if mac], _machine(request, interfaces))


def installed(body: bytes, token: str) -> Hook:
    """The facts of a post-installation webhook (schema 1.2); missing keys are left out, `token` is struck.

    Raises Malformed when the body is no JSON object.
    """
    hook = _json_object(body)
    own = hook["token"] if _has_text(hook, "token") else ""
    hook = _without(hook, token, own)
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
        "reboot_mode": ("reboot-mode",),
    }
    facts = _found(hook, places) | _dmi(hook)
    cpu = _found(hook, {name: ("cpu-info", name) for name in ("model", "sockets", "cores", "cpus")})
    facts |= {"cpu": cpu} if cpu else {}
    facts |= {"ssh_host_keys": _host_keys(hook), "disks": _disks(hook), "nics": _nics(hook)}
    return Hook(facts, own)


def report(body: bytes, token: str) -> tuple[str, str, dict[str, Any]]:
    """A node's own report as (phase, text, facts); the token is struck out wherever it turns up in it.

    Raises Malformed for anything but a JSON object with one of the known phases.
    """
    said = _json_object(body, token)
    phase = said.get("phase")
    if phase not in PHASES:
        raise Malformed(f"the report's phase is {clean(phase, 40)}; it must be one of {', '.join(PHASES)}")
    facts: dict[str, Any] = {"nonce": clean(said["nonce"])} if _has_text(said, "nonce") else {}
    facts |= {"log": _tail(said["log"])} if _has_text(said, "log") else {}
    if isinstance(keys := said.get("ssh_host_keys"), list):
        facts["ssh_host_keys"] = _public_keys(keys)
    return phase, clean(said.get("text") or phase, 500), facts


def subiquity_event(body: bytes, token: str) -> tuple[str, str, dict[str, Any]]:
    """An event of Ubuntu's installer as (kind, text, facts): installed, failed, or installer for the rest.

    The body is curtin's (reporter/events.py): name, description, event_type ("start", "finish", and since
    25.04 "info", "warning", "error"), origin, timestamp, level, and with a finish its result: SUCCESS, WARN
    or FAIL. A part that failed is news: only when the whole fails, or the install's error commands run, has
    the install failed. cloud-init's own events have the same shape. Raises Malformed.
    """
    said = _json_object(body, token)
    if not _has_text(said, "name") or not _has_text(said, "event_type"):
        raise Malformed("the event has no name or no event_type")
    keys = ("name", "event_type", "result", "level", "origin")
    facts = {key: clean(said[key]) for key in keys if _has_text(said, key)}
    parts = (
        facts["name"],
        facts["event_type"],
        facts.get("result", ""),
        clean(said.get("description") or ""),
    )
    text = clean(": ".join(part for part in parts if part), 500)
    return _subiquity_kind(facts), text, facts


def classic_report(body: bytes, token: str, *, registers: bool) -> tuple[str, str, dict[str, Any]]:
    """A node's word on the classic paths as (phase, text, facts): JSON with hostname, and ip or status.

    Raises Malformed without them. Which node it is, is not the body's to say: the hostname is only a fact.
    """
    said = _json_object(body, token)
    needed = ("hostname", "ip" if registers else "status")
    if not all(_has_text(said, key) for key in needed):
        raise Malformed(f"Missing required fields: {' and '.join(needed)}")
    facts = {
        key: clean(said[key])
        for key in ("hostname", "ip", "type", "status", "timestamp")
        if _has_text(said, key)
    }
    if said.get("details"):
        facts["details"] = clean(json.dumps(said["details"]), 1000)
    word = facts.get("status", "registered")
    phase = "registered" if registers else _CLASSIC_PHASES.get(word.lower(), "status")
    return phase, f"{word}, by its classic script", facts


_CLASSIC_PHASES = {
    "registered": "registered",
    "post-install-complete": "registered",
    "error": "failed",
    "failed": "failed",
}


def _subiquity_kind(facts: Mapping[str, Any]) -> str:
    name, failed = facts["name"], facts.get("result") == "FAIL"
    if (name == _SUBIQUITY_FAILED and facts["event_type"] == "finish") or (
        failed and name in _SUBIQUITY_WHOLE
    ):
        return "failed"
    return "installed" if name == _SUBIQUITY_DONE and not failed else "installer"


def _machine(request: dict[str, Any], interfaces: list[Any]) -> dict[str, Any]:
    nics = [
        {"link": clean(nic.get("link"), 32), "mac": clean(nic["mac"], 64).lower()}
        for nic in interfaces[:MOST_SHOWN]
        if _has_text(nic, "mac")
    ]
    places = {
        "product": ("product", "fullname"),
        "release": ("iso", "release"),
        "isorelease": ("iso", "isorelease"),
    }
    return _found(request, places) | _dmi(request) | {"nics": nics}


def _dmi(content: dict[str, Any]) -> dict[str, Any]:
    """What the firmware says the machine is: {"dmi": {"system": {"name": …}, …}}, {} when it says nothing."""
    said = {part: _found(content, {key: ("dmi", part, key) for key in keys}) for part, keys in _DMI.items()}
    known = {part: facts for part, facts in said.items() if facts}
    return {"dmi": known} if known else {}


def _found(content: dict[str, Any], places: Mapping[str, tuple[str, ...]]) -> dict[str, Any]:
    found = {name: _at(content, path) for name, path in places.items()}
    return {name: value for name, value in found.items() if value not in (None, "")}


def _json_object(body: bytes, *tokens: str) -> dict[str, Any]:
    """The JSON object in a body, these tokens struck out wherever they turn up in it."""
    try:
        content = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Malformed(f"the body is not JSON: {clean(error, 100)}") from error
    if not isinstance(content, dict):
        raise Malformed(f"the body is a JSON {type(content).__name__}, not an object")
    return _without(content, *tokens)


def _without(content: dict[str, Any], *tokens: str) -> dict[str, Any]:
    known = [token for token in tokens if token]
    try:
        struck: dict[str, Any] = _struck(content, known)
    except RecursionError as error:
        raise Malformed("the body is nested too deep") from error
    return struck


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
        [item for item in listed[:MOST_SHOWN] if isinstance(item, dict)] if isinstance(listed, list) else []
    )


def _host_keys(hook: dict[str, Any]) -> list[str]:
    keys = hook.get("ssh-public-host-keys")
    # Since 9.2.5 a key that could not be read is sent as "unknown".
    return _public_keys(list(keys.values()) if isinstance(keys, dict) else [])


def _public_keys(listed: list[Any]) -> list[str]:
    lines = [line for line in listed[:8] if isinstance(line, str)]
    return [clean(line, 2000) for line in lines if line.startswith(("ssh-", "ecdsa-"))]


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


def _struck(value: Any, tokens: list[str]) -> Any:
    if isinstance(value, str):
        for token in tokens:
            value = value.replace(token, "[token]")
    elif isinstance(value, dict):
        return {_struck(key, tokens): _struck(item, tokens) for key, item in value.items()}
    elif isinstance(value, list):
        return [_struck(item, tokens) for item in value]
    return value


def _tail(log: str) -> str:
    kept = log.encode("utf-8", "replace")[-MOST_LOG:].decode("utf-8", "replace")
    if kept.replace("\n", "").replace("\t", "").isprintable():
        return kept
    return "".join(char if char.isprintable() or char in "\n\t" else "�" for char in kept)
