"""Renders what a machine is handed from boot_templates/, each value encoded for where it stands."""

from __future__ import annotations

import functools
import re
import shlex
from pathlib import Path
from typing import Any

import tomli_w
from jinja2 import Environment, FileSystemLoader, StrictUndefined

TEMPLATES = Path(__file__).parents[1] / "boot_templates"

# iPXE splits a line at blanks, expands ${…}, ends it at # and has no quotes to keep it from doing so.
IPXE = re.compile(r"[A-Za-z0-9._~:/?&=,@%+\-\[\]]+")
# What stands for itself in dnsmasq.conf, nginx.conf, nft and systemd units, quoted or not.
WORD = re.compile(r"[A-Za-z0-9._:/-]+")


def sh(value: object) -> str:
    """One word of a POSIX shell."""
    return shlex.quote(str(value))


def toml(value: object) -> str:
    """A TOML literal of a string, number, boolean or a list of them."""
    return tomli_w.dumps({"v": value}).removeprefix("v = ").rstrip("\n")


def ipxe(value: object) -> str:
    """One word of an iPXE script; ValueError for what iPXE cannot write."""
    return _only(IPXE, value, "an iPXE script")


def word(value: object) -> str:
    """One word of a configuration file; ValueError for anything but letters, digits and . _ : / -"""
    return _only(WORD, value, "a configuration file")


def render(template: str, **values: Any) -> str:
    """The whole text of boot_templates/`template`; an unknown name in it is an error, not an empty string."""
    return _environment(TEMPLATES).get_template(template).render(values)


@functools.cache
def _environment(folder: Path) -> Environment:
    # HTML escaping would be the wrong one: each template escapes for its own language by a filter.
    environment = Environment(loader=FileSystemLoader(folder), undefined=StrictUndefined, autoescape=False,  # noqa: S701
                              trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)  # fmt: skip
    environment.filters |= {"sh": sh, "toml": toml, "ipxe": ipxe, "word": word}
    return environment


def _only(allowed: re.Pattern[str], value: object, place: str) -> str:
    text = str(value)
    if not allowed.fullmatch(text):
        raise ValueError(f"{text!r} cannot be written into {place}: it may hold only {allowed.pattern}")
    return text
