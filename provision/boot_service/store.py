"""The boot service's own ledger: the rack it knows, and the permits, each change together with its event."""

from __future__ import annotations

import hashlib
import hmac
import time
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import ClassVar, Literal

from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    ColumnElement,
    Connection,
    Float,
    Integer,
    MetaData,
    RowMapping,
    String,
    Table,
    Text,
    delete,
    insert,
    or_,
    select,
    update,
)
from sqlalchemy.exc import IntegrityError

from provision.boot_service import accounts, current_run
from provision.boot_service.messages import Grant, PermitState, Rack
from provision.errors import RackproofError
from provision.ledger import Event, Ledger, metadata

_store = MetaData()

_rack = Table(
    "rack", _store, Column("lab", String, primary_key=True), Column("content", Text, nullable=False)
)

_permits = Table(
    "permits",
    _store,
    Column("id", Integer, primary_key=True),
    Column("run", String, nullable=False, index=True),
    Column("lab", String, nullable=False),
    Column("node", String, nullable=False, index=True),
    Column("answer_token_sha256", String, nullable=False, unique=True),
    Column("report_token_sha256", String, nullable=False, unique=True),
    Column("hook_token_sha256", String),
    Column("purpose", String, nullable=False, default="install"),
    Column("system", String, nullable=False, default="proxmox"),
    Column("nonce", String),
    Column("deadlines", JSON, nullable=False, default=dict),
    Column("private_boot", Boolean, nullable=False, default=False),
    Column("granted", Float, nullable=False),
    Column("expires", Float, nullable=False),
    Column("spent", Float),
    Column("done", Float),
    Column("revoked", Float),
    Column("answered_json", Boolean),
    Column("boot_script", Text),
    Column("grub_script", Text),
    Column("answer", Text),
    Column("answer_json", Text),
    Column("first_boot", Text),
)

_NO_PAYLOAD: dict[str, None] = dict.fromkeys(
    ("boot_script", "grub_script", "answer", "answer_json", "first_boot")
)

State = Literal["live", "spent", "done", "expired", "revoked"]


class NotGranted(RackproofError):
    """A permit could not be granted as it was asked for."""


@dataclass(frozen=True, slots=True)
class Permit:
    """One row of the permits; what it carries is None once it was erased."""

    id: int
    run: str
    lab: str
    node: str
    granted: float
    expires: float
    spent: float | None
    done: float | None
    revoked: float | None
    purpose: str
    system: str
    nonce: str | None
    deadlines: dict[str, float]
    private_boot: bool
    answered_json: bool | None
    hook_token_sha256: str | None = field(repr=False)
    boot_script: str | None = field(repr=False)
    grub_script: str | None = field(repr=False)
    answer: str | None = field(repr=False)
    answer_json: str | None = field(repr=False)
    first_boot: str | None = field(repr=False)

    def state(self, now: float) -> State:
        """live: the answer can be had; spent: it was handed out; done: the node has registered since."""
        if self.revoked is not None:
            return "revoked"
        if self.spent is not None:
            return "spent" if self.done is None else "done"
        return "live" if now < self.expires else "expired"

    def open_run(self, now: float) -> str | None:
        """The run that this permit's node is still being installed for, or None."""
        return self.run if self.state(now) in ("live", "spent") else None

    def event(self, now: float, kind: str, text: str, **facts: object) -> Event:
        """An event of this permit's node and run."""
        return Event(time=now, run=self.run, lab=self.lab, step=None, node=self.node, kind=kind, text=text,
                     facts=facts)  # fmt: skip


class Store(Ledger):
    """A ledger that also holds one rack and its permits. Tokens are kept as SHA-256 only."""

    tables: ClassVar[tuple[MetaData, ...]] = (metadata, _store, accounts.metadata, current_run.metadata)

    def __init__(self, where: str | Path) -> None:
        super().__init__(where)
        self.rack = self._read_rack()

    # The rack

    def put_rack(self, rack: Rack, now: float) -> bool:
        """Know these nodes and no others; permits of nodes that are gone are revoked. False: no change."""
        if rack == self.rack:
            return False
        names = [node.name for node in rack.nodes]
        with self.writing() as connection:
            connection.execute(delete(_rack))
            connection.execute(insert(_rack).values(lab=rack.lab, content=rack.model_dump_json()))
            self._revoke(connection, now, or_(_permits.c.lab != rack.lab, _permits.c.node.not_in(names)))
            self.enter(
                connection, self.event(now, "rack", f"{len(names)} nodes known", lab=rack.lab, nodes=names)
            )
        self.rack = rack
        return True

    def event(self, now: float, kind: str, text: str, *, lab: str | None = None, node: str | None = None,
              run: str | None = None, **facts: object) -> Event:  # fmt: skip
        """An event of the lab that this service serves, or of one node of it."""
        return Event(time=now, run=run, lab=lab or self.rack.lab, step=None, node=node, kind=kind, text=text,
                     facts=facts)  # fmt: skip

    # Permits

    def grant(self, grant: Grant, now: float) -> int:
        """Let one node be installed once; every older permit of the node is revoked. Returns the permit's id.

        Raises NotGranted for a node that is not of the rack, a moment that has passed, tokens used before.
        """
        if grant.lab != self.rack.lab or self.rack.by_name(grant.node) is None:
            raise NotGranted(
                f"{grant.node} is no node of the rack that this service knows; put the rack first"
            )
        if grant.expires <= now:
            raise NotGranted(f"{grant.node}: the permit would have expired {now - grant.expires:.0f} s ago")
        try:
            return self._grant(grant, now)
        except IntegrityError as error:
            raise NotGranted(f"{grant.node}: a permit with one of these tokens exists already") from error

    def permit_by_answer_token(self, token: str) -> Permit | None:
        """The permit whose answer this token asks for, in any state."""
        return self._permit_by(_permits.c.answer_token_sha256, token)

    def permit_by_report_token(self, token: str) -> Permit | None:
        """The permit whose node reports with this token, in any state."""
        return self._permit_by(_permits.c.report_token_sha256, token)

    def current_permit(self, node: str) -> Permit | None:
        """The node's one permit that was neither replaced nor revoked; it may be spent, done or expired."""
        query = select(_permits).where(_permits.c.node == node, _permits.c.revoked.is_(None))
        with self.engine.connect() as connection:
            row = connection.execute(query.order_by(_permits.c.id.desc())).mappings().first()
        return _permit(row) if row else None

    def permits(self, now: float) -> list[PermitState]:
        """All permits ever granted, oldest first, without tokens and without what they carry."""
        with self.engine.connect() as connection:
            rows = connection.execute(select(_permits).order_by(_permits.c.id)).mappings().all()
        return [
            PermitState(**{name: row[name] for name in PermitState.model_fields if name != "state"},
                        state=_permit(row).state(now))
            for row in rows
        ]  # fmt: skip

    def spend(self, permit: Permit, now: float, *, as_json: bool = False, **facts: object) -> str | None:
        """Take the answer of a live permit, for good: of all who ask exactly one gets it, the others None.

        That it was handed out, and in which form, is durable, with its event, before the answer is returned.
        """
        live = (_permits.c.id == permit.id, _permits.c.spent.is_(None), _permits.c.revoked.is_(None),
                _permits.c.expires > now)  # fmt: skip
        with self.writing() as connection:
            form = _permits.c.answer_json if as_json else _permits.c.answer
            answer = connection.execute(select(form).where(*live)).scalar()
            taken = {"spent": now, "answered_json": as_json, "answer": None, "answer_json": None}
            won = connection.execute(update(_permits).where(*live).values(taken)).rowcount == 1
            if not won or answer is None:
                return None
            self.enter(connection, permit.event(now, "answer", "answer handed out, permit spent", **facts))
        return str(answer)

    def finish(self, permit: Permit, event: Event) -> None:
        """Keep a node's report that it is complete, and erase what its permit still carries."""
        done = update(_permits).where(_permits.c.id == permit.id, _permits.c.done.is_(None))
        with self.writing() as connection:
            connection.execute(done.values(done=event.time, **_NO_PAYLOAD))
            self.enter(connection, event)

    def revoke(self, now: float, *, run: str | None = None, node: str | None = None) -> int:
        """Revoke the permits of a run or of a node and erase what they carry. Returns how many it ended."""
        which = _permits.c.run == run if run is not None else _permits.c.node == node
        with self.writing() as connection:
            count = self._revoke(connection, now, which)
        self.scrub(now)
        return count

    def scrub(self, now: float) -> None:
        """Erase what expired permits carry, and every old copy of what was erased, in the write-ahead log."""
        with self.writing() as connection:
            self._expire(connection, now)
        if self.engine.dialect.name == "sqlite":
            with self.engine.connect() as connection:
                connection.connection.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    # Inside

    def _read_rack(self) -> Rack:
        with self.engine.connect() as connection:
            content = connection.execute(select(_rack.c.content)).scalar()
        return Rack.model_validate_json(content) if content else Rack(lab="unknown", nodes=())

    def _grant(self, grant: Grant, now: float) -> int:
        with self.writing() as connection:
            self._revoke(connection, now, _permits.c.node == grant.node)
            row = insert(_permits).values(granted=now, **grant.model_dump()).returning(_permits)
            permit = _permit(connection.execute(row).mappings().one())
            until = time.strftime("%H:%M:%S UTC", time.gmtime(grant.expires))
            self.enter(connection, permit.event(now, "permit", f"may be installed once, until {until}"))
        return permit.id

    def _permit_by(self, column: Column[str], token: str) -> Permit | None:
        digest = hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
        with self.engine.connect() as connection:
            row = connection.execute(select(_permits).where(column == digest)).mappings().first()
        # The index has compared digests, not tokens; the comparison that decides takes the same time always.
        return _permit(row) if row and hmac.compare_digest(row[column], digest) else None

    def _revoke(self, connection: Connection, now: float, which: ColumnElement[bool]) -> int:
        revoked = (
            update(_permits).where(which, _permits.c.revoked.is_(None)).values(revoked=now, **_NO_PAYLOAD)
        )
        rows = connection.execute(revoked.returning(_permits)).mappings().all()
        for permit in map(_permit, rows):
            if permit.done is None:
                self.enter(connection, permit.event(now, "permit-revoked", _revoked_text(permit)))
        return len(rows)

    def _expire(self, connection: Connection, now: float) -> None:
        carries = or_(*(_permits.c[name].is_not(None) for name in _NO_PAYLOAD))
        expired = update(_permits).where(_permits.c.expires <= now, carries).values(**_NO_PAYLOAD)
        rows = connection.execute(expired.returning(_permits)).mappings().all()
        for permit in map(_permit, rows):
            if permit.spent is None:
                self.enter(connection, permit.event(now, "permit-expired", "the permit expired unused"))


def _revoked_text(permit: Permit) -> str:
    return "the permit was revoked unused" if permit.spent is None else "the permit was revoked after its use"


def _permit(row: RowMapping) -> Permit:
    return Permit(**{each.name: row[each.name] for each in fields(Permit)})
