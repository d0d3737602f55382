"""The nodes' boards by hand: power, boot, sensors, logs, inventory, through their BMCs' Redfish."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any, NoReturn

from provision import hold, inventory, secrets
from provision.errors import InventoryError, LabError, Mistake, NotAllowed
from provision.inventory import Lab, Node
from provision.redfish import Board, Timing, prove
from provision.redfish.commands import COMMANDS, SOURCES, UNDO, Outcome
from provision.redfish.redaction import redacted
from provision.secrets import SecretMissing
from provision.session import Request, Session, new_run_id
from provision.together import together

DONE, FAILED, INTERRUPTED, FAULT, WRONG = 0, 1, 2, 3, 4
"""Exit codes, as pytest's in a lab session."""
EVERY = "all"

Make = Callable[..., Board]


def main(arguments: Sequence[str] | None = None, board: Make = Board) -> int:
    """Do what the command line says, and return the exit code."""
    given = _parser().parse_args(arguments)
    # A session that is left open is one less of the few that a BMC has: SIGTERM unwinds like Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        session = Session(Request("verify", given.lab, virtual=given.virtual), inventory.load(given.lab), "")
        _check(session, given)
        with _held(session, given):
            return _Telling(session.standing_lab(), given, board).run()
    except InventoryError as error:
        print(error, file=sys.stderr)
        return WRONG
    except LabError as error:
        print(error, file=sys.stderr)
        return FAILED
    except PermissionError as error:
        print(f"{error.filename or 'the lab'}: a virtual rack is root's; run this with sudo", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print("interrupted, and logged out; what was sent already may still take effect", file=sys.stderr)
        return INTERRUPTED


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """A wrong command line is 4 here, as everywhere in rackproof."""
        self.print_usage(sys.stderr)
        self.exit(WRONG, f"{self.prog}: {message}; nothing was touched\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m provision.redfish", description=__doc__)
    parser.add_argument("nodes", metavar="NODE[,NODE]|all", type=lambda words: words.split(","))
    lab = inventory.default_lab_file(os.environ)
    _add_options(parser, lab=lab, virtual=False, act=None, json=False, wait=0.0)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        sub = commands.add_parser(name, help=command.help, description=command.help)
        # Given after the command as well; what is not given there must not undo what stands before it.
        _add_options(sub, **dict.fromkeys(("lab", "virtual", "act", "json", "wait"), argparse.SUPPRESS))
    _add_own(commands.choices)
    return parser


def _add_options(parser: argparse.ArgumentParser, **default: Any) -> None:
    option = parser.add_argument
    option("--lab", type=Path, metavar="FILE", default=default["lab"], help="the lab file; default: virtual")
    option("--virtual", action="store_true", default=default["virtual"], help="its hardware is played here")
    option(
        "--act", metavar="NAME", default=default["act"],
        help="leave to change power, boot or logs of the machines of lab NAME; asked of every real lab",
    )  # fmt: skip
    option("--json", action="store_true", default=default["json"], help="one JSON object, for programs")
    option(
        "--wait", type=float, metavar="MINUTES", default=default["wait"],
        help="wait for a lab that a run holds",
    )  # fmt: skip


def _add_own(commands: Mapping[str, argparse.ArgumentParser]) -> None:
    """The arguments that one command alone has."""
    boot = commands["boot"]
    boot.add_argument("source", nargs="?", choices=(*SOURCES, UNDO), help="from now on, or --once")
    boot.add_argument("--once", action="store_true", help="the next boot alone")
    commands["sensors"].add_argument("--filter", metavar="WORD", help="those alone with it in kind or name")
    commands["log"].add_argument("--clear", action="store_true", help="clear every log that can be")
    commands["boot-order"].add_argument(
        "--set", dest="first", metavar="ENTRY[,ENTRY]", type=lambda words: words.split(","),
        help="put these first, by reference or a part of their names; the others follow as they were",
    )  # fmt: skip
    commands["get"].add_argument("path", metavar="PATH", type=_path, help="below /redfish/v1, or from /")


def _path(text: str) -> str:
    if "://" in text or not text.isprintable() or " " in text:
        raise argparse.ArgumentTypeError("a path on the BMC, such as Systems/1 or /redfish/v1/Systems/1")
    return text if text.startswith("/") else f"/redfish/v1/{text}"


def _check(session: Session, given: argparse.Namespace) -> None:
    """Raise InventoryError, before anything is touched, for what cannot or may not be done."""
    lab, acts = session.written, COMMANDS[given.command].acts(given)
    wrong = [*_unknown(lab, given), *([] if session.virtual else _missing(lab, given))]
    if wrong:
        raise InventoryError([Mistake(str(given.lab), None, place, what) for place, what in wrong])
    if given.act not in (None, lab.name):
        raise NotAllowed([_mistake(given, f'--act {given.act}: this lab is named "{lab.name}"')])
    if acts and given.act is None and not session.virtual:
        what = f"this is a real lab, and {given.command} changes {', '.join(_names(lab, given))}"
        raise NotAllowed([_mistake(given, f"{what}: say --act {lab.name} to allow it")])


def _unknown(lab: Lab, given: argparse.Namespace) -> Iterator[tuple[str, str]]:
    for name in _names(lab, given):
        if name not in lab.nodes:
            yield "", f'"{name}" is not a node of this lab; it has {", ".join(lab.nodes)}'


def _missing(lab: Lab, given: argparse.Namespace) -> Iterator[tuple[str, str]]:
    for name in _names(lab, given):
        bmc = lab.nodes[name].bmc if name in lab.nodes else None
        for key, secret in (("user", bmc.user), ("password", bmc.password)) if bmc else ():
            try:
                secret.reveal()
            except SecretMissing as missing:
                yield f"nodes.{name}.bmc.{key}", missing.message


def _names(lab: Lab, given: argparse.Namespace) -> list[str]:
    """The nodes asked for: each once, in the lab's order; what is not known comes last."""
    asked = set(lab.nodes if given.nodes == [EVERY] else given.nodes)
    return [name for name in lab.nodes if name in asked] + sorted(asked - set(lab.nodes))


def _mistake(given: argparse.Namespace, message: str) -> Mistake:
    return Mistake(str(given.lab), None, "", message)


@contextmanager
def _held(session: Session, given: argparse.Namespace) -> Iterator[None]:
    """The lab, held while it is changed: nobody's power is cut in the middle of a run that installs it.

    Raises LabError naming the run that holds it.
    """
    if not COMMANDS[given.command].acts(given):
        yield
        return
    name = f"{new_run_id()}-redfish-{given.command}"
    with hold.held(
        session.written.name, name, wait=60 * given.wait, tell=lambda text: print(text, file=sys.stderr)
    ):
        yield


class _Telling:
    """The command on every node at once; each is told as soon as it is done, in JSON all in the end."""

    def __init__(self, lab: Lab, given: argparse.Namespace, board: Make) -> None:
        self._lab, self._given, self._board = lab, given, board
        self._command = COMMANDS[given.command]
        self._acts = self._command.acts(given)
        self._known = secrets.revealed(lab)
        self._mouth = Lock()
        self._worst = DONE

    def run(self) -> int:
        """Run it, and return the exit code."""
        nodes = {name: self._lab.nodes[name] for name in _names(self._lab, self._given)}
        facts = together(nodes, self._on)
        if self._given.json:
            whole = {"lab": self._lab.name, "command": self._given.command, "nodes": facts}
            print(json.dumps(redacted(whole, self._known), indent=2, ensure_ascii=False))
        return self._worst

    def _on(self, node: Node) -> Mapping[str, Any]:
        try:
            outcome = self._outcome(node)
        except LabError as error:
            return self._failed(node, error, FAILED)
        except Exception as error:
            traceback.print_exc()
            return self._failed(node, LabError(f"a fault of rackproof: {error!r}"), FAULT)
        self._tell(self._lines(node, outcome))
        return outcome.facts

    def _outcome(self, node: Node) -> Outcome:
        timing = Timing.within(self._lab.deadlines.power) if self._acts else Timing()
        with self._board(node, timing=timing) as board:
            if self._acts:
                prove(node, board.identity())
            return self._command.does(board, self._given)

    def _lines(self, node: Node, outcome: Outcome) -> list[str]:
        lines = list(outcome.lines)
        if not lines:
            shown = redacted(outcome.facts["body"], self._known)
            lines = json.dumps(shown, indent=2, ensure_ascii=False).splitlines()
        if len(lines) == 1:
            return [f"{node.name}  {lines[0]}"]
        return [node.name, *(f"  {line}" for line in lines)]

    def _failed(self, node: Node, error: LabError, code: int) -> Mapping[str, Any]:
        self._worst = max(self._worst, code)
        about = {"last seen": error.last_seen, "likely": error.likely}
        more = [f"  {name}: {text}" for name, text in about.items() if text]
        self._tell([f"{node.name}  FAILED: {error.message}", *more])
        return {"error": error.message, "last_seen": error.last_seen, "likely": error.likely}

    def _tell(self, lines: Sequence[str]) -> None:
        if not self._given.json:
            with self._mouth:
                print("\n".join(self._masked(line) for line in lines), flush=True)

    def _masked(self, line: str) -> str:
        for value, reference in self._known.items():
            line = line.replace(value, f"({reference})")
        return line


if __name__ == "__main__":
    sys.exit(main())
