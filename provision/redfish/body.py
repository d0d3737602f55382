"""JSON bodies of BMCs, read without trusting their shape."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

Json = Any
"""Whatever a BMC sent where something was expected: an object, a list, a word, a number, nothing."""


def part(body: Json, *keys: str) -> Json:
    """What lies under `keys`; None when nothing does, or when something on the way is no object."""
    for key in keys:
        body = body.get(key) if isinstance(body, Mapping) else None
    return body


def objects(body: Json) -> list[dict[str, Json]]:
    """The objects of a list; nothing for anything else."""
    return [one for one in body if isinstance(one, dict)] if isinstance(body, list) else []


def words(body: Json) -> list[str]:
    """The words of a list; nothing for anything else."""
    return [one for one in body if isinstance(one, str)] if isinstance(body, list) else []


def number(body: Json) -> float | None:
    """A number, or the number that a word spells; None for anything else, such as "N/A" or NaN."""
    if isinstance(body, bool) or not isinstance(body, int | float | str):
        return None
    try:
        value = float(body)
    except (ValueError, OverflowError):
        return None
    return value if math.isfinite(value) else None


def link(body: Json, *keys: str) -> str | None:
    """Where the reference under `keys` leads; None when there is none."""
    path = part(body, *keys, "@odata.id")
    return path if isinstance(path, str) and path else None


def local(path: str) -> str:
    """A link as a path on the BMC that gave it.

    Some write it as a whole URL, under a name of their own choice: a token goes to no other host. Raises
    ValueError for what is no link.
    """
    parts = urlsplit(path)
    if not parts.path.startswith("/"):
        raise ValueError(f"{path!r} is no link")
    return parts._replace(scheme="", netloc="").geturl()
