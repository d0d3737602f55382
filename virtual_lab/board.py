"""A server's mainboard: power, boot override, and the machine that runs while the power is on."""

from __future__ import annotations

import json
import os
import selectors
import signal
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn, Protocol, get_args

from virtual_lab import kernel, machine
from virtual_lab.control import ControlSocket
from virtual_lab.hardware import (
    BootMode,
    Hardware,
    Override,
    OverrideEnabled,
    OverrideTarget,
    PowerState,
)


class Machine(Protocol):
    """What a board can do to the machine that it has started."""

    @property
    def phase(self) -> str:
        """What it is at."""

    @property
    def leader(self) -> int | None:
        """The first process of the system that runs in it."""

    def cut(self) -> None:
        """Take its power away."""

    def press(self) -> None:
        """Press its power button."""


Start = Callable[[Override], Machine]


@dataclass
class Kept:
    """What a board remembers without power: whether it was on, and the boot override."""

    power: PowerState = "Off"
    override: Override = field(default_factory=Override)

    @classmethod
    def load(cls, path: Path) -> Kept:
        """From a file; a board without one is new."""
        if not path.exists():
            return cls()
        raw = json.loads(path.read_text())
        return cls(raw["power"], Override(**raw["override"]))

    def save(self, path: Path) -> None:
        """Into a file, whole or not at all."""
        new = path.with_suffix(".new")
        new.write_text(json.dumps(asdict(self)))
        new.replace(path)


class Board:
    """The state of one board; `start` starts the machine, `changed` is told what to remember."""

    def __init__(
        self, kept: Kept, start: Start, changed: Callable[[Kept], None] = lambda _kept: None
    ) -> None:
        self._kept, self._start, self._changed = kept, start, changed
        self._machine: Machine | None = None
        self._again = False
        self._boots = 0
        self._actions: Mapping[str, Callable[[], None]] = {
            "On": self._on, "ForceOn": self._on, "ForceOff": self._cut, "ForceRestart": self._restart,
            "PowerCycle": self._restart, "GracefulShutdown": self._press, "PushPowerButton": self._push,
            "GracefulRestart": self._graceful_restart,
        }  # fmt: skip
        if kept.power == "On":
            self._on()

    def answer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Do what a request of the control socket says; an answer with `error` means nothing was done."""
        match request:
            case {"do": "state"}:
                return self.state()
            case {"do": "power", "action": str(action)} if action in self._actions:
                self._actions[action]()
                return self.state()
            case {"do": "power"}:
                return {"error": f"a power action is one of {', '.join(self._actions)}"}
            case {"do": "override"}:
                return self._set_override(request)
        return {"error": "a request says do: state, power or override"}

    def state(self) -> dict[str, Any]:
        """What the board knows; `leader` is the process in which the running machine lives."""
        running = self._machine
        phase, leader = (running.phase, running.leader) if running else ("off", None)
        return {
            "power": "On" if running else "Off", "phase": phase, "leader": leader, "boots": self._boots,
            "override": asdict(self._kept.override),
        }  # fmt: skip

    def ended(self, code: int) -> None:
        """The machine's process has ended: it restarts, or the power is off now."""
        self._machine = None
        if code == machine.REBOOT or self._again:
            self._on()
        else:
            self._remember(power="Off")

    def _on(self) -> None:
        if self._machine:
            return
        self._again = False
        self._boots += 1
        override = self._kept.override
        # The firmware uses a one-time override up the moment it reads it.
        left = Override(mode=override.mode) if override.enabled == "Once" else override
        self._remember(power="On", override=left)
        self._machine = self._start(override)

    def _cut(self) -> None:
        self._again = False
        if self._machine:
            self._machine.cut()

    def _restart(self) -> None:
        if self._machine:
            self._again = True
            self._machine.cut()
        else:
            self._on()

    def _press(self) -> None:
        self._again = False
        if self._machine:
            self._machine.press()

    def _push(self) -> None:
        if self._machine:
            self._press()
        else:
            self._on()

    def _graceful_restart(self) -> None:
        if self._machine:
            self._again = True
            self._machine.press()
        else:
            self._on()

    def _set_override(self, request: Mapping[str, Any]) -> dict[str, Any]:
        wanted = {key: request[key] for key in ("target", "enabled", "mode") if key in request}
        allowed = {"target": OverrideTarget, "enabled": OverrideEnabled, "mode": BootMode}
        for key, value in wanted.items():
            if value not in get_args(allowed[key]):
                return {"error": f"{key} is one of {', '.join(get_args(allowed[key]))}"}
        self._remember(override=replace(self._kept.override, **wanted))
        return self.state()

    def _remember(self, *, power: PowerState | None = None, override: Override | None = None) -> None:
        self._kept = Kept(power or self._kept.power, override or self._kept.override)
        self._changed(self._kept)


class _Process:
    """A machine in its process."""

    def __init__(self, process: int) -> None:
        self.process = process
        self.phase = "power-on"
        self._first: int | None = None

    @property
    def leader(self) -> int | None:
        """The first process of the system that runs, as this host counts; None before there is one."""
        return system_leader(self._first) if self._first and self.phase == "system" else None

    def cut(self) -> None:
        _kill(self._first or self.process, signal.SIGKILL)

    def press(self) -> None:
        if self._first:
            _kill(self._first, signal.SIGTERM)

    def hear(self, line: str) -> None:
        """Take a line of news from the machine."""
        word, _, rest = line.partition(" ")
        if word == "pid":
            self._first = int(rest)
        elif word == "phase":
            self.phase = rest


@dataclass(frozen=True, slots=True)
class Mounting:
    """Where a board stands: its namespace, control groups, memory; `deliver` fills a factory-made disk."""

    namespace: Path
    groups: list[Path]
    socket: Path
    memory: Path
    deliver: machine.Deliver | None = None


def run(hardware: Hardware, mounting: Mounting) -> NoReturn:
    """Be the board of `hardware` until killed; called in a process of its own."""
    kernel.call_myself(f"board:{hardware.name}")
    kernel.enter(mounting.namespace, kernel.CLONE_NEWNET)
    _Running(hardware, mounting).serve()


class _Running:
    def __init__(self, hardware: Hardware, mounting: Mounting) -> None:
        self._hardware, self._mounting = hardware, mounting
        self._selector = selectors.DefaultSelector()
        self._board = Board(Kept.load(mounting.memory), self._start, lambda kept: kept.save(mounting.memory))
        ControlSocket(mounting.socket, self._selector, self._board.answer)

    def serve(self) -> NoReturn:
        while True:
            for key, _ in self._selector.select():
                key.data()

    def _start(self, override: Override) -> Machine:
        news, its_end = os.pipe()
        process = os.fork()
        if process == 0:
            hardware, mounting = self._hardware, self._mounting
            os.close(news)
            machine.start(hardware, override, mounting.groups, mounting.deliver, its_end)
        os.close(its_end)
        running = _Process(process)
        self._selector.register(news, selectors.EVENT_READ, lambda: self._hear(running, news))
        ending = os.pidfd_open(process)
        self._selector.register(ending, selectors.EVENT_READ, lambda: self._ended(running, ending))
        return running

    def _hear(self, running: _Process, news: int) -> None:
        received = os.read(news, 4096)
        for line in received.decode().splitlines():
            running.hear(line)
        if not received:
            self._selector.unregister(news)
            os.close(news)

    def _ended(self, running: _Process, ending: int) -> None:
        self._selector.unregister(ending)
        os.close(ending)
        _, status = os.waitpid(running.process, 0)
        self._board.ended(os.waitstatus_to_exitcode(status))


def system_leader(first: int) -> int | None:
    """The process that is number 1 of the system which `first` runs; None while there is none."""
    for child in _children(first):
        for grandchild in _children(child):
            if _pid_namespace(grandchild) != _pid_namespace(first):
                return grandchild
    return None


def _children(process: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
    except OSError:
        return []


def _pid_namespace(process: int) -> str:
    try:
        return str(Path(f"/proc/{process}/ns/pid").readlink())
    except OSError:
        return ""


def _kill(process: int, number: int) -> None:
    try:
        os.kill(process, number)
    except ProcessLookupError:
        return  # it has just ended by itself
