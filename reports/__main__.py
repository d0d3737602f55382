"""Asks the history of runs: python -m reports history [LAB] | compare RUN RUN | flaky [LAB] | open | import.

Ends with 0 when it has answered, 1 when it cannot (one sentence says why), 2 when the command line is wrong.
"""

from __future__ import annotations

import argparse
import json
import sys
import webbrowser
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from provision.errors import RackproofError
from reports import past, remembered
from reports.history import History, RunRow, place

OUT = Path("reports/out")


class NoAnswer(RackproofError):
    """The history has no answer to this."""


def main(arguments: Sequence[str] | None = None, browse: Callable[[str], bool] = webbrowser.open) -> int:
    """Answer on standard output; `browse` shows a page."""
    asked = _parser().parse_args(arguments)
    try:
        if asked.command == "open":
            return _open(asked, browse)
        where = place(asked.out)
        if asked.command != "import" and not where.exists():
            raise NoAnswer(
                f"{where}: no history yet; every run from now on is kept there, and "
                f"`python -m reports import {asked.out}/*` takes up earlier ones"
            )
        with History(where) as history:
            ANSWERS[asked.command](history, asked)
    except RackproofError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _history(history: History, asked: argparse.Namespace) -> None:
    labs = _labs(history, asked.lab)
    if asked.node and not any(history.trend(lab, asked.node) for lab in labs):
        raise NoAnswer(f"no install of node {asked.node} is known, in lab {', '.join(labs)}")
    told = [remembered.lab_data(history, lab, asked.last, asked.node) for lab in labs]
    _say(asked, told, "\n\n".join("\n".join(remembered.lab_text(lab)) for lab in told))


def _compare(history: History, asked: argparse.Namespace) -> None:
    told = remembered.compare_data(history, _run(history, asked.before), _run(history, asked.after))
    _say(asked, told, "\n".join(remembered.compare_text(told)))


def _flaky(history: History, asked: argparse.Namespace) -> None:
    told = {lab: history.flaky(lab) for lab in _labs(history, asked.lab)}
    data = {lab: [asdict(each) for each in cases] for lab, cases in told.items()}
    _say(asked, data, "\n\n".join("\n".join(remembered.flaky_text(*each)) for each in told.items()))


def _import(history: History, asked: argparse.Namespace) -> None:
    added: list[str] = []
    known: list[str] = []
    refused: list[str] = []
    for path in asked.paths:
        # `latest` leads to a run that has its own folder; what stands beside the runs is none.
        if path.is_symlink() or path.name.startswith("history.sqlite"):
            continue
        try:
            record = past.read(path, asked.lab)
            (added if history.add(record) else known).append(record.run.id)
        except past.NotARun as error:
            refused.append(str(error))
    text = [*refused, f"{len(added)} runs taken up, {len(known)} known already, {len(refused)} refused"]
    _say(asked, {"added": added, "known": known, "refused": refused}, "\n".join(text))
    if refused and not added and not known:
        raise NoAnswer("nothing was taken up")


def _open(asked: argparse.Namespace, browse: Callable[[str], bool]) -> int:
    names = sorted(path.name for path in asked.out.glob("*/") if (path / "index.html").is_file())
    page = asked.out / _one(asked.run, names, f"page in {asked.out}") / "index.html"
    print(page)
    browse(page.resolve().as_uri())
    return 0


ANSWERS: dict[str, Callable[[History, argparse.Namespace], None]] = {
    "history": _history,
    "compare": _compare,
    "flaky": _flaky,
    "import": _import,
}


def _labs(history: History, asked: str | None) -> list[str]:
    labs = history.labs()
    if not labs:
        raise NoAnswer(f"{history.path}: no run is kept in it yet")
    if asked and asked not in labs:
        raise NoAnswer(f"no run of lab {asked} is known; known are {', '.join(labs)}")
    return [asked] if asked else labs


def _run(history: History, words: str) -> RunRow:
    runs = {run.id: run for run in history.runs()}
    if words == "latest" and runs:
        return list(runs.values())[-1]
    return runs[_one(words, list(runs), "run in the history")]


def _one(words: str, names: Iterable[str], what: str) -> str:
    """The one name that these words are, begin or end."""
    known = list(names)
    found = [name for name in known if name == words] or [
        name for name in known if name.startswith(words) or name.endswith(words)
    ]
    if len(found) != 1:
        raise NoAnswer(f"{words}: {f'{len(found)} runs are named so' if found else f'no such {what}'}")
    return found[0]


def _say(asked: argparse.Namespace, data: Any, text: str) -> None:
    print(json.dumps(data, indent=2, ensure_ascii=False) if asked.json else text)


def _parser() -> argparse.ArgumentParser:
    every = argparse.ArgumentParser(add_help=False)
    every.add_argument(
        "--out", type=Path, default=OUT, metavar="DIR", help=f"where reports are; default {OUT}"
    )
    every.add_argument("--json", action="store_true", help="for programs")
    parser = argparse.ArgumentParser(prog="python -m reports", description=(__doc__ or "").partition("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)

    def command(name: str, help_text: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=help_text, description=help_text, parents=[every])

    history = command("history", "the runs of a lab, what is wrong since when, and how long its steps take")
    history.add_argument("lab", nargs="?")
    history.add_argument("--last", type=int, default=20, metavar="N", help="show so many runs; default 20")
    history.add_argument("--node", metavar="NODE", help="how long this node took to reach each phase")
    compare = command("compare", "what differs between two runs")
    for name in ("before", "after"):
        compare.add_argument(name, metavar="RUN", help="a run's name, its beginning or end, or latest")
    flaky = command("flaky", "the checks that fail now and pass then, with the same code and lab file")
    flaky.add_argument("lab", nargs="?")
    shown = command("open", "show the page of a run")
    shown.add_argument("run", nargs="?", default="latest")
    taken = command("import", "take up earlier runs from their folders, or from JUnit files")
    taken.add_argument("paths", nargs="+", type=Path, metavar="PATH")
    taken.add_argument("--lab", help="the lab of a JUnit file that does not name it")
    return parser


if __name__ == "__main__":
    sys.exit(main())
