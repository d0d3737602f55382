"""What each check asks of which machine, as it did when it last ran: kept beside the ledger.

It only foretells: a check that asks something else is answered all the same, one round trip later.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

FILE = "questions.json"
SLOW = 1.0
"""Seconds; a command that takes longer is not foretold: all the others would wait for it."""

Asked = dict[str, dict[str, list[str]]]
_SHAPE: TypeAdapter[Asked] = TypeAdapter(Asked)


class Questions:
    """Commands by check and machine: those of earlier sessions, and those that are being asked now."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._before = _read(path)
        self._now: Asked = {}

    def foreseen(self, checks: Iterable[str]) -> dict[str, list[str]]:
        """The commands that these checks are likely to ask, each once, by machine, in the checks' order."""
        found: dict[str, dict[str, None]] = {}
        for check in checks:
            for machine, commands in self._before.get(check, {}).items():
                found.setdefault(machine, {}).update(dict.fromkeys(commands))
        return {machine: list(commands) for machine, commands in found.items()}

    def note(self, check: str, machine: str, command: str, seconds: float = 0.0) -> None:
        """Remember that a check asked this."""
        commands = self._now.setdefault(check, {}).setdefault(machine, [])
        if seconds < SLOW and command not in commands:
            commands.append(command)

    def save(self) -> None:
        """Keep them for the next session; what checks that did not run now asked earlier is kept too."""
        asked = self._before | self._now
        if asked != self._before:
            new = self._path.with_suffix(".new")
            new.write_bytes(_SHAPE.dump_json(asked))
            new.replace(self._path)


def _read(path: Path) -> Asked:
    try:
        return _SHAPE.validate_json(path.read_bytes())
    except (FileNotFoundError, ValidationError):
        return {}
