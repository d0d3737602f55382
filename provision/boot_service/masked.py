"""Strikes out what must not be shown of the texts that a permit carries: hashes, tokens, keys."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection

STRUCK = "[masked]"

_WORD = re.compile(r"[A-Za-z0-9_\-]{8,}")
_CRYPT = re.compile(r"\$[A-Za-z0-9]{1,12}\$[^\s\"'\\]+")
_SECRET = re.compile(
    r"""(?P<key>["']?[A-Za-z0-9_.\-]*(?:password|passwd|secret|token|auth-key|private)[A-Za-z0-9_.\-]*["']?\s*[:=]\s*)
        (?P<value>\"(?:[^"\\]|\\.)*\"|'[^']*'|\[[^\]]*\]|[^\s,}]+)""",
    re.IGNORECASE | re.VERBOSE,
)
_PEM = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?-----END [A-Z ]*PRIVATE KEY-----", re.DOTALL)
_PUBLIC_KEY = re.compile(
    r"\b(ssh-[a-z0-9\-]+|ecdsa-[a-z0-9\-]+|sk-[a-z0-9@.\-]+) "
    r"(AAAA[A-Za-z0-9+/]{8})[A-Za-z0-9+/]*?([A-Za-z0-9+/]{8}=*)(?![A-Za-z0-9+/=])"
)
_PATH = re.compile(r"(/(?:answer|first-boot|installed|report|seed|installations)/)[A-Za-z0-9_\-.~%]{8,}")
_LONG = re.compile(r"(?<=/)(?=[^/\s\"']*[0-9])(?=[^/\s\"']*[A-Za-z])[A-Za-z0-9_\-]{24,}(?=[/\s\"'?#;&]|$)")
_USER = re.compile(r"(://)[^/\s@\"']+:[^/\s@\"']+@")


def masked(text: str, digests: Collection[str] = ()) -> str:
    """`text` to be looked at: without password hashes, tokens and private keys, public keys shortened.

    Words whose SHA-256 is one of `digests` are struck out wherever they stand; that is how the service
    recognises tokens it has never been told. Everything else goes by its form.
    """
    struck = (
        _WORD.sub(lambda word: STRUCK if _digest(word[0]) in digests else word[0], text) if digests else text
    )
    struck = _PEM.sub(STRUCK, struck)
    struck = _SECRET.sub(lambda found: found["key"] + STRUCK, struck)
    struck = _CRYPT.sub(STRUCK, struck)
    struck = _PATH.sub(rf"\1{STRUCK}", struck)
    struck = _LONG.sub(STRUCK, struck)
    struck = _USER.sub(rf"\1{STRUCK}@", struck)
    return _PUBLIC_KEY.sub(r"\1 \2…\3", struck)


def _digest(word: str) -> str:
    return hashlib.sha256(word.encode()).hexdigest()
