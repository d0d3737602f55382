"""Secrets in files encrypted with age (age-encryption.org/v1), opened in memory.

By pyrage (MIT; one wheel of 1 MB for every Python from 3.10 on): with the program `age` each secret would go
through a process and a pipe, and each machine would need the package first.
"""

from __future__ import annotations

import base64
import functools
import os
import re
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from provision.inventory.private_file import SecretMissing, one_line, owners_alone, read, text_of

IDENTITY, IDENTITY_FILE = "RACKPROOF_AGE_IDENTITY", "RACKPROOF_AGE_IDENTITY_FILE"
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

_SSH = "-----BEGIN OPENSSH PRIVATE KEY-----"
_PASSPHRASE = b"age-encryption.org/v1\n-> scryp"
"""So a file begins that a passphrase opens; 30 bytes, so that in base64, too, it looks always the same."""
_QUOTED = re.compile(r"""(["']).*\1""")


def is_place(place: str) -> bool:
    """Whether it is PATH, or PATH#NAME for one of several secrets in a file."""
    path, mark, name = place.partition("#")
    return bool(path.strip()) and (not mark or NAME.fullmatch(name) is not None)


def secret(place: str, env: Mapping[str, str]) -> str:
    """The only line of an encrypted file, or of PATH#NAME what stands in its line NAME=value.

    Raises SecretMissing when it cannot be had.
    """
    path, _, name = place.partition("#")
    what = f"the secret age:{place}"
    text = text_of(_opened(Path(path), what, env), what)
    if name:
        return _named(name, text, what)
    if "\n" in text.removesuffix("\n"):
        raise SecretMissing(f"{what} holds several lines; name the one that is meant: age:{path}#NAME")
    return one_line(text, what)


def identities(env: Mapping[str, str]) -> list[str]:
    """The identities that the environment gives, as text; raises SecretMissing for what is none."""
    return [identity for what, text in _sources(env) for identity in _identities(text, what)]


def _sources(env: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """What the environment gives as identities, and what each is called in errors."""
    if text := env.get(IDENTITY):
        yield f"the age identity in {IDENTITY}", text
    if given := env.get(IDENTITY_FILE):
        path, what = Path(given), f"the age identity file {given}"
        yield what, text_of(read(path, what, owners_alone(path)), what)


def _identities(text: str, what: str) -> list[str]:
    """Those of a file that age-keygen wrote, or an OpenSSH private key."""
    if text.lstrip().startswith(_SSH):
        found = [text.strip() + "\n"]
    else:
        lines = (line.strip() for line in text.splitlines())
        found = [line for line in lines if line and not line.startswith("#")]
    for identity in found:
        _understood(identity, what)
    if not found:
        raise SecretMissing(f"{what} is empty")
    return found


def _understood(identity: str, what: str) -> Any:
    # Only who opens a file needs it: the provisioning server has the inventory's modules, and no pyrage.
    import pyrage  # noqa: PLC0415

    try:
        if identity.startswith(_SSH):
            return pyrage.ssh.Identity.from_buffer(identity.encode())
        return pyrage.x25519.Identity.from_str(identity)
    except (pyrage.IdentityError, UnicodeError) as error:
        locked = "decrypted first" in str(error)
    why = "is locked by a passphrase, and nobody is there to type it" if locked else (
        "is none: a line from age-keygen that begins with AGE-SECRET-KEY-1, or OpenSSH's of ed25519 or RSA"
    )  # fmt: skip
    raise SecretMissing(f"{what} {why}")


def _opened(path: Path, what: str, env: Mapping[str, str]) -> bytes:
    import pyrage  # noqa: PLC0415 (as above)

    content = read(path, what, _not_everybodys)
    known = identities(env)
    if not known:
        raise SecretMissing(f"{what} is locked: no identity is given; set {IDENTITY_FILE}, or {IDENTITY}")
    try:
        return _decrypted(content, tuple(known))
    except pyrage.DecryptError as error:
        said = str(error)
    raise SecretMissing(f"{what} {_why_not(content, said)}")


def _not_everybodys(about: os.stat_result) -> str | None:
    """Everybody may read it, but who can write it can put in a secret of their own: recipients are public."""
    return "can be changed by everybody; chmod o-w" if about.st_mode & stat.S_IWOTH else None


@functools.lru_cache(maxsize=64)
def _decrypted(content: bytes, known: tuple[str, ...]) -> bytes:
    """What the file holds. Kept for the session: a lab has many references to one file."""
    import pyrage  # noqa: PLC0415 (as above)

    return bytes(pyrage.decrypt(content, [_understood(identity, "an identity") for identity in known]))


def _why_not(content: bytes, said: str) -> str:
    if said != "No matching keys found":
        return "is damaged, or no file of age"
    if content.startswith(_PASSPHRASE) or base64.b64encode(_PASSPHRASE) in content[:200]:
        return "is locked by a passphrase, and nobody is there to type it; encrypt it with age -r age1…"
    return "is locked for others: it was not encrypted to the identity given"


def _named(name: str, text: str, what: str) -> str:
    """The value in the line NAME=value; lines that are empty or begin with # are none."""
    found = list(_values(name, text, what))
    if len(found) != 1:
        raise SecretMissing(f"{what} {'is not in that file' if not found else 'stands twice in that file'}")
    if found[0] != found[0].strip() or _QUOTED.fullmatch(found[0]):
        # Other readers of such files would take these off; here everything after = is the secret.
        raise SecretMissing(f"{what} has quotes or blanks around it, which would be part of it")
    return one_line(found[0], what)


def _values(name: str, text: str, what: str) -> Iterator[str]:
    for number, line in enumerate(text.split("\n"), start=1):
        key, equals, value = line.removesuffix("\r").partition("=")
        if not line.strip() or line.startswith("#"):
            continue
        if not equals or not NAME.fullmatch(key):
            raise SecretMissing(f"{what}: line {number} of that file is no NAME=value")
        if key == name:
            yield value
