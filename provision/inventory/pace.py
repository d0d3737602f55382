"""How fast nodes may be started: the link over which all of them load, and what the user allows."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BeforeValidator, Field

from provision.inventory.words import Part, Seconds

_UNITS = {"M": 10**6, "G": 10**9}


def _bits(given: object) -> object:
    """Bits a second from 100Mbit, 1Gbit, 2.5Gbit or 1Gbit/s."""
    if not isinstance(given, str):
        return given
    parts = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([MG])bit(?:/s)?", given.strip(), re.ASCII)
    if parts is None or not float(parts[1]):
        raise ValueError(f'"{given}" is no speed of a link; write 100Mbit, 1Gbit or 2.5Gbit')
    return float(parts[1]) * _UNITS[parts[2]]


Link = Annotated[float, Field(gt=0, allow_inf_nan=False), BeforeValidator(_bits)]


class Power(Part):
    """How nodes are reset: at most `at_once` on their way to installers, at least `stagger` seconds apart."""

    at_once: Annotated[int, Field(ge=1)] | None = None
    stagger: Seconds | None = None
