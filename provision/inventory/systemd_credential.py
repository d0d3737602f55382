"""A secret that systemd hands to the unit that runs the harness (LoadCredential=, or Encrypted)."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path

from provision.inventory.private_file import SecretMissing, one_line, read, text_of

FOLDER = "CREDENTIALS_DIRECTORY"
ROOT = 0


def is_name(text: str) -> bool:
    """Whether a credential can have this name: letters, digits and . _ - after a letter, digit or _."""
    return re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,254}", text) is not None


def credential(name: str, env: Mapping[str, str]) -> str:
    """The credential's only line; raises SecretMissing when the unit has none, or others can get at it."""
    what = f"the secret systemd-cred:{name}"
    given = env.get(FOLDER)
    if not given:
        raise SecretMissing(f"{what} is not there: {FOLDER} is set in units with LoadCredential={name}:…")
    folder = Path(given)
    if wrong := _of_folder(folder):
        raise SecretMissing(f"{what} cannot be trusted: {FOLDER} is {folder}, which {wrong}")
    return one_line(text_of(read(folder / name, what, _of_file), what), what)


def _of_folder(folder: Path) -> str | None:
    """What is wrong with the folder, wherever it lies."""
    if not folder.is_absolute():
        return "is no absolute path"
    try:
        about = folder.lstat()
    except OSError as error:
        return f"cannot be looked at: {error.strerror}"
    if not stat.S_ISDIR(about.st_mode):
        return "is no folder"
    return _of_file(about)


def _of_file(about: os.stat_result) -> str | None:
    """As systemd leaves it: root's or our own, for root and us to read.

    Where the unit has another user, systemd gives that user leave by an ACL, and the group's bits show its
    mask: so root's group may seem to read (systemd, src/core/exec-credential.c, write_credential).
    """
    if about.st_uid not in (ROOT, os.geteuid()):
        return f"belongs to user {about.st_uid}"
    if about.st_mode & (stat.S_IRWXO | stat.S_IWGRP):
        return "is open to others"
    if about.st_mode & stat.S_IRWXG and (about.st_uid, about.st_gid) != (ROOT, ROOT):
        return f"is open to group {about.st_gid}"
    return None
