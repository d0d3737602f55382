"""The run of which the harness says how far it is: one row, replaced at every change, for the dashboard."""

from __future__ import annotations

from sqlalchemy import delete, insert, select

from provision.boot_service import people_tables as tables
from provision.boot_service.messages import RunState
from provision.boot_service.store import Store


def put_run(store: Store, run: RunState, now: float) -> bool:
    """Know this state of the run in the place of any other. False: it was known already."""
    before = read_run(store)
    if run == before:
        return False
    with store.writing() as connection:
        connection.execute(delete(tables.current_run))
        connection.execute(insert(tables.current_run).values(id=1, content=run.model_dump_json()))
        store.enter(connection, store.event(now, "run", _told(run), lab=run.lab, run=run.id))
    return True


def read_run(store: Store) -> RunState | None:
    """What the harness said last of its run, or None when it never did."""
    with store.engine.connect() as connection:
        content = connection.execute(select(tables.current_run.c.content)).scalar()
    return RunState.model_validate_json(content) if content else None


def _told(run: RunState) -> str:
    if run.ended is not None:
        return f"run ended: {run.outcome or 'no outcome was told'}"
    step = next((step for step in reversed(run.steps) if step.state not in ("waiting", "not-reached")), None)
    return f"step {step.name}: {step.state}" if step else "run begins"
