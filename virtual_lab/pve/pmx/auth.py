"""Who calls: passwords, tickets, tokens against forged requests, API tokens."""

from __future__ import annotations

import base64
import ctypes
import hashlib
import hmac
import os
import re
import secrets
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import IO

from .certs import AUTH_KEY, AUTH_PUBLIC, WWW_KEY
from .cluster import BASE, PRIVATE, check_quorum, cluster_lock, write_file
from .errors import Failure
from .run import run

LIFETIME = 2 * 60 * 60
CLOCK_SLACK = 300
_CRYPT = Lock()  # crypt(3) answers in one place for all threads
SHADOW = Path("/etc/shadow")
USER_CFG, TOKEN_CFG = BASE / "user.cfg", PRIVATE / "token.cfg"
_TICKET = re.compile(r"^(PVE:([^:]+):([0-9A-F]{8}))::([A-Za-z0-9+/=]+)$")
_TOKEN = re.compile(r"^PVEAPIToken=(([^!=\s]+)!([A-Za-z][A-Za-z0-9._-]+))[=:]([0-9a-fA-F-]+)$")


@dataclass(frozen=True, slots=True)
class Caller:
    """Who makes a call; `all_rights` when root@pam's rights are behind it."""

    user: str
    all_rights: bool

    @property
    def is_root(self) -> bool:
        """Whether root@pam itself calls: no token does, whatever its rights."""
        return self.user == "root@pam"


def caller(user: str) -> Caller:
    """A user that has proved who it is."""
    return Caller(user, all_rights=user == "root@pam")


# -- passwords


def password_fits(user: str, password: str) -> bool:
    """Whether /etc/shadow takes the password for a PAM user."""
    name, _, realm = user.rpartition("@")
    if realm != "pam" or not _enabled(user):
        return False
    for line in SHADOW.read_text().splitlines():
        fields = line.split(":")
        if fields[0] == name and fields[1].startswith("$"):
            return hmac.compare_digest(_crypt(password, fields[1]), fields[1])
    return False


def _enabled(user: str) -> bool:
    if user == "root@pam":
        return True
    lines = (line.split(":") for line in USER_CFG.read_text().splitlines()) if USER_CFG.exists() else iter(())
    return any(line[:3] == ["user", user, "1"] for line in lines)


def _crypt(password: str, setting: str) -> str:
    crypt = ctypes.CDLL("libcrypt.so.1").crypt
    crypt.restype = ctypes.c_char_p
    with _CRYPT:
        hashed: bytes | None = crypt(password.encode(), setting.encode())
    return (hashed or b"*").decode()


# -- tickets


class Tickets:
    """Makes tickets with the cluster's key, and remembers those whose signature was found good."""

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._good: dict[str, bytes] = {}

    def make(self, user: str) -> str:
        """A new ticket."""
        plain = f"PVE:{user}:{int(self._clock()):08X}"
        signature = run(["openssl", "dgst", "-sha1", "-sign", str(AUTH_KEY)], stdin=plain.encode())
        return f"{plain}::{base64.b64encode(signature).decode()}"

    def user_of(self, ticket: str) -> str | None:
        """The user of a ticket that is signed by the cluster's key of now and not too old, else None."""
        match = _TICKET.match(ticket)
        if match is None or not is_fresh(int(match[3], 16), self._clock()):
            return None
        try:
            public = AUTH_PUBLIC.read_bytes()
        except OSError:
            return None
        if self._good.get(ticket) != public:
            if not _signed(match[1], match[4], public):
                return None
            self._good = {**dict(list(self._good.items())[-99:]), ticket: public}
        return match[2]


def is_fresh(made: int, now: float) -> bool:
    """Whether a ticket of that time is valid: two hours, and a clock five minutes ahead is forgiven."""
    return -CLOCK_SLACK < now - made < LIFETIME


def _signed(plain: str, signature: str, public: bytes) -> bool:
    raw = base64.b64decode(signature)
    with _pipe(public) as key, _pipe(raw) as proof:
        command = ["openssl", "dgst", "-sha1", "-verify", f"/dev/fd/{key.fileno()}",
                   "-signature", f"/dev/fd/{proof.fileno()}"]  # fmt: skip
        done = subprocess.run(command, input=plain.encode(), capture_output=True, check=False,
                              pass_fds=(key.fileno(), proof.fileno()))  # fmt: skip
    return done.returncode == 0


def _pipe(data: bytes) -> IO[bytes]:
    read, write = os.pipe()
    os.write(write, data)
    os.close(write)
    return os.fdopen(read, "rb")


def csrf_token(user: str, now: float) -> str:
    """The token that a write must carry beside its ticket."""
    stamp = f"{int(now):08X}"
    return f"{stamp}:{_csrf_digest(stamp, user)}"


def csrf_fits(user: str, token: str, now: float) -> bool:
    """Whether the token was made for the user by this cluster."""
    stamp, _, digest = token.partition(":")
    if not re.match(r"^[0-9A-F]{8}$", stamp):
        return False
    return hmac.compare_digest(digest, _csrf_digest(stamp, user)) and is_fresh(int(stamp, 16), now)


def _csrf_digest(stamp: str, user: str) -> str:
    secret = WWW_KEY.read_bytes() if WWW_KEY.exists() else secrets.token_bytes(32)
    raw = hmac.new(secret, f"{stamp}:{user}".encode(), hashlib.sha256).digest()
    return base64.b64encode(raw).decode().rstrip("=")


# -- API tokens


def token_caller(header: str) -> Caller:
    """Who an Authorization header speaks for; Failure 401 when it is no good token."""
    match = _TOKEN.match(header)
    if match is None:
        raise Failure("no such token", code=401)
    name, user, _, value = match.groups()
    settings = tokens().get(name)
    if settings is None:
        raise Failure(f"no such token '{name.partition('!')[2]}' for user '{user}'", code=401)
    if not hmac.compare_digest(_token_values().get(name, ""), value.lower()):
        raise Failure("invalid token value!", code=401)
    return Caller(name, all_rights=user == "root@pam" and not settings["privsep"])


def tokens() -> dict[str, dict[str, int]]:
    """All API tokens of user.cfg by full name."""
    lines = USER_CFG.read_text().splitlines() if USER_CFG.exists() else []
    rows = (line.split(":") for line in lines if line.startswith("token:"))
    return {row[1]: {"expire": int(row[2] or 0), "privsep": int(row[3] or 0)} for row in rows}


def add_token(user: str, name: str, *, privsep: bool, expire: int) -> str:
    """Make an API token; its value, which is shown this once."""
    full, value = f"{user}!{name}", _uuid()
    check_quorum()
    with cluster_lock("file-user_cfg"):
        if full in tokens():
            raise Failure(
                "Parameter verification failed.", code=400, errors={"tokenid": "Token already exists."}
            )
        old = USER_CFG.read_text() if USER_CFG.exists() else ""
        write_file(USER_CFG, f"{old}token:{full}:{expire}:{int(privsep)}::\n")
        write_file(
            TOKEN_CFG, "".join(f"{key} {val}\n" for key, val in {**_token_values(), full: value}.items())
        )
    return value


def remove_token(user: str, name: str) -> None:
    """Take an API token away; Failure when there is none."""
    full = f"{user}!{name}"
    check_quorum()
    with cluster_lock("file-user_cfg"):
        if full not in tokens():
            raise Failure(f"no such token '{name}' for user '{user}'")
        kept = [line for line in USER_CFG.read_text().splitlines() if not line.startswith(f"token:{full}:")]
        write_file(USER_CFG, "".join(f"{line}\n" for line in kept))
        values = {key: value for key, value in _token_values().items() if key != full}
        write_file(TOKEN_CFG, "".join(f"{key} {value}\n" for key, value in values.items()))


def _token_values() -> dict[str, str]:
    lines = TOKEN_CFG.read_text().splitlines() if TOKEN_CFG.exists() else []
    return {key: value for key, _, value in (line.partition(" ") for line in lines)}


def _uuid() -> str:
    raw = secrets.token_hex(16)
    return "-".join((raw[:8], raw[8:12], raw[12:16], raw[16:20], raw[20:]))
