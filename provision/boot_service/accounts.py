"""People's accounts and their sessions: passwords as Argon2id, tokens and session ids as SHA-256 only."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from argon2 import PasswordHasher
from argon2.exceptions import VerificationError
from pydantic import Field, model_validator
from sqlalchemy import (
    Connection,
    RowMapping,
    delete,
    func,
    insert,
    select,
)

from provision.boot_service import people_tables as tables
from provision.boot_service.messages import Message
from provision.boot_service.routes import Role
from provision.boot_service.store import Store

SESSION_SECONDS = 12 * 3600.0
WINDOW_SECONDS = 300.0
MOST_OF_ACCOUNT, MOST_OF_ADDRESS = 10, 30
"""Failed log-ins within the window, after which no more are looked at until it has passed."""

# Argon2id, 64 MiB, 3 passes: RFC 9106's second choice, which is argon2-cffi's own.
_hasher = PasswordHasher()
# An unknown name takes as long as a wrong password.
_NOBODYS_HASH = _hasher.hash(secrets.token_hex(16))

_NAME = re.compile(r"[A-Za-z0-9_.@-]{1,64}")
AccountName = Annotated[str, Field(pattern=f"^{_NAME.pattern}$")]


class Account(Message):
    """A person or a tool: a role, and a password, a token, or both."""

    name: AccountName
    role: Literal["viewer", "operator"]
    password: Annotated[str | None, Field(min_length=8, max_length=1024, repr=False)] = None
    token: Annotated[str | None, Field(min_length=20, max_length=1024, repr=False)] = None

    @model_validator(mode="after")
    def _can_log_in(self) -> Account:
        if self.password is None and self.token is None:
            raise ValueError("an account needs a password or a token")
        return self


class AccountList(Message):
    """All accounts there are; those of other names are removed, with their sessions."""

    accounts: Annotated[tuple[Account, ...], Field(max_length=1000)]

    @model_validator(mode="after")
    def _nothing_twice(self) -> AccountList:
        names = [account.name for account in self.accounts]
        tokens = [account.token for account in self.accounts if account.token]
        if len(set(names)) < len(names) or len(set(tokens)) < len(tokens):
            raise ValueError("a name or a token is given to more than one account")
        return self


@dataclass(frozen=True, slots=True)
class Principal:
    """Somebody who asks; `csrf` is the token that a session's own pages carry, None without a session."""

    name: str
    role: Role
    csrf: str | None = None


NOBODY = Principal("", Role.ANYONE)


class TooManyFailures(Exception):
    """So many log-ins of this account or address failed that no more are looked at for a while."""


class Accounts:
    """The accounts and sessions in a store; every method may take a while and belongs into a thread."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def put(self, wanted: AccountList, now: float) -> bool:
        """Have these accounts and no others; only a changed password is hashed anew. False: no change."""
        found, changed, gone = self._difference(wanted)
        if not changed and not gone:
            return False
        with self._store.writing() as connection:
            _end_sessions(connection, [row for row in changed if row["name"] in found], found, gone)
            names = [row["name"] for row in changed]
            connection.execute(delete(tables.accounts).where(tables.accounts.c.name.in_([*names, *gone])))
            for row in changed:
                connection.execute(insert(tables.accounts).values(row))
            text = f"accounts: {len(changed)} new or changed, {len(gone)} removed"
            about: dict[str, Any] = {"who": "harness", "accounts": sorted([*names, *gone])}
            self._store.enter(connection, self._store.event(now, "accounts", text, **about))
        return True

    def differ(self, wanted: AccountList) -> bool:
        """Whether `put` would change anything."""
        _, changed, gone = self._difference(wanted)
        return bool(changed or gone)

    def _difference(
        self, wanted: AccountList
    ) -> tuple[dict[str, RowMapping], list[dict[str, str | None]], set[str]]:
        """The rows there are, by name; those that are new or changed; the names of those to be removed."""
        with self._store.engine.connect() as connection:
            found = {row["name"]: row for row in connection.execute(select(tables.accounts)).mappings()}
        rows = [_row(account, found.get(account.name)) for account in wanted.accounts]
        changed = [row for row in rows if dict(found.get(row["name"], {})) != row]
        return found, changed, found.keys() - {row["name"] for row in rows}

    def log_in(self, name: str, password: str, address: str, now: float) -> str | None:
        """A new session's id for the right password, else None; either way recorded.

        Raises TooManyFailures, without a look at the password, when too many have failed lately.
        """
        keys = [f"account {_bucket(name)}", f"address {address}"]
        if self._failed_too_often(keys, now):
            raise TooManyFailures
        row = self._account(tables.accounts.c.name == name) if _NAME.fullmatch(name) else None
        good = _verified(row["password_hash"] if row else None, password)
        # A name that is nobody's is not written down: it may be a password that went into the wrong field.
        about = {"who": str(row["name"]) if row else "somebody unknown", "address": address}
        if row is None or not good:
            self._fail(keys, now, about)
            return None
        return self._begin(str(row["name"]), keys, now, about)

    def log_out(self, session: str, principal: Principal, address: str, now: float) -> None:
        """End a session."""
        with self._store.writing() as connection:
            connection.execute(delete(tables.sessions).where(tables.sessions.c.id_sha256 == _sha256(session)))
            event = self._store.event(
                now, "logout", f"{principal.name} logged out", who=principal.name, address=address
            )
            self._store.enter(connection, event)

    def by_session(self, session: str, now: float) -> Principal | None:
        """Whose session this is; None when it is unknown or has expired."""
        digest = _sha256(session)
        query = select(tables.accounts, tables.sessions.c.id_sha256).join_from(
            tables.sessions, tables.accounts, tables.sessions.c.account == tables.accounts.c.name
        )
        with self._store.engine.connect() as connection:
            row = connection.execute(
                query.where(tables.sessions.c.id_sha256 == digest, tables.sessions.c.expires > now)
            ).mappings().first()  # fmt: skip
        if row is None or not hmac.compare_digest(row["id_sha256"], digest):
            return None
        return Principal(row["name"], Role[row["role"].upper()], csrf_token(session))

    def by_token(self, token: str) -> Principal | None:
        """Whose token this is, or None."""
        digest = _sha256(token)
        row = self._account(tables.accounts.c.token_sha256 == digest)
        # The index has compared digests, not tokens; the comparison that decides takes the same time always.
        if row is None or not hmac.compare_digest(row["token_sha256"], digest):
            return None
        return Principal(row["name"], Role[row["role"].upper()])

    def _account(self, which: object) -> RowMapping | None:
        with self._store.engine.connect() as connection:
            return connection.execute(select(tables.accounts).where(which)).mappings().first()  # type: ignore[arg-type]

    def _failed_too_often(self, keys: list[str], now: float) -> bool:
        query = select(tables.failures.c.key, func.count()).where(
            tables.failures.c.key.in_(keys), tables.failures.c.time > now - WINDOW_SECONDS
        )
        with self._store.engine.connect() as connection:
            rows = connection.execute(query.group_by(tables.failures.c.key))
            counted = {str(key): int(count) for key, count in rows}
        most = dict(zip(keys, (MOST_OF_ACCOUNT, MOST_OF_ADDRESS), strict=True))
        return any(count >= most[key] for key, count in counted.items())

    def _fail(self, keys: list[str], now: float, about: dict[str, str]) -> None:
        with self._store.writing() as connection:
            connection.execute(delete(tables.failures).where(tables.failures.c.time <= now - WINDOW_SECONDS))
            connection.execute(insert(tables.failures), [{"key": key, "time": now} for key in keys])
            text = f"log-in as {about['who']} from {about['address']} refused"
            self._store.enter(connection, self._store.event(now, "login-refused", text, **about))

    def _begin(self, name: str, keys: list[str], now: float, about: dict[str, str]) -> str:
        session = secrets.token_urlsafe(32)
        with self._store.writing() as connection:
            connection.execute(delete(tables.sessions).where(tables.sessions.c.expires <= now))
            connection.execute(delete(tables.failures).where(tables.failures.c.key == keys[0]))
            values = {"id_sha256": _sha256(session), "account": name, "expires": now + SESSION_SECONDS}
            connection.execute(insert(tables.sessions).values(values))
            self._store.enter(connection, self._store.event(now, "login", f"{name} logged in", **about))
        return session


def _bucket(name: str) -> str:
    """One of 65536 heaps that names are counted in: what was typed as a name cannot be had back from it."""
    return _sha256(name)[:4]


def csrf_token(session: str) -> str:
    """The token that forms of this session carry; it gives away nothing of the session's id."""
    return hmac.new(session.encode(), b"csrf", hashlib.sha256).hexdigest()


def _row(account: Account, found: RowMapping | None) -> dict[str, str | None]:
    known = found["password_hash"] if found else None
    digest = _sha256(account.token) if account.token else None
    return {"name": account.name, "role": account.role, "password_hash": _hashed(account.password, known),
            "token_sha256": digest}  # fmt: skip


def _hashed(password: str | None, known: str | None) -> str | None:
    if password is None:
        return None
    if known and _verified(known, password) and not _hasher.check_needs_rehash(known):
        return known
    return _hasher.hash(password)


def _verified(known: str | None, password: str) -> bool:
    try:
        _hasher.verify(known or _NOBODYS_HASH, password[:1024])
    except VerificationError:
        return False
    return known is not None


def _end_sessions(
    connection: Connection,
    changed: Iterable[dict[str, str | None]],
    found: dict[str, RowMapping],
    gone: Iterable[str],
) -> None:
    new_password = [
        row["name"] for row in changed if row["password_hash"] != found[str(row["name"])]["password_hash"]
    ]
    connection.execute(delete(tables.sessions).where(tables.sessions.c.account.in_([*new_password, *gone])))


def _sha256(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
