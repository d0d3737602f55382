"""The state of a standing rack, as a table for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from provision.errors import LabError
from virtual_lab import control, network
from virtual_lab.places import Places
from virtual_lab.plan import MachinePlan, RackPlan

_HEADINGS = ("machine", "power", "phase", "address", "console", "next boot", "cables")


@dataclass(frozen=True, slots=True)
class Row:
    """One machine's line."""

    machine: str
    power: str
    phase: str
    address: str
    console: str
    next_boot: str
    cables: str

    @property
    def words(self) -> tuple[str, ...]:
        """The line's cells, in the order of the headings."""
        return (self.machine, self.power, self.phase, self.address, self.console, self.next_boot, self.cables)


def rows(places: Places, plan: RackPlan) -> list[Row]:
    """One for each machine, the server first."""
    plugged = network.is_plugged(places)
    running = _running(places) if plan.is_light else {}
    return [_row(places, machine, plugged, running) for machine in plan.machines]


def table(found: Sequence[Row]) -> str:
    """The rows, aligned under their headings."""
    lines = [_HEADINGS, *(row.words for row in found)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(_HEADINGS))]
    return "\n".join(
        "  ".join(word.ljust(width) for word, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def dashboard(places: Places, plan: RackPlan) -> str:
    """Where the boot service's pages are, and how to read the operator's password; never the password."""
    read = f"jq -r .operator_password {places.made_up_secrets}"
    return (
        f"dashboard https://{plan.server.address}/ in the lab's network; log in as operator, whose password "
        f"is RACKPROOF_OPERATOR_PASSWORD if that was set, else: {read}"
    )


def _running(places: Places) -> dict[str, int]:
    try:
        found: dict[str, int] = control.ask(places.supervisor, {"do": "state"})["running"]
    except LabError:
        return {}
    return found


def _row(places: Places, machine: MachinePlan, plugged: frozenset[str], running: Mapping[str, int]) -> Row:
    if machine.light:
        power, phase, next_boot = ("On", "light", "-") if machine.name in running else ("dead", "light", "-")
    else:
        power, phase, next_boot = _of_board(places, machine.name)
    console = machine.console.address if machine.console else "-"
    return Row(machine.name, power, phase, machine.address, console, next_boot, _cables(machine, plugged))


def _of_board(places: Places, name: str) -> tuple[str, str, str]:
    try:
        state = control.ask(places.board(name), {"do": "state"})
    except LabError:
        return "dead", "its board does not answer", "-"
    override = state["override"]
    once = f"{override['target']} {override['enabled'].lower()}" if override["enabled"] != "Disabled" else "-"
    return state["power"], state["phase"], once


def _cables(machine: MachinePlan, plugged: frozenset[str]) -> str:
    cut = [cable.nic for cable in machine.cables if cable.network != "wan" and cable.port not in plugged]
    return f"cut: {', '.join(cut)}" if cut else "all in"
