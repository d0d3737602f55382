"""The tree of named errors.

RackproofError
├── InventoryError      the lab file or the command line is wrong: exit 4, nothing was touched
│   └── NotAllowed      the leave to destroy this lab was not given: exit 4
├── WriteRefused        a check would have changed something while only reading is allowed: a JUnit *error*
└── LabError            BMC, network, time-out: a JUnit *error*, raised in a step
    ├── GaveUp          a deadline passed; carries what was last seen
    ├── Unreachable     a machine could not be spoken to, or did not prove who it is
    ├── IdentityMismatch  the machine behind a BMC is not the one the lab file names
    └── Refused         a machine answered, and said no

A machine that came up wrong is no exception at all: a check asserts it, and JUnit says *failure*.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


class RackproofError(Exception):
    """Anything that rackproof itself reports."""


@dataclass(frozen=True, slots=True)
class Mistake:
    """One thing wrong in a file a user wrote: where, and what to do about it."""

    file: str
    line: int | None
    place: str
    message: str

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.line else self.file
        return f"{where}: {self.place}: {self.message}" if self.place else f"{where}: {self.message}"


class InventoryError(RackproofError):
    """The lab file or the command line is wrong; all mistakes at once."""

    def __init__(self, mistakes: Sequence[Mistake]) -> None:
        self.mistakes = tuple(mistakes)
        count = f"{len(self.mistakes)} mistake{'s' if len(self.mistakes) != 1 else ''}; nothing was touched"
        super().__init__("\n".join([*map(str, self.mistakes), count]))


class NotAllowed(InventoryError):
    """The leave to destroy what is on this lab's disks was not given."""


class WriteRefused(RackproofError):
    """What a check would have sent is not known to only read, and was not sent: a fault of the check."""

    def __init__(self, message: str, why: str, *, node: str | None, test: str | None, advice: str) -> None:
        self.why, self.node = why, node
        lines = [f"{node}: {message}" if node else message, f"why: {why}; this session only reads"]
        lines += [f"asked by: {test}"] if test else []
        super().__init__("\n  ".join([*lines, f"to do: {advice}"]))


class LabError(RackproofError):
    """Trouble of the lab: one node (or none), what was last seen, what is likely, where evidence lies."""

    def __init__(
        self,
        message: str,
        *,
        node: str | None = None,
        last_seen: str | None = None,
        likely: str | None = None,
    ) -> None:
        self.message, self.node, self.last_seen, self.likely = message, node, last_seen, likely
        super().__init__(str(self))

    def __str__(self) -> str:
        lines = [f"{self.node}: {self.message}" if self.node else self.message]
        lines += [f"last seen: {self.last_seen}"] if self.last_seen else []
        lines += [f"likely: {self.likely}"] if self.likely else []
        return "\n  ".join(lines)


class GaveUp(LabError):
    """A deadline passed."""


class Unreachable(LabError):
    """A machine could not be spoken to, or did not prove who it is."""


class IdentityMismatch(LabError):
    """The machine behind a BMC is not the one that the lab file names."""


class Refused(LabError):
    """A machine answered, and said no."""


class NodesFailed(LabError):
    """Several nodes failed in the same step, each with its own error."""

    def __init__(self, errors: Mapping[str, Exception]) -> None:
        self.errors = dict(errors)
        self.node_errors = [
            error if isinstance(error, LabError) else LabError(f"{type(error).__name__}: {error}", node=name)
            for name, error in self.errors.items()
        ]
        super().__init__("\n".join(map(str, self.node_errors)))
