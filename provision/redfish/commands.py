"""What the command line does with one node's board, and how the outcome is told: as facts, and as lines."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from typing import Any

from provision.redfish import boot_order, event_log, firmware, hardware, sensors
from provision.redfish.board import Board, Source
from provision.redfish.event_log import Log
from provision.redfish.override import BootOverride
from provision.redfish.reset import Reset
from provision.redfish.sensors import Sensor

NOT_KNOWN = "not known"
"""What a BMC does not offer, in text; in JSON it is null."""
SOURCES: dict[str, Source] = {"pxe": "Pxe", "disk": "Hdd", "cdrom": "Cd", "bios": "BiosSetup"}
UNDO = "none"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a command on one node: facts that JSON can hold, and lines for people."""

    facts: Mapping[str, Any]
    lines: Sequence[str]


def _on(board: Board, _given: argparse.Namespace) -> Outcome:
    return _done(board.switch("On"))


def _off(board: Board, _given: argparse.Namespace) -> Outcome:
    return _done(board.switch("Off"))


def _cycle(board: Board, _given: argparse.Namespace) -> Outcome:
    return _done(board.cycle())


def _reset(board: Board, _given: argparse.Namespace) -> Outcome:
    return _done(board.restart())


def _done(done: Reset) -> Outcome:
    return Outcome({"sent": done.how, "seen_by": done.sign}, [f"{done.sign} ({done.how})"])


def _boot(board: Board, given: argparse.Namespace) -> Outcome:
    if given.source is None:
        return _override(board.boot_override())
    if given.source == UNDO:
        board.clear_boot_override()
        return _override(board.boot_override())
    return _override(board.set_boot(SOURCES[given.source], "Once" if given.once else "Continuous"))


def _override(found: BootOverride) -> Outcome:
    facts = {"target": found.target, "enabled": found.enabled, "mode": found.mode}
    if not found.pending:
        return Outcome(facts, ["boots in its own order" if found.used_up else f"boot override {NOT_KNOWN}"])
    often = "the next boot" if found.enabled == "Once" else "every boot"
    return Outcome(facts, [f"{often} is from {found.target}, mode {found.mode or NOT_KNOWN}"])


def _sensors(board: Board, given: argparse.Namespace) -> Outcome:
    found = board.ask("its sensors", sensors.read)
    word = (given.filter or "").lower()
    shown = [one for one in found or [] if word in f"{one.kind} {one.name}".lower()]
    facts = None if found is None else [_facts(one) | {"beyond": one.beyond} for one in shown]
    lines = _columns(_sensor(one) for one in shown) or [f"sensors {NOT_KNOWN}" if found is None else "none"]
    return Outcome({"sensors": facts}, lines)


def _sensor(one: Sensor) -> tuple[str, ...]:
    limits = (f"{name.replace('_', ' ')} {limit:g}" for name, limit in sensors.limits_of(one).items())
    state = f"beyond {one.beyond.replace('_', ' ')}" if one.beyond else one.health or ""
    return one.kind, one.name, _amount(one.value, one.unit), state, ", ".join(limits)


def _log(board: Board, given: argparse.Namespace) -> Outcome:
    if given.clear:
        cleared = board.ask(
            "its logs to be cleared", lambda conn, path: event_log.clear(conn, path, board.timing)
        )
        return Outcome({"cleared": cleared}, [f"cleared, and read back: {', '.join(cleared)}"])
    found = board.ask("its logs", event_log.read)
    if found is None:
        return Outcome({"logs": None}, [f"logs {NOT_KNOWN}"])
    facts = [
        {
            "name": log.name,
            "whole": log.whole,
            "entries": None if log.entries is None else [asdict(entry) for entry in log.entries],
        }
        for log in found
    ]
    return Outcome({"logs": facts}, [line for log in found for line in _entries(log)])


def _entries(log: Log) -> list[str]:
    if log.entries is None:
        return [f"{log.name}: entries {NOT_KNOWN}"]
    more = "" if log.whole else ", and more that were not read"
    rows = [(one.created or NOT_KNOWN, one.severity or "", one.message or "") for one in log.entries]
    return [f"{log.name}: {len(log.entries)} entries{more}", *(f"  {line}" for line in _columns(rows))]


def _inventory(board: Board, _given: argparse.Namespace) -> Outcome:
    found, identity = board.ask("its inventory", hardware.read), board.identity()
    facts = {
        **asdict(identity), **asdict(found),
        "macs": sorted(identity.macs), "bmc_macs": sorted(identity.bmc_macs),
    }  # fmt: skip
    who = [identity.manufacturer, identity.model, identity.service_tag or identity.serial]
    machine = " ".join(filter(None, who)) or NOT_KNOWN
    rows = [("machine", "", machine), ("memory", "", _amount(found.gib, "GiB"))]
    for kind, parts in (
        ("dimm", found.dimms), ("processor", found.processors), ("drive", found.drives),
        ("port", found.ports), ("supply", found.supplies),
    ):  # fmt: skip
        rows += [(kind, "", NOT_KNOWN)] if parts is None else [(kind, one.name, _part(one)) for one in parts]
    return Outcome(facts, _columns(rows))


_UNITS = {
    "mib": "MiB", "mhz": "MHz", "cores": "cores", "bytes": "bytes", "life_left": "% of its life left",
    "mbps": "Mbit/s", "watts": "W",
}  # fmt: skip


def _part(one: Any) -> str:
    """What is known of a part; what is not is left out of a line, and null in JSON."""
    facts = {key: value for key, value in _facts(one).items() if key != "name" and value is not None}
    if facts.get("failing") is not None:
        facts["failing"] = "predicts its own failure" if facts["failing"] else ""
    words = (_amount(value, _UNITS[key]) if key in _UNITS else str(value) for key, value in facts.items())
    return " ".join(filter(None, words)) or NOT_KNOWN


def _firmware(board: Board, _given: argparse.Namespace) -> Outcome:
    identity = board.identity()
    found = board.ask("its firmware", lambda conn, _: firmware.read(conn, identity))
    rows = [(one.name, one.version or NOT_KNOWN) for one in found]
    return Outcome({"firmware": [asdict(one) for one in found]}, _columns(rows))


def _boot_order(board: Board, given: argparse.Namespace) -> Outcome:
    if given.first is None:
        found = board.ask("its boot order", boot_order.read)
    else:
        found = board.ask(
            "another boot order",
            lambda conn, path: boot_order.put_first(conn, path, board.timing, given.first),
        )
    if found is None:
        return Outcome({"boot_order": None}, [f"boot order {NOT_KNOWN}"])
    rows = [(one.reference, one.name or NOT_KNOWN, one.device or "") for one in found]
    return Outcome({"boot_order": [asdict(one) for one in found]}, _columns(rows))


def _get(board: Board, given: argparse.Namespace) -> Outcome:
    body = board.ask(given.path, lambda conn, _: conn.read(given.path))
    return Outcome({"body": body}, [])


@dataclass(frozen=True, slots=True)
class Command:
    """One command: what it says of itself, what it does, and when it changes power, boot or logs."""

    help: str
    does: Callable[[Board, argparse.Namespace], Outcome]
    acts: Callable[[argparse.Namespace], bool]


def _always(_given: argparse.Namespace) -> bool:
    return True


def _never(_given: argparse.Namespace) -> bool:
    return False


COMMANDS = {
    "on": Command("switch on", _on, _always),
    "off": Command("switch off, without asking the OS", _off, _always),
    "cycle": Command("switch off and on again, each read back", _cycle, _always),
    "reset": Command("restart; by off and on where the BMC shows a restart by nothing", _reset, _always),
    "boot": Command("show or set where it boots from", _boot, lambda given: given.source is not None),
    "sensors": Command("temperatures, fans, voltages, power", _sensors, _never),
    "log": Command("the event logs, or --clear them", _log, lambda given: bool(given.clear)),
    "inventory": Command("memory, processors, disks, network ports, power supplies", _inventory, _never),
    "firmware": Command("versions of BMC, BIOS and what else the BMC lists", _firmware, _never),
    "boot-order": Command("show or --set its order", _boot_order, lambda given: given.first is not None),
    "get": Command("any resource as it is, its secrets hidden", _get, _never),
}


def _facts(one: Any) -> dict[str, Any]:
    assert is_dataclass(one) and not isinstance(one, type)
    return asdict(one)


def _amount(value: float | None, unit: str | None) -> str:
    if value is None:
        return NOT_KNOWN
    number = f"{value:.0f}" if value == int(value) else f"{value:g}"
    return f"{number} {unit}" if unit else number


def _columns(rows: Iterable[Sequence[str]]) -> list[str]:
    """Rows as lines, each column as wide as its widest word."""
    listed = [list(row) for row in rows]
    widths = [max(len(word) for word in column) for column in zip(*listed, strict=True)]
    padded = (zip(row, widths, strict=True) for row in listed)
    return ["  ".join(f"{word:{width}}" for word, width in row if width).rstrip() for row in padded]
