"""The words of a lab file, each a type with the rule that it obeys."""

from __future__ import annotations

import base64
import binascii
import difflib
import math
import re
import struct
from collections.abc import Callable, Iterable
from ipaddress import AddressValueError, IPv4Address, IPv4Network
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo

from provision.inventory.disk_options import installer_glob
from provision.inventory.inline import has_login
from provision.inventory.secret import absolute

MANAGEMENT = "management"
SYSTEMS = ("proxmox-9", "ubuntu-24.04")
"""Operating systems that rackproof can install."""

KEYBOARDS = [
    "de",
    "de-ch",
    "dk",
    "en-gb",
    "en-us",
    "es",
    "fi",
    "fr",
    "fr-be",
    "fr-ca",
    "fr-ch",
    "hu",
    "is",
    "it",
    "jp",
    "lt",
    "mk",
    "nl",
    "no",
    "pl",
    "pt",
    "pt-br",
    "se",
    "si",
    "tr",
]
"""What the Proxmox installer knows."""

LABEL = "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"

T = TypeVar("T")


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """`; did you mean "…"?` when something known is close to what was given, else nothing."""
    close = difflib.get_close_matches(given, list(known), n=1)
    return f'; did you mean "{close[0]}"?' if close else ""


def matching(pattern: str, rule: str) -> Callable[[str], str]:
    """A validator of texts that match, whole and in ASCII; `rule` says what the text is not, or must be."""

    def check(text: str) -> str:
        if not re.fullmatch(pattern, text, re.ASCII):
            raise ValueError(f'"{text}" {rule}')
        return text

    return check


def _label(text: str) -> str:
    """One label of a DNS name, as Proxmox's installer takes it: no underscore, not digits alone."""
    if not re.fullmatch(LABEL, text):
        raise ValueError(f'"{text}" is no host name: lower-case letters, digits and inner dashes, at most 63')
    if text.isdigit():
        raise ValueError(f'"{text}" is no host name: the Proxmox installer refuses one of digits alone')
    return text


def _domain(text: str) -> str:
    labels = text.split(".")
    if len(text) > 253 or not all(re.fullmatch(LABEL, label) for label in labels):
        raise ValueError(f'"{text}" is no domain: labels of lower-case letters, digits and inner dashes')
    return text


def _host(text: str) -> str:
    if re.match(r"ssh:[^@]*:", text) and "@" in text:
        raise ValueError("must be local or ssh:user@host[:port]; a password has no place here")
    parts = re.fullmatch(r"local|ssh:[A-Za-z_][A-Za-z0-9_.-]*@[A-Za-z0-9.-]+(?::([0-9]{1,5}))?", text)
    if parts is None or int(parts[1] or 22) not in range(1, 65536):
        raise ValueError(f'"{text}" must be local or ssh:user@host[:port]')
    return text


def parse_mac(text: str) -> str:
    """A MAC address of one interface in lower case with colons; raises ValueError when it is none."""
    octets = re.split("[:-]", text.strip().lower())
    if len(octets) != 6 or not all(re.fullmatch("[0-9a-f]{2}", octet) for octet in octets):
        raise ValueError(f'"{text}" is no MAC address: six pairs of hex digits, as in ac:1f:6b:6c:5a:76')
    if set(octets) == {"00"}:
        raise ValueError(f'"{text}" is all zeros: no interface has that MAC')
    if int(octets[0], 16) & 1:
        raise ValueError(f'"{text}" is a multicast address: no interface has that MAC')
    return ":".join(octets)


def _address(given: object) -> object:
    """IPv4Address takes numbers too; a lab file has only the dotted form."""
    if not isinstance(given, str):
        return given
    try:
        return IPv4Address(given.strip())
    except AddressValueError:
        raise ValueError(f'"{given}" is no IPv4 address') from None


def _network(given: object) -> object:
    if not isinstance(given, str):
        return given
    if "/" not in given:
        raise ValueError(f'"{given}" has no prefix length; write it as 10.10.1.0/24')
    try:
        loose = IPv4Network(given.strip(), strict=False)
    except ValueError:
        raise ValueError(f'"{given}" is no IPv4 network; write it as 10.10.1.0/24') from None
    if str(loose.network_address) != given.strip().partition("/")[0]:
        raise ValueError(f'"{given}" is an address in a network; did you mean "{loose}"?')
    if not 8 <= loose.prefixlen <= 30:
        raise ValueError(f'"{given}" must have a prefix length from 8 to 30')
    return loose


def _fingerprint(text: str) -> str:
    digits = text.replace(":", "").lower()
    if not re.fullmatch("[0-9a-f]{64}", digits):
        raise ValueError(f'"{text}" is no SHA-256 fingerprint: 64 hex digits, colons as you like')
    return ":".join(digits[i : i + 2] for i in range(0, 64, 2))


def _public_key(text: str) -> str:
    """One OpenSSH public key; its type stands in the text and once more inside the base64."""
    kind, _, rest = text.strip().partition(" ")
    blob = rest.strip().partition(" ")[0]
    try:
        raw = base64.b64decode(blob, validate=True)
        (length,) = struct.unpack(">I", raw[:4])
    except (binascii.Error, struct.error, ValueError):
        raw, length = b"", 0
    if not length or raw[4 : 4 + length] != kind.encode() or not text.isprintable():
        raise ValueError(
            "is not an OpenSSH public key: a line such as ssh-ed25519 AAAA… name, or file:PATH of one"
        )
    return text.strip()


def _seconds(given: object) -> object:
    """Seconds from 15, 1.5, 90s, 6m, 1h or 1h30m."""
    if not isinstance(given, str):
        return given
    parts = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+(?:\.\d+)?)s?)?", given.strip(), re.ASCII)
    if not given.strip() or parts is None:
        raise ValueError(f'"{given}" is no duration; write 90s, 6m or 1h30m')
    hours, minutes, seconds = (float(part or 0) for part in parts.groups())
    return hours * 3600 + minutes * 60 + seconds


def _within_a_day(seconds: float) -> float:
    if not (math.isfinite(seconds) and 0 < seconds <= 86400):
        raise ValueError("a deadline is more than nothing and at most 24h")
    return seconds


def listed(given: object) -> object:
    """A text alone is a list of one."""
    return [given] if isinstance(given, str) else given


def _file_path(given: object, info: ValidationInfo) -> object:
    return absolute(given, (info.context or {}).get("base")) if isinstance(given, str) else given


def _keys(given: object, info: ValidationInfo) -> object:
    """Public keys, where an entry `file:PATH` stands for every key of that file."""
    if not isinstance(given, list | tuple):
        return given
    base = (info.context or {}).get("base")
    lines: list[object] = []
    for entry in given:
        if isinstance(entry, str) and entry.startswith("file:"):
            lines += _keys_of(absolute(entry.removeprefix("file:").strip(), base))
        else:
            lines.append(entry)
    return lines


def _keys_of(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not text"
        raise ValueError(f"the public key file {path} cannot be read: {why}") from error
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    if not lines:
        raise ValueError(f"the public key file {path} holds no key")
    return lines


def distinct(values: tuple[T, ...]) -> tuple[T, ...]:
    """The values; raises ValueError naming one that stands there twice."""
    twice = [value for i, value in enumerate(values) if value in values[:i]]
    if twice:
        raise ValueError(f'"{twice[0]}" stands here twice')
    return values


def _keyboard(text: str) -> str:
    if text not in KEYBOARDS:
        known = " ".join(KEYBOARDS)
        raise ValueError(f'"{text}" is no keyboard of the Proxmox installer: {known}')
    return text


def _mail(text: str) -> str:
    label = "[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
    if not re.fullmatch(rf"[A-Za-z0-9.!#$%&'*+/=?^_`{{|}}~-]+@{label}(\.{label})*", text):
        raise ValueError(f'"{text}" is no mail address')
    if text == "mail@example.invalid":
        raise ValueError("the Proxmox installer refuses mail@example.invalid")
    return text


def _without_login(given: object) -> object:
    if isinstance(given, str) and has_login(given):
        raise ValueError("has a log-in in it; it must not stand in the lab file: use an address without")
    return given


def _system(text: str) -> str:
    if text not in SYSTEMS:
        raise ValueError(
            f'"{text}" is no operating system that rackproof installs: {", ".join(SYSTEMS)}'
            + did_you_mean(text, SYSTEMS)
        )
    return text


Label = Annotated[str, AfterValidator(_label)]
Host = Annotated[str, AfterValidator(_host)]
Domain = Annotated[str, AfterValidator(_domain)]
Mac = Annotated[str, AfterValidator(parse_mac)]
Address = Annotated[IPv4Address, BeforeValidator(_address)]
Addresses = Annotated[tuple[Address, ...], BeforeValidator(listed)]
Cidr = Annotated[IPv4Network, BeforeValidator(_network)]
Fingerprint = Annotated[str, AfterValidator(_fingerprint)]
PublicKey = Annotated[str, AfterValidator(_public_key)]
PublicKeys = Annotated[
    tuple[PublicKey, ...], AfterValidator(distinct), BeforeValidator(_keys), BeforeValidator(listed)
]
Seconds = Annotated[float, AfterValidator(_within_a_day), BeforeValidator(_seconds)]
Names = Annotated[tuple[str, ...], AfterValidator(distinct), BeforeValidator(listed)]
FilePath = Annotated[Path, BeforeValidator(_file_path)]
Text = Annotated[str, AfterValidator(matching(r"[^\x00-\x1f\x7f]+", "must be one line of text"))]
Interface = Annotated[
    str,
    AfterValidator(
        matching("[A-Za-z][A-Za-z0-9_.-]{0,14}", "is no interface name: a letter first, at most 15 in all")
    ),
]
PinnedName = Annotated[
    str,
    # What the installer calls NICs that are not pinned, and what the kernel does before they are.
    AfterValidator(
        matching(
            "(?!(nic|eth)[0-9]+$)[A-Za-z][A-Za-z0-9_]{1,14}",
            "cannot be pinned: 2 to 15 letters, digits or _, a letter first, and not nic0 or eth0",
        )
    ),
]
Bridge = Annotated[
    str,
    AfterValidator(
        matching("[A-Za-z][A-Za-z0-9_]{1,14}", "is no bridge name: letters, digits and _, at most 15")
    ),
]
NetworkName = Annotated[
    str,
    # It becomes part of interface names, which have 15 characters.
    AfterValidator(matching("[a-z][a-z0-9-]{0,11}", "is no network name: a-z, 0-9 and -, at most 12")),
]
ClusterName = Annotated[
    str,
    AfterValidator(
        matching(
            "[A-Za-z0-9]([A-Za-z0-9-]{0,13}[A-Za-z0-9])?",
            "is no cluster name: letters, digits and inner dashes, at most 15 characters",
        )
    ),
]
Glob = Annotated[
    str,
    AfterValidator(
        matching(r"(?=.*[^*?])[\x21-\x7e]+", "names no disk: at least one character that is not * or ?")
    ),
]
DiskGlob = Annotated[Glob, AfterValidator(installer_glob)]
Device = Annotated[str, AfterValidator(matching("[a-z]+[a-z0-9]*", "is no disk name such as sda"))]
System = Annotated[str, AfterValidator(_system)]
Sha256 = Annotated[str, AfterValidator(matching("[0-9a-f]{64}", "is no SHA-256: 64 lower-case hex digits"))]
Storage = Annotated[str, AfterValidator(matching("[A-Za-z][A-Za-z0-9_.-]*", "is no storage name"))]
Package = Annotated[
    str,
    AfterValidator(
        matching("[a-z0-9][a-z0-9+.-]+", "is no package name: lower-case letters, digits and + . -")
    ),
]
User = Annotated[str, AfterValidator(matching("[a-z_][a-z0-9_-]{0,31}", "is no user name"))]
Account = Annotated[
    str,
    AfterValidator(
        matching("[a-z][a-z0-9._-]{0,31}", "is no account name: a-z first, then 0-9 . _ -, at most 32")
    ),
]
Country = Annotated[str, AfterValidator(matching("[a-z]{2}", "is no country code of two letters"))]
Keyboard = Annotated[str, AfterValidator(_keyboard)]
Timezone = Annotated[str, AfterValidator(matching("[A-Za-z][A-Za-z0-9_+/-]*", "is no time zone"))]
Mail = Annotated[str, AfterValidator(_mail)]
Mtu = Annotated[int, Field(ge=1280, le=65520)]
Url = Annotated[
    str,
    AfterValidator(matching(r"https?://[\x21-\x7e]+", "is no http or https address")),
    BeforeValidator(_without_login),
]


class Part(BaseModel):
    """A part of a lab: fixed once read, and without keys that nobody knows."""

    model_config = ConfigDict(frozen=True, extra="forbid")
