"""A reset: which kind, sent exactly once, and judged by its effect alone.

A BMC's answer proves nothing here: it may be lost after the reset was done, and "success" may mean
that nothing happened.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from sushy import exceptions

from provision.errors import GaveUp, Refused
from provision.redfish import override
from provision.redfish.body import Json, objects, part, words
from provision.redfish.connection import (
    BAD_REQUEST,
    CONFLICT,
    SERVER_ERROR,
    UNAVAILABLE,
    Connection,
    Timing,
    asks_to_wait,
    never_sent,
    told,
)
from provision.redfish.identity import said
from provision.redfish.override import BootOverride
from provision.redfish.trust import innermost
from provision.wait import NotYet, Patience

FROM_OFF = (("On",), ("ForceOn",))
FROM_ON = (("ForceRestart",), ("PowerCycle",), ("ForceOff", "On"))
TO_OFF = (("ForceOff",),)
NEVER = float("inf")
NOTHING = "nothing sent"


@dataclass(frozen=True, slots=True)
class State:
    """What of a system changes with a reset."""

    power: str | None
    override: BootOverride
    progress: str
    last_reset: str | None

    def __str__(self) -> str:
        progress = f", boot progress {self.progress}" if self.progress else ""
        return f"power {self.power}, override {self.override}{progress}"


@dataclass(frozen=True, slots=True)
class Reset:
    """A reset under way: the Redfish reset types that were sent, and what showed that it took effect."""

    how: str
    sign: str


class StateIsAnother(Exception):
    """A reset was refused because power was not in the state that was read before it."""


def state(conn: Connection, path: str) -> State:
    """What the system at `path` is doing now."""
    return _state_of(conn, conn.read(path))


def _state_of(conn: Connection, system: Mapping[str, Json]) -> State:
    steps = (
        part(system, "BootProgress", "LastState"),
        part(system, "BootProgress", "OemLastState"),
        part(system, "Oem", "Hpe", "PostState"),
    )
    return State(
        power=system.get("PowerState"),
        override=override.read(conn, system),
        progress=" ".join(str(step) for step in steps if step not in (None, "", "None")),
        last_reset=system.get("LastResetTime"),
    )


def reset(conn: Connection, path: str, timing: Timing, seen: Callable[[], bool]) -> Reset:
    """Make the system boot, and return once that is seen to be under way.

    Raises StateIsAnother when power has changed since it was read, and nothing was done.
    """
    system = _settled(conn, path, timing.busy)
    before = _state_of(conn, system)
    way, target = _way(system, FROM_OFF if before.power == "Off" else FROM_ON, conn)
    sign = ""
    for kind in way:
        sign = _Attempt(conn, path, target, kind, before, timing.reset, seen).bring_about()
        before = state(conn, path) if kind != way[-1] else before
    return Reset(" and ".join(way), sign)


def shows_a_restart(conn: Connection, path: str) -> bool:
    """Whether something of the system as it is now would change with a restart that leaves it powered."""
    now = state(conn, path)
    return now.power == "Off" or now.override.pending or bool(now.progress or now.last_reset)


def switch(conn: Connection, path: str, timing: Timing, wanted: Literal["On", "Off"]) -> Reset:
    """Bring power to `wanted`, off by force, and return once that is read back.

    Sends nothing when it is there already. Raises StateIsAnother as `reset` does.
    """
    system = _settled(conn, path, timing.busy)
    before = _state_of(conn, system)
    if before.power == wanted:
        return Reset(NOTHING, f"power was {wanted} already")
    (kind,), target = _way(system, FROM_OFF if wanted == "On" else TO_OFF, conn)
    _Attempt(conn, path, target, kind, before, timing.reset, lambda: False).bring_about()
    reached = _settled(conn, path, timing.reset).get("PowerState")
    if reached != wanted:
        raise GaveUp(f"power does not stay {wanted}", last_seen=f"{kind} had an effect; then power {reached}")
    return Reset(kind, f"power is {wanted}")


def cycle(conn: Connection, path: str, timing: Timing) -> Reset:
    """Switch the system off by force and on again, each read back; only on when it is off.

    Unlike a restart, which many BMCs show by nothing at all, this can be seen without word of the node. A
    BMC that cannot switch off is asked for a reset.
    """
    offered = _allowed(part(conn.read(path), "Actions", "#ComputerSystem.Reset"), conn)
    if offered and "ForceOff" not in offered:
        return reset(conn, path, timing, lambda: False)
    off, on = switch(conn, path, timing, "Off"), switch(conn, path, timing, "On")
    return on if off.how == NOTHING else Reset(f"{off.how} and {on.how}", on.sign)


def _settled(conn: Connection, path: str, patience: Patience) -> dict[str, Json]:
    """The system, read when the machine is on or off and not on its way."""

    def probe() -> dict[str, Json] | NotYet:
        system = conn.read(path)
        power = system.get("PowerState")
        return system if power in ("On", "Off") else NotYet(f"power {power}")

    return patience.until("a machine that is either on or off", probe)


def _way(
    system: Mapping[str, Json], ways: Sequence[tuple[str, ...]], conn: Connection
) -> tuple[tuple[str, ...], str]:
    """The first of `ways` that the BMC offers, reset types to send one by one, and where to send them."""
    action = part(system, "Actions", "#ComputerSystem.Reset")
    target, allowed = said(part(action, "target")), _allowed(action, conn)
    for way in ways:
        if target and (not allowed or set(way) <= allowed):
            return way, target
    offered = ", ".join(sorted(allowed)) or "no reset at all"
    raise Refused(
        f"the machine is {system.get('PowerState')}, and the BMC cannot do what is asked from there: "
        f"it offers {offered}"
    )


def _allowed(action: Json, conn: Connection) -> set[str]:
    if inline := words(part(action, "ResetType@Redfish.AllowableValues")):
        return set(inline)
    parameters = objects(part(conn.read_or_none(part(action, "@Redfish.ActionInfo")), "Parameters"))
    listed = [words(one.get("AllowableValues")) for one in parameters if one.get("Name") == "ResetType"]
    return {value for values in listed for value in values}


def sign_of(kind: str, before: State, now: State) -> str | None:
    """What shows that a reset took effect; None when nothing does. A null power state shows nothing."""
    if kind == "ForceOff":
        return "power is Off" if now.power == "Off" else None
    if now.power not in (None, before.power):
        return f"power went from {before.power} to {now.power}"
    if before.override.pending and now.override.used_up:
        return "the boot override was used up"
    if now.progress != before.progress:
        return f"boot progress went from {before.progress or 'nothing'} to {now.progress or 'nothing'}"
    if now.last_reset != before.last_reset:
        return f"the BMC dates its last reset {now.last_reset}"
    return None


@dataclass(slots=True)
class _Attempt:
    """One reset type, sent until its effect is seen: once, and again only when it surely did nothing."""

    conn: Connection
    path: str
    target: str
    kind: str
    before: State
    patience: Patience
    seen: Callable[[], bool]
    sent: int = 0
    told: str = ""
    again_at: float = NEVER

    def bring_about(self) -> str:
        """The sign that showed the effect. Raises GaveUp when there is none in time."""
        self._send()
        return self.patience.until(f"an effect of {self.kind}", self._look)

    def _look(self) -> str | NotYet:
        if self.kind != "ForceOff" and self.seen():
            return "the node was heard of by the boot service"
        try:
            now = state(self.conn, self.path)
        except (exceptions.ConnectionError, GaveUp) as error:
            return NotYet(f"{self.told}; then no answer: {innermost(error)}")
        if sign := sign_of(self.kind, self.before, now):
            return sign
        if self.patience.now() >= self.again_at:
            self._send()
        return NotYet(f"{self.told}; {now}")

    def _send(self) -> None:
        """Send it, and say when it may be sent again: never, once it was accepted."""
        self.sent, self.again_at = self.sent + 1, NEVER
        try:
            self.conn.post(self.target, data={"ResetType": self.kind})
            self.told = f"{self.kind} was accepted"
        except exceptions.HTTPError as error:
            self.told = f"{self.kind} was answered {told(error)}"
            self.again_at = self._after_refusal(error)
        except exceptions.ConnectionError as error:
            self.told = f"the answer to {self.kind} was lost: {innermost(error)}"
            self.again_at = 0.0 if never_sent(error) else self._after_watching()

    def _after_refusal(self, error: exceptions.HTTPError) -> float:
        if error.status_code in (BAD_REQUEST, CONFLICT) and self.sent == 1:
            power = state(self.conn, self.path).power
            if power not in (None, self.before.power):
                raise StateIsAnother(self.told) from error
        # A 503 that names no time may come from a web server whose back end was too slow, and at work.
        if asks_to_wait(error) and (error.status_code != UNAVAILABLE or self.conn.asked_to_wait):
            return 0.0
        if error.status_code < SERVER_ERROR:
            raise error
        return self._after_watching()

    def _after_watching(self) -> float:
        """Once more, half-way through the time there is: whatever was done would have shown by then."""
        return self.patience.now() + self.patience.seconds / 2 if self.sent == 1 else NEVER
