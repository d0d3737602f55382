"""What of a BMC's answers is not shown: passwords, tokens, keys, by the name they stand under."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from provision.redfish.body import Json

HIDDEN = "(hidden)"
SECRET_NAMES = re.compile(
    r"pass(word|wd|phrase)|secret|token|communit|private_?key|encryption_?key|auth(entication|orization)?_?key"
    r"|privacy_?key|license_?key|credential|cookie|authorization|(^|_)(pin|key|psk)$|hash",
    re.IGNORECASE,
)
"""Names of properties whose text is a secret; what is no text under them, such as a length, is none."""
NAMING, VALUES = ("AttributeName", "Name", "Id", "Key"), ("CurrentValue", "DefaultValue", "Value")
"""Where a list of settings names one, and where its value then stands."""
SECRET_TEXT = re.compile(r"PRIVATE KEY-----|://[^/\s:@]*:[^/\s@]+@")
"""A key in PEM, a URL with a password in it."""


def redacted(body: Json, known: Iterable[str] = ()) -> Json:
    """`body` with every secret hidden: by its name, by its look, and the values that are `known`."""
    values = [value for value in known if value]
    return _object("", body, values)


def _object(name: str, body: Json, known: list[str]) -> Json:
    if isinstance(body, Mapping):
        called = next((str(body[key]) for key in NAMING if isinstance(body.get(key), str)), "")
        return {
            _text("", str(key), known): _object(called if key in VALUES else str(key), value, known)
            for key, value in body.items()
        }
    if isinstance(body, list):
        return [_object(name, one, known) for one in body]
    return _text(name, body, known) if isinstance(body, str) else body


def _text(name: str, text: str, known: list[str]) -> str:
    if not text or name.startswith("@odata"):
        return text
    hide = SECRET_NAMES.search(name) or SECRET_TEXT.search(text) or any(value in text for value in known)
    return HIDDEN if hide else text
