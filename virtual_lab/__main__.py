"""The virtual rack by hand: up, status, exec, console, power, cut, heal, down."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from provision.errors import InventoryError, LabError, Mistake, RackproofError
from virtual_lab import control, down, host, network, status
from virtual_lab.hardware import SHARED
from virtual_lab.holding import held
from virtual_lab.places import Places, home
from virtual_lab.plan import WAN, Cable, MachinePlan, RackPlan

DEFAULT_LAB = Path(__file__).parent.parent / "labs" / "virtual.yaml"
POWER = {
    "on": "On", "off": "ForceOff", "cycle": "ForceRestart", "reset": "ForceRestart",
    "shutdown": "GracefulShutdown", "reboot": "GracefulRestart",
}  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says.

    Returns the exit status: 1 for trouble, 4 for a wrong command line or lab file.
    """
    given = _parser().parse_args(arguments)
    acts = {
        "up": _up, "status": _status, "exec": _exec, "console": _console, "power": _power, "cut": _plug,
        "heal": _plug, "down": _down,
    }  # fmt: skip
    try:
        return acts[given.command](given)
    except InventoryError as error:
        print(error, file=sys.stderr)
        return 4
    except KeyboardInterrupt:
        return 130
    except PermissionError as error:
        print(f"{error.filename}: a virtual rack is root's; run this with sudo", file=sys.stderr)
        return 1
    except RackproofError as error:
        print(error, file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m virtual_lab", description=__doc__)
    parser.add_argument("--rack", help="its name; default: RACKPROOF_INSTANCE, else the only rack there is")
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", help="raise the rack, or start again what died in it")
    up.add_argument("labfile", nargs="?", type=Path, default=DEFAULT_LAB)
    commands.add_parser("status", help="a line for each machine")
    run = commands.add_parser(
        "exec", help="run a command in a machine, or in the lab's network", usage=_EXEC_USAGE
    )
    run.add_argument("words", nargs=argparse.REMAINDER)
    for name, says in _ON_A_MACHINE.items():
        commands.add_parser(name, help=says).add_argument("machine")
    for name in ("cut", "heal"):
        commands.choices[name].add_argument("link", help="a NIC of the machine, or a network")
    actions = f"{', '.join(POWER)}, or Redfish's own word"
    commands.choices["power"].add_argument("action", help=actions)
    commands.add_parser("down", help="remove the rack: processes, namespaces, mounts, files")
    return parser


_EXEC_USAGE = "python -m virtual_lab exec [MACHINE] -- COMMAND"
_ON_A_MACHINE = {
    "console": "what a machine wrote to its serial console, and writes, until Ctrl-C",
    "power": "switch a machine's power",
    "cut": "pull a cable",
    "heal": "plug a cable in again",
}


def _up(given: argparse.Namespace) -> int:
    from provision import inventory  # noqa: PLC0415 (only `up` reads a lab file)
    from virtual_lab.rack import raise_rack  # noqa: PLC0415

    raise_rack(inventory.load(given.labfile), instance=given.rack)
    return 0


def _status(given: argparse.Namespace) -> int:
    places, plan = _standing(given)
    print(f"rack {places.instance}, lab {plan.lab}, in {places.rack}")
    print(status.table(status.rows(places, plan)))
    if not plan.is_light:
        print(status.dashboard(places, plan))
    return 0


def _exec(given: argparse.Namespace) -> int:
    places, plan = _standing(given)
    name, command = _split(given.words)
    if name == network.LAB:
        _become(["nsenter", f"--net={places.namespace(network.LAB)}", "--", *command])
    machine = _machine(plan, name)
    leader = _leader(places, machine)
    if leader is None:
        raise LabError("no system runs on it", node=machine.name)
    inside = ["--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--root", "--wdns=/root"]
    # What this process is told by its own environment means nothing in there.
    clean = ["env", "-i", f"PATH={_PATH}", "HOME=/root", f"TERM={os.environ.get('TERM', 'dumb')}"]
    _become(["nsenter", f"--target={leader}", *inside, "--", *clean, *_NO_MORE, *command])


def _leader(places: Places, machine: MachinePlan) -> int | None:
    """The first process of the system that runs on it."""
    if machine.light:
        running: dict[str, int] = control.ask(places.supervisor, {"do": "state"})["running"]
        return running.get(machine.name)
    leader: int | None = control.ask(places.board(machine.name), {"do": "state"})["leader"]
    return leader


# nsenter keeps this process's capabilities, which are the host's: a command in a machine has no more than
# the machine itself (machine.py), and above all cannot set the clock.
_NO_MORE = ["setpriv", f"--bounding-set={','.join(f'-{capability}' for capability in SHARED)}", "--"]
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def _console(given: argparse.Namespace) -> int:
    places, plan = _standing(given)
    log = places.console(_machine(plan, given.machine).name)
    log.touch()
    _become(["tail", "--lines=+1", "--follow=name", str(log)])


def _power(given: argparse.Namespace) -> int:
    places, plan = _standing(given)
    machine = _machine(plan, given.machine)
    if machine.light:
        raise LabError("it is light: it has no board, and is on while the rack stands", node=machine.name)
    action = POWER.get(given.action.lower(), given.action)
    state = control.ask(places.board(machine.name), {"do": "power", "action": action})
    print(f"{machine.name}: {action}; power {state['power']}, {state['phase']}")
    return 0


def _plug(given: argparse.Namespace) -> int:
    places, plan = _standing(given)
    machine = _machine(plan, given.machine)
    cable = _cable(machine, given.link)
    network.plugged(places, cable.port, in_place=given.command == "heal")
    done = "plugged in" if given.command == "heal" else "pulled"
    print(f"{machine.name}: {cable.nic} ({cable.network}) {done}")
    return 0


def _down(given: argparse.Namespace) -> int:
    host.check()
    places = _places(given)
    with held(places, print):
        found = down.take_down(places)
    print(f"the rack {places.instance} is down" if found else f"there is no rack {places.instance}")
    return 0


def _become(command: list[str]) -> NoReturn:
    """Make way for a program that then owns the terminal, and whose exit status is this one's."""
    os.execvp(command[0], command)  # noqa: S606


def _places(given: argparse.Namespace) -> Places:
    """The rack that is meant; raises InventoryError when that is not clear."""
    named = given.rack or os.environ.get("RACKPROOF_INSTANCE")
    there = sorted(path.name for path in (home() / "racks").glob("*") if path.is_dir())
    if not named and len(there) > 1:
        wrong = f"several racks are there, {', '.join(there)}; say which with --rack"
        raise InventoryError([Mistake("command line", None, "--rack", wrong)])
    return Places.of(there[0] if there else "virtual", named)


def _standing(given: argparse.Namespace) -> tuple[Places, RackPlan]:
    places = _places(given)
    if not places.plan.exists():
        raise LabError(f"there is no rack {places.instance}; raise one with python -m virtual_lab up")
    return places, RackPlan.load(places.plan)


def _machine(plan: RackPlan, name: str) -> MachinePlan:
    machine = plan.machine(name)
    if machine is None:
        known = ", ".join(machine.name for machine in plan.machines)
        raise InventoryError([Mistake("command line", None, name, f"is no machine of this rack: {known}")])
    return machine


def _cable(machine: MachinePlan, link: str) -> Cable:
    cable = machine.cable(link)
    if cable is None or cable.network == WAN:
        known = ", ".join(
            f"{cable.nic} ({cable.network})" for cable in machine.cables if cable.network != WAN
        )
        raise InventoryError([Mistake("command line", None, link, f"is no cable of {machine.name}: {known}")])
    return cable


def _split(words: Sequence[str]) -> tuple[str, list[str]]:
    """The machine (the lab's network without one) and the command, of `[MACHINE] -- COMMAND`."""
    given = list(words)
    at = given.index("--") if "--" in given else len(given)
    before, command = given[:at], given[at + 1 :]
    if len(before) > 1 or not command:
        raise InventoryError([Mistake("command line", None, "exec", f"is written {_EXEC_USAGE}")])
    return (before[0] if before else network.LAB), command


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # as `status | head` expects of a program
    sys.exit(main())
