"""Looks through everything a run has saved for the secrets it knows, and strikes them out."""

from __future__ import annotations

import base64
import html
import json
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, quote_plus

STRUCK = b"[secret]"
SHORTEST = 6
"""A shorter secret is found everywhere by chance, and is none."""


@dataclass(frozen=True, slots=True)
class Leak:
    """A secret that stood in a file; `name` is what it is called, never what it is."""

    file: Path
    name: str


def strike_out(folder: Path, secrets: Mapping[str, str]) -> list[Leak]:
    """Strike every secret out of every file below `folder`; returns where each stood.

    `secrets` are names by value. A file that cannot be read or written is left to whoever made it so.
    """
    forms = {form: name for value, name in secrets.items() for form in forms_of(value)}
    # The longest first: a secret may be part of another, or of another's form.
    ordered = dict(sorted(forms.items(), key=lambda item: -len(item[0])))
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return [leak for file in files for leak in _strike(file, ordered)]


def struck(text: str, secrets: Mapping[str, str]) -> str:
    """A text without the secrets, before it is shown or kept anywhere."""
    raw = text.encode("utf-8", "surrogateescape")
    for form in sorted((form for value in secrets for form in forms_of(value)), key=len, reverse=True):
        raw = raw.replace(form, STRUCK)
    return raw.decode("utf-8", "surrogateescape")


def forms_of(value: str) -> set[bytes]:
    """A secret as it is, and as JSON, HTML, XML, a URL, a shell, hex and base64 write it."""
    if len(value) < SHORTEST:
        return set()
    raw = value.encode()
    written = {
        value, json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1], html.escape(value),
        html.escape(value, quote=False), quote(value), quote(value, safe=""), quote_plus(value),
        shlex.quote(value).strip("'"), repr(value)[1:-1], raw.hex(), raw.hex().upper(),
    }  # fmt: skip
    return {text.encode() for text in written} | set(_base64(raw))


def _base64(raw: bytes) -> Iterator[bytes]:
    """What of it is the same in base64 whatever stands before and after it: three places to begin at."""
    for before in range(3):
        padded = b"\0" * before + raw
        whole = base64.b64encode(padded[: len(padded) // 3 * 3])
        # The first characters hold bits of what stands before.
        middle = whole[{0: 0, 1: 2, 2: 3}[before] :]
        yield middle
        yield middle.translate(bytes.maketrans(b"+/", b"-_"))


def _strike(file: Path, forms: Mapping[bytes, str]) -> Iterator[Leak]:
    content = found = file.read_bytes()
    names = dict[str, None]()
    for form, name in forms.items():
        if form in found:
            found = found.replace(form, STRUCK)
            names[name] = None
    if found != content:
        file.write_bytes(found)
    yield from (Leak(file, name) for name in names)
