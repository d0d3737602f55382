"""Property strings: `value,key=value` lists inside one parameter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .schema import MISSING, UNKNOWN, Rule, check_value


def parse_property_string(text: str, rules: Mapping[str, Rule], *, default_key: str = "") -> dict[str, Any]:
    """The parts of a property string by key; ValueError as Proxmox words it."""
    values: dict[str, Any] = {}
    for part in filter(None, text.split(",")):
        key, equals, value = part.partition("=")
        if not equals:
            key, value = default_key, part
        if key in values:
            raise ValueError(f"invalid format - duplicate key in comma-separated list property: {key}")
        if key not in rules:
            raise ValueError(f"invalid format - format error\n{key or part}: {UNKNOWN}")
        values[key] = _checked(key, value, rules[key])
    for key, rule in rules.items():
        if key not in values and not rule.get("optional"):
            raise ValueError(f"invalid format - format error\n{key}: {MISSING}")
    return values


def _checked(key: str, value: str, rule: Rule) -> Any:
    try:
        return check_value(value, rule)
    except ValueError as wrong:
        raise ValueError(f"invalid format - format error\n{key}: {wrong}") from None
