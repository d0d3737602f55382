"""Hashes a password as crypt(3) does: yescrypt where this machine's libcrypt has it, else sha512.

By ctypes: Python has no crypt module since 3.13, libpass knows no yescrypt, and the one package that wraps
libcrypt is built where it is installed. A program such as mkpasswd would need a package and another process.
"""

from __future__ import annotations

import ctypes
import functools
import secrets
from contextlib import suppress

from passlib.hash import sha512_crypt

YESCRYPT = b"$y$"
SALT_BYTES = 16
ROUNDS = 200_000
"""Of sha512: a tenth of a second; crypt(3) takes 5000 unasked, which was enough in 2007."""

# libxcrypt's crypt.h: CRYPT_GENSALT_OUTPUT_SIZE, and sizeof(struct crypt_data).
_SETTING_BYTES, _DATA_BYTES = 192, 32768


def hash_password(plain: str, salt: bytes | None = None) -> str:
    """The password as yescrypt `$y$…` with libcrypt's own cost, or as sha512 `$6$…` where that cannot be.

    `salt` are 16 bytes; without them they are random, and no two hashes are alike.
    """
    salt = secrets.token_bytes(SALT_BYTES) if salt is None else salt
    setting = _setting(salt)
    hashed = crypt(plain, setting) if setting else None
    return hashed or str(sha512_crypt.using(rounds=ROUNDS, salt=salt.hex()[:16]).hash(plain))


def crypt(plain: str, setting: str) -> str | None:
    """The hash by a setting, or by another hash, whose setting is taken; None where that cannot be."""
    library = _library()
    if library is None:
        return None
    library.crypt_rn.restype = ctypes.c_char_p
    data = ctypes.create_string_buffer(_DATA_BYTES)
    hashed: bytes | None = library.crypt_rn(plain.encode(), setting.encode(), data, _DATA_BYTES)
    return hashed.decode() if hashed else None


def _setting(salt: bytes) -> str | None:
    library = _library()
    if library is None:
        return None
    library.crypt_gensalt_rn.restype = ctypes.c_char_p
    out = ctypes.create_string_buffer(_SETTING_BYTES)
    cost = ctypes.c_ulong(0)
    setting: bytes | None = library.crypt_gensalt_rn(YESCRYPT, cost, salt, len(salt), out, _SETTING_BYTES)
    return setting.decode() if setting else None


@functools.cache
def _library() -> ctypes.CDLL | None:
    """libxcrypt, which Debian and Ubuntu call libcrypt.so.1, and others .2."""
    for name in ("libcrypt.so.1", "libcrypt.so.2"):
        with suppress(OSError):
            library = ctypes.CDLL(name)
            # glibc's own library of that name, before libxcrypt, has neither.
            if hasattr(library, "crypt_rn") and hasattr(library, "crypt_gensalt_rn"):
                return library
    return None
