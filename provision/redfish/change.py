"""A change of a resource: sent whole, under its ETag, and awaited when the BMC makes a task of it."""

from __future__ import annotations

from collections.abc import Mapping

import requests
from sushy import exceptions

from provision.errors import Refused
from provision.redfish.body import Json, link, objects, part
from provision.redfish.connection import (
    ACCEPTED,
    NOT_FOUND,
    PRECONDITION_FAILED,
    Connection,
    Timing,
    json_object,
)
from provision.redfish.identity import said
from provision.wait import NotYet

UNDER_WAY = frozenset({"New", "Starting", "Running", "Pending", "Service", "Stopping", "Cancelling"})
FAILED = frozenset({"Exception", "Killed", "Cancelled", "Interrupted", "Suspended"})


def patch(conn: Connection, path: str, body: Mapping[str, Json], timing: Timing) -> None:
    """PATCH a resource, under its ETag wherever that stands, anew when that changed, to the end of its task.

    That the BMC accepts it does not mean that it keeps it.
    """
    for tries_left in (2, 1, 0):
        current = conn.get(path)
        etag = said(current.headers.get("ETag")) or said(part(json_object(current), "@odata.etag"))
        try:
            finish(conn, conn.patch(path, data=dict(body), etag=etag), timing)
            return
        except exceptions.HTTPError as error:
            if error.status_code != PRECONDITION_FAILED or not tries_left:
                raise


def finish(conn: Connection, answer: requests.Response | None, timing: Timing) -> None:
    """Wait for the task that an answer of 202 names. sushy's own wait takes no Retry-After in seconds."""
    if answer is None or answer.status_code != ACCEPTED:
        return
    if monitor := answer.headers.get("Location") or _task_in(answer):
        timing.busy.until(f"the end of task {monitor}", lambda: _task(conn, monitor))


def _task_in(answer: requests.Response) -> str | None:
    """The task that an answer holds instead of naming its monitor."""
    try:
        body = json_object(answer)
    except ValueError:
        return None
    return link(body) if "TaskState" in body else None


def _task(conn: Connection, monitor: str) -> bool | NotYet:
    try:
        answer = conn.get(monitor)
    except exceptions.HTTPError as error:
        if error.status_code == NOT_FOUND:  # a monitor may go when its task has ended
            return True
        raise
    body = json_object(answer) if answer.content else {}
    state = said(body.get("TaskState"))
    if state in FAILED:
        messages = " ".join(str(message.get("Message")) for message in objects(body.get("Messages")))
        raise Refused(f"the BMC accepted a change, and its task ended as {state}: {messages}")
    running = state in UNDER_WAY or (state is None and answer.status_code == ACCEPTED)
    return NotYet(f"task {state or 'under way'}") if running else True
