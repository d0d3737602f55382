"""Public keys and certificates as facts: by fingerprint, in a few words."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Iterable

KEY = re.compile(r"(?:^|\s)((?:ssh|ecdsa|sk)-[\w.@-]+)\s+(AAAA[\w+/=]+)\s*(.*)$")
CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----(.*?)-----END", re.DOTALL)


def authorised(user: str, lines: Iterable[str]) -> dict[str, list[str]]:
    """The keys of an authorized_keys file (sshd(8)) by the account that they open and their comment.

    An option may hold a command, and that a password: its checksum tells whether it changed. A line
    that is no key opens nothing, and is no fact.
    """
    found: dict[str, list[str]] = {}
    for line in map(str.strip, lines):
        match = KEY.search(line)
        if match and not line.startswith("#"):
            options = line[: match.start()].strip()
            limits = [f"limited ({_digest(options.encode())})"] if options else []
            name = f"{user} {match[3].strip() or '(no comment)'}"
            found.setdefault(name, []).append(" ".join([match[1], fingerprint(match[2]), *limits]))
    return found


def host_keys(lines: Iterable[str]) -> dict[str, str]:
    """Fingerprints of host keys by their sort."""
    matches = (KEY.search(line.strip()) for line in lines)
    return {match[1]: fingerprint(match[2]) for match in matches if match}


def fingerprint(key: str) -> str:
    """The fingerprint of a public key in base64, as ssh-keygen -l prints it."""
    try:
        blob = base64.b64decode(key.rstrip("=") + "=" * (-len(key.rstrip("=")) % 4))
    except binascii.Error:
        return f"no key ({_digest(key.encode())})"
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")


def certificate(pem: str) -> str | None:
    """The SHA-256 of the first certificate in a PEM text, in hex; None when there is none."""
    found = CERTIFICATE.search(pem)
    try:
        return hashlib.sha256(base64.b64decode(found[1])).hexdigest() if found else None
    except binascii.Error:
        return None


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:12]
