"""The boot override of a system: where a BMC takes it, what to send, and whether it was kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import requests
from sushy import exceptions

from provision.errors import Refused
from provision.redfish.body import Json, objects, part, words
from provision.redfish.connection import (
    ACCEPTED,
    NOT_FOUND,
    PRECONDITION_FAILED,
    Connection,
    Timing,
    json_object,
)
from provision.wait import NotYet

TARGET = "BootSourceOverrideTarget"
ENABLED = "BootSourceOverrideEnabled"
MODE = "BootSourceOverrideMode"
Target = Literal["Pxe", "UefiHttp", "Hdd"]
Mode = Literal["UEFI", "Legacy"]
NAMES: dict[Target, str] = {"Pxe": "network", "UefiHttp": "HTTP", "Hdd": "disk"}
UNDER_WAY = frozenset({"New", "Starting", "Running", "Pending", "Service", "Stopping", "Cancelling"})
FAILED = frozenset({"Exception", "Killed", "Cancelled", "Interrupted", "Suspended"})


@dataclass(frozen=True, slots=True)
class BootOverride:
    """The boot override in Redfish's words, each None where the BMC does not say."""

    target: str | None
    enabled: str | None
    mode: str | None

    @classmethod
    def of(cls, resource: Json) -> BootOverride:
        """The override in the Boot object of a system or of its settings resource."""
        boot = part(resource, "Boot")
        return cls(part(boot, TARGET), part(boot, ENABLED), part(boot, MODE))

    @property
    def pending(self) -> bool:
        """Whether the next boot will follow it."""
        return self.enabled in ("Once", "Continuous") and self.target not in (None, "None")

    @property
    def once_from_network(self) -> bool:
        """Whether the next boot, and only that, is a network boot that is not known to be a legacy one."""
        return self.is_once("Pxe")

    def is_once(self, target: Target, mode: Mode = "UEFI") -> bool:
        """Whether the next boot, and only that, is from there and not known to be of another mode."""
        return (self.target, self.enabled) == (target, "Once") and self.mode in (None, mode)

    @property
    def used_up(self) -> bool:
        """Whether the BMC says that there is none; a null says nothing."""
        return self.enabled == "Disabled" or self.target == "None"

    def __str__(self) -> str:
        return f"target {self.target}, enabled {self.enabled}, mode {self.mode}"


def read(conn: Connection, system: Mapping[str, Json]) -> BootOverride:
    """The override that the next boot will follow: one that waits in the settings before the one in force."""
    settings = _settings(conn, system)
    waiting = BootOverride.of(settings[1]) if settings else None
    return waiting if waiting and waiting.pending else BootOverride.of(system)


def send_once(conn: Connection, path: str, timing: Timing, target: Target, mode: Mode) -> None:
    """Ask for one boot from there in this mode; that the BMC accepts it does not mean that it keeps it."""
    system = conn.read(path)
    place, boot = _place(conn, path, system)
    offered = words(boot.get(f"{TARGET}@Redfish.AllowableValues"))
    if offered and target not in offered:
        raise Refused(f"the BMC offers no {NAMES[target]} boot, only {', '.join(offered)}")
    if not boot:
        raise Refused("the BMC takes no boot override")
    wanted: dict[str, str] = {TARGET: target, ENABLED: "Once"}
    whole = place != path or "supermicro" in str(system.get("Manufacturer")).lower()
    also = _mode(boot, mode, whole=whole)
    try:
        _patch(conn, place, {**wanted, **also}, timing)
    except exceptions.BadRequestError:
        if not also:
            raise
        _patch(conn, place, wanted, timing)


def send_none(conn: Connection, path: str, timing: Timing) -> None:
    """Ask for a boot in the machine's own order."""
    place, _ = _place(conn, path, conn.read(path))
    _patch(conn, place, {TARGET: "None", ENABLED: "Disabled"}, timing)


def _settings(conn: Connection, system: Mapping[str, Json]) -> tuple[str, dict[str, Json]] | None:
    """The settings resource, when it is where this BMC takes boot overrides (AMI's /SD), else None."""
    path = part(system, "@Redfish.Settings", "SettingsObject", "@odata.id")
    body = conn.read_or_none(path)
    boot = part(body, "Boot")
    return (path, body) if body and isinstance(boot, Mapping) and TARGET in boot else None


def _place(conn: Connection, path: str, system: Mapping[str, Json]) -> tuple[str, dict[str, Json]]:
    """The path of the resource to be patched, and all that is known of booting."""
    settings = _settings(conn, system)
    boot = {**(part(system, "Boot") or {}), **(settings[1]["Boot"] if settings else {})}
    return (settings[0] if settings else path), boot


def _mode(boot: Mapping[str, Json], mode: Mode, *, whole: bool) -> dict[str, str]:
    """The mode to send along: where it is known, and there only if it must change or `whole` is asked for.

    Supermicro's X10 and HPE's iLO refuse it, and Dell's iDRAC starts a job for one that does not change.
    Supermicro's X11 and later fall back to Legacy without it, and AMI's settings resource wants all.
    """
    known = words(boot.get(f"{MODE}@Redfish.AllowableValues"))
    if MODE not in boot or (known and mode not in known):
        return {}
    return {MODE: mode} if whole or boot[MODE] != mode else {}


def _patch(conn: Connection, path: str, boot: Mapping[str, str], timing: Timing) -> None:
    """PATCH all of it at once, under the resource's ETag wherever that stands, anew when that changed.

    BMCs drop a target that comes without Enabled, and the other way round.
    """
    for tries_left in (2, 1, 0):
        current = conn.get(path)
        etag = current.headers.get("ETag") or part(json_object(current), "@odata.etag")
        try:
            _finish(conn, conn.patch(path, data={"Boot": dict(boot)}, etag=etag), timing)
            return
        except exceptions.HTTPError as error:
            if error.status_code != PRECONDITION_FAILED or not tries_left:
                raise


def _finish(conn: Connection, answer: requests.Response, timing: Timing) -> None:
    """Wait for the task that an answer of 202 names. sushy's own wait takes no Retry-After in seconds."""
    monitor = answer.headers.get("Location")
    if answer.status_code == ACCEPTED and monitor:
        timing.busy.until(f"the end of task {monitor}", lambda: _task(conn, monitor))


def _task(conn: Connection, monitor: str) -> bool | NotYet:
    try:
        answer = conn.get(monitor)
    except exceptions.HTTPError as error:
        if error.status_code == NOT_FOUND:  # a monitor may go when its task has ended
            return True
        raise
    body = json_object(answer) if answer.content else {}
    state = body.get("TaskState")
    if state in FAILED:
        messages = " ".join(str(message.get("Message")) for message in objects(body.get("Messages")))
        raise Refused(f"the BMC accepted a change, and its task ended as {state}: {messages}")
    running = state in UNDER_WAY or (state is None and answer.status_code == ACCEPTED)
    return NotYet(f"task {state or 'under way'}") if running else True
