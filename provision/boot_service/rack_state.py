"""How each node of the rack stands, read from permits and events with a few questions for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict
from sqlalchemy import CTE, Connection, String, Table, column, func, select, values

from provision.ledger import Event
from provision.ledger import metadata as ledger_tables

if TYPE_CHECKING:
    from provision.boot_service.store import Store

PHASES = ("dhcp", "boot-script", "answer", "installed", "first-boot", "registered")
"""What a node goes through while it is installed, each told by an event of that kind, in this order."""

OURS = ("rack", "permit", "permit-revoked", "permit-expired", "action", "refused")
"""Kinds of event about a node that are not the node's own word; who was refused may be anybody."""

Condition = Literal["idle", "waiting", "installing", "late", "failed", "registered", "expired", "rescue"]


class Word(BaseModel):
    """Something heard from a node: when (seconds since the epoch), what kind of event, in which words."""

    model_config = ConfigDict(frozen=True)

    seq: int
    time: float
    kind: str
    text: str


class Leave(BaseModel):
    """The newest permit of a node, without anything it carries."""

    model_config = ConfigDict(frozen=True)

    run: str
    purpose: str
    state: str
    granted: float
    expires: float


class NodeState(BaseModel):
    """How a node stands. What is not known is None.

    `phase` is the last one reached under the newest permit, at `since`; `awaits` the one that should come
    next, within `deadline` seconds from then. `nonce` is what the node itself said of its last install.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    address: str
    macs: tuple[str, ...]
    condition: Condition
    phase: str | None = None
    since: float | None = None
    awaits: str | None = None
    deadline: float | None = None
    failure: str | None = None
    last_word: Word | None = None
    permit: Leave | None = None
    nonce: str | None = None
    registered: float | None = None


def table(store: Store, name: str) -> Table:
    """A table of the store by its name."""
    return next(each.tables[name] for each in type(store).tables if name in each.tables)


def rack_state(store: Store, now: float) -> list[NodeState]:
    """Every node of the rack, in the rack's order."""
    return _states(store, store.rack.lab, [node.name for node in store.rack.nodes], now)


def node_state(store: Store, name: str, now: float) -> NodeState | None:
    """One node of the rack, or None when there is no such node."""
    return next(iter(_states(store, store.rack.lab, [name], now)), None) if store.rack.by_name(name) else None


def _states(store: Store, lab: str, names: Sequence[str], now: float) -> list[NodeState]:
    if not names:
        return []
    asked = values(column("name", String), name="asked").data([(name,) for name in names]).cte("asked")
    with store.engine.connect() as connection:
        permits = _permits(connection, table(store, "permits"), names)
        marks = _marks(connection, asked, lab)
        words, nonces = _words(connection, asked, lab)
    nodes = [node for name in names if (node := store.rack.by_name(name))]
    return [
        NodeState(
            name=node.name,
            address=str(node.address),
            macs=node.macs,
            last_word=words.get(node.name),
            **nonces.get(node.name, {}),
            **_progress(permits.get(node.name), marks.get(node.name, {}), now),
        )
        for node in nodes
    ]


_events = ledger_tables.tables["events"]


def _newest(lab: str, asked: CTE, *which: Any) -> Any:
    """The number of the newest such event of the asked node; the index is read from its end."""
    return (
        select(_events.c.seq)
        .where(_events.c.lab == lab, _events.c.node == asked.c.name, *which)
        .order_by(_events.c.seq.desc())
        .limit(1)
        .correlate(asked)
        .scalar_subquery()
    )


def _permits(connection: Connection, permits: Table, names: Sequence[str]) -> dict[str, Any]:
    wanted = ("node", "run", "purpose", "granted", "expires", "spent", "done", "revoked", "deadlines")
    columns = [permits.c[name] for name in wanted]
    newest = select(func.max(permits.c.id)).where(permits.c.node.in_(names)).group_by(permits.c.node)
    rows = connection.execute(select(*columns).where(permits.c.id.in_(newest))).mappings()
    return {row["node"]: row for row in rows}


def _marks(connection: Connection, asked: CTE, lab: str) -> dict[str, dict[str, tuple[float, str]]]:
    """When each phase was first reached since the newest permit, and in which words, by node and kind."""
    began = select(asked.c.name, _newest(lab, asked, _events.c.kind == "permit").label("seq")).cte("began")
    since = _events.alias("since")
    firsts = (
        select(func.min(since.c.seq))
        .join_from(
            began, since, (since.c.lab == lab) & (since.c.node == began.c.name) & (since.c.seq > began.c.seq)
        )
        .where(since.c.kind.in_([*PHASES, "failed"]))
        .group_by(since.c.node, since.c.kind)
    )
    query = select(_events.c.node, _events.c.kind, _events.c.time, _events.c.text).where(
        _events.c.seq.in_(firsts)
    )
    marks: dict[str, dict[str, tuple[float, str]]] = {}
    for node, kind, time, text in connection.execute(query):
        marks.setdefault(node, {})[kind] = (time, text)
    return marks


def _words(connection: Connection, asked: CTE, lab: str) -> tuple[dict[str, Word], dict[str, dict[str, Any]]]:
    heard = select(_newest(lab, asked, _events.c.kind.not_in(OURS))).select_from(asked)
    done = select(_newest(lab, asked, _events.c.kind == "registered")).select_from(asked)
    columns = [_events.c[name] for name in ("seq", "time", "node", "kind", "text")]
    words = {
        row["node"]: Word(**{name: row[name] for name in Word.model_fields})
        for row in connection.execute(select(*columns).where(_events.c.seq.in_(heard))).mappings()
    }
    registered = select(_events.c.node, _events.c.time, _events.c.facts).where(_events.c.seq.in_(done))
    nonces = {
        node: {"registered": time, "nonce": facts.get("nonce")}
        for node, time, facts in connection.execute(registered)
    }
    return words, nonces


def _progress(permit: Any, marks: dict[str, tuple[float, str]], now: float) -> dict[str, Any]:
    if permit is None:
        return {"condition": "idle"}
    state = permit_state(permit, now)
    leave = Leave(state=state, **{name: permit[name] for name in Leave.model_fields if name != "state"})
    if permit["purpose"] == "rescue" or state == "revoked":
        open_rescue = permit["purpose"] == "rescue" and state in ("live", "spent")
        return {"condition": "rescue" if open_rescue else "idle", "permit": leave}
    reached = next((phase for phase in reversed(PHASES) if phase in marks), None)
    since = marks[reached][0] if reached else permit["granted"]
    found = {"permit": leave, "phase": reached, "since": since}
    if reached == PHASES[-1]:
        return found | {"condition": "registered"}
    if "failed" in marks:
        return found | {"condition": "failed", "failure": marks["failed"][1]}
    if state == "expired":
        return found | {"condition": "expired"}
    awaits = PHASES[PHASES.index(reached) + 1 if reached else 0]
    deadline = permit["deadlines"].get(awaits)
    late = deadline is not None and now - since > deadline
    condition = "late" if late else "installing" if reached else "waiting"
    return found | {"condition": condition, "awaits": awaits, "deadline": deadline}


def permit_state(permit: Any, now: float) -> str:
    """What a row of permits is: revoked, done, spent, live or expired (see store.Permit.state)."""
    if permit["revoked"] is not None:
        return "revoked"
    if permit["spent"] is not None:
        return "spent" if permit["done"] is None else "done"
    return "live" if now < permit["expires"] else "expired"


def newest_events(
    store: Store,
    *,
    node: str | None = None,
    kinds: Sequence[str] | None = None,
    before: int | None = None,
    limit: int = 50,
) -> list[Event]:
    """At most `limit` events of this lab, newest first, with numbers below `before`."""
    query = select(_events).where(_events.c.lab == store.rack.lab).order_by(_events.c.seq.desc()).limit(limit)
    if node is not None:
        query = query.where(_events.c.node == node)
    if kinds is not None:
        query = query.where(_events.c.kind.in_(kinds))
    if before is not None:
        query = query.where(_events.c.seq < before)
    with store.engine.connect() as connection:
        return [Event(**row) for row in connection.execute(query).mappings()]
