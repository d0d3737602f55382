"""The process that holds a rack: it starts boards, BMCs and the internet; everything ends with it."""

from __future__ import annotations

import argparse
import os
import selectors
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from virtual_lab import board, cgroups, kernel, light_machine, server_machine
from virtual_lab.control import ControlSocket
from virtual_lab.hardware import Hardware
from virtual_lab.images import TELLING, recorded
from virtual_lab.places import SERVER, Places
from virtual_lab.plan import MachinePlan, RackPlan, hardware

BMCS, INTERNET = "bmcs", "internet"


@dataclass(frozen=True, slots=True)
class Rack:
    """What the supervisor works from."""

    places: Places
    plan: RackPlan
    groups: list[Path]


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Hold the rack until SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m virtual_lab.supervisor")
    parser.add_argument("home", type=Path)
    parser.add_argument("instance")
    given = parser.parse_args(arguments)
    places = Places(given.home, given.instance)
    plan = RackPlan.load(places.plan)
    kernel.call_myself(f"rack:{given.instance}")
    groups = cgroups.bases(f"rackproof-{given.instance}", record=places.rack / cgroups.RECORD)
    _Supervisor(Rack(places, plan, groups)).serve()


class _Supervisor:
    """Starts what is missing whenever it is asked to, and knows what runs."""

    def __init__(self, rack: Rack) -> None:
        self._rack = rack
        self._selector = selectors.DefaultSelector()
        self._running: dict[str, int] = {}
        ControlSocket(rack.places.supervisor, self._selector, self._answer)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        self._start_missing()

    def serve(self) -> NoReturn:
        while True:
            for key, _ in self._selector.select():
                key.data()

    def _answer(self, request: dict[str, Any]) -> dict[str, Any]:
        match request:
            case {"do": "state"}:
                return {"running": self._running}
            case {"do": "start-missing"}:
                return {"started": self._start_missing()}
        return {"error": "a request says do: state or start-missing"}

    def _start_missing(self) -> list[str]:
        missing = [machine for machine in self._rack.plan.machines if machine.name not in self._running]
        for machine in missing:
            self._watch(machine.name, self._start_machine(machine))
        names = [machine.name for machine in missing]
        for name, arguments in self._programs().items():
            if name not in self._running:
                self._watch(name, self._start_program(name, arguments))
                names.append(name)
        return names

    def _programs(self) -> dict[str, list[str]]:
        if self._rack.plan.is_light:
            return {}
        places = self._rack.places
        return {
            BMCS: ["virtual_lab.bmc", str(places.plan)],
            INTERNET: ["virtual_lab.internet", str(places.home), places.instance],
        }

    def _start_machine(self, machine: MachinePlan) -> int:
        if machine.light is None:
            return self._start_board(machine)
        return light_machine.start(
            self._rack.places, self._rack.plan, machine, _layers_of(self._rack, machine)
        )

    def _start_board(self, machine: MachinePlan) -> int:
        parent = os.getpid()
        process = os.fork()
        if process == 0:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            kernel.die_with_parent(parent)
            board.run(*_board_of(self._rack, machine))
        return process

    def _start_program(self, name: str, arguments: list[str]) -> int:
        log_file = self._rack.places.rack / f"{name}.log"
        log = os.open(log_file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        dying = ["setpriv", "--pdeathsig", "KILL", sys.executable, "-m", *arguments]
        actions = [(os.POSIX_SPAWN_DUP2, log, number) for number in (1, 2)]
        process = os.posix_spawnp(dying[0], dying, os.environ, file_actions=actions)
        os.close(log)
        return process

    def _watch(self, name: str, process: int) -> None:
        self._running[name] = process
        ending = os.pidfd_open(process)
        self._selector.register(ending, selectors.EVENT_READ, lambda: self._ended(name, process, ending))

    def _ended(self, name: str, process: int, ending: int) -> None:
        self._selector.unregister(ending)
        os.close(ending)
        os.waitpid(process, 0)
        del self._running[name]


def _layers_of(rack: Rack, machine: MachinePlan) -> tuple[Path, ...]:
    return recorded(rack.places.rack, rack.places.images)[machine.image]


def _board_of(rack: Rack, machine: MachinePlan) -> tuple[Hardware, board.Mounting]:
    places = rack.places
    is_server = machine.name == SERVER
    images = recorded(places.rack, places.images)
    deliver = partial(
        server_machine.deliver,
        plan=rack.plan,
        ssh_key=places.ssh_key,
        host_key=places.rack / "server_host_key",
    )
    loaders = next(iter(images.get(TELLING, ())), None)
    return hardware(places, machine, images[machine.image], loaders=loaders), board.Mounting(
        namespace=places.namespace(machine.name), groups=rack.groups, socket=places.board(machine.name),
        memory=places.machine(machine.name) / "board.json", deliver=deliver if is_server else None,
    )  # fmt: skip


if __name__ == "__main__":
    main()
