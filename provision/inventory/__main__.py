"""`check` a lab file, or `convert` a classic nodes.json to one."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from provision.errors import InventoryError, Mistake
from provision.inventory.convert import convert
from provision.inventory.reading import load


def main(arguments: Sequence[str] | None = None, env: Mapping[str, str] = os.environ) -> int:
    """The command line; 0, or 4 when a file is wrong."""
    given = _parser().parse_args(arguments)
    try:
        if given.command == "check":
            _check(given.labfile, env)
        else:
            _convert(given, env)
    except InventoryError as error:
        print(error, file=sys.stderr)
        return 4
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m provision.inventory", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    check = commands.add_parser("check", help="find every mistake in a lab file")
    check.add_argument("labfile", type=Path)
    turn = commands.add_parser("convert", help="write the lab file of a classic inventory")
    turn.add_argument("inventory", type=Path, help="the classic nodes.json")
    turn.add_argument("variables", type=Path, nargs="?", help="its group variables, main.yml")
    turn.add_argument("-o", "--output", type=Path, help="the lab file to write; else it goes to stdout")
    return parser


def _check(labfile: Path, env: Mapping[str, str]) -> None:
    lab = load(labfile, env)
    print(f"{labfile}: lab {lab.name}, {len(lab.networks)} networks, {len(lab.nodes)} nodes: no mistake")


def _convert(given: argparse.Namespace, env: Mapping[str, str]) -> None:
    converted = convert(given.inventory, given.variables, env)
    for name, why in converted.left.items():
        print(f"not carried over: {name}: {why}", file=sys.stderr)
    if given.output is None:
        print(converted.text, end="")
        return
    try:
        with given.output.open("x", encoding="utf-8") as file:
            file.write(converted.text)
    except OSError as error:
        message = f"cannot be written: {error.strerror}"
        raise InventoryError([Mistake(str(given.output), None, "", message)]) from error


if __name__ == "__main__":
    sys.exit(main())
