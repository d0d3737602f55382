"""Reads a secret out of a file, once that file is private enough."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from provision.errors import LabError

LARGEST = 64 * 1024
OTHERS = stat.S_IRWXG | stat.S_IRWXO

Judge = Callable[[os.stat_result], str | None]
"""What is wrong with a file that is like this, None when nothing is."""


class SecretMissing(LabError):
    """A secret is not where its reference says, or others can read it."""


def owners_alone(path: Path) -> Judge:
    """Nobody but its owner may do anything with the file."""
    return lambda about: f"can be read by others; chmod 600 {path}" if about.st_mode & OTHERS else None


def read(path: Path, what: str, judge: Judge) -> bytes:
    """The content of a small regular file, called `what` in errors; SecretMissing when it cannot be used.

    Opened once, so that what was judged is what is read.
    """
    try:
        # A pipe that nobody writes to would hold up whoever opens it.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            about = os.fstat(file.fileno())
            content = file.read(LARGEST + 1) if stat.S_ISREG(about.st_mode) else None
    except OSError as error:
        raise SecretMissing(f"{what} cannot be read: {error.strerror}") from error
    if content is None or len(content) > LARGEST:
        raise SecretMissing(f"{what} is not a small regular file")
    if wrong := judge(about):
        raise SecretMissing(f"{what} {wrong}")
    return content


def text_of(content: bytes, what: str) -> str:
    """The content as text; SecretMissing when it is none."""
    with suppress(UnicodeDecodeError):
        return content.decode()
    # Out here, for that error has the content in it.
    raise SecretMissing(f"{what} is not UTF-8 text")


def one_line(text: str, what: str) -> str:
    """The only line of a text, without its end; SecretMissing when there is more, or what cannot be typed."""
    line = text.removesuffix("\n").removesuffix("\r")
    if not line.isprintable():
        raise SecretMissing(f"{what} must hold one line of printable text")
    return line
