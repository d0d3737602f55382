"""One secret: where it is kept, and its value only when it is asked for."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from pydantic import GetCoreSchemaHandler, ValidationInfo
from pydantic_core import CoreSchema, core_schema

from provision.inventory import age, systemd_credential
from provision.inventory.private_file import SecretMissing, one_line, owners_alone, read, text_of

__all__ = ["INLINE", "Secret", "SecretMissing", "absolute"]

INLINE = (
    "a secret must not stand in the lab file; keep it in a file that only you can read (file:PATH), in an "
    "environment variable (env:NAME), in a file encrypted with age (age:PATH) or in a systemd credential "
    "(systemd-cred:NAME), and write here where it is; docs/secrets.md tells how"
)


class Secret:
    """A reference to a secret, such as `env:NAME` or `file:PATH`; it is read each time it is revealed."""

    __slots__ = ("_value", "reference")

    def __init__(self, reference: str, value: str | None = None) -> None:
        self.reference, self._value = reference, value

    @classmethod
    def from_reference(cls, reference: str, *, base: Path | None = None) -> Secret:
        """The secret behind `env:NAME`, `file:PATH`, `age:PATH`, `age:PATH#NAME` or `systemd-cred:NAME`.

        A relative path starts at `base`. Raises ValueError, without repeating what was given, for all else.
        """
        kind, _, place = reference.partition(":")
        if kind not in KINDS:
            raise ValueError(INLINE)
        if not KINDS[kind].fits(place):
            raise ValueError(f"after {kind}: must stand {KINDS[kind].rule}")
        return cls(f"{kind}:{absolute(place.strip(), base) if KINDS[kind].is_path else place}")

    @classmethod
    def known(cls, value: str, *, reference: str = "known") -> Secret:
        """A secret whose value is already here and stands in no file or variable."""
        return cls(reference, value)

    def reveal(self, env: Mapping[str, str] = os.environ) -> str:
        """The value; raises SecretMissing when it is absent, empty, or in a file that others can read."""
        if self._value is not None:
            return self._value
        kind, _, place = self.reference.partition(":")
        value = KINDS[kind].read(place, env)
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


def _variable(name: str, env: Mapping[str, str]) -> str | None:
    return env.get(name)


def _file(place: str, _env: Mapping[str, str]) -> str:
    path, what = Path(place), f"the secret file:{place}"
    return one_line(text_of(read(path, what, owners_alone(path)), what), what)


def _is_variable(place: str) -> bool:
    return re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", place) is not None


def _is_path(place: str) -> bool:
    return bool(place.strip())


class Kind(NamedTuple):
    """A kind of reference: who reads what stands at a place, and which places there are.

    `read` returns None where nothing is set, and raises SecretMissing with a better reason.
    """

    read: Callable[[str, Mapping[str, str]], str | None]
    fits: Callable[[str], bool]
    rule: str
    is_path: bool = False


KINDS = {
    "env": Kind(_variable, _is_variable, "the name of a variable: letters, digits and _, no digit first"),
    "file": Kind(_file, _is_path, "a path, as in file:PATH", is_path=True),
    "age": Kind(age.secret, age.is_place, "a path, as in age:PATH or age:PATH#NAME", is_path=True),
    "systemd-cred": Kind(
        systemd_credential.credential, systemd_credential.is_name,
        "a credential's name: letters, digits and . _ -, at most 255, and no . or - first",
    ),
}  # fmt: skip
