"""What the history answers, as data for programs and as text for people."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any, TypeVar

from provision.run import STEPS
from reports.history import BAD, Failure, History, RunRow, Wavering
from reports.story import NODE_PHASES, Result, duration, is_slow
from reports.terminal import listed

T = TypeVar("T")
BARS = "▁▂▃▄▅▆▇█"
TREND = 30
"""Runs in a trend."""
WIDEST = 100


def lab_data(history: History, lab: str, last: int, node: str | None = None) -> dict[str, Any]:
    """What stands of a lab: its runs, its failures and since when, what is usual and how it went lately."""
    runs = history.runs(lab)
    usual = history.usual(lab)
    proved = history.last_proved(lab)
    newest = runs[-1] if runs else None
    return {
        "lab": lab,
        "runs": len(runs),
        "proved": sum(run.proved for run in runs),
        "last_proved": asdict(proved) if proved else None,
        "standing": list(_standing(history, lab, history.failures(newest.id))) if newest else [],
        "slow": list(_slow(history, newest.id, usual)) if newest else [],
        "usual": usual,
        "trend": {name: [seconds for _, seconds in rows] for name, rows in history.trend(lab, node).items()},
        "last": [asdict(run) | {"bad": _cases(history.failures(run.id))} for run in runs[-last:]],
    }


def lab_text(told: Mapping[str, Any]) -> Iterator[str]:
    """The same, for people."""
    proved = told["last_proved"]
    last = f"last on {_when(proved['began'])} ({proved['id']})" if proved else "never yet"
    yield f"lab {told['lab']}: {told['runs']} runs, {told['proved']} proved, {last}"
    for failures in _alike(told["standing"]).values():
        first = failures[0]
        since = first["since"]
        yield f"\n✗ {grouped(_named(failures))}: since {_when(since['began'])} ({since['id']})"
        yield f"    {_line(first['said'])}"
    for slow in told["slow"]:
        what = f"{slow['node']} {slow['name']}".strip()
        yield f"\n{what} was slow: {duration(slow['seconds'])}, usually {duration(slow['usual'])}"
    yield ""
    yield from _columns(_run_row(run) for run in told["last"])
    for kind in (STEPS, NODE_PHASES):
        rows = {name: seconds for name, seconds in told["trend"].items() if name in kind}
        if rows:
            yield ""
            yield from _columns(_trend_row(name, told["usual"], row) for name, row in rows.items())


def compare_data(history: History, before: RunRow, after: RunRow) -> dict[str, Any]:
    """What differs between two runs."""
    then, now = history.results(before.id), history.results(after.id)
    bad_then, bad_now = _bad(then), _bad(now)
    return {
        "before": asdict(before),
        "after": asdict(after),
        "steps": _pairs(_steps(history, before.id), _steps(history, after.id)),
        "phases": _pairs(
            {f"{row.node} {row.phase}": row.seconds for row in history.phases(before.id)},
            {f"{row.node} {row.phase}": row.seconds for row in history.phases(after.id)},
        ),
        "broken": sorted(bad_now - bad_then),
        "mended": sorted(case for case in bad_then if now.get(case) == "passed"),
        "bad in both": sorted(bad_then & bad_now),
        "no longer reached": sorted(_reached(then) - _reached(now)),
        "reached now": sorted(_reached(now) - _reached(then)),
    }


def compare_text(told: Mapping[str, Any]) -> Iterator[str]:
    """The same, for people: phases only where they differ by more than a second."""
    yield from _columns(_run_row(told[which] | {"bad": []}) for which in ("before", "after"))
    yield ""
    yield from _columns((step, _stood(then), "→", _stood(now)) for step, (then, now) in told["steps"].items())
    changed = {name: pair for name, pair in told["phases"].items() if None not in pair}
    changed = {name: (then, now) for name, (then, now) in changed.items() if abs(now - then) > 1}
    if changed:
        yield "\nphases that took another time:"
        yield from _columns((name, _took(then), "→", _took(now)) for name, (then, now) in changed.items())
    for what in ("broken", "mended", "bad in both", "no longer reached", "reached now"):
        if cases := told[what]:
            yield f"\n{what} ({len(cases)}): {grouped(cases)}"
    if not any(told[what] for what in ("broken", "mended", "bad in both")):
        yield "\nno check failed in either"


def flaky_text(lab: str, wavering: Sequence[Wavering]) -> Iterator[str]:
    """The cases that waver; those that failed in the same runs together: they may have one reason."""
    if not wavering:
        yield f"lab {lab}: no case failed and then passed with the same code and lab file"
        return
    yield f"lab {lab}: failed, and passed in the next run with the same code and lab file"
    together: dict[tuple[str, ...], list[Wavering]] = defaultdict(list)
    for each in wavering:
        together[each.failed].append(each)
    for runs, cases in together.items():
        times = f"{len(runs)} of {max(each.ran for each in cases)} runs"
        yield f"\n{grouped([each.case for each in cases])}: {times}"
        yield f"    failed in {listed(runs[::-1])}"


def _standing(history: History, lab: str, failures: Iterable[Failure]) -> Iterator[dict[str, Any]]:
    for failure in failures:
        first = history.first_bad(lab, failure.fingerprint)
        if first:
            yield asdict(failure) | {"since": asdict(first)}


def _slow(history: History, run: str, usual: Mapping[str, float]) -> Iterator[dict[str, Any]]:
    times = [("", row.step, row.seconds) for row in history.steps(run) if row.state == "done"]
    times += [(row.node, row.phase, row.seconds) for row in history.phases(run)]
    for node, name, seconds in times:
        normal = usual.get(name)
        if normal is not None and seconds and is_slow(seconds, normal):
            yield {"node": node, "name": name, "seconds": seconds, "usual": normal}


def _alike(standing: Iterable[dict[str, Any]]) -> dict[tuple[str, str], list[dict[str, Any]]]:
    told: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for failure in standing:
        told[failure["said"], failure["since"]["id"]].append(failure)
    return told


def _named(failures: Iterable[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(_line(failure["case"]) for failure in failures))


def _cases(failures: Iterable[Failure]) -> list[str]:
    return list(dict.fromkeys(failure.case for failure in failures))


def _bad(results: Mapping[str, Result]) -> set[str]:
    return {case for case, result in results.items() if result in BAD}


def _reached(results: Mapping[str, Result]) -> set[str]:
    return {case for case, result in results.items() if result != "skipped"}


def _pairs(then: Mapping[str, T], now: Mapping[str, T]) -> dict[str, tuple[T | None, T | None]]:
    return {name: (then.get(name), now.get(name)) for name in dict.fromkeys([*then, *now])}


def _steps(history: History, run: str) -> dict[str, dict[str, Any]]:
    return {row.step: {"state": row.state, "seconds": row.seconds} for row in history.steps(run)}


def _run_row(run: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        _when(run["began"]), run["id"], run["mode"], run["verdict"], _took(run["seconds"]),
        grouped(run["bad"], most=2),
    )  # fmt: skip


def grouped(cases: Sequence[str], most: int = 5) -> str:
    """Names of cases in a row, those of one check as one: `dns: name_has_its_address (16)`."""
    checks: dict[str, list[str]] = defaultdict(list)
    for case in cases:
        checks[case.partition("[")[0]].append(case)
    names = [f"{check} ({len(each)})" if len(each) > 1 else each[0] for check, each in checks.items()]
    return _line(listed(names, most))


def _trend_row(step: str, usual: Mapping[str, float], seconds: Sequence[float]) -> tuple[str, ...]:
    normal = f"usually {duration(usual[step])}" if step in usual else ""
    return step, f"last {duration(seconds[-1])}", normal, sparks(seconds[-TREND:])


def sparks(values: Sequence[float]) -> str:
    """Numbers as a row of bars, the greatest as the highest."""
    most = max(values, default=0.0) or 1.0
    return "".join(BARS[min(int(len(BARS) * value / most), len(BARS) - 1)] for value in values)


def _when(began: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.gmtime(began))


def _stood(step: Mapping[str, Any] | None) -> str:
    if step is None:
        return "-"
    return duration(step["seconds"]) if step["state"] == "done" and step["seconds"] else step["state"]


def _took(seconds: float | None) -> str:
    return "-" if seconds is None else duration(seconds)


def _line(text: str) -> str:
    """The first line of a text, without anything that a terminal would take as an order."""
    first = text.strip().partition("\n")[0]
    return "".join(letter if letter.isprintable() else " " for letter in first)


def _columns(rows: Iterable[Sequence[str]]) -> Iterator[str]:
    cells = [[_line(cell) for cell in row] for row in rows]
    widths = [min(max(map(len, column)), WIDEST) for column in zip(*cells, strict=True)]
    for row in cells:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
