"""Renders what a machine is handed from boot_templates/, each value encoded for where it stands."""

from __future__ import annotations

import functools
import re
import shlex
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

TEMPLATES = Path(__file__).parents[1] / "boot_templates"

# iPXE splits a line at blanks, expands ${…}, ends it at a word that begins with # and has no quotes to keep
# it from doing so; a word that is || or && or ; alone ends the command.
IPXE = re.compile(r"(?!&&$)[A-Za-z0-9._~:/?&=,@%+\-\[\]]+")
# Inside a word ; is a character like any other, to iPXE and to the kernel: ds=nocloud;s=http://…
IPXE_ARGUMENT = re.compile(r"(?![;&])[A-Za-z0-9._~:/?&=,@%+;\-\[\]]+")
# GRUB ends commands at ; and expands $, unless the word stands in single quotes; the kernel would see
# a backslash before each quote, so there is none in it.
GRUB = re.compile(r"[A-Za-z0-9._~:/?&=,@%+;()\-\[\]]+")
# What stands for itself in dnsmasq.conf, nginx.conf, nft and systemd units, quoted or not.
WORD = re.compile(r"[A-Za-z0-9._:/-]+")


def sh(value: object) -> str:
    """One word of a POSIX shell."""
    return shlex.quote(str(value))


def ipxe(value: object) -> str:
    """One word of an iPXE script; ValueError for what iPXE cannot write."""
    return _only(IPXE, value, "an iPXE script")


def ipxe_argument(value: object) -> str:
    """One word of a kernel command line in an iPXE script; like `ipxe`, and it may hold ; inside."""
    return _only(IPXE_ARGUMENT, value, "an iPXE script")


def grub(value: object) -> str:
    """One quoted word of a GRUB script; ValueError for what GRUB does not hand on unchanged."""
    return f"'{_only(GRUB, value, 'a GRUB script')}'"


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
    environment.filters |= {
        "sh": sh, "ipxe": ipxe, "ipxe_argument": ipxe_argument, "grub": grub, "word": word,
    }  # fmt: skip
    return environment


def _only(allowed: re.Pattern[str], value: object, place: str) -> str:
    text = str(value)
    if not allowed.fullmatch(text):
        raise ValueError(f"{text!r} cannot be written into {place}: it may hold only {allowed.pattern}")
    return text
