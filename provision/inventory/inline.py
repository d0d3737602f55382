"""Finds secrets that were written into a lab file where no reference can stand."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from provision.inventory.document import Place

PRIVATE = re.compile(r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----|AGE-SECRET-KEY-", re.IGNORECASE)
PASSWORDS = ("password", "passwd", "plain_text_passwd", "hashed_passwd")
"""What cloud-init calls a password; all but the third may be a hash as well."""
HASHED = re.compile(r"\$[A-Za-z0-9]+\$.+|[!*].*|R|RANDOM")
"""A hash of crypt(3), a locked account, or cloud-init's word for a random one."""


def private_keys(value: object, at: Place = ()) -> Iterator[tuple[Place, str]]:
    """Where a private key stands in a lab file's data, and what to say of it."""
    if isinstance(value, str) and PRIVATE.search(value):
        yield (
            at,
            "holds a private key; a secret must not stand in the lab file",
        )
    elif isinstance(value, Mapping | list):
        for key, inner in value.items() if isinstance(value, Mapping) else enumerate(value):
            yield from private_keys(inner, (*at, str(key)))


def has_login(url: str) -> bool:
    """Whether the address has a user or a password in it."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "@" in url
    return "@" in parts.netloc


def plain_password(config: Mapping[str, Any]) -> str | None:
    """What is wrong with the passwords in a cloud-config; None when none stands there as it is."""
    for path, text in _passwords(config):
        if not HASHED.fullmatch(text):
            return f"has a password as it is at {path}, and all its guests would share it; give a hash of it"
    return None


def _passwords(value: object, path: str = "") -> Iterator[tuple[str, str]]:
    """Every password in a cloud-config, with the keys that lead to it; `chpasswd: list` has USER:PASSWORD."""
    if isinstance(value, list):
        for item in value:
            yield from _passwords(item, path)
    if not isinstance(value, Mapping):
        return
    for key, inner in value.items():
        here = f"{path}.{key}" if path else str(key)
        if key in PASSWORDS and isinstance(inner, str | int):
            yield here, str(inner)
        elif here == "chpasswd.list":
            lines = inner if isinstance(inner, list) else str(inner).split("\n")
            yield from ((here, str(line).partition(":")[2].strip()) for line in lines if ":" in str(line))
        else:
            yield from _passwords(inner, here)
