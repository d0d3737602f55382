"""The boot service's own ledger: the rack it knows, and the permits, each change together with its event."""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Literal

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
    and_,
    bindparam,
    delete,
    insert,
    or_,
    select,
    update,
)
from sqlalchemy.exc import IntegrityError

from provision.boot_service import people_tables
from provision.boot_service.messages import Grant, PermitState, Rack
from provision.boot_service.permit_cache import PermitCache
from provision.boot_service.shared import RACK, Marks, mark_in
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

# Put together once: that takes SQLAlchemy longer than carrying them out.
_PERMIT, _NOW = bindparam("permit", type_=Integer), bindparam("now", type_=Float)
_SPEND = (
    update(_permits)
    .where(_permits.c.id == _PERMIT, _permits.c.spent.is_(None), _permits.c.revoked.is_(None))
    .where(_permits.c.expires > _NOW)
    .values(spent=_NOW, answered_json=bindparam("as_json", type_=Boolean), answer=None, answer_json=None)
)
_FINISH = (
    update(_permits)
    .where(_permits.c.id == _PERMIT, _permits.c.done.is_(None))
    .values(done=_NOW, **_NO_PAYLOAD)
)

State = Literal["live", "spent", "done", "expired", "revoked"]


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


class NotGranted(RackproofError):
    """A permit could not be granted as it was asked for."""


class Store(Ledger):
    """A ledger that also holds one rack and its permits. Tokens are kept as SHA-256 only.

    Processes that share a store share its `turn` and its `marks` too: so each knows at once what another
    has changed. `publish` is called, after the commit and before a change is acknowledged, in any thread,
    with the names of the nodes that have another permit, or a permit in another state, since; with RACK
    among them when the rack is another. It must not raise.
    """

    tables: ClassVar[tuple[MetaData, ...]] = (metadata, _store, people_tables.metadata)

    def __init__(
        self,
        where: str | Path,
        *,
        turn: AbstractContextManager[object] | None = None,
        marks: Marks | None = None,
    ) -> None:
        super().__init__(where, turn=turn)
        self._marks = marks or Marks()
        self._reporting: PermitCache[Permit] = PermitCache(self._marks)
        self.publish: Callable[[Collection[str]], None] = lambda names: None
        self._rack = (self._marks.of(RACK), self._read_rack())
        self._vacuumed = b""

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction that no other writer overlaps; durable, known and published when the block ends."""
        changed: set[str] = set()
        with super().writing() as connection:
            connection.info[_CHANGED] = changed
            yield connection
        for name in changed:
            self._marks.change(name)
        if changed:
            self.publish(changed)

    # The rack

    @property
    def rack(self) -> Rack:
        """The rack as it was put last, by any of the processes that share this store."""
        mark, rack = self._rack
        now = self._marks.of(RACK)
        if now != mark:
            self._rack = (now, rack := self._read_rack())
        return rack

    def put_rack(self, rack: Rack, now: float) -> bool:
        """Know these nodes and no others; permits of nodes that are gone are revoked. False: no change."""
        if rack == self.rack:
            return False
        names = [node.name for node in rack.nodes]
        with self.writing() as connection:
            connection.execute(delete(_rack))
            connection.execute(insert(_rack).values(lab=rack.lab, content=rack.model_dump_json()))
            _change(connection, RACK)
            self._revoke(connection, now, or_(_permits.c.lab != rack.lab, _permits.c.node.not_in(names)))
            self.enter(
                connection, self.event(now, "rack", f"{len(names)} nodes known", lab=rack.lab, nodes=names)
            )
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
        return self.permits_by_answer_tokens([token]).get(token)

    def permits_by_answer_tokens(self, tokens: Collection[str]) -> dict[str, Permit]:
        """By those of the tokens that ask for an answer: the permit, in any state."""
        return self._permits_by(_permits.c.answer_token_sha256, tokens)

    def permit_by_report_token(self, token: str) -> Permit | None:
        """The permit whose node reports with this token, in any state."""
        return self.reporting(token) or self.permits_by_report_tokens([token]).get(token)

    def permits_by_report_tokens(self, tokens: Collection[str]) -> dict[str, Permit]:
        """By those of the tokens with which a node reports: the permit, in any state."""
        # A mark is taken before what it stands for is read.
        marks = self._marks.all()
        found = self._permits_by(_permits.c.report_token_sha256, tokens)
        for token, permit in found.items():
            self._reporting.put(_digest(token), permit, mark_in(marks, permit.node))
        return found

    def reporting(self, token: str) -> Permit | None:
        """The permit whose node reports with this token, if it is known without a look into the database."""
        return self._reporting.get(_digest(token))

    def current_permit(self, node: str) -> Permit | None:
        """The node's one permit that was neither replaced nor revoked; it may be spent, done or expired."""
        return self.current_permits([node]).get(node)

    def current_permits(self, nodes: Collection[str] | None = None) -> dict[str, Permit]:
        """By name of those of the nodes (None: all) that have one: the permit that `current_permit` tells."""
        query = select(_permits).where(_permits.c.revoked.is_(None)).order_by(_permits.c.id)
        if nodes is not None:
            query = query.where(_permits.c.node.in_(nodes))
        with self.engine.connect() as connection:
            rows = connection.execute(query).mappings().all()
        return {row["node"]: _permit(row) for row in rows}

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
        with self.writing() as connection:
            return self.spend_in(connection, permit, now, as_json=as_json, **facts)

    def spend_in(
        self, connection: Connection, permit: Permit, now: float, *, as_json: bool = False, **facts: Any
    ) -> str | None:
        """As `spend`, in a transaction from `writing`."""
        # What was read with the permit is what is in the store, as long as the permit is live.
        answer = permit.answer_json if as_json else permit.answer
        if answer is None:
            return None
        if not connection.execute(_SPEND, {"permit": permit.id, "now": now, "as_json": as_json}).rowcount:
            return None
        _change(connection, permit.node)
        self.enter(connection, permit.event(now, "answer", "answer handed out, permit spent", **facts))
        return answer

    def finish(self, permit: Permit, event: Event) -> Event:
        """Keep a node's report that it is complete, and erase what its permit still carries."""
        with self.writing() as connection:
            return self.finish_in(connection, permit, event)

    def finish_in(self, connection: Connection, permit: Permit, event: Event) -> Event:
        """As `finish`, in a transaction from `writing`."""
        if connection.execute(_FINISH, {"permit": permit.id, "now": event.time}).rowcount:
            _change(connection, permit.node)
        return self.enter(connection, event)

    def revoke(self, now: float, *, run: str | None = None, node: str | None = None) -> int:
        """Revoke the permits of a run or of a node and erase what they carry. Returns how many it ended.

        A run that ends takes back its leave from nodes that have not come through; those that have, have it
        no more, and stay what they are: installed by that run.
        """
        unfinished = and_(_permits.c.run == run, _permits.c.done.is_(None))
        which = unfinished if run is not None else _permits.c.node == node
        with self.writing() as connection:
            count = self._revoke(connection, now, which)
        self.scrub(now)
        return count

    def scrub(self, now: float) -> None:
        """Erase what expired permits carry, and every old copy of what was erased.

        In SQLite none is left in the file or its write-ahead log. PostgreSQL's table is written anew; its
        write-ahead log keeps what went through it until the server needs the space.
        """
        with self.writing() as connection:
            self._expire(connection, now)
        if self.engine.dialect.name == "sqlite":
            with self._turn, self.engine.connect() as connection:
                connection.connection.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        elif self._vacuumed != (marks := self._marks.all()):
            with self.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                connection.exec_driver_sql("VACUUM FULL permits")
            self._vacuumed = marks

    def forget_reporting(self) -> None:
        """Drop the permits that are kept in memory, with what they carry."""
        self._reporting.clear()

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
            _change(connection, permit.node)
            until = time.strftime("%H:%M:%S UTC", time.gmtime(grant.expires))
            self.enter(connection, permit.event(now, "permit", f"may be installed once, until {until}"))
        return permit.id

    def _permits_by(self, column: Column[str], tokens: Collection[str]) -> dict[str, Permit]:
        digests = {token: _digest(token) for token in tokens}
        with self.engine.connect() as connection:
            rows = connection.execute(select(_permits).where(column.in_(digests.values()))).mappings().all()
        known = {row[column]: row for row in rows}
        # The index has compared digests, not tokens; the comparison that decides takes the same time always.
        return {
            token: _permit(row)
            for token, digest in digests.items()
            if (row := known.get(digest)) and hmac.compare_digest(row[column], digest)
        }

    def _revoke(self, connection: Connection, now: float, which: ColumnElement[bool]) -> int:
        revoked = (
            update(_permits).where(which, _permits.c.revoked.is_(None)).values(revoked=now, **_NO_PAYLOAD)
        )
        rows = connection.execute(revoked.returning(_permits)).mappings().all()
        for permit in map(_permit, rows):
            _change(connection, permit.node)
            if permit.done is None:
                self.enter(connection, permit.event(now, "permit-revoked", _revoked_text(permit)))
        return len(rows)

    def _expire(self, connection: Connection, now: float) -> None:
        carries = or_(*(_permits.c[name].is_not(None) for name in _NO_PAYLOAD))
        expired = update(_permits).where(_permits.c.expires <= now, carries).values(**_NO_PAYLOAD)
        rows = connection.execute(expired.returning(_permits)).mappings().all()
        for permit in map(_permit, rows):
            _change(connection, permit.node)
            if permit.spent is None:
                self.enter(connection, permit.event(now, "permit-expired", "the permit expired unused"))


_CHANGED = "changed"


def _change(connection: Connection, name: str) -> None:
    """Note that a transaction from `Store.writing` changes what is known of this node, or of the RACK."""
    changed: set[str] = connection.info[_CHANGED]
    changed.add(name)


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def _revoked_text(permit: Permit) -> str:
    return "the permit was revoked unused" if permit.spent is None else "the permit was revoked after its use"


def _permit(row: RowMapping) -> Permit:
    return Permit(**{each.name: row[each.name] for each in fields(Permit)})
