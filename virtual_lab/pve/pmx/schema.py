"""Checks of call parameters, in the words of Proxmox' JSON schema."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping
from typing import Any

Rule = Mapping[str, Any]

_LABEL = r"[a-zA-Z0-9](?:[a-zA-Z0-9\-]*[a-zA-Z0-9])?"
_NODE = re.compile(rf"^{_LABEL}$")
_DNS = re.compile(rf"^(?:{_LABEL}\.)*{_LABEL}$")
_FINGERPRINT = r"([A-Fa-f0-9]{2}:){31}[A-Fa-f0-9]{2}"

UNKNOWN = "property is not defined in schema and the schema does not allow additional properties"
MISSING = "property is missing and it is not optional"

FINGERPRINT: Rule = {"type": "string", "pattern": _FINGERPRINT}
NODE: Rule = {"type": "string", "format": "pve-node"}
NODE_ID: Rule = {"type": "integer", "minimum": 1, "optional": True}


class ParameterError(Exception):
    """Parameters that do not fit, by name."""

    def __init__(self, errors: Mapping[str, str]) -> None:
        super().__init__(", ".join(f"{name}: {text}" for name, text in errors.items()))
        self.errors = dict(errors)


def is_ip(text: str) -> bool:
    """Whether the text is an IPv4 or IPv6 address."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _is_user(text: str) -> bool:
    return bool(re.match(r"^[^\s:/]+@[A-Za-z][A-Za-z0-9.\-_]+$", text)) and 3 <= len(text) <= 64


def _is_cidr(text: str) -> bool:
    address, slash, prefix = text.partition("/")
    if not (slash and is_ip(address) and re.match(r"^\d{1,3}$", prefix)):
        return False
    return 7 < int(prefix) <= (128 if ":" in address else 32)


_FORMATS: dict[str, tuple[Callable[[str], bool], str]] = {
    "pve-node": (lambda text: bool(_NODE.match(text)), "value does not look like a valid node name"),
    "ip": (is_ip, "value does not look like a valid IP address"),
    "ip-list": (
        lambda text: all(is_ip(part) for part in re.split(r"[,;\s]+", text) if part),
        "value does not look like a valid IP address",
    ),
    "CIDR": (_is_cidr, "value does not look like a valid CIDR network"),
    "address": (
        lambda text: is_ip(text) or bool(_DNS.match(text)),
        "value does not look like a valid address",
    ),
    "pve-userid": (_is_user, "value does not look like a valid user name"),
}


def verify(given: Mapping[str, str], rules: Mapping[str, Rule]) -> dict[str, Any]:
    """The parameters with their types; ParameterError naming every one that does not fit."""
    errors = {name: UNKNOWN for name in given if name not in rules}
    values: dict[str, Any] = {}
    for name, rule in rules.items():
        if name not in given:
            if "default" in rule:
                values[name] = rule["default"]
            elif not rule.get("optional"):
                errors[name] = MISSING
            continue
        try:
            values[name] = check_value(given[name], rule)
        except ValueError as wrong:
            errors[name] = str(wrong)
        if rule.get("requires", name) not in given:
            errors[rule["requires"]] = f"missing property - '{name}' requires this property"
    if errors:
        raise ParameterError(errors)
    return values


def check_value(text: str, rule: Rule) -> Any:
    """One value with its type; ValueError says what is wrong with it."""
    return _CHECKS[rule.get("type", "string")](text, rule)


def _integer(text: str, rule: Rule) -> int:
    if not re.match(r"^[+-]?\d+$", text):
        raise ValueError(f"type check ('integer') failed - got '{text}'")
    value = int(text)
    if value < rule.get("minimum", value):
        raise ValueError(f"value must have a minimum value of {rule['minimum']}")
    if value > rule.get("maximum", value):
        raise ValueError(f"value must have a maximum value of {rule['maximum']}")
    return value


def _number(text: str, rule: Rule) -> float:
    if not re.match(r"^[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?$", text):
        raise ValueError(f"type check ('number') failed - got '{text}'")
    value = float(text)
    if value < rule.get("minimum", value):
        raise ValueError(f"value must have a minimum value of {rule['minimum']}")
    if value > rule.get("maximum", value):
        raise ValueError(f"value must have a maximum value of {rule['maximum']}")
    return value


def _boolean(text: str, _rule: Rule) -> bool:
    lower = text.lower()
    if lower in ("1", "on", "yes", "true"):
        return True
    if lower in ("0", "off", "no", "false", ""):
        return False
    raise ValueError(f"type check ('boolean') failed - got '{text}'")


def _string(text: str, rule: Rule) -> str:
    if len(text) > rule.get("maxLength", len(text)):
        raise ValueError(f"value may only be {rule['maxLength']} characters long")
    if len(text) < rule.get("minLength", 0):
        raise ValueError(f"value must be at least {rule['minLength']} characters long")
    if "pattern" in rule and not re.fullmatch(rule["pattern"], text):
        raise ValueError("value does not match the regex pattern")
    if "enum" in rule and text not in rule["enum"]:
        raise ValueError(
            f"value '{text}' does not have a value in the enumeration '{', '.join(rule['enum'])}'"
        )
    if "format" in rule:
        check_format(text, rule["format"])
    return text


def check_format(text: str, name: str | Callable[[str], object]) -> None:
    """ValueError when the text does not have the format: a name, or a function that raises ValueError."""
    if callable(name):
        name(text)
        return
    fits, complaint = _FORMATS[name]
    if not fits(text):
        raise ValueError(f"invalid format - {complaint}")


def _array(text: str, _rule: Rule) -> list[str]:
    return text.split("\0")


_CHECKS: dict[str, Callable[[str, Rule], Any]] = {
    "array": _array, "integer": _integer, "number": _number, "boolean": _boolean, "string": _string,
}  # fmt: skip
