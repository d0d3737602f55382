"""One node's board as its BMC shows it: who it is, its power, its one-time boot override, its reset.

Resources are read as plain JSON: sushy's own classes for them fail on what BMCs leave out or misspell,
and its actions do not look whether they had an effect.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Literal, TypeVar

from sushy import exceptions

from provision.errors import GaveUp, IdentityMismatch, Refused, Unreachable
from provision.redfish import override, reset
from provision.redfish.body import Json, part
from provision.redfish.connection import Connection, Timing, told
from provision.redfish.identity import Identity, identify, said, system_macs
from provision.redfish.machine import Machine
from provision.redfish.override import BootOverride, Enabled, Target
from provision.redfish.reset import Reset, StateIsAnother
from provision.redfish.trust import innermost, require_means
from provision.spans import at_work
from provision.wait import NotYet

T = TypeVar("T")
Source = Literal["Pxe", "Hdd", "Cd", "BiosSetup"]


class Board:
    """A node's board, spoken to through its BMC's Redfish service. Not for two threads at once.

    Nothing is sent before the first question. Every method raises LabError, naming node and BMC.
    """

    def __init__(self, node: Machine, *, port: int = 443, timing: Timing | None = None) -> None:
        self.node, self.timing = node, timing or Timing()
        self._port = port
        self._connection: Connection | None = None
        self._path: str | None = None

    def __enter__(self) -> Board:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Log out. A later question logs in again."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with at_work(self.node.bmc.name):
                connection.close()

    @property
    def auth(self) -> str:
        """The login in use: `session`, or `basic` and why."""
        return (self._connection and self._connection.login.how) or "none"

    def identity(self) -> Identity:
        """What the BMC says of itself and its system."""
        with self._asked_for("its identity"):
            return identify(self._conn, self._system, self.node)

    def power_state(self) -> str | None:
        """Redfish's PowerState, such as On, Off or PoweringOn; None when the BMC does not know."""
        with self._asked_for("its power state"):
            return reset.state(self._conn, self._system).power

    def boot_override(self) -> BootOverride:
        """The override that the next boot will follow."""
        with self._asked_for("its boot override"):
            return override.read(self._conn, self._conn.read(self._system))

    def set_boot_once_pxe(self) -> BootOverride:
        """Make the next boot, and only that, a network boot; returns what the BMC then reads back.

        Raises GaveUp when the BMC accepts it and does not keep it.
        """
        return self.set_boot_once("Pxe")

    def set_boot_once(self, source: Source) -> BootOverride:
        """Make the next boot, and only that, one from network (Pxe), disk (Hdd) and so on, likewise.

        It is in the mode of the machine's firmware, and from network by HTTP where that is how it boots.
        """
        return self.set_boot(source, "Once")

    def set_boot(self, source: Source, enabled: Enabled) -> BootOverride:
        """Make the next boot, or each from now on (Continuous), one from there, likewise."""
        target = self.node.network_target if source == "Pxe" else source
        often = "one" if enabled == "Once" else "every"
        with self._asked_for(f"{often} {override.NAMES[target]} boot"):
            override.send(self._conn, self._system, self.timing, target, self.node.boot_mode, enabled=enabled)
            return self._kept(target, enabled)

    def clear_boot_override(self) -> None:
        """Let the next boot follow the machine's own boot order again."""
        with self._asked_for("a boot in its own order"):
            override.send_none(self._conn, self._system, self.timing)
            self.timing.kept.until("no boot override to be left", self._cleared)

    def reset(self, *, seen: Callable[[], bool] = lambda: False) -> Reset:
        """Make the machine boot, from whatever state, and return once that is seen to be under way.

        What counts is the effect: power, the override used up, boot progress, or `seen`, which is asked
        whether the node was heard of elsewhere. After a lost answer nothing is sent again before the BMC
        was watched for half the time there is.
        """
        with self._asked_for("a reset"):
            try:
                return reset.reset(self._conn, self._system, self.timing, seen)
            except StateIsAnother:
                return reset.reset(self._conn, self._system, self.timing, seen)

    def switch(self, wanted: Literal["On", "Off"]) -> Reset:
        """Switch the machine on, or off without asking its OS, and return once that is read back."""
        with self._asked_for(f"power {wanted}"):
            try:
                return reset.switch(self._conn, self._system, self.timing, wanted)
            except StateIsAnother:
                return reset.switch(self._conn, self._system, self.timing, wanted)

    def restart(self) -> Reset:
        """Make the machine boot in a way that can be seen: a reset, or off and on if its BMC shows none."""
        with self._asked_for("a restart"):
            shown = reset.shows_a_restart(self._conn, self._system)
        return self.reset() if shown else self.cycle()

    def cycle(self) -> Reset:
        """Switch the machine off, without asking its OS, and on again; return once both were read back."""
        with self._asked_for("a power cycle"):
            try:
                return reset.cycle(self._conn, self._system, self.timing)
            except StateIsAnother:
                return reset.cycle(self._conn, self._system, self.timing)

    def _cleared(self) -> bool | NotYet:
        read = override.read(self._conn, self._conn.read(self._system))
        return NotYet(str(read)) if read.pending else True

    def ask(self, what: str, question: Callable[[Connection, str], T]) -> T:
        """Ask something else, `what` in words: `question` gets the connection and the system's path."""
        with self._asked_for(what):
            return question(self._conn, self._system)

    def _kept(self, target: Target, enabled: Enabled) -> BootOverride:
        def probe() -> BootOverride | NotYet:
            read = override.read(self._conn, self._conn.read(self._system))
            return read if read.fits(target, enabled, mode) else NotYet(str(read))

        name, mode = override.NAMES[target], self.node.boot_mode
        try:
            return self.timing.kept.until(f"the {name} boot to be read back", probe)
        except GaveUp as error:
            often = "one" if enabled == "Once" else "every"
            raise GaveUp(
                f"{often} {mode} {name} boot was accepted but not kept for {self.timing.kept.seconds:g} s",
                last_seen=error.last_seen,
                likely=f"a setting of the machine's firmware stands against it: boot mode, {name} boot",
            ) from error

    @contextmanager
    def _asked_for(self, what: str) -> Iterator[None]:
        """Mark the time as the BMC's, and name node, BMC and question in whatever is raised."""
        with at_work(self.node.bmc.name):
            try:
                yield
            except (GaveUp, Refused) as error:
                if self.node.bmc.name in error.message:
                    raise
                message = f"{self._place(what)}: {error.message}"
                raise type(error)(
                    message, node=self.node.name, last_seen=error.last_seen, likely=error.likely
                ) from error
            except exceptions.ConnectionError as error:
                raise self._unreachable(what, error) from error
            except (exceptions.HTTPError, StateIsAnother) as error:
                words = told(error) if isinstance(error, exceptions.HTTPError) else str(error)
                raise Refused(f"{self._place(what)}, refuses: {words}", node=self.node.name) from error
            except ValueError as error:
                message = f"{self._place(what)}, answers otherwise than Redfish: {error}"
                raise Refused(message, node=self.node.name) from error

    def _unreachable(self, what: str, error: exceptions.ConnectionError) -> Unreachable:
        return Unreachable(
            f"{self._place(what)}, gives no answer: {innermost(error)}",
            node=self.node.name,
            likely=f"the BMC is off, unplugged or rebooting, or nodes.{self.node.name}.bmc.address is wrong",
        )

    def _place(self, what: str) -> str:
        return f"{self.node.bmc.name} ({self.node.bmc.address}), asked for {what}"

    @property
    def _conn(self) -> Connection:
        if self._connection is None:
            require_means(self.node, self._port, self.timing.connect)
            self._connection = Connection(self.node, port=self._port, timing=self.timing)
        if self._connection.login.how is None:
            self._connection.open()
        return self._connection

    @property
    def _system(self) -> str:
        if self._path is None:
            self._path = self._choose_system()
        return self._path

    def _choose_system(self) -> str:
        """The path of this node's system: the one the lab file names, the only one, or the one that fits."""
        links = self._conn.links(part(self._conn.root, "Systems", "@odata.id"))
        paths = [str(link.get("@odata.id")) for link in links]
        fitting = paths
        if (named := self.node.bmc.system) is not None:
            fitting = [path for path in paths if named in (path, path.rstrip("/").rpartition("/")[2])]
        elif len(paths) > 1:
            fitting = self._fitting(paths)
        if len(fitting) != 1:
            raise self._which_system(paths)
        return fitting[0]

    def _fitting(self, paths: Iterable[str]) -> list[str]:
        """Those systems that can be booted and, when several can, show this node's serial or MAC."""
        systems = {path: self._conn.read(path) for path in paths}
        bootable = {
            path: body
            for path, body in systems.items()
            if body.get("Boot") and part(body, "Actions", "#ComputerSystem.Reset", "target")
        }
        if len(bootable) <= 1:
            return list(bootable)
        return [path for path, body in bootable.items() if self._is_this_node(body)]

    def _is_this_node(self, system: Mapping[str, Json]) -> bool:
        serial = said(system.get("SerialNumber"))
        if self.node.serial and serial:
            return serial.lower() == self.node.serial.lower()
        return self.node.mac in system_macs(self._conn, system, self.node)

    def _which_system(self, paths: Sequence[str]) -> IdentityMismatch:
        named = self.node.bmc.system
        problem = f"has no system {named}" if named else "has no single system that is this node"
        return IdentityMismatch(
            f"{self.node.bmc.name} ({self.node.bmc.address}) {problem}; nothing was written to it",
            node=self.node.name,
            last_seen=f"systems {', '.join(paths) or 'none'}",
            likely=f"name the right one in nodes.{self.node.name}.bmc.system",
        )
