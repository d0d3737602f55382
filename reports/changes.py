"""What changed in the rack since the last green run, for the page and the summaries."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from provision.baseline import Baseline, Kept, differences
from provision.drift import Difference
from provision.run import Run

WORDS = {"green": "green run", "accepted": "what was accepted in run"}
MOST = 20
"""Changes that a summary for people names."""


@dataclass(frozen=True, slots=True)
class Changes:
    """The facts that a run read beside those of the baseline before it, or why there is nothing to tell.

    `machines` are those compared, `since` says with what. `counting` are changes by machine, `anew` what a
    run that installs makes anew, and `notices` what is no drift, of all machines.
    `unread` says what could not be read.
    """

    state: Literal["compared", "not read", "no baseline"] = "not read"
    machines: Sequence[str] = ()
    since: Sequence[str] = ()
    counting: Mapping[str, Sequence[Difference]] = field(default_factory=dict)
    anew: Sequence[Difference] = ()
    notices: Sequence[Difference] = ()
    unread: Sequence[str] = ()

    @property
    def count(self) -> int:
        """How many there are that count."""
        return sum(map(len, self.counting.values()))


def of_run(run: Run) -> Changes:
    """What a run, which ends now, saw changed."""
    baseline = Baseline(run.ledger, run.lab)
    return changes(baseline.before(run.id), baseline.seen(run.id), made=bool(run.acting))


def changes(before: Mapping[str, Kept], now: Mapping[str, Kept], *, made: bool) -> Changes:
    """Facts now beside facts before, by machine; `made` when the run between them installed what it read."""
    if not before:
        return Changes("no baseline")
    if not now:
        return Changes("not read")
    machines = sorted(now.keys() & before.keys(), key=_place)
    found = [each for name in machines for each in differences(before[name], now[name].reading)]
    counting = [each for each in found if not each.notice and not (made and each.anew)]
    return Changes(
        "compared", machines, list(_since(before[name] for name in machines)),
        {name: of for name in machines if (of := [each for each in counting if each.machine == name])},
        [each for each in found if made and each.anew], [each for each in found if each.notice],
        list(_unread(machines, before, now)),
    )  # fmt: skip


def as_data(changes: Changes) -> dict[str, object]:
    """For programs."""
    return {
        "state": changes.state,
        "since": list(changes.since),
        "changed": [
            {"machine": each.machine, "subject": each.subject, "name": each.name, "before": each.before,
             "after": each.after}
            for group in changes.counting.values() for each in group
        ],
    }  # fmt: skip


def as_text(changes: Changes) -> Iterator[str]:
    """For people, a line for each change, at most MOST; the first line says what is compared."""
    if changes.state != "compared":
        yield {"no baseline": "No green run yet to compare with.",
               "not read": "The rack's facts were not read in this run."}[changes.state]  # fmt: skip
        return
    yield f"Compared with {'; '.join(changes.since)}: {_counted(changes)}."
    found = [each for group in changes.counting.values() for each in group]
    yield from (f"- {each}" for each in found[:MOST])
    if len(found) > MOST:
        yield f"- and {len(found) - MOST} more"


def _counted(changes: Changes) -> str:
    if not changes.count:
        return "nothing changed"
    return f"{changes.count} change{'' if changes.count == 1 else 's'}"


def _place(machine: str) -> tuple[bool, int, str]:
    """Nodes in their order, then server and cluster: names that end in a number go by it."""
    digits = machine[len(machine.rstrip("0123456789")) :]
    return not digits, int(digits or 0), machine


def _since(kept: Iterable[Kept]) -> Iterator[str]:
    """With what is compared: machines may have been rebuilt by different runs."""
    every: dict[tuple[float, str], str] = {}
    for each in kept:
        moment = time.strftime("%-d %b %Y %H:%M UTC", time.gmtime(each.time))
        reason = f" ({each.reason})" if each.reason else ""
        every[each.time, each.run] = f"{WORDS.get(each.how, each.how)} {each.run}, {moment}{reason}"
    yield from (every[key] for key in sorted(every, reverse=True))


def _unread(machines: Iterable[str], before: Mapping[str, Kept], now: Mapping[str, Kept]) -> Iterator[str]:
    for name in machines:
        yield from (f"{name} {subject}: {why}" for subject, why in now[name].reading.unread.items())
    missing = sorted(before.keys() - now.keys(), key=_place)
    if missing:
        yield f"not read in this run: {', '.join(missing)}"
