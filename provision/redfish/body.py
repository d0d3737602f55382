"""JSON bodies of BMCs, read without trusting their shape."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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
