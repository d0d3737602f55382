"""What a virtual BMC knows: its server's board, by the board's socket, and the quirks it plays."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from provision.errors import LabError, Refused
from virtual_lab.control import ask

QUIRKS = (
    "supermicro-x11",  # plain
    "x10",  # knows no BootSourceOverrideMode, and refuses who sends it
    "lost-answer",  # does the next reset, and drops the connection instead of answering, once
    "busy",  # 503 with Retry-After, once
    "ignores-pxe",  # takes a boot override with 204, and keeps nothing
    "wrong-serial",  # is another server's BMC
)
PLAIN = QUIRKS[0]
SYSTEM = "1"


@dataclass(frozen=True, slots=True)
class Console:
    """One BMC: its server's facts, where it listens, its files; `quirk` names a file that names the quirk."""

    node: str
    netns: Path
    address: str
    mac: str
    certificate: Path
    key: Path
    users: Path
    board_socket: Path
    quirk: Path
    serial: str
    product: str
    manufacturer: str
    uuid: str
    bios_version: str
    memory_gib: int
    cores: int
    nics: Mapping[str, str]
    http_boot: bool = False
    port: int = 443

    @property
    def targets(self) -> tuple[str, ...]:
        """What a boot can be overridden with; UEFI that is played boots by no HTTP."""
        return ("None", "Pxe", *(("UefiHttp",) if self.http_boot else ()), "Hdd")


class NotWorking(Exception):
    """The board refused, or does not answer; `code` is the HTTP status that this becomes."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


Ask = Callable[[Path, dict[str, Any]], dict[str, Any]]


class Bmc:
    """A BMC's own state, which is little: the board has the rest."""

    def __init__(self, console: Console, ask_board: Ask = ask) -> None:
        self.console = console
        self._ask_board = ask_board
        self._spent: set[str] = set()
        self._transition: str | None = None

    def quirk(self, name: str, *, once: bool = False) -> bool:
        """Whether this BMC has the quirk now; with `once`, only the first time since it was given to it."""
        try:
            current = self.console.quirk.read_text().strip() or PLAIN
        except FileNotFoundError:
            current = PLAIN
        self._spent &= {current}
        if current != name or (once and name in self._spent):
            return False
        if once:
            self._spent.add(name)
        return True

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Ask the board. Raises NotWorking."""
        try:
            return self._ask_board(self.console.board_socket, request)
        except Refused as refused:
            raise NotWorking(str(refused), 400) from refused
        except LabError as error:
            raise NotWorking(str(error), 503) from error

    @property
    def serial(self) -> str:
        """The server's serial number, as this BMC tells it."""
        return f"X{self.console.serial[1:]}" if self.quirk("wrong-serial") else self.console.serial

    @property
    def power(self) -> str:
        """On, Off, and at the first reading after an action PoweringOn or PoweringOff."""
        state: str = self.ask({"do": "state"})["power"]
        transition, self._transition = self._transition, None
        return state if transition is None or (transition, state) == ("PoweringOff", "Off") else transition

    def reset(self, action: str) -> None:
        """A power action. Raises NotWorking, with 409 where the server is not in the state for it."""
        power = self.ask({"do": "state"})["power"]
        if power == "Off" and action in _NEEDS_POWER:
            raise NotWorking(f"{action} is not possible while the system is powered off", 409)
        self._transition = _TRANSITIONS.get(action)
        self.ask({"do": "power", "action": action})

    @property
    def override(self) -> dict[str, str]:
        """The boot override as Redfish names its properties."""
        kept = self.ask({"do": "state"})["override"]
        words = {
            "BootSourceOverrideTarget": kept["target"],
            "BootSourceOverrideEnabled": kept["enabled"],
            "BootSourceOverrideMode": kept["mode"],
        }
        return {name: word for name, word in words.items() if self._knows(name)}

    def set_override(self, wanted: Mapping[str, Any]) -> None:
        """Change the boot override. Raises NotWorking for what this BMC does not know."""
        for name in wanted:
            if name not in _OVERRIDE or not self._knows(name):
                raise NotWorking(f"The property {name} is not in the list of valid properties", 400)
        if (target := wanted.get(_TARGET, "None")) not in self.console.targets:
            raise NotWorking(f"The value {target} for {_TARGET} is not in the list of acceptable values", 400)
        if self.quirk("ignores-pxe"):
            return
        change = {_OVERRIDE[name]: value for name, value in wanted.items()}
        if change.get("target", "None") != "None" and "enabled" not in change:
            change["enabled"] = "Once"
        self.ask({"do": "override", **change})

    def _knows(self, name: str) -> bool:
        return name != "BootSourceOverrideMode" or not self.quirk("x10")


ACTIONS = (
    "On", "ForceOff", "GracefulShutdown", "GracefulRestart", "ForceRestart", "PowerCycle", "ForceOn",
    "PushPowerButton",
)  # fmt: skip
_NEEDS_POWER = frozenset({"ForceRestart", "GracefulRestart", "GracefulShutdown", "PowerCycle"})
_TRANSITIONS = {"On": "PoweringOn", "ForceOn": "PoweringOn", "ForceOff": "PoweringOff"}
_TARGET = "BootSourceOverrideTarget"
_OVERRIDE = {
    _TARGET: "target",
    "BootSourceOverrideEnabled": "enabled",
    "BootSourceOverrideMode": "mode",
}
