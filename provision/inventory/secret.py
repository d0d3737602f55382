"""One secret: where it is kept, and its value only when it is asked for."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path

from pydantic import GetCoreSchemaHandler, ValidationInfo
from pydantic_core import CoreSchema, core_schema

from provision.errors import LabError

LARGEST = 64 * 1024

INLINE = (
    "a secret must not stand in the lab file; keep it in a file that only you can read and write file:PATH "
    "here, or in an environment variable and write env:NAME"
)


class SecretMissing(LabError):
    """A secret is not where its reference says, or others can read it."""


class Secret:
    """A reference to a secret, `env:NAME` or `file:PATH`; the value is read each time it is revealed."""

    __slots__ = ("_value", "reference")

    def __init__(self, reference: str, value: str | None = None) -> None:
        self.reference, self._value = reference, value

    @classmethod
    def from_reference(cls, reference: str, *, base: Path | None = None) -> Secret:
        """The secret behind `env:NAME` or `file:PATH`; a relative path starts at `base`.

        Raises ValueError, without repeating what was given, for anything else.
        """
        kind, _, place = reference.partition(":")
        if kind == "env" and re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", place):
            return cls(reference)
        if kind == "file" and place.strip():
            return cls(f"file:{absolute(place.strip(), base)}")
        raise ValueError(INLINE)

    @classmethod
    def known(cls, value: str, *, reference: str = "known") -> Secret:
        """A secret whose value is already here and stands in no file or variable."""
        return cls(reference, value)

    def reveal(self, env: Mapping[str, str] = os.environ) -> str:
        """The value; raises SecretMissing when it is absent, empty, or in a file that others can read."""
        if self._value is not None:
            return self._value
        kind, _, place = self.reference.partition(":")
        value = env.get(place) if kind == "env" else _read(Path(place))
        if not value:
            raise SecretMissing(f"the secret {self.reference} is {'empty' if value == '' else 'not set'}")
        return value

    def __repr__(self) -> str:
        return f"Secret({self.reference})"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and (self.reference, self._value) == (other.reference, other._value)

    def __hash__(self) -> int:
        return hash(self.reference)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.with_info_plain_validator_function(
            _from_file,
            serialization=core_schema.plain_serializer_function_ser_schema(_reference, when_used="always"),
        )


def absolute(path: str, base: Path | None = None) -> Path:
    """The path with `~` expanded, from `base` on if it is relative; ValueError when there is no such home."""
    if "\0" in path:
        raise ValueError("a path must not contain a NUL character")
    try:
        expanded = Path(path).expanduser()
    except RuntimeError as error:
        raise ValueError(f'"{path}" starts with ~, but that home directory is not known') from error
    return (base or Path()) / expanded


def _from_file(given: object, info: ValidationInfo) -> Secret:
    if isinstance(given, Secret):
        return given
    if not isinstance(given, str):
        raise ValueError(INLINE)
    return Secret.from_reference(given, base=(info.context or {}).get("base"))


def _reference(secret: Secret) -> str:
    return secret.reference


def _read(path: Path) -> str:
    """The file's only line. Opened once, so that what was judged is what is read."""
    try:
        with path.open("rb") as file:
            about = os.fstat(file.fileno())
            content = file.read(LARGEST + 1) if stat.S_ISREG(about.st_mode) else None
    except OSError as error:
        raise SecretMissing(f"the secret file:{path} cannot be read: {error.strerror}") from error
    if content is None or len(content) > LARGEST:
        raise SecretMissing(f"the secret file:{path} is not a small regular file")
    if about.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise SecretMissing(f"the secret file:{path} can be read by others; chmod 600 {path}")
    return _one_line(path, content)


def _one_line(path: Path, content: bytes) -> str:
    try:
        value = content.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError as error:
        raise SecretMissing(f"the secret file:{path} is not UTF-8 text") from error
    if any(not character.isprintable() for character in value):
        raise SecretMissing(f"the secret file:{path} must hold one line of printable text")
    return value
