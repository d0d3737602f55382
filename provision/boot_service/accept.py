"""Which form of an answer a client would rather have, by its Accept header (RFC 9110, section 12.5.1)."""

from __future__ import annotations

import re

MOST_ACCEPT = 1024

_RANGE = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+/[!#$%&'*+.^_`|~0-9A-Za-z-]+", re.ASCII)
_QUALITY = re.compile(r"0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?", re.ASCII)


def prefers_json(accept: str) -> bool:
    """Whether JSON is wanted more than TOML; when in doubt (an empty header, */*, nonsense) it is TOML.

    The installer of Proxmox VE 9.2 says "application/json, application/toml;q=0.5" (pve-installer,
    proxmox-fetch-answer); older ones know TOML only and name no type.
    """
    ranges = _ranges(accept[:MOST_ACCEPT])
    return _quality(ranges, "json") > _quality(ranges, "toml")


def _quality(ranges: dict[str, float], form: str) -> float:
    # The range that says most of a type decides, not the one with the highest quality.
    for name in (f"application/{form}", "application/*", "*/*"):
        if name in ranges:
            return ranges[name]
    return 0.0


def _ranges(accept: str) -> dict[str, float]:
    """The qualities by media range, lower case; malformed ones are left out, of two alike the better counts.

    A range with parameters of its own ("application/json;v=2") counts as the type alone.
    """
    found: dict[str, float] = {}
    for element in _split(accept, ","):
        name, *parameters = (part.strip(" \t") for part in _split(element, ";"))
        quality = _quality_of(parameters)
        if quality is not None and _RANGE.fullmatch(name):
            found[name.lower()] = max(quality, found.get(name.lower(), 0.0))
    return found


def _quality_of(parameters: list[str]) -> float | None:
    """What the first parameter q says, 1 without one; None: it says nonsense."""
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip(" \t").lower() == "q":
            text = value.strip(" \t")
            return float(text) if _QUALITY.fullmatch(text) else None
    return 1.0


def _split(text: str, separator: str) -> list[str]:
    """The parts between the separators that stand outside of quotes."""
    parts, quoted, escaped = [""], False, False
    for char in text:
        if char == separator and not quoted:
            parts.append("")
            continue
        if char == '"' and not escaped:
            quoted = not quoted
        escaped = quoted and char == "\\" and not escaped
        parts[-1] += char
    return parts
