"""The nodes' boards as the hands move them: one action at a time on each, identity first, in bounded time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Literal, TypeVar

from provision import spans
from provision.boot_service.flood import FloodGate
from provision.boot_service.hands_config import HandsConfig, HandsNode
from provision.errors import GaveUp, LabError, Refused
from provision.redfish import Board, Timing, prove
from provision.wait import called_off

How = Literal["on", "off", "cycle"]
Source = Literal["network", "disk"]
T = TypeVar("T")

TARGETS: dict[Source, Literal["Pxe", "Hdd"]] = {"network": "Pxe", "disk": "Hdd"}
ACTIONS_A_MINUTE = 4
"""Of one node: enough for who knows what they do, and too few for a loop or a nervous finger."""
READ_SECONDS = 30.0
"""What a look at a board may take, and how long an action waits for one to end."""
FRESH_SECONDS = 10.0
"""How long a state that was read is told again without asking the BMC."""
TROUBLE_SECONDS, REFUSED_SECONDS = 30.0, 300.0
"""How long a BMC is left in peace after it did not answer a look, or refused one: logins lock accounts."""


class UnknownNode(LabError):
    """No node has this name."""


class UnderWay(LabError):
    """Something is being done to this node's board already."""


class TooOften(LabError):
    """This node's board was acted upon too often within a minute."""


class Overdue(GaveUp):
    """An action was broken off at its deadline: what it had begun may still take effect."""


@dataclass(frozen=True, slots=True)
class State:
    """A node as its BMC shows it; all None while an action is under way, which is then named instead.

    `power` is Redfish's PowerState, `identity` how the machine was proved to be the node, `read` when.
    """

    node: str
    power: str | None = None
    identity: str | None = None
    read: float | None = None
    under_way: str | None = None


class Boards:
    """All boards of a lab. Safe for many threads.

    Every method raises UnknownNode, or LabError naming node and BMC; every action besides UnderWay, TooOften,
    and IdentityMismatch before anything was written when the machine is another than the configured one.
    """

    def __init__(
        self,
        config: HandsConfig,
        *,
        board: Callable[[HandsNode, Timing], Board] = lambda node, timing: Board(node, timing=timing),
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._nodes = {node.name: node for node in config.nodes}
        self._seconds, self._make, self._now = config.seconds, board, now
        self._turns = _Turns(now)
        self._looks: dict[str, _Look] = {}
        self._running: set[threading.Event] = set()
        self._stopped = False

    def power(self, name: str, how: How, source: Source | None = None) -> str:
        """Switch a node on or off, or off and on (`cycle`; with `source`, it boots once from there).

        Tells what was done. On and off send nothing when the power is so already; off does not ask the OS.
        """
        if how == "cycle":
            what = f"boot once from {source} and power cycle" if source else "power cycle"
            return self._act(name, what, lambda board: _cycle(board, source))
        return self._act(name, f"power {how}", lambda board: _switched(board, how))

    def boot_once(self, name: str, source: Source) -> str:
        """Make a node's next boot, and only that, one from network or disk. Tells what the BMC read back."""
        return self._act(name, f"boot once from {source}", lambda board: _boot_once(board, source))

    def state(self, name: str) -> State:
        """A node's power, if its BMC proves to be the node's; read anew when the last look is old."""
        node = self._known(name)
        try:
            with self._turns.look(name):
                look = self._looks.get(name)
                if look is None or self._now() >= look.until:
                    look = self._looks[name] = self._look(node)
        except UnderWay as error:
            return State(name, under_way=error.message)
        return look.told()

    def stop(self) -> None:
        """Break off what is under way, so that sessions are closed and the process can end."""
        self._stopped = True
        for flag in list(self._running):
            flag.set()

    def _act(self, name: str, what: str, do: Callable[[Board], str]) -> str:
        node = self._known(name)
        with self._turns.act(name, what):
            self._looks.pop(name, None)
            try:
                return self._with_board(node, self._seconds, lambda board: _proved(board, do))
            finally:
                self._looks.pop(name, None)

    def _look(self, node: HandsNode) -> _Look:
        def read(board: Board) -> State:
            found = board.identity()
            return State(node.name, board.power_state(), prove(node, found), time.time())

        try:
            state = self._with_board(node, READ_SECONDS, read)
        except LabError as error:
            pause = REFUSED_SECONDS if isinstance(error, Refused) else TROUBLE_SECONDS
            return _Look(self._now() + pause, error=error)
        return _Look(self._now() + FRESH_SECONDS, state)

    def _with_board(self, node: HandsNode, seconds: float, do: Callable[[Board], T]) -> T:
        # Each wait inside has half of the time, so that it is mostly the wait that gives up, and says what it
        # saw last; the deadline of the whole is for what none of them bounds.
        try:
            with self._deadline(seconds), self._make(node, Timing.within(seconds / 2)) as board:
                return do(board)
        except KeyboardInterrupt:
            message = f"{node.bmc.name}: broken off after {seconds:g} s; what was sent may still take effect"
            raise Overdue(message, node=node.name) from None
        finally:
            spans.forget()

    @contextmanager
    def _deadline(self, seconds: float) -> Iterator[None]:
        """Call off every wait of this thread once the time is over, or the process is to end."""
        flag = threading.Event()
        timer = threading.Timer(seconds, flag.set)
        before = called_off.set(flag)
        self._running.add(flag)
        timer.start()
        try:
            if self._stopped:
                flag.set()
            yield
        finally:
            timer.cancel()
            self._running.discard(flag)
            called_off.reset(before)

    def _known(self, name: str) -> HandsNode:
        if name not in self._nodes:
            raise UnknownNode("no node of this lab has this name")
        return self._nodes[name]


@dataclass(frozen=True, slots=True)
class _Look:
    """What a look at a board found, and until when it is not repeated."""

    until: float
    state: State | None = None
    error: LabError | None = None

    def told(self) -> State:
        if self.error is not None:
            raise self.error.with_traceback(None)
        assert self.state is not None
        return self.state


@dataclass(frozen=True, slots=True)
class _Turn:
    what: str
    since: float
    looking: bool = False

    def __str__(self) -> str:
        return f"{self.what}, since {time.strftime('%H:%M:%S UTC', time.gmtime(self.since))}"


class _Turns:
    """Whose turn it is at each board: one action or one look at a time; a look is waited for."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._changed = threading.Condition()
        self._taken: dict[str, _Turn] = {}
        self._gate, self._now = FloodGate(each=ACTIONS_A_MINUTE, all_together=1000), now

    @contextmanager
    def act(self, name: str, what: str) -> Iterator[None]:
        with self._changed:
            self._wait_for_a_look(name)
            if self._gate.admit(name, self._now()) is None:
                raise TooOften(f"was acted upon {ACTIONS_A_MINUTE} times within a minute; wait", node=name)
            self._taken[name] = _Turn(what, time.time())
        yield from self._until_done(name)

    @contextmanager
    def look(self, name: str) -> Iterator[None]:
        with self._changed:
            self._wait_for_a_look(name)
            self._taken[name] = _Turn("a look at its power", time.time(), looking=True)
        yield from self._until_done(name)

    def _until_done(self, name: str) -> Iterator[None]:
        try:
            yield
        finally:
            with self._changed:
                del self._taken[name]
                self._changed.notify_all()

    def _wait_for_a_look(self, name: str) -> None:
        self._changed.wait_for(lambda: not self._is_looked_at(name), 2 * READ_SECONDS)
        if (turn := self._taken.get(name)) is not None:
            raise UnderWay(f"under way: {turn}", node=name)

    def _is_looked_at(self, name: str) -> bool:
        turn = self._taken.get(name)
        return turn is not None and turn.looking


def _proved(board: Board, do: Callable[[Board], str]) -> str:
    """Do it, once the machine behind the BMC has proved to be the node; raises IdentityMismatch."""
    proof = prove(board.node, board.identity())
    return f"{do(board)} (identity: {proof})"


def _switched(board: Board, how: How) -> str:
    done = board.switch("On" if how == "on" else "Off")
    return f"{done.how}: {done.sign}"


def _boot_once(board: Board, source: Source) -> str:
    return f"one boot from {source}, read back: {board.set_boot_once(TARGETS[source])}"


def _cycle(board: Board, source: Source | None) -> str:
    if source is None:
        return _cycled(board)
    kept = _boot_once(board, source)
    try:
        return f"{kept}; {_cycled(board)}"
    except LabError:
        with suppress(LabError):  # What went wrong with the power is what must be told.
            board.clear_boot_override()
        raise


def _cycled(board: Board) -> str:
    done = board.cycle()
    return f"{done.how}: {done.sign}"
